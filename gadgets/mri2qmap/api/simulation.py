"""`mri2qmap.simulate`: a scan with a known truth, in memory or in files."""

from __future__ import annotations

import contextlib
import math
import numbers
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any

import ismrmrd
import numpy as np

from mri2qmap.anatomy.sources import anatomy_path
from mri2qmap.api.progress import Progress, reporter_of
from mri2qmap.api.scans import Scan
from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.words import counted
from mri2qmap.mrsignal.sequence import Sequence as FlipAngleTrain
from mri2qmap.mrsignal.sequence import default_sequence
from mri2qmap.pipeline.header_units import check_flip_angles
from mri2qmap.pipeline.progress import Reporter
from mri2qmap.pipeline.progress_bars import bars_end_here
from mri2qmap.pipeline.scan_limits import SCAN_LIMITS
from mri2qmap.pipeline.settings import describe_type, unknown_name
from mri2qmap.simulation import simulator
from mri2qmap.simulation.mrd_writer import Acquisitions, ismrmrd_header, scan_bytes, write_scan
from mri2qmap.simulation.simulator import Simulation, SimulationSettings
from mri2qmap.simulation.trajectory import SamplingPlan, plan_sampling
from mri2qmap.simulation.truth import RECORD, Truth, simulated_truth, truth_bytes, write_truth
from mri2qmap.storage.atomic import why
from mri2qmap.storage.file_place import FilePlace
from mri2qmap.storage.folder_place import FolderPlace
from mri2qmap.storage.inputs import as_path, lies_in

MOST_FRAMES = SCAN_LIMITS.frames
_TRIPLES = ("matrix", "field_of_view")
"""Settings that a single number sets for all three axes."""


@dataclass(frozen=True, eq=False)
class SimulatedScan:
    """A simulated scan and the truth behind it.

    It can be given to `mri2qmap.reconstruct` as the scan, and to `mri2qmap.evaluate` as the truth.

    Attributes
    ----------
    settings
        What was simulated.
    simulation
        Samples, trajectory, noiseless images and fields as arrays.
    """

    settings: SimulationSettings
    simulation: Simulation

    def __repr__(self) -> str:
        """Size of the scan, without its samples."""
        return f"<SimulatedScan of {self.simulation.truth.name}: {self.size}>"

    @property
    def size(self) -> str:
        """Numbers of groups, frames, samples and coils in words."""
        groups, frames, coils, samples = self.simulation.scan.kspace.shape
        return f"{SamplingPlan(groups, frames, samples)}, {counted(coils, 'coil')}"

    @cached_property
    def scan(self) -> Scan:
        """Header and acquisitions, as they would be in the file."""
        raw = self.simulation.scan
        header = ismrmrd.xsd.ToXML(ismrmrd_header(raw)).encode()
        return Scan(header, Acquisitions(raw), f"simulated scan of {self.simulation.truth.name}")

    @cached_property
    def truth(self) -> Truth:
        """Maps, masks, noiseless images and more."""
        return simulated_truth(self.simulation, self.settings)

    @property
    def samples_per_voxel(self) -> float:
        """Complex samples of each coil per voxel."""
        groups, frames, _, samples = self.simulation.scan.kspace.shape
        return float(groups * frames * samples / math.prod(self.settings.matrix))

    def save(
        self, scan: str | Path, truth: str | Path | None = None, overwrite: bool = False
    ) -> None:
        """Write the scan, and the truth if a folder is named, as `mri2qmap simulate` does.

        After an error nothing of either stays.

        Parameters
        ----------
        scan
            ISMRMRD file (HDF5) to make.
        truth
            Folder to make: NIfTI volumes, the noiseless TSMI and truth.json.
        overwrite
            Replace the file and the folder if they are as this program wrote them.

        Raises
        ------
        Mri2QmapError
            If one of them exists, contains an input, or cannot be written.
        """
        with _places(self.settings, self.simulation.scan.sequence, scan, truth, overwrite) as made:
            _write(*made, self.simulation, self.settings, Reporter())


@bars_end_here()
def simulate(
    settings: SimulationSettings | None = None,
    *,
    frames: int = 500,
    flip_angles: Sequence[float] | None = None,
    progress: Progress = None,
    **changes: Any,
) -> SimulatedScan:
    """Simulate a 3D MR-fingerprinting scan of a brain or phantom.

    Parameters
    ----------
    settings
        What is simulated; None: the defaults of `SimulationSettings`.
    frames
        Number of time frames.
    flip_angles
        Flip angles [degrees], one per frame; None: the built-in train.
    progress
        See `mri2qmap.reconstruct`.
    **changes
        Fields of `SimulationSettings` that replace those of `settings`, for example
        ``anatomy="nist"``, ``matrix=32``, ``coils=4``, ``noise=0.1``. ``matrix`` and
        ``field_of_view`` [m] are one number, or three in the order (z, y, x).

    Returns
    -------
    SimulatedScan
        The scan, which `mri2qmap.reconstruct` takes, and the truth.

    Raises
    ------
    Mri2QmapError
        For an unknown or impossible setting, and an anatomy that cannot be used.

    Examples
    --------
    >>> scan = mri2qmap.simulate(matrix=32, coils=4)
    >>> maps = mri2qmap.reconstruct(scan)
    >>> mri2qmap.evaluate(maps, scan)["mape_t1"]
    """
    if settings is None:
        settings = SimulationSettings()
    chosen = changed_settings(settings, changes)
    sequence = flip_angle_train(frames, flip_angles)
    return SimulatedScan(chosen, simulator.simulate(chosen, sequence, reporter_of(progress)))


@bars_end_here()
def simulate_to_files(
    settings: SimulationSettings,
    scan: str | Path,
    truth: str | Path | None = None,
    *,
    sequence: FlipAngleTrain | None = None,
    overwrite: bool = False,
    inputs: Mapping[str, Path] | None = None,
    progress: Progress = None,
) -> SimulatedScan:
    """Simulate a scan and write it, as `mri2qmap simulate` does.

    The files are those of ``simulate(settings).save(scan, truth)``, but their places are tried
    before the simulation.

    Parameters
    ----------
    settings
        What is simulated.
    scan, truth, overwrite
        See `SimulatedScan.save`.
    sequence
        Timing and flip angles of one group; None: the default of 500 frames.
    inputs
        Files that were read for the settings, by what they are: they are not overwritten.
    progress
        See `mri2qmap.reconstruct`.

    Raises
    ------
    Mri2QmapError
        For impossible settings, an anatomy that cannot be used, and files that cannot be written.
    """
    report = reporter_of(progress)
    sequence = sequence or default_sequence()
    with _places(settings, sequence, scan, truth, overwrite, inputs) as places:
        simulation = simulator.simulate(settings, sequence, report)
        _write(*places, simulation, settings, report)
    return SimulatedScan(settings, simulation)


def changed_settings(
    settings: SimulationSettings, changes: Mapping[str, Any]
) -> SimulationSettings:
    """Replace settings of a simulation.

    Raises
    ------
    Mri2QmapError
        For settings of another type, an unknown name, naming the nearest one, and a value of the
        wrong type or range.
    """
    if not isinstance(settings, SimulationSettings):
        raise Mri2QmapError(
            f"simulate: settings: SimulationSettings are expected, got {type(settings).__name__}; "
            "single settings are given by name, for example matrix=32"
        )
    known = {field.name: getattr(settings, field.name) for field in fields(settings)}
    values: dict[str, Any] = {}
    for name, value in changes.items():
        if name not in known:
            raise Mri2QmapError(f"simulate: {unknown_name('setting', name, list(known))}")
        if name in _TRIPLES and isinstance(value, numbers.Real):
            value = (value,) * 3
        try:
            values[name] = _converted(value, known[name])
        except (TypeError, ValueError) as error:
            expected = f"a value like {known[name]!r} is expected ({error})"
            if isinstance(known[name], Enum):
                expected = f"{describe_type(type(known[name]))} is expected"
            raise Mri2QmapError(f"simulate: {name}={value!r}: {expected}") from error
    return replace(settings, **values)


def _converted(value: Any, current: Any) -> Any:
    """Bring a value to the type that a setting has now."""
    if isinstance(current, tuple):
        kind = int if all(isinstance(each, int) for each in current) else float
        items = tuple(_number(each, kind) for each in value)
        if len(items) != len(current):
            raise ValueError(f"{len(items)} values")
        return items
    if isinstance(current, float):
        return _number(value, float)
    if isinstance(current, int):
        return _number(value, int)
    if isinstance(current, str):  # enumerations too
        return type(current)(str(value))
    return value if value is None else _number(value, int)  # groups


def _number(value: Any, kind: type[int] | type[float]) -> int | float:
    """Convert a number; whole numbers must be whole."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{type(value).__name__} is not a number")
    number = float(value)
    if kind is int and not number.is_integer():
        raise ValueError("it is not whole")
    return kind(number)


def flip_angle_train(
    frames: int, flip_angles: Sequence[float] | None = None, where: str = "flip_angles"
) -> FlipAngleTrain:
    """Return the default timing with the built-in or the given flip angles [degrees].

    Parameters
    ----------
    frames
        Number of time frames.
    flip_angles
        Flip angles [degrees], one per frame; None: the built-in train.
    where
        Where they come from, for messages.

    Raises
    ------
    Mri2QmapError
        If the number of frames is impossible or not that of the angles, or an angle is not an
        angle in degrees.
    """
    try:
        number = int(_number(frames, int))
    except (TypeError, ValueError) as error:
        raise Mri2QmapError(f"frames {frames!r}: a whole number is expected ({error})") from error
    if not 2 <= number <= MOST_FRAMES:
        raise Mri2QmapError(f"frames {frames}: expected 2 to {MOST_FRAMES}")
    sequence = default_sequence(number)
    if flip_angles is None:
        return sequence
    try:
        angles = np.asarray(flip_angles, dtype=np.float64).ravel()
    except (TypeError, ValueError) as error:
        raise Mri2QmapError(f"{where}: numbers are expected, in degrees ({error})") from error
    if len(angles) != number or not np.all(np.isfinite(angles)):
        raise Mri2QmapError(
            f"{where}: it holds {len(angles)} values for {frames} frames; one finite angle in "
            "degrees per frame is expected"
        )
    check_flip_angles([float(angle) for angle in angles], where)
    return replace(sequence, flip_angles=tuple(float(a) for a in np.deg2rad(angles)))


@contextlib.contextmanager
def _places(
    settings: SimulationSettings,
    sequence: FlipAngleTrain,
    scan: str | Path,
    truth: str | Path | None,
    overwrite: bool,
    inputs: Mapping[str, Path] | None = None,
) -> Iterator[tuple[FilePlace, FolderPlace | None]]:
    """Try what could fail in writing the scan and its truth; remove what is not finished."""
    scan = as_path(scan, "scan")
    truth = None if truth is None else as_path(truth, "truth")
    anatomy = anatomy_path(settings.anatomy)
    inputs = {**({} if anatomy is None else {"anatomy": anatomy}), **(inputs or {})}
    plan = plan_sampling(settings.matrix, sequence.n_frames, settings.acceleration, settings.groups)
    if truth is not None and (lies_in(scan, truth) or lies_in(truth, scan)):
        raise Mri2QmapError(
            f"truth {truth}: the scan {scan} and the folder of its truth cannot be in one "
            "another; choose another name"
        )
    with contextlib.ExitStack() as scratch:
        size = scan_bytes(plan.groups, plan.frames, settings.coils, plan.samples)
        scan_place = FilePlace(scan, overwrite=overwrite, inputs=inputs, room=size)
        scratch.callback(scan_place.remove)
        truth_place = None
        if truth is not None:
            size = truth_bytes(math.prod(settings.matrix))
            truth_place = FolderPlace(
                truth, RECORD, overwrite=overwrite, what="truth", inputs=inputs, room=size
            )
            scratch.callback(truth_place.remove)
        yield scan_place, truth_place


def _write(
    scan: FilePlace,
    truth: FolderPlace | None,
    simulation: Simulation,
    settings: SimulationSettings,
    report: Reporter,
) -> None:
    """Write both to their scratch places, then move them: a failure leaves nothing behind."""
    try:
        write_scan(scan.partial, simulation.scan, report)
        if truth is not None:
            write_truth(truth.partial, simulation, settings)
    except OSError as error:
        raise Mri2QmapError(
            f"simulate: writing {scan.path} and its truth failed ({why(error)})"
        ) from error
    scan.check()  # both or none
    if truth is not None:
        truth.put_in_place()
    scan.put_in_place()

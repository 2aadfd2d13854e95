"""The convention in which a scan was written: counters, trajectory, sequence parameters.

`STANDARD` is the convention of this program. Scans in another one are converted to it before
anything else sees them, see `mri2qmap.pipeline.standard_scan`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from mri2qmap.machine.file_access import InputFile
from mri2qmap.machine.words import shortened
from mri2qmap.pipeline.counters import CounterName
from mri2qmap.pipeline.scan_limits import SCAN_LIMITS
from mri2qmap.pipeline.settings import settings_as_dict
from mri2qmap.pipeline.trajectory_units import STANDARD_UNIT, TrajectoryUnit

Arrival = Literal["arrival"]
AxisName = Literal["x", "y", "z", "-x", "-y", "-z"]
TrajectoryIndex = Literal[CounterName, "frame", "group", "arrival"]

MOST_ENCODINGS = 16
_LARGEST_COUNT = 2**16 - 1
_LONGEST_NAME = 80
_FROM_PARAMETERS = ("flip_angles", "repetition_times", "echo_times", "inversion_time")
SEQUENCE_SUFFIX = ".seq"
"""Ending of `sequence_file`."""


@dataclass(frozen=True, kw_only=True)
class ScanProfile:
    """How to read a scan. The defaults are the convention of this program.

    Attributes
    ----------
    name
        What the profile is called in messages and in the record of a run.
    frame_counter
        Field of the acquisition header's ``idx`` that counts the time frames; "arrival": the order
        of the imaging acquisitions, within a readout group if `group_counter` is a counter.
    first_frame
        Value of this counter in the first frame.
    group_counter
        Field of ``idx`` that counts the readout groups, each of which follows one inversion;
        "arrival": the n-th acquisition of a frame belongs to group n.
    first_group
        Value of this counter in the first group.
    ignored_counters
        Fields of ``idx`` that mean nothing here: they become 0. Counters of average, slice, phase,
        repetition, set, contrast or segment that are not named anywhere must not change in a scan.
    use_limits
        Whether ``encodingLimits`` of the header hold. If not, only the number of samples
        (``kspace_encoding_step_0``) is used, and a scan without its last groups is not known to be
        incomplete.
    encoding
        Number of the ``encoding`` in the header that is reconstructed, from 0.
    dataset
        Group of the HDF5 file that holds the scan; empty: the only one that does.
    sign_counter
        Field of ``idx`` by which a converter has changed the sign of every other readout, those
        with an odd value; none: no signs are changed.
    trajectory_units
        Unit of the trajectory. "half_width": the edge of k-space is 1.
    trajectory_axes
        Axis of each column of the stored trajectory: x along ``read_dir``, y along ``phase_dir``, z
        along ``slice_dir``; with a minus sign if the column holds the negative of the component.
        With two columns, `partition_counter` gives the third component.
    partition_counter
        Field of ``idx`` that counts the partitions of a stack of two-dimensional trajectories,
        which are 1/FOV of ``encodedSpace`` apart; none: the trajectory has three columns.
    partition_center
        Value of this counter at the centre of k-space; none: ``center`` of its limits in the
        header, else half the number of voxels of ``encodedSpace`` along the axis.
    trajectory_file
        File in NumPy format (.npy) with the trajectories, instead of those in the acquisitions:
        real numbers, with the axes of `trajectory_index`, samples and columns. A relative name is
        relative to the file of the profile, in a ``<scan>`` to the current folder.
    trajectory_index
        What the first axes of this file count: "frame", "group", "arrival" (all imaging
        acquisitions) or a field of ``idx`` as stored.
    sequence_file
        Pulseq file (.seq) that gives all flip angles and times of the sequence, see
        `mri2qmap.pulseq.train.read_train`, in its own units. A relative name is relative to the
        file of the profile, in a ``<scan>`` to the current folder.
    flip_angles
        Flip angle of each frame, or one; empty: from the header.
    repetition_times, echo_times
        Time of each frame, or one; empty: from the header.
    inversion_time
        Time from the inversion to the first excitation; none: from the header.
    flip_angles_from, repetition_times_from, echo_times_from, inversion_time_from
        Name of the user parameter of the header that holds them instead: numbers in one parameter,
        in several of this name, or in several with numbers after the name. Empty: ``flipAngle_deg``
        and so on of ``sequenceParameters``.
    angle_units
        Unit of all flip angles, in the profile and in the header.
    time_units
        Unit of all times of the sequence, in the profile and in the header.
    """

    name: str = "standard"
    frame_counter: CounterName | Arrival = "contrast"
    first_frame: int = 0
    group_counter: CounterName | Arrival = "segment"
    first_group: int = 0
    ignored_counters: tuple[CounterName, ...] = ()
    use_limits: bool = True
    encoding: int = 0
    dataset: str = ""
    sign_counter: CounterName | None = None
    trajectory_units: TrajectoryUnit = STANDARD_UNIT
    trajectory_axes: tuple[AxisName, ...] = ("x", "y", "z")
    partition_counter: CounterName | None = None
    partition_center: int | None = None
    trajectory_file: InputFile = ""
    trajectory_index: tuple[TrajectoryIndex, ...] = ("group", "frame")
    sequence_file: InputFile = ""
    flip_angles: tuple[float, ...] = ()
    repetition_times: tuple[float, ...] = ()
    echo_times: tuple[float, ...] = ()
    inversion_time: float | None = None
    flip_angles_from: str = ""
    repetition_times_from: str = ""
    echo_times_from: str = ""
    inversion_time_from: str = ""
    angle_units: Literal["deg", "rad"] = "deg"
    time_units: Literal["ms", "s", "us"] = "ms"

    def __post_init__(self) -> None:
        if not self.name.isprintable() or not 0 < len(self.name) <= _LONGEST_NAME:
            raise ValueError(
                f"name must have 1 to {_LONGEST_NAME} printable characters, got {self.name!r}"
            )
        self._check_counters()
        self._check_trajectory()
        self._check_sequence()

    def _check_sequence(self) -> None:
        if self.sequence_file and not self.sequence_file.lower().endswith(SEQUENCE_SUFFIX):
            raise ValueError(
                f"sequence_file is {shortened(self.sequence_file)!r}; a Pulseq file, whose name "
                f"ends in {SEQUENCE_SUFFIX}, is expected; numbers can be given as flip_angles, "
                "repetition_times, echo_times and inversion_time"
            )
        for name in _FROM_PARAMETERS:
            given = getattr(self, name)
            if isinstance(given, tuple) and len(given) > SCAN_LIMITS.frames:
                raise ValueError(
                    f"{name} has {len(given)} values; at most {SCAN_LIMITS.frames} frames are "
                    "reconstructed"
                )
            own = [
                key for key in (name, f"{name}_from") if getattr(self, key) not in ((), None, "")
            ]
            if self.sequence_file and own:
                raise ValueError(
                    f"sequence_file and {own[0]} are both given; the file gives all flip angles "
                    "and times: remove one of them"
                )
            if getattr(self, name) not in ((), None) and getattr(self, f"{name}_from"):
                raise ValueError(
                    f"{name} and {name}_from are both given; give the values or the user parameter "
                    "that holds them"
                )

    def _check_counters(self) -> None:
        if self.frame_counter == self.group_counter != "arrival":
            raise ValueError(
                f"frame_counter and group_counter are both {self.frame_counter}; frames and "
                "readout groups need different counters"
            )
        for first, own in (("first_frame", "frame_counter"), ("first_group", "group_counter")):
            value = getattr(self, first)
            if not 0 <= value <= _LARGEST_COUNT:
                raise ValueError(f"{first} must lie between 0 and {_LARGEST_COUNT}, got {value}")
            if value and getattr(self, own) == "arrival":
                raise ValueError(f"{first} is {value}, but {own} is arrival, which counts from 0")
        ignored = self.ignored_counters
        if len(set(ignored)) < len(ignored):
            raise ValueError("ignored_counters contains a counter twice")
        for own in ("frame_counter", "group_counter"):
            if getattr(self, own) in ignored:
                raise ValueError(f"ignored_counters contains {getattr(self, own)}, the {own}")
        if not 0 <= self.encoding < MOST_ENCODINGS:
            raise ValueError(
                f"encoding must lie between 0 and {MOST_ENCODINGS - 1}, got {self.encoding}"
            )

    def _check_trajectory(self) -> None:
        axes = [axis[-1] for axis in self.trajectory_axes]
        if len(axes) not in (2, 3) or len(set(axes)) < len(axes):
            raise ValueError(
                "trajectory_axes must name two or three different axes, got "
                f"{' '.join(self.trajectory_axes) or 'none'}"
            )
        if (len(axes) == 2) != (self.partition_counter is not None):
            raise ValueError(
                f"trajectory_axes has {len(axes)} axes and partition_counter is "
                f"{self.partition_counter or 'none'}; two axes need a partition_counter, three "
                "need none"
            )
        if self.partition_center is not None:
            if self.partition_counter is None:
                raise ValueError("partition_center needs a partition_counter")
            if not 0 <= self.partition_center <= _LARGEST_COUNT:
                raise ValueError(
                    f"partition_center must lie between 0 and {_LARGEST_COUNT}, got "
                    f"{self.partition_center}"
                )
        index = self.trajectory_index
        if not index or len(set(index)) < len(index):
            raise ValueError(
                f"trajectory_index must name what the file counts, each once, got {list(index)}"
            )

    @property
    def keeps_counters(self) -> bool:
        """Whether frame and readout group are counted as in the standard convention."""
        return _alike(
            self,
            "frame_counter",
            "first_frame",
            "group_counter",
            "first_group",
            "ignored_counters",
            "use_limits",
        )

    @property
    def keeps_trajectory(self) -> bool:
        """Whether the trajectories are those of the standard convention."""
        return _alike(
            self, "trajectory_units", "trajectory_axes", "partition_counter", "trajectory_file"
        )

    @property
    def is_standard(self) -> bool:
        """Whether scans need no conversion."""
        return not (self.differences.keys() - {"name", "dataset", "trajectory_index"})

    @property
    def differences(self) -> dict[str, Any]:
        """What differs from the standard convention, as JSON values by key."""
        own, standard = settings_as_dict(self), settings_as_dict(STANDARD)
        return {key: value for key, value in own.items() if value != standard[key]}

    @property
    def sequence_origin(self) -> str:
        """Where flip angles and times of the sequence come from, in words."""
        if self.sequence_file:
            return f"the Pulseq file {self.sequence_file}"
        by_source: dict[str, list[str]] = {}
        for name in _FROM_PARAMETERS:
            parameter = getattr(self, f"{name}_from")
            source = f"the user parameter {parameter}" if parameter else "the header"
            if getattr(self, name) not in ((), None):
                source = f"the scan profile {self.name}"
            by_source.setdefault(source, []).append(name)
        if len(by_source) == 1:
            return next(iter(by_source))
        return "; ".join(f"{source} ({', '.join(n)})" for source, n in by_source.items())

    @property
    def missing_axis(self) -> int | None:
        """Axis (0 for x) of the component that `partition_counter` gives; None if there is none."""
        present = {axis[-1] for axis in self.trajectory_axes}
        return next((number for number, axis in enumerate("xyz") if axis not in present), None)

    def record(self) -> dict[str, Any]:
        """Return name and differences from the standard convention as JSON values."""
        settings = self.differences
        settings.pop("name", None)
        return {"name": self.name, "settings": settings}


def _alike(profile: ScanProfile, *names: str) -> bool:
    """Return whether fields have their defaults."""
    defaults = {field.name: field.default for field in dataclasses.fields(ScanProfile)}
    return all(getattr(profile, name) == defaults[name] for name in names)


def no_such_encoding(profile: ScanProfile, count: int) -> str:
    """Return the message on a profile that names an encoding which a header does not have."""
    return (
        f"scan profile {profile.name}: encoding is {profile.encoding}, but the header has {count}, "
        "counted from 0: choose one of them"
    )


STANDARD = ScanProfile()
"""The convention of this program."""

"""Scan parameters from the ISMRMRD header, in internal units: seconds, radians, metres.

Conventions: ``sequenceParameters`` TR, TE and flipAngle_deg contain one value or one per frame, TI
contains the inversion time; ``idx.contrast`` counts the frames; matrix and field of view are those
of the ``reconSpace`` of the first encoding.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import ismrmrd
import numpy as np
import torch

from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.cancellation import raise_if_cancelled
from mri2qmap.machine.process_group import ProcessGroup
from mri2qmap.mrsignal.sequence import Sequence
from mri2qmap.pipeline import header_units
from mri2qmap.pipeline.geometry import Geometry, Vector
from mri2qmap.pipeline.header_document import parse_header
from mri2qmap.pipeline.progress import Reporter
from mri2qmap.pipeline.scan_limits import SCAN_LIMITS
from mri2qmap.pipeline.scan_log import add_log_context, scan_identity
from mri2qmap.recon.saved_state import StateStores

_LONG_HEADER = 2**18
_MANY_ELEMENTS = 2**12
"""Size [bytes] or number of elements of headers of which only one is read at a time, so that others
do not wait. A sequence of 500 frames has 2000 elements."""
_one_long_header = threading.Lock()


@dataclass(frozen=True)
class ScanInfo:
    """Scan parameters, device, processes and reporter of a run.

    Attributes
    ----------
    header
        ISMRMRD header.
    sequence
        Timing and flip angles of one readout group.
    matrix
        Number of voxels (z, y, x).
    voxel_size
        Voxel edge lengths (z, y, x) [m].
    device
        Device of the computations.
    report
        Receives progress and log lines.
    left_out
        Messages on optional elements of the header that could not be read.
    state_stores
        Keep the states of iterative algorithms, so that a run that was stopped can go on.
    spare_memory
        Whether gadgets need less memory, at the cost of time.
    processes
        The processes that compute the run together.
    channels
        Receive channels by which memory is planned; None if it is not.
    """

    header: ismrmrd.xsd.ismrmrdHeader
    sequence: Sequence
    matrix: tuple[int, int, int]
    voxel_size: Vector
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    report: Reporter = field(default_factory=Reporter, compare=False)
    left_out: tuple[str, ...] = field(default=(), compare=False)
    state_stores: StateStores = field(default_factory=StateStores, compare=False)
    spare_memory: bool = False
    processes: ProcessGroup = field(default_factory=ProcessGroup, compare=False)
    channels: int | None = None

    @classmethod
    def from_header(
        cls,
        header: bytes | str | ismrmrd.xsd.ismrmrdHeader,
        device: torch.device | str = "cpu",
        report: Reporter | None = None,
    ) -> ScanInfo:
        """Read the scan parameters from an ISMRMRD header.

        Parameters
        ----------
        header
            ISMRMRD header, as XML or parsed.
        device
            Device of the computations.
        report
            Receives progress and log lines; silent if None.

        Raises
        ------
        Mri2QmapError
            If an element is missing or invalid; the message names the element and the expected
            content.
        """
        left_out: list[str] = []
        if isinstance(header, ismrmrd.xsd.ismrmrdHeader):
            parsed = header
        else:
            parsed = parse_header(header, left_out.append)
        matrix, voxel_size = grid(parsed)
        _check_coils(parsed)
        return cls(
            header=parsed,
            sequence=_sequence(parsed),
            matrix=matrix,
            voxel_size=voxel_size,
            device=torch.device(device),
            report=report or Reporter(),
            left_out=tuple(left_out),
        )

    @property
    def receive_channels(self) -> int | None:
        """Receive channels by which memory is planned, or of the header; None if unknown."""
        system = self.header.acquisitionSystemInformation
        announced = None if system is None else system.receiverChannels
        return self.channels or announced or None

    @property
    def expected_readouts(self) -> int | None:
        """Number of imaging acquisitions that the header announces: frames times readout groups.

        None if the header has no encodingLimits.segment. The actual number may differ.
        """
        limits = self.header.encoding[0].encodingLimits
        if limits is None or limits.segment is None:
            return None
        return self.sequence.n_frames * (int(limits.segment.maximum) + 1)


def parse_scan_header(
    header: bytes, device: torch.device | str, report: Reporter | None = None
) -> ScanInfo:
    """Read the header that a peer has sent, and add the scan to the log context of this thread.

    Parameters
    ----------
    header, device, report
        See `ScanInfo.from_header`.

    Raises
    ------
    Mri2QmapError
        See `ScanInfo.from_header`.
    """
    try:
        with header_turn(header):
            scan = ScanInfo.from_header(header, device, report)
    except Mri2QmapError:
        add_log_context(scan=scan_identity(header))
        raise
    add_log_context(scan=scan_identity(header, scan.header))
    return scan


@contextmanager
def header_turn(header: bytes) -> Iterator[None]:
    """Wait until no other long header is read: it takes a second, in which Python does no more.

    Parameters
    ----------
    header
        The header as received; a short one need not wait.
    """
    if len(header) < _LONG_HEADER and header.count(b"<") < 2 * _MANY_ELEMENTS:
        yield
        return
    while not _one_long_header.acquire(timeout=0.25):
        raise_if_cancelled()
    try:
        yield
    finally:
        _one_long_header.release()


def geometry_from_acquisition(acquisition: ismrmrd.Acquisition, scan: ScanInfo) -> Geometry:
    """Return the position and orientation of the reconstructed grid.

    The position in the acquisition header [mm] is the centre of the field of view, the origin of
    the Fourier transform. If all direction vectors are zero, the array axes x, y and z are aligned
    with the patient axes x, y and z (LPS), and this is logged.

    Raises
    ------
    Mri2QmapError
        If the vectors are not finite or not orthonormal, or the position is implausible.
    """
    names = ("read_dir", "phase_dir", "slice_dir")
    directions = np.array([list(getattr(acquisition, name)) for name in names], dtype=np.float64)
    position = np.array(list(acquisition.position), dtype=np.float64) * 1e-3
    if not np.any(directions):
        scan.report.log(
            "the acquisition headers have no orientation: x, y and z of the image are aligned with "
            "the left, posterior and head directions of the patient"
        )
        directions = np.eye(3)
    if not np.all(np.isfinite(directions)) or not np.all(np.isfinite(position)):
        raise Mri2QmapError("acquisition header: position or a direction vector is not finite")
    header_units.check_position([1e3 * float(v) for v in position], "acquisition header")
    try:
        return Geometry(
            scan.matrix,
            scan.voxel_size,
            _vector(position),
            _vector(directions[0]),
            _vector(directions[1]),
            _vector(directions[2]),
        )
    except ValueError as error:
        raise Mri2QmapError(
            "acquisition header: read_dir, phase_dir and slice_dir must be orthonormal, but are "
            + ", ".join(str(tuple(round(float(v), 4) for v in d)) for d in directions)
        ) from error


def _vector(values: np.ndarray) -> Vector:
    x, y, z = (float(v) for v in values)
    return (x, y, z)


def _sequence(header: ismrmrd.xsd.ismrmrdHeader) -> Sequence:
    parameters = header.sequenceParameters
    if parameters is None:
        raise Mri2QmapError(
            "ISMRMRD header: element sequenceParameters is missing; TR, TE, TI [ms] and "
            "flipAngle_deg are expected there"
        )
    angles = _numbers(parameters, "flipAngle_deg", "one flip angle [degrees] per frame")
    tr = _numbers(parameters, "TR", "one repetition time [ms], or one per frame,")
    te = _numbers(parameters, "TE", "one echo time [ms], or one per frame,")
    ti = _numbers(parameters, "TI", "the inversion time [ms]")
    n_frames = _frame_count(header, {"flipAngle_deg": angles, "TR": tr, "TE": te})
    if len(set(ti)) != 1:
        raise Mri2QmapError(
            f"ISMRMRD header: sequenceParameters.TI has {len(set(ti))} different values; one "
            "inversion time is expected"
        )
    place = "ISMRMRD header: sequenceParameters"
    header_units.check_times(tr, te, ti[0], n_frames, place)
    header_units.check_flip_angles(angles, f"{place}.flipAngle_deg")
    try:
        return Sequence(
            flip_angles=tuple(float(a) for a in np.deg2rad(_each(angles, n_frames))),
            repetition_times=tuple(t * 1e-3 for t in _each(tr, n_frames)),
            echo_times=tuple(t * 1e-3 for t in _each(te, n_frames)),
            inversion_time=ti[0] * 1e-3,
        )
    except ValueError as error:
        raise Mri2QmapError(f"ISMRMRD header: sequenceParameters: {error}") from error


def _frame_count(header: ismrmrd.xsd.ismrmrdHeader, lists: dict[str, list[float]]) -> int:
    """Return the number of frames; all elements of the header must agree on it."""
    most = SCAN_LIMITS
    counts = {f"sequenceParameters.{k}": len(v) for k, v in lists.items() if len(v) > 1}
    encoding = header.encoding[0]
    contrast = encoding.encodingLimits.contrast if encoding.encodingLimits else None
    if contrast is not None and (contrast.maximum or not counts):  # 0 to 0: counter not in use
        if contrast.minimum != 0:
            raise Mri2QmapError(
                f"ISMRMRD header: encodingLimits.contrast starts at {contrast.minimum}; frames "
                "must be counted from 0"
            )
        counts["encodingLimits.contrast"] = contrast.maximum + 1
    segment = encoding.encodingLimits.segment if encoding.encodingLimits else None
    if segment is not None and not 0 <= segment.minimum <= segment.maximum < most.groups:
        raise Mri2QmapError(
            f"ISMRMRD header: encodingLimits.segment is {segment.minimum} to {segment.maximum}; "
            f"limits of the readout groups (idx.segment) from 0 to {most.groups - 1} are expected"
        )
    if counts and max(counts.values()) > most.frames:
        raise Mri2QmapError(
            f"ISMRMRD header: it describes {max(counts.values())} frames; at most {most.frames} "
            "are supported"
        )
    if not counts or max(counts.values()) < 2:
        raise Mri2QmapError(
            "ISMRMRD header: sequenceParameters.flipAngle_deg has one value, so the number of "
            "frames is unknown; one flip angle per frame is expected (where the header has no room "
            "for them, give flip_angles in a scan profile, --scan-profile)"
        )
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{name}: {count}" for name, count in counts.items())
        raise Mri2QmapError(
            f"ISMRMRD header: the number of frames is inconsistent ({found}); TR, TE and "
            "flipAngle_deg must have one value or one per frame, and "
            "encodingLimits.contrast.maximum must be the last frame"
        )
    n_frames = next(iter(counts.values()))
    if segment is not None and n_frames * (segment.maximum + 1) > most.readouts:
        raise Mri2QmapError(
            f"ISMRMRD header: it announces {segment.maximum + 1} groups of {n_frames} readouts "
            f"(encodingLimits.segment); at most {most.readouts} readouts are supported"
        )
    return n_frames


def grid(
    header: ismrmrd.xsd.ismrmrdHeader, encoding: int = 0
) -> tuple[tuple[int, int, int], Vector]:
    """Return matrix and voxel size [m] of the ``reconSpace`` of an encoding, both (z, y, x).

    Raises
    ------
    Mri2QmapError
        If there is no such encoding, or a value is implausible.
    """
    if len(header.encoding) <= encoding:
        raise Mri2QmapError(
            "ISMRMRD header: element encoding is missing; matrixSize and fieldOfView_mm are "
            "expected in its reconSpace"
        )
    space = header.encoding[encoding].reconSpace
    size, extent = space.matrixSize, space.fieldOfView_mm
    matrix = (size.z, size.y, size.x)
    field_of_view = [_single(side) for side in (extent.z, extent.y, extent.x)]
    if min(matrix) < 2:
        raise Mri2QmapError(
            f"ISMRMRD header: reconSpace.matrixSize is {size.x} x {size.y} x {size.z} (x, y, z); "
            "a 3D scan with at least 2 voxels along each axis is expected"
        )
    most = SCAN_LIMITS
    if max(matrix) > most.side or math.prod(matrix) > most.voxels:
        raise Mri2QmapError(
            f"ISMRMRD header: reconSpace.matrixSize is {size.x} x {size.y} x {size.z} (x, y, z); "
            f"at most {most.side} voxels along an axis and {most.voxels} voxels are supported"
        )
    if not all(np.isfinite(f) and f > 0 for f in field_of_view):
        raise Mri2QmapError(
            f"ISMRMRD header: reconSpace.fieldOfView_mm is {extent.x} x {extent.y} x {extent.z} "
            "(x, y, z); three positive lengths [mm] are expected"
        )
    header_units.check_extent(
        field_of_view[::-1], matrix[::-1], "ISMRMRD header: reconSpace.fieldOfView_mm"
    )
    z, y, x = (f * 1e-3 / n for f, n in zip(field_of_view, matrix, strict=True))
    return matrix, (z, y, x)


def _check_coils(header: ismrmrd.xsd.ismrmrdHeader) -> None:
    system = header.acquisitionSystemInformation
    coils = system.receiverChannels if system is not None else None
    if coils is not None and not 0 <= coils <= SCAN_LIMITS.coils:  # 0: unknown
        raise Mri2QmapError(
            f"ISMRMRD header: acquisitionSystemInformation.receiverChannels is {coils}; at most "
            f"{SCAN_LIMITS.coils} coils are supported, and a negative number is none"
        )


def _numbers(parameters: Any, name: str, expected: str) -> list[float]:
    values = getattr(parameters, name)
    if not values:
        raise Mri2QmapError(
            f"ISMRMRD header: element sequenceParameters.{name} is missing; {expected} is expected "
            "(there, or in a scan profile, --scan-profile)"
        )
    numbers = [_single(v) for v in values]
    if not all(np.isfinite(v) for v in numbers):
        raise Mri2QmapError(f"ISMRMRD header: a value of sequenceParameters.{name} is not finite")
    return numbers


def _single(value: float) -> float:
    """Round to single precision, as defined in the schema and as sent by Gadgetron.

    Otherwise a scan sent through a server would get a different dictionary and different maps.
    """
    with np.errstate(over="ignore"):
        return float(np.float32(value))


def _each(values: list[float], n_frames: int) -> list[float]:
    return values if len(values) > 1 else values * n_frames

"""Scan parameters from the ISMRMRD header, in internal units: seconds, radians, metres.

``idx.contrast`` counts the frames. `mri2qmap.pipeline.header_parameters` has further conventions.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import ismrmrd
import numpy as np
import torch

from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.process_group import ProcessGroup
from mri2qmap.mrsignal.sequence import Sequence
from mri2qmap.pipeline import header_units
from mri2qmap.pipeline.findings import Findings, scan_error
from mri2qmap.pipeline.geometry import Geometry, Vector
from mri2qmap.pipeline.header_document import parse_header
from mri2qmap.pipeline.header_parameters import check_coils, read_grid, read_sequence
from mri2qmap.pipeline.progress import Reporter
from mri2qmap.pipeline.reading_turns import reading_turn
from mri2qmap.pipeline.scan_log import add_log_context, scan_identity
from mri2qmap.recon.saved_state import StateStores


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
        matrix, voxel_size = read_grid(parsed)
        check_coils(parsed)
        sequence, _ = read_sequence(parsed, Findings(stop=True))
        assert sequence is not None, "an error is raised otherwise"
        return cls(
            header=parsed,
            sequence=sequence,
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
        with reading_turn(header):
            scan = ScanInfo.from_header(header, device, report)
    except Mri2QmapError:
        add_log_context(scan=scan_identity(header))
        raise
    add_log_context(scan=scan_identity(header, scan.header))
    return scan


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
        raise scan_error(
            "orientation-not-finite",
            "acquisition header",
            "position or a direction vector is not finite",
            "finite numbers are expected",
            "correct position, read_dir, phase_dir and slice_dir",
        )
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
        found = ", ".join(str(tuple(round(float(v), 4) for v in d)) for d in directions)
        raise scan_error(
            "orientation-not-orthonormal",
            "acquisition header",
            f"read_dir, phase_dir and slice_dir must be orthonormal, but are {found}",
            "they are the axes of the image in the patient (LPS)",
            "correct them, or set all to zero if the orientation is unknown",
        ) from error


def _vector(values: np.ndarray) -> Vector:
    x, y, z = (float(v) for v in values)
    return (x, y, z)

"""Reading of a header whose errors are collected, with stand-ins for what cannot be read."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import ismrmrd
import torch

from mri2qmap.errors import Mri2QmapError
from mri2qmap.mrsignal.sequence import Sequence
from mri2qmap.pipeline.findings import Finding, Findings, Level, scan_error
from mri2qmap.pipeline.header_document import parse_header
from mri2qmap.pipeline.header_parameters import check_coils, read_grid, read_sequence
from mri2qmap.pipeline.scan_header import ScanInfo
from mri2qmap.pipeline.scan_limits import SCAN_LIMITS

_SPACE = (
    "<matrixSize><x>64</x><y>64</y><z>64</z></matrixSize>"
    "<fieldOfView_mm><x>200</x><y>200</y><z>200</z></fieldOfView_mm>"
)
_STAND_IN = (
    "<ismrmrdHeader><experimentalConditions><H1resonanceFrequency_Hz>127000000"
    "</H1resonanceFrequency_Hz></experimentalConditions><encoding>"
    f"<encodedSpace>{_SPACE}</encodedSpace><reconSpace>{_SPACE}</reconSpace>"
    "<encodingLimits/><trajectory>other</trajectory></encoding></ismrmrdHeader>"
)
"""Header for the checks of acquisitions whose own header cannot be read."""


@dataclass(frozen=True)
class ExaminedHeader:
    """A header, with stand-ins where it has errors.

    Attributes
    ----------
    scan
        Scan parameters.
    readable
        Whether it is a header at all.
    grid_known, frames_known, sequence_known
        Whether matrix and field of view, the number of frames, and all of the sequence are its own.
    """

    scan: ScanInfo
    readable: bool
    grid_known: bool
    frames_known: bool
    sequence_known: bool

    @property
    def fits(self) -> bool:
        """Whether there are no stand-ins."""
        return self.readable and self.grid_known and self.sequence_known


def examine_header(
    document: bytes, device: torch.device | str, findings: Findings
) -> ExaminedHeader:
    """Read a header and collect its errors.

    Parameters
    ----------
    document
        The XML.
    device
        Device of the run.
    findings
        Takes the errors, and a warning for each optional element that cannot be read.
    """
    left_out: list[str] = []
    header = findings.attempt(_parsed, document, left_out)
    for line in left_out:
        findings.add(
            Finding("element-left-out", "", line, advice="correct it", level=Level.WARNING)
        )
    stand_in: ismrmrd.xsd.ismrmrdHeader = parse_header(_STAND_IN)
    own = stand_in if header is None else header
    grid = None if header is None else findings.attempt(read_grid, header)
    if not own.encoding:
        own = dataclasses.replace(own, encoding=stand_in.encoding)
    sequence, n_frames = None, None
    if header is not None:
        findings.attempt(check_coils, own)
        sequence, n_frames = read_sequence(own, findings)
    matrix, voxel_size = grid or read_grid(stand_in)
    scan = ScanInfo(
        header=own,
        sequence=sequence or _any_sequence(n_frames or SCAN_LIMITS.frames),
        matrix=matrix,
        voxel_size=voxel_size,
        device=torch.device(device),
        left_out=tuple(left_out),
    )
    return ExaminedHeader(
        scan, header is not None, grid is not None, n_frames is not None, sequence is not None
    )


def _parsed(document: bytes, left_out: list[str]) -> ismrmrd.xsd.ismrmrdHeader:
    try:
        return parse_header(document, left_out.append)
    except Mri2QmapError as error:
        advice = "correct the XML of the header"
        raise scan_error("header-unreadable", "", str(error), "", advice) from error


def _any_sequence(n_frames: int) -> Sequence:
    """Return a sequence of this length; the checks of acquisitions look at nothing else of it."""
    return Sequence((0.1,) * n_frames, (0.01,) * n_frames, (0.001,) * n_frames, 0.02)

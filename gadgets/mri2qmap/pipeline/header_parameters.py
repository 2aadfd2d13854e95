"""Sequence, image grid and coils in an ISMRMRD header, checked.

Conventions: ``sequenceParameters`` TR, TE and flipAngle_deg contain one value or one per frame, TI
contains the inversion time; matrix and field of view are those of the ``reconSpace`` of the first
encoding.
"""

from __future__ import annotations

import math
from typing import Any

import ismrmrd
import numpy as np

from mri2qmap.mrsignal.sequence import Sequence
from mri2qmap.pipeline import header_units
from mri2qmap.pipeline.findings import Finding, Findings, scan_error
from mri2qmap.pipeline.geometry import Vector
from mri2qmap.pipeline.scan_limits import SCAN_LIMITS

_EXPECTED = {
    "flipAngle_deg": ("flip-angles-missing", "one flip angle [degrees] per frame"),
    "TR": ("tr-missing", "one repetition time [ms], or one per frame,"),
    "TE": ("te-missing", "one echo time [ms], or one per frame,"),
    "TI": ("ti-missing", "the inversion time [ms]"),
}
"""Needed elements of sequenceParameters: code of the finding where it is missing, and content."""


def read_sequence(
    header: ismrmrd.xsd.ismrmrdHeader, findings: Findings
) -> tuple[Sequence | None, int | None]:
    """Return the sequence and the number of frames.

    Parameters
    ----------
    header
        Header with at least one encoding.
    findings
        Takes the errors of each element.

    Returns
    -------
    sequence
        None if there is an error.
    n_frames
        None if it is unknown.

    Raises
    ------
    Mri2QmapError
        The first error, if `findings` stops there.
    """
    before = len(findings.errors)
    parameters = header.sequenceParameters
    if parameters is None:
        findings.add(
            Finding(
                "sequence-missing",
                "ISMRMRD header",
                "element sequenceParameters is missing",
                "TR, TE, TI [ms] and flipAngle_deg are expected there",
                "add it",
            )
        )
        lists: dict[str, list[float]] = {}
    else:
        read = {name: findings.attempt(_numbers, parameters, name) for name in _EXPECTED}
        lists = {name: numbers for name, numbers in read.items() if numbers is not None}
    times = {name: numbers for name, numbers in lists.items() if name != "TI"}
    if "flipAngle_deg" in lists:
        n_frames = findings.attempt(_frame_count, header, times)
    else:  # what is missing has been told
        n_frames = Findings().attempt(_frame_count, header, times)
    place = "ISMRMRD header: sequenceParameters"
    ti = lists.get("TI", [])
    if len(set(ti)) > 1:
        findings.add(
            Finding(
                "ti-several",
                f"{place}.TI",
                f"it has {len(set(ti))} different values",
                "one inversion time is expected",
                "send scans with different inversion times separately",
            )
        )
    if n_frames is not None and lists.keys() >= {"TR", "TE", "TI"}:
        header_units.check_times(lists["TR"], lists["TE"], ti[0], n_frames, place, findings)
    if "flipAngle_deg" in lists:
        angles = lists["flipAngle_deg"]
        findings.attempt(header_units.check_flip_angles, angles, f"{place}.flipAngle_deg")
    if len(findings.errors) > before or n_frames is None:
        return None, n_frames
    return _built_sequence(lists, n_frames), n_frames


def _built_sequence(lists: dict[str, list[float]], n_frames: int) -> Sequence:
    angles, tr, te = (lists[name] for name in ("flipAngle_deg", "TR", "TE"))
    try:
        return Sequence(
            flip_angles=tuple(float(a) for a in np.deg2rad(_each(angles, n_frames))),
            repetition_times=tuple(t * 1e-3 for t in _each(tr, n_frames)),
            echo_times=tuple(t * 1e-3 for t in _each(te, n_frames)),
            inversion_time=lists["TI"][0] * 1e-3,
        )
    except ValueError as error:
        raise scan_error(
            "sequence-invalid",
            "ISMRMRD header: sequenceParameters",
            str(error),
            "",
            "correct the header",
        ) from error


def _frame_count(header: ismrmrd.xsd.ismrmrdHeader, lists: dict[str, list[float]]) -> int:
    """Return the number of frames; all elements of the header must agree on it."""
    most = SCAN_LIMITS
    counts = {f"sequenceParameters.{k}": len(v) for k, v in lists.items() if len(v) > 1}
    encoding = header.encoding[0]
    contrast = encoding.encodingLimits.contrast if encoding.encodingLimits else None
    if contrast is not None and (contrast.maximum or not counts):  # 0 to 0: counter not in use
        if contrast.minimum != 0:
            raise scan_error(
                "frame-limits",
                "ISMRMRD header",
                f"encodingLimits.contrast starts at {contrast.minimum}",
                "frames must be counted from 0",
                "correct idx.contrast and its limits, or set first_frame in a scan profile "
                "(--scan-profile)",
            )
        counts["encodingLimits.contrast"] = contrast.maximum + 1
    segment = encoding.encodingLimits.segment if encoding.encodingLimits else None
    if segment is not None and not 0 <= segment.minimum <= segment.maximum < most.groups:
        raise scan_error(
            "group-limits",
            "ISMRMRD header",
            f"encodingLimits.segment is {segment.minimum} to {segment.maximum}",
            f"limits of the readout groups (idx.segment) from 0 to {most.groups - 1} are expected",
            "correct them, or leave them out",
        )
    if counts and max(counts.values()) > most.frames:
        raise scan_error(
            "too-many-frames",
            "ISMRMRD header",
            f"it describes {max(counts.values())} frames",
            f"at most {most.frames} are supported",
            "check which counter is that of the frames",
        )
    if not counts or max(counts.values()) < 2:
        raise scan_error(
            "frame-count-unknown",
            "ISMRMRD header",
            "sequenceParameters.flipAngle_deg has one value, so the number of frames is unknown",
            "one flip angle per frame is expected",
            "write the flip angles, or encodingLimits.contrast if all are the same; where the "
            "header has no room for them, give flip_angles in a scan profile (--scan-profile)",
        )
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{name}: {count}" for name, count in counts.items())
        raise scan_error(
            "frame-count",
            "ISMRMRD header",
            f"the number of frames is inconsistent ({found})",
            "TR, TE and flipAngle_deg must have one value or one per frame, and "
            "encodingLimits.contrast.maximum must be the last frame",
            "correct the one that differs",
        )
    n_frames = next(iter(counts.values()))
    if segment is not None and n_frames * (segment.maximum + 1) > most.readouts:
        raise scan_error(
            "too-many-readouts",
            "ISMRMRD header",
            f"it announces {segment.maximum + 1} groups of {n_frames} readouts "
            "(encodingLimits.segment)",
            f"at most {most.readouts} readouts are supported",
            "correct the limits",
        )
    return n_frames


def read_grid(
    header: ismrmrd.xsd.ismrmrdHeader, encoding: int = 0
) -> tuple[tuple[int, int, int], Vector]:
    """Return number and edge lengths [m] of the voxels of an encoding's ``reconSpace`` (z, y, x).

    Raises
    ------
    Mri2QmapError
        If there is no such encoding, or a value is implausible.
    """
    if len(header.encoding) <= encoding:
        raise scan_error(
            "encoding-missing",
            "ISMRMRD header",
            "element encoding is missing",
            "matrixSize and fieldOfView_mm are expected in its reconSpace",
            "add it",
        )
    space = header.encoding[encoding].reconSpace
    size, extent = space.matrixSize, space.fieldOfView_mm
    matrix = (size.z, size.y, size.x)
    field_of_view = [_single(side) for side in (extent.z, extent.y, extent.x)]
    if min(matrix) < 2:
        raise scan_error(
            "matrix-not-3d",
            "ISMRMRD header",
            f"reconSpace.matrixSize is {size.x} x {size.y} x {size.z} (x, y, z)",
            "a 3D scan with at least 2 voxels along each axis is expected",
            "correct it; 2D scans are not supported",
        )
    most = SCAN_LIMITS
    if max(matrix) > most.side or math.prod(matrix) > most.voxels:
        raise scan_error(
            "matrix-too-large",
            "ISMRMRD header",
            f"reconSpace.matrixSize is {size.x} x {size.y} x {size.z} (x, y, z)",
            f"at most {most.side} voxels along an axis and {most.voxels} voxels are supported",
            "correct it",
        )
    if not all(np.isfinite(f) and f > 0 for f in field_of_view):
        raise scan_error(
            "field-of-view",
            "ISMRMRD header",
            f"reconSpace.fieldOfView_mm is {extent.x} x {extent.y} x {extent.z} (x, y, z)",
            "three positive lengths [mm] are expected",
            "correct it",
        )
    header_units.check_extent(
        field_of_view[::-1], matrix[::-1], "ISMRMRD header: reconSpace.fieldOfView_mm"
    )
    z, y, x = (f * 1e-3 / n for f, n in zip(field_of_view, matrix, strict=True))
    return matrix, (z, y, x)


def check_coils(header: ismrmrd.xsd.ismrmrdHeader) -> None:
    """Refuse an impossible number of receive channels."""
    system = header.acquisitionSystemInformation
    coils = system.receiverChannels if system is not None else None
    if coils is not None and not 0 <= coils <= SCAN_LIMITS.coils:  # 0: unknown
        raise scan_error(
            "too-many-coils",
            "ISMRMRD header",
            f"acquisitionSystemInformation.receiverChannels is {coils}",
            f"at most {SCAN_LIMITS.coils} coils are supported, and a negative number is none",
            "correct it, or leave it out",
        )


def _numbers(parameters: Any, name: str) -> list[float]:
    values = getattr(parameters, name)
    code, expected = _EXPECTED[name]
    if not values:
        raise scan_error(
            code,
            "ISMRMRD header",
            f"element sequenceParameters.{name} is missing",
            f"{expected} is expected",
            "add it there, or in a scan profile (--scan-profile)",
        )
    numbers = [_single(v) for v in values]
    if not all(np.isfinite(v) for v in numbers):
        raise scan_error(
            "sequence-not-finite",
            "ISMRMRD header",
            f"a value of sequenceParameters.{name} is not finite",
            "finite numbers are expected",
            "correct it",
        )
    return numbers


def _single(value: float) -> float:
    """Round to single precision, as defined in the schema and as sent by Gadgetron.

    Otherwise a scan sent through a server would get a different dictionary and different maps.
    """
    with np.errstate(over="ignore"):
        return float(np.float32(value))


def _each(values: list[float], n_frames: int) -> list[float]:
    return values if len(values) > 1 else values * n_frames

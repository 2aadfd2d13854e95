"""What a scan is, in numbers: without the values of anything about the patient."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from mri2qmap.errors import Mri2QmapError
from mri2qmap.pipeline.geometry import Geometry
from mri2qmap.pipeline.scan_header import ScanInfo, geometry_from_acquisition
from mri2qmap.pipeline.scan_record import scan_record
from mri2qmap.simulation.trajectory import FULL_DENSITY
from mri2qmap.validation.acquisitions import ExaminedAcquisitions
from mri2qmap.validation.header import ExaminedHeader

Triple = tuple[float, float, float]
Pair = tuple[float, float]

_DIRECTIONS = (("right", "left"), ("anterior", "posterior"), ("foot", "head"))
"""Negative and positive directions of LPS."""
_PATIENT = ("subjectInformation", "studyInformation")


@dataclass(frozen=True)
class ScanDescription:
    """What a scan is. None stands for what is not known or cannot be read.

    Attributes
    ----------
    matrix
        Number of voxels (z, y, x).
    field_of_view_mm, voxel_size_mm
        (z, y, x) [mm].
    frames
        Time frames of a readout group.
    flip_angle_deg, tr_ms, te_ms
        Smallest and largest.
    ti_ms
        Inversion time.
    sequence_origin
        Where flip angles and times come from, in words.
    field_strength_t
        Field strength of the header [T].
    acquisitions, readouts, noise_scans
        Number of all acquisitions, of imaging ones and of noise scans.
    groups, groups_announced
        Readout groups of which readouts are there, and those that the header announces.
    coils, virtual_coils
        Receive channels, and how many of them compression makes.
    samples_per_readout
        Smallest and largest number.
    samples_per_voxel, acceleration
        Samples of a coil per voxel, and 3.8 divided by it, which is fully sampled.
    trajectory_extent
        Largest absolute kx, ky and kz [cycles/voxel].
    position_mm
        Centre of the volume (LPS).
    axes
        Directions of the array axes x, y and z in the patient.
    patient_fields
        Names of the elements about patient and study that the header has.
    """

    matrix: tuple[int, int, int] | None = None
    field_of_view_mm: Triple | None = None
    voxel_size_mm: Triple | None = None
    frames: int | None = None
    flip_angle_deg: Pair | None = None
    tr_ms: Pair | None = None
    te_ms: Pair | None = None
    ti_ms: float | None = None
    sequence_origin: str | None = None
    field_strength_t: float | None = None
    acquisitions: int = 0
    readouts: int = 0
    noise_scans: int = 0
    groups: int | None = None
    groups_announced: int | None = None
    coils: int | None = None
    virtual_coils: int | None = None
    samples_per_readout: tuple[int, int] | None = None
    samples_per_voxel: float | None = None
    acceleration: float | None = None
    trajectory_extent: Triple | None = None
    position_mm: Triple | None = None
    axes: tuple[str, str, str] | None = None
    patient_fields: tuple[str, ...] = ()


def describe(
    header: ExaminedHeader,
    found: ExaminedAcquisitions,
    virtual_coils: int | None,
    sequence_origin: str,
) -> ScanDescription:
    """Return what a scan is.

    Parameters
    ----------
    header, found
        The scan.
    virtual_coils
        Coils after compression; None if they are not known.
    sequence_origin
        Where the sequence comes from.
    """
    values: dict[str, Any] = {}
    scan, checks = header.scan, found.checks
    if header.grid_known:
        values |= _grid(scan)
    if header.frames_known:
        values["frames"] = scan.sequence.n_frames
        if scan.expected_readouts is not None:
            values["groups_announced"] = scan.expected_readouts // scan.sequence.n_frames
    if header.sequence_known:
        values |= _sequence(scan) | {"sequence_origin": sequence_origin}
    if header.readable:
        values["field_strength_t"] = scan_record(scan)["field_strength_t"]
        values["patient_fields"] = _patient_fields(scan)
    if checks.lengths:
        values["samples_per_readout"] = (min(checks.lengths), max(checks.lengths))
        if header.grid_known and found.samples:
            density = found.samples / math.prod(scan.matrix)
            values |= {"samples_per_voxel": density, "acceleration": FULL_DENSITY / density}
    if checks.trajectories.extent.any():
        values["trajectory_extent"] = _triple(checks.trajectories.extent)
    if checks.first_imaging is not None:
        values |= _place(checks.first_imaging, scan)
    return ScanDescription(
        acquisitions=checks.arrived,
        readouts=checks.imaging,
        noise_scans=checks.noise,
        groups=None if checks.completeness is None else checks.completeness.groups,
        coils=found.channels,
        virtual_coils=virtual_coils,
        **values,
    )


def _grid(scan: ScanInfo) -> dict[str, Any]:
    voxel = 1e3 * np.array(scan.voxel_size)
    extent = voxel * scan.matrix
    return {
        "matrix": scan.matrix,
        "voxel_size_mm": _triple(voxel),
        "field_of_view_mm": _triple(extent),
    }


def _sequence(scan: ScanInfo) -> dict[str, Any]:
    record = scan_record(scan)
    return {
        "flip_angle_deg": tuple(record["flip_angle_min_max_deg"]),
        "tr_ms": tuple(1e3 * t for t in record["tr_min_max_s"]),
        "te_ms": tuple(1e3 * t for t in record["te_min_max_s"]),
        "ti_ms": 1e3 * record["ti_s"],
    }


def _place(first: Any, scan: ScanInfo) -> dict[str, Any]:
    try:
        geometry = geometry_from_acquisition(first, scan)
    except Mri2QmapError:  # a finding already
        return {}
    return {"position_mm": _triple(1e3 * np.array(geometry.position)), "axes": _axes(geometry)}


def _axes(geometry: Geometry) -> tuple[str, str, str]:
    names = []
    for direction in (geometry.read_dir, geometry.phase_dir, geometry.slice_dir):
        axis = int(np.argmax(np.abs(direction)))
        turned = abs(direction[axis]) < 0.999
        names.append(_DIRECTIONS[axis][direction[axis] > 0] + (" (oblique)" if turned else ""))
    x, y, z = names
    return x, y, z


def _patient_fields(scan: ScanInfo) -> tuple[str, ...]:
    """Return the names of the elements that have a value."""
    found = []
    for group in _PATIENT:
        element = getattr(scan.header, group)
        if element is not None:
            present = (f.name for f in dataclasses.fields(element) if getattr(element, f.name))
            found += list(present)
    return tuple(found)


def _triple(values: Any) -> Triple:
    a, b, c = (float(v) for v in values)
    return a, b, c

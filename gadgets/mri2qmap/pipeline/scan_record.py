"""What a scan is, for the record of a run and its report."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mri2qmap.pipeline.scan_header import ScanInfo


def scan_record(scan: ScanInfo) -> dict[str, Any]:
    """Return matrix, voxel size and sequence of a scan as JSON values."""
    sequence = scan.sequence
    return {
        "matrix_zyx": list(scan.matrix),
        "voxel_size_zyx_m": list(scan.voxel_size),
        "frames": sequence.n_frames,
        "flip_angle_min_max_deg": np.rad2deg(
            [min(sequence.flip_angles), max(sequence.flip_angles)]
        ).tolist(),
        "tr_min_max_s": [min(sequence.repetition_times), max(sequence.repetition_times)],
        "te_min_max_s": [min(sequence.echo_times), max(sequence.echo_times)],
        "ti_s": sequence.inversion_time,
        "field_strength_t": _field_strength(scan),
    }


def _field_strength(scan: ScanInfo) -> float | None:
    """Return the field strength of the header [T]; None where it has no positive number."""
    system = scan.header.acquisitionSystemInformation
    value = None if system is None else system.systemFieldStrength_T
    return float(value) if value is not None and 0 < value < math.inf else None

"""Maps and records of runs for the tests of the report."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import torch

from mri2qmap.export.volumes import ExportVolumes, export_volumes
from mri2qmap.pipeline.geometry import Geometry
from mri2qmap.pipeline.items import ParameterMaps
from mri2qmap.report.content import ReportContent, report_content
from mri2qmap.report.volumes import report_volumes

MADE = datetime.datetime(2031, 5, 7, 12, 30, tzinfo=datetime.UTC)
IDENTITY = "scan 0123abcd measurement 7"
SCAN: dict[str, Any] = {
    "matrix_zyx": [20, 24, 28],
    "voxel_size_zyx_m": [0.004, 0.005, 0.003],
    "frames": 500,
    "flip_angle_min_max_deg": [10.0, 75.0],
    "tr_min_max_s": [0.012, 0.012],
    "te_min_max_s": [0.0007, 0.0009],
    "ti_s": 0.02,
    "field_strength_t": 3.0,
}
WHITE, GREY = (0.8, 0.07), (1.35, 0.09)
"""T1 and T2 [s] of the tissues of `head`."""


def record(**changes: Any) -> dict[str, Any]:
    """Record of a run with nothing unusual."""
    iterations = [
        {
            "number": number,
            "penalty": 1e-5 * 1.5**number,
            "sigma": 0.3 * 0.8**number,
            "cg_iterations": 3,
            "cg_residual": 1e-3 / number,
            "primal": 0.2 / number,
            "dual": 1e-3 / number,
            "data_term": -1.0,
            "objective": None,
        }
        for number in range(1, 9)
    ]
    measured: dict[str, dict[str, float]] = {
        "coil_sensitivity": {
            "coils": 8,
            "virtual_coils": 5,
            "energy_kept": 0.97,
            "noise_samples": 8000,
            "noise_correlation_largest": 0.4,
            "noise_correlation_mean": 0.2,
            "noise_deviation_ratio": 1.9,
        },
        "subspace_compression": {"coefficients": 5, "subspace_energy": 0.9986},
        "toeplitz_cg": {"cg_steps": 20, "cg_residual": 2.5e-3, "relative_noise": 0.01},
        "pnp_admm": {},
        "combined_matching": {"at_table_limit": 0.02},
        "parametric_maps": {"voxels_not_finite": 0},
    }
    gadgets = [
        {
            "name": name,
            "settings": {},
            "busy_s": 2.0 + place,
            "busy_during_scan_s": 1.0 if place < 2 else 0.0,
            "rss_growth_bytes": 10**8,
            "rss_peak_bytes": 10**9,
            "gpu_peak_bytes": None,
            "measured": found,
            "iterations": iterations if name == "pnp_admm" else [],
        }
        for place, (name, found) in enumerate(measured.items())
    ]
    made = {
        "pipeline": "mri2qmap",
        "versions": {"mri2qmap": "1.2.3", "torch": "2.13.0", "cufinufft": None},
        "incomplete": "",
        "memory": {"planned_bytes": 12 * 10**8, "spared": False},
        "total_s": 20.0,
        "last_acquisition_s": 3.0,
        "last_acquisition_to_last_map_s": 17.0,
        "gadgets": gadgets,
        "log": [],
    }
    return made | changes


def head(matrix: tuple[int, int, int] = (20, 24, 28), noise: float = 0.02) -> ParameterMaps:
    """A ball of white matter in a shell of grey matter, on an oblique grid, with all maps."""
    random = np.random.default_rng(3)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in matrix), indexing="ij"))
    radius = np.linalg.norm(grid, axis=0)
    inside, white = radius < 0.9, radius < 0.7
    vary = 1 + noise * random.standard_normal((2, *matrix))
    t1 = np.where(inside, np.where(white, WHITE[0], GREY[0]) * vary[0], 0)
    t2 = np.where(inside, np.where(white, WHITE[1], GREY[1]) * vary[1], 0)
    density = np.where(inside, 1 + 0.2 * grid[0], 0.001 * random.random(matrix))

    def tensor(values: Any, kind: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(kind)

    weighted = np.stack([density * 3, density * 40, density * 500])
    return ParameterMaps(
        t1=tensor(t1),
        t2=tensor(t2),
        proton_density=tensor(density, torch.complex64),
        match_quality=tensor(np.where(inside, 0.999, 0.4)),
        weighted=tensor(weighted),
        geometry=oblique(matrix),
        t1_std=tensor(0.1 * t1),
        t2_std=tensor(0.05 * t2),
        consistency=tensor(np.where(inside, radius, 0)),
        receive_field="removed",
        receive_field_map=tensor(1 + 0.1 * radius),
    )


def oblique(matrix: tuple[int, int, int]) -> Geometry:
    """A grid whose axes are turned, flipped and swapped against those of the patient."""
    tilt = np.deg2rad(11)
    read = (0.0, float(np.cos(tilt)), float(-np.sin(tilt)))
    phase = (-1.0, 0.0, 0.0)
    normal = (0.0, float(np.sin(tilt)), float(np.cos(tilt)))
    return Geometry(matrix, (0.004, 0.005, 0.003), (0.01, -0.02, 0.03), read, phase, normal)


def exported(maps: ParameterMaps) -> ExportVolumes:
    return export_volumes(maps, 0.05)


def content(
    run: dict[str, Any] | None = None,
    maps: ParameterMaps | None = None,
    scan: dict[str, Any] | None = None,
) -> ReportContent:
    """What a report says of a run; without maps, those of `head`."""
    volumes = report_volumes(exported(maps or head()).volumes.values())
    return report_content(run or record(), scan or SCAN, IDENTITY, volumes, MADE)

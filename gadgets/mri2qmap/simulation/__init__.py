"""Simulated fingerprinting scans of anatomies, with their true parameter maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mri2qmap.machine.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from mri2qmap.simulation.coils import coil_sensitivities
    from mri2qmap.simulation.mrd_writer import RawScan, write_scan
    from mri2qmap.simulation.simulator import (
        NoiseModel,
        Orientation,
        Simulation,
        SimulationSettings,
    )
    from mri2qmap.simulation.trajectory import SamplingPlan, plan_sampling, spiral_projections
    from mri2qmap.simulation.truth import Truth, read_truth, write_truth

__all__ = [
    "NoiseModel",
    "Orientation",
    "RawScan",
    "SamplingPlan",
    "Simulation",
    "SimulationSettings",
    "Truth",
    "coil_sensitivities",
    "plan_sampling",
    "read_truth",
    "spiral_projections",
    "write_scan",
    "write_truth",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "NoiseModel": "simulator",
        "Orientation": "simulator",
        "RawScan": "mrd_writer",
        "SamplingPlan": "trajectory",
        "Simulation": "simulator",
        "SimulationSettings": "simulator",
        "Truth": "truth",
        "coil_sensitivities": "coils",
        "plan_sampling": "trajectory",
        "read_truth": "truth",
        "spiral_projections": "trajectory",
        "write_scan": "mrd_writer",
        "write_truth": "truth",
    },
)

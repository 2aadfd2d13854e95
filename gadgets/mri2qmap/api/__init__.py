"""The Python interface, of which `mri2qmap` exports most: validate, reconstruct, evaluate, ..."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mri2qmap.machine.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from mri2qmap.api.evaluation import evaluate
    from mri2qmap.api.reconstruction import reconstruct, reconstruct_to_folder
    from mri2qmap.api.scans import Scan
    from mri2qmap.api.simulation import SimulatedScan, simulate
    from mri2qmap.api.validation import validate

__all__ = [
    "Scan",
    "SimulatedScan",
    "evaluate",
    "reconstruct",
    "reconstruct_to_folder",
    "simulate",
    "validate",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Scan": "scans",
        "SimulatedScan": "simulation",
        "evaluate": "evaluation",
        "reconstruct": "reconstruction",
        "reconstruct_to_folder": "reconstruction",
        "simulate": "simulation",
        "validate": "validation",
    },
)

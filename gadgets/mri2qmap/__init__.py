"""MRI2Qmap: T1, T2 and proton-density maps from 3D MR fingerprinting, as Gadgetron gadgets.

>>> import mri2qmap
>>> maps = mri2qmap.reconstruct("scan.h5")
>>> maps.t1, maps.t2, maps.proton_density  # arrays (z, y, x), in seconds and arbitrary units
>>> maps.plot().savefig("maps.png")
>>> maps.save("maps")

`validate`, `reconstruct`, `simulate` and `evaluate` are functions for programs and notebooks; the
command ``mri2qmap`` does the same with files. The modules beside this file are the six gadgets.
Importing the package loads none of the libraries that compute: names are imported when they are
first used.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from mri2qmap.machine.lazy_exports import lazy_exports
from mri2qmap.machine.process_setup import prepare_process

prepare_process()  # before PyTorch and numba are imported: they read environment variables then

try:
    __version__ = version("mri2qmap")  # from the git tag, when the package was built
except PackageNotFoundError:  # source files on the path that were never installed
    __version__ = "0+unknown"

if TYPE_CHECKING:
    from mri2qmap.api.evaluation import evaluate
    from mri2qmap.api.reconstruction import reconstruct
    from mri2qmap.api.scans import Scan
    from mri2qmap.api.simulation import SimulatedScan, simulate
    from mri2qmap.api.validation import validate
    from mri2qmap.cohort.outcome import ScanOutcome
    from mri2qmap.cohort.reconstruction import reconstruct_cohort
    from mri2qmap.errors import GadgetError, Mri2QmapError
    from mri2qmap.evaluation.maps import Maps
    from mri2qmap.pipeline.findings import Finding
    from mri2qmap.pipeline.scan_profile import ScanProfile
    from mri2qmap.pipeline.scan_profile_suggestions import suggest_scan_profile
    from mri2qmap.validation.result import Validation

__all__ = [
    "Finding",
    "GadgetError",
    "Maps",
    "Mri2QmapError",
    "Scan",
    "ScanOutcome",
    "ScanProfile",
    "SimulatedScan",
    "Validation",
    "__version__",
    "evaluate",
    "reconstruct",
    "reconstruct_cohort",
    "simulate",
    "suggest_scan_profile",
    "validate",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Finding": "pipeline.findings",
        "GadgetError": "errors",
        "Maps": "evaluation.maps",
        "Mri2QmapError": "errors",
        "Scan": "api.scans",
        "ScanOutcome": "cohort.outcome",
        "ScanProfile": "pipeline.scan_profile",
        "SimulatedScan": "api.simulation",
        "Validation": "validation.result",
        "evaluate": "api.evaluation",
        "reconstruct": "api.reconstruction",
        "reconstruct_cohort": "cohort.reconstruction",
        "simulate": "api.simulation",
        "suggest_scan_profile": "pipeline.scan_profile_suggestions",
        "validate": "api.validation",
    },
)

"""Reconstruction of several scans, by processes of this machine or of others.

`reconstruct_cohort` checks all scans (`planning`), has them reconstructed one by one by the workers
of a Dask cluster (`dispatch`, `cluster`, `task`) and keeps a table of them (`outcome`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mri2qmap.machine.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from mri2qmap.cohort.outcome import ScanOutcome
    from mri2qmap.cohort.reconstruction import reconstruct_cohort

__all__ = [
    "ScanOutcome",
    "reconstruct_cohort",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "ScanOutcome": "outcome",
        "reconstruct_cohort": "reconstruction",
    },
)

"""Checks of a scan and a pipeline before a run, and what the run will take.

They are those that a run makes itself: their errors are collected instead of raised. `header` and
`acquisitions` read the scan, `scan_checks` and `pipeline_checks` compare it with the pipeline,
`description` says what it is, `work` and `run_time` estimate the time, and `result` holds all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mri2qmap.machine.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from mri2qmap.validation.description import ScanDescription
    from mri2qmap.validation.result import MemoryPlan, Validation
    from mri2qmap.validation.run_time import TimeEstimate

__all__ = [
    "MemoryPlan",
    "ScanDescription",
    "TimeEstimate",
    "Validation",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "MemoryPlan": "result",
        "ScanDescription": "description",
        "TimeEstimate": "run_time",
        "Validation": "result",
    },
)

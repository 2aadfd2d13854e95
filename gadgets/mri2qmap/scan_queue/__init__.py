"""Scans that are received now and reconstructed later, by a server that may be restarted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mri2qmap.machine.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from mri2qmap.scan_queue.queue_folder import QueueFolder
    from mri2qmap.scan_queue.queued_scan import QueuedScan, State
    from mri2qmap.scan_queue.runner import QueueRunner, RunnerOptions
    from mri2qmap.scan_queue.service import ScanQueueService

__all__ = [
    "QueueFolder",
    "QueueRunner",
    "QueuedScan",
    "RunnerOptions",
    "ScanQueueService",
    "State",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "QueueFolder": "queue_folder",
        "QueueRunner": "runner",
        "QueuedScan": "queued_scan",
        "RunnerOptions": "runner",
        "ScanQueueService": "service",
        "State": "queued_scan",
    },
)

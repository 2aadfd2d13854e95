"""Hosts that run the gadgets: in process, as external Gadgetron nodes, and as a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mri2qmap.machine.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from mri2qmap.hosts.client import RemoteReconstruction
    from mri2qmap.hosts.in_process import InProcessHost
    from mri2qmap.hosts.listener import Listener
    from mri2qmap.hosts.server import ScanServer
    from mri2qmap.hosts.stage_timing import NodeTiming, StageTiming
    from mri2qmap.hosts.worker import Worker

__all__ = [
    "InProcessHost",
    "Listener",
    "NodeTiming",
    "RemoteReconstruction",
    "ScanServer",
    "StageTiming",
    "Worker",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "InProcessHost": "in_process",
        "Listener": "listener",
        "NodeTiming": "stage_timing",
        "RemoteReconstruction": "client",
        "ScanServer": "server",
        "StageTiming": "stage_timing",
        "Worker": "worker",
    },
)

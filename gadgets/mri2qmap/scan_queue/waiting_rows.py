"""The scans of a queue that wait, as the live view shows them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from mri2qmap.hosts.live_scans import LiveScans
from mri2qmap.scan_queue.queue_folder import QueueFolder


def waiting_rows(queue: QueueFolder, live: LiveScans) -> list[dict[str, Any]]:
    """Return the scans that wait, see `LiveScans.queued`."""
    return [
        {
            "number": scan.identifier,
            "peer": scan.record.peer,
            "since": round(live.now() - _age(scan.record.received), 2),
            "memory": scan.record.memory,
            "pipeline": scan.record.pipeline,
            "matrix": list(scan.record.matrix[::-1]),
            "frames": scan.record.frames,
            "running": False,
            "place": place,
            "received": scan.record.acquisitions,
            "gadgets": [],
            "results": 0,
        }
        for place, scan in enumerate(queue.waiting(), start=1)
    ]


def _age(moment: str) -> float:
    """Return for how long a time in UTC has passed [s]; 0 for one in the future."""
    return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds())

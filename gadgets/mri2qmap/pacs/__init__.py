"""DICOM objects to a PACS: a spool on disk, C-STORE and STOW-RS."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mri2qmap.machine.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from mri2qmap.pacs.destination import Connection, Destination, parse_destination
    from mri2qmap.pacs.pushing import PushOptions, PushResult, push_pending
    from mri2qmap.pacs.spool import Spool

__all__ = [
    "Connection",
    "Destination",
    "PushOptions",
    "PushResult",
    "Spool",
    "parse_destination",
    "push_pending",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Connection": "destination",
        "Destination": "destination",
        "PushOptions": "pushing",
        "PushResult": "pushing",
        "Spool": "spool",
        "parse_destination": "destination",
        "push_pending": "pushing",
    },
)

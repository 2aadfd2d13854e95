"""The free space of the disk of a queue, of which some is kept for maps."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mri2qmap.errors import Mri2QmapError

KEPT_FREE = 2**30
"""Space that received scans leave on the disk, so that maps can be written [bytes]."""
_LOOK = 2**26
"""Bytes that all receptions together write at most between two looks at the free space."""


class DiskRoom:
    """The free space of the disk, for all receptions together.

    Parameters
    ----------
    path
        Folder on the disk.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._left = 0  # bytes that may be written before the next look
        self._on_their_way = 0  # bytes that the disk may not know of yet

    def suffices(self) -> bool:
        """Whether there is room for maps, or nobody knows."""
        try:
            return shutil.disk_usage(self._path).free >= KEPT_FREE
        except OSError:
            return True

    def look_again(self) -> None:
        """Look at the disk before the next byte."""
        with self._lock:
            self._left = 0

    @contextmanager
    def take(self, size: int) -> Iterator[None]:
        """Take room for bytes that are written while the context is active.

        Raises
        ------
        Mri2QmapError
            If less than `KEPT_FREE` would be left.
        OSError
            If the disk fails.
        """
        with self._lock:
            if size > self._left:
                free = shutil.disk_usage(self._path).free
                most = free - self._on_their_way - KEPT_FREE
                if most < size:
                    raise Mri2QmapError(
                        f"the disk of the queue has {free >> 20} MiB left, of which "
                        f"{KEPT_FREE >> 20} MiB are kept for maps; free some space"
                    )
                self._left = max(size, min(_LOOK, most))
            self._left -= size
            self._on_their_way += size
        try:
            yield
        finally:
            with self._lock:
                self._on_their_way -= size

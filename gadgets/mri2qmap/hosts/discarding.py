"""The pace at which connections discard what their peers send."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_UNPACED = 2
"""Number of connections that may discard at any rate."""
_PAUSE = 2e-4
"""Pause of a connection that discards, for each further one [s]."""


class Discarding:
    """How many connections discard what their peers send, in this process."""

    def __init__(self) -> None:
        self._count = 0
        self._lock = threading.Lock()

    @contextmanager
    def more(self) -> Iterator[None]:
        """Count one more."""
        with self._lock:
            self._count += 1
        try:
            yield
        finally:
            with self._lock:
                self._count -= 1

    def pause(self) -> None:
        """Wait for a moment after a message or a part of one, the longer the more there are.

        So all together they take no more than a fraction of a core, however fast the peers send.
        """
        if self._count > _UNPACED:
            time.sleep(_PAUSE * (self._count - _UNPACED))


DISCARDING = Discarding()

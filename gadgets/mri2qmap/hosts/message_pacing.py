"""How many messages that are of no use a peer may send, and how fast they are taken."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mri2qmap.errors import Mri2QmapError

MOST_UNUSED = 2**20
"""Maximum number of messages of a scan that its maps do not need."""
UNPACED = 1000
"""Number of them that are taken at any rate. Connections that send many share it."""
FEW = 32
"""Number of them that each connection may always send at any rate."""
_RATE = 2_000.0
"""Rate at which the further ones of all connections together are taken [1/s], if it is more."""
_RATE_OF_EACH = 50.0
"""Rate at which those of each connection may always come [1/s]. An ECG has 400, which up to five
connections may send at the same time."""
_SAVED = 2.0
"""Time for which a connection that was slower may be faster afterwards [s]."""
_NAP = 0.2
"""Shortest pause [s]: a thread that wakes for each message takes the interpreter from others."""
_DISCARDING_UNPACED = 2
"""Number of connections that may discard at any rate."""
_PAUSE = 1e-3
"""Pause of a connection that discards, for each further one [s]."""


class _Connections:
    """Number of connections, in this process, that do something."""

    def __init__(self) -> None:
        self.number = 0
        self._lock = threading.Lock()

    def add(self, number: int) -> None:
        """Count more, or fewer."""
        with self._lock:
            self.number += number


_DISCARDING = _Connections()
_SENDING_UNUSED = _Connections()


@contextmanager
def discarding() -> Iterator[None]:
    """Count a connection as one that discards what its peer sends."""
    _DISCARDING.add(1)
    try:
        yield
    finally:
        _DISCARDING.add(-1)


def pause_between_discards() -> None:
    """Wait for a moment after a message or a part of one, the longer the more connections discard.

    So all together they take no more than a fraction of a core, however fast the peers send.
    """
    if _DISCARDING.number > _DISCARDING_UNPACED:
        time.sleep(_PAUSE * (_DISCARDING.number - _DISCARDING_UNPACED))


class UnusedMessages:
    """Messages within a scan, on one connection, that its maps do not need.

    Waveforms and acquisitions that are ignored are legal, but a peer that sends nothing else would
    take the time of all scans. Beyond the first ones, all connections share a rate; see `UNPACED`.

    Not thread-safe, but for the rate.
    """

    def __init__(self) -> None:
        self._number = 0
        self._due = 0.0

    def pause_after_one(self) -> None:
        """Count one more, and wait if they come too fast.

        Raises
        ------
        Mri2QmapError
            If they are more than `MOST_UNUSED`.
        """
        self._number += 1
        if self._number > MOST_UNUSED:
            raise Mri2QmapError(
                f"more than {MOST_UNUSED} messages arrived within the scan that its maps do not "
                "need (waveforms, or acquisitions of another encoding space, or neither of images "
                "nor of one of the first noise scans): leave them out"
            )
        if self._number <= FEW:
            return
        now = time.monotonic()
        if self._number == FEW + 1:
            _SENDING_UNUSED.add(1)
            self._due = now
        if self._number <= UNPACED / _SENDING_UNUSED.number:
            return
        rate = max(_RATE_OF_EACH, _RATE / _SENDING_UNUSED.number)
        self._due = max(self._due, now - _SAVED) + 1 / rate
        if self._due - now >= _NAP:
            time.sleep(self._due - now)

    def end(self) -> None:
        """Leave the rate to the others. To be called once, after the last one."""
        if self._number > FEW:
            _SENDING_UNUSED.add(-1)
        self._number = 0

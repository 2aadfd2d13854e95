"""Work that is done one at a time, in an order that is fair to those who wait for it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mri2qmap.machine.cancellation import raise_if_cancelled

_MOST_OWNERS = 256
"""Number of owners whose recent work is remembered."""
_MEMORY = 30.0
"""Time after which work counts for 1/e of its length [s]."""
_AGEING = 1e-3
"""Seconds of work by which a thread gets ahead in each second that it waits."""


@dataclass(eq=False)
class _Place:
    owner: str
    seconds: float
    since: float


class FairTurns:
    """A lock whose next holder has little to do, on behalf of somebody who has had few turns.

    The next one is the one whose work, together with recent work of its owner, is the least. So
    however many threads wait for one owner, or for many owners with long work, others with short
    work need not wait for them. Threads of one owner with equal work keep their order.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._held = False
        self._waiting: list[_Place] = []
        self._used: dict[str, tuple[float, float]] = {}  # seconds, and when that was noted

    @contextmanager
    def turn(self, owner: str, seconds: float = 0.0) -> Iterator[None]:
        """Wait for a turn, and hold it.

        Parameters
        ----------
        owner
            On whose behalf the thread works, for example the address of a peer.
        seconds
            How long the work will take, roughly [s].

        Raises
        ------
        BaseException
            The error with which the computation of this thread is cancelled while it waits; see
            `raise_if_cancelled`.
        """
        place = _Place(owner, seconds, time.monotonic())
        with self._changed:
            self._waiting.append(place)
            try:
                while self._held or self._next() is not place:
                    self._changed.wait(timeout=0.25)
                    raise_if_cancelled()
                self._held = True
            finally:
                self._waiting.remove(place)
                if not self._held:
                    self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._held = False
                now = time.monotonic()
                used = self._recently(owner, now) + seconds
                self._used.pop(owner, None)
                self._used[owner] = used, now
                if len(self._used) > _MOST_OWNERS:
                    del self._used[next(iter(self._used))]
                self._changed.notify_all()

    def _recently(self, owner: str, now: float) -> float:
        seconds, noted = self._used.get(owner, (0.0, now))
        return seconds * math.exp((noted - now) / _MEMORY)

    def _next(self) -> _Place:
        now = time.monotonic()

        def key(place: _Place) -> float:
            waited = _AGEING * (now - place.since)
            return place.seconds + self._recently(place.owner, now) - waited

        return min(self._waiting, key=key)

"""Work that is done one at a time, with a fair order among those who wait for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from mri2qmap.machine.cancellation import raise_if_cancelled

_MOST_OWNERS = 256
"""Number of owners of whom it is remembered when they last had a turn."""


class FairTurns:
    """A lock whose next holder is one of the owner who has waited longest since a turn of its own.

    However many threads wait for one owner, a thread of another owner waits for one of them only.
    Threads of the same owner take their turns in the order in which they came.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._held = False
        self._waiting: list[tuple[str, object]] = []
        self._last: dict[str, None] = {}  # owners who had a turn, the latest last

    @contextmanager
    def turn(self, owner: str) -> Iterator[None]:
        """Wait for a turn, and hold it.

        Parameters
        ----------
        owner
            On whose behalf the thread works, for example the address of a peer.

        Raises
        ------
        BaseException
            The error with which the computation of this thread is cancelled while it waits; see
            `raise_if_cancelled`.
        """
        place = (owner, object())
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
                self._last.pop(owner, None)
                self._last[owner] = None
                if len(self._last) > _MOST_OWNERS:
                    del self._last[next(iter(self._last))]
                self._changed.notify_all()

    def _next(self) -> tuple[str, object]:
        order = {owner: number for number, owner in enumerate(self._last)}
        return min(self._waiting, key=lambda place: order.get(place[0], -1))

"""Whether anything happens on the connections of a scan."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

QuietSince = Callable[[], float | None]
"""Returns since when one connection waits for its peer (`time.monotonic`); None: it does not."""


class Activity:
    """The connections of one scan: one client, or the nodes of a Gadgetron server.

    A node may wait for hours while another one computes. Therefore, only the scan is silent, not a
    single node.

    Attributes
    ----------
    started
        Set when data of the scan have arrived, on any connection.
    """

    def __init__(self) -> None:
        self.started = threading.Event()
        self._members: list[QuietSince] = []
        self._lock = threading.Lock()

    def join(self, quiet_since: QuietSince) -> None:
        """Add a connection."""
        with self._lock:
            self._members.append(quiet_since)

    def leave(self, quiet_since: QuietSince) -> None:
        """Remove a connection, if it is one of the scan."""
        with self._lock:
            if quiet_since in self._members:
                self._members.remove(quiet_since)

    def quiet_since(self) -> float | None:
        """Return since when all connections wait for their peers; None if one of them does not."""
        with self._lock:
            members = list(self._members)
        moments = [member() for member in members]
        known = [moment for moment in moments if moment is not None]
        return max(known) if known and len(known) == len(moments) else None


class Activities:
    """The activity of each scan of a worker, by session."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Activity, int]] = {}
        self._lock = threading.Lock()

    @contextmanager
    def of(self, session: str) -> Iterator[Activity]:
        """Return the activity that all nodes of a session share while one of them has it."""
        with self._lock:
            activity, users = self._known.get(session, (Activity(), 0))
            self._known[session] = activity, users + 1
        try:
            yield activity
        finally:
            with self._lock:
                users = self._known[session][1] - 1
                self._known[session] = activity, users
                if not users:
                    del self._known[session]

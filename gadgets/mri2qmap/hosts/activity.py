"""Whether anything happens on the connections of a scan."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

QuietSince = Callable[[], float | None]
"""Returns since when one connection waits for its peer (`time.monotonic`); None: it does not."""
DATA_CREDIT = 0.1
"""Time that a message with data takes off what the scan has waited for, see `Activity` [s]."""


class Activity:
    """The connections of one scan: one client, or the nodes of a Gadgetron server.

    A node may wait for hours while another one computes. Therefore, only the scan is silent, not a
    single node.

    Attributes
    ----------
    started
        Set when data of the scan have arrived, on any connection.
    holds_memory
        Whether memory is reserved for the scan.
    waits_for_memory
        Whether the scan is in the queue for memory.
    """

    def __init__(self) -> None:
        self.started = threading.Event()
        self.holds_memory = self.waits_for_memory = False
        self._members: list[QuietSince] = []
        self._waited, self._counted_to = 0.0, time.monotonic()
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

    def data_came(self, counts: bool = True) -> None:
        """Note that data of the scan have arrived.

        Parameters
        ----------
        counts
            Whether they take `DATA_CREDIT` off what the scan has waited for.
        """
        self.started.set()
        if counts:
            self.credit()

    def memory_came(self) -> None:
        """Note that memory is reserved for the scan."""
        self.holds_memory, self.waits_for_memory = True, False

    def quiet_since(self) -> float | None:
        """Return since when all connections wait for their peers; None if one of them does not."""
        with self._lock:
            members = list(self._members)
        moments = [member() for member in members]
        known = [moment for moment in moments if moment is not None]
        return max(known) if known and len(known) == len(moments) else None

    def credit(self) -> None:
        """Take `DATA_CREDIT` off what the scan has waited for: data come, but slowly."""
        with self._lock:
            self._waited = max(0.0, self._waited - DATA_CREDIT)

    def waited(self, contended: bool) -> float:
        """Return how long the scan has waited for data while others waited for what it holds [s].

        It is the sum of all times at which it waits, less `DATA_CREDIT` for each message with data,
        so that messages now and then do not hold memory for ever. To be called every `LOOK`.

        Parameters
        ----------
        contended
            Whether others wait now.
        """
        since, now = self.quiet_since(), time.monotonic()
        with self._lock:
            if not contended:
                self._waited = 0.0
            elif since is not None:
                self._waited += now - self._counted_to
            self._counted_to = now
            return self._waited


class Activities:
    """The activity of the nodes of a worker whose session is unknown, by scan header.

    Such a node waits for a node before it, which one is unknown: it is silent only if all nodes
    with this header are.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[Activity, int]] = {}
        self._lock = threading.Lock()

    @contextmanager
    def of(self, header: str) -> Iterator[Activity]:
        """Return the activity that all nodes with a header share while one of them has it."""
        with self._lock:
            activity, users = self._known.get(header, (Activity(), 0))
            self._known[header] = activity, users + 1
        try:
            yield activity
        finally:
            with self._lock:
                users = self._known[header][1] - 1
                self._known[header] = activity, users
                if not users:
                    del self._known[header]

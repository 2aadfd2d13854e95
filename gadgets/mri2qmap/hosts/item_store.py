"""Storage of items in the worker while a reference to them passes through the server."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mri2qmap.errors import Mri2QmapError
from mri2qmap.pipeline.items import Item


@dataclass
class _Session:
    """Nodes and stored items of one scan."""

    nodes: int = 0
    empty_since: float = 0.0
    kept: dict[str, Item] = field(default_factory=dict)


class ItemStore:
    """Stores items by session until the next node takes them or the session expires.

    A node may end before the next node has read its output, and the nodes of a session start one
    after the other. The items of a session are therefore kept for some time after its last node
    has ended.

    Parameters
    ----------
    grace
        Time after which the items of a session without nodes are deleted [s].
    """

    def __init__(self, grace: float = 30.0) -> None:
        self._grace = grace
        self._sessions: dict[str, _Session] = {}
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def __len__(self) -> int:
        """Return the number of stored items."""
        with self._lock:
            return sum(len(session.kept) for session in self._sessions.values())

    @contextmanager
    def node(self, session: str) -> Iterator[None]:
        """Register a node of a session while the context is active.

        Parameters
        ----------
        session
            Any string that identifies the session.
        """
        with self._lock:
            self._sessions.setdefault(session, _Session()).nodes += 1
        try:
            yield
        finally:
            with self._lock:
                ended = self._sessions[session]
                ended.nodes -= 1
                if ended.nodes == 0:
                    ended.empty_since = time.monotonic()
                    self._schedule_cleanup()

    def put(self, session: str, item: Item) -> str:
        """Store an item and return its reference."""
        number = secrets.token_hex(16)
        with self._lock:
            self._sessions[session].kept[number] = item
        return number

    def pop(self, session: str, number: str) -> Item:
        """Remove an item and return it.

        Raises
        ------
        Mri2QmapError
            If the session has no item with this reference.
        """
        with self._lock:
            known = self._sessions.get(session)
            item = None if known is None else known.kept.pop(number, None)
        if item is None:
            raise Mri2QmapError(
                "an item reference is unknown to this worker: the item is stored in another "
                "worker, or its session has ended. All nodes must connect to the same worker"
            )
        return item

    def drop_expired(self) -> None:
        """Delete the items of sessions that have had no node for the grace period."""
        with self._lock:
            self._timer = None
            now = time.monotonic()
            for key, session in list(self._sessions.items()):
                if session.nodes == 0 and now - session.empty_since >= self._grace:
                    del self._sessions[key]
            if any(session.nodes == 0 for session in self._sessions.values()):
                self._schedule_cleanup()

    def close(self) -> None:
        """Delete all items."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            self._sessions.clear()

    def _schedule_cleanup(self) -> None:
        if self._timer is None:
            self._timer = threading.Timer(self._grace, self.drop_expired)
            self._timer.daemon = True
            self._timer.start()

"""Items that a worker keeps while a reference to them crosses the server."""

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
    """The nodes of one scan."""

    nodes: int = 0
    empty_since: float = 0.0
    kept: dict[str, Item] = field(default_factory=dict)


class ItemStore:
    """Keeps items by session until the next node takes them, or the session is over.

    A node may end before the next one has read what it sent, and nodes of a session come one
    after the other; so what a session has left is dropped only some time after its last node.

    Parameters
    ----------
    grace
        That time [s].
    """

    def __init__(self, grace: float = 30.0) -> None:
        self._grace = grace
        self._sessions: dict[str, _Session] = {}
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def __len__(self) -> int:
        """How many items are kept."""
        with self._lock:
            return sum(len(session.kept) for session in self._sessions.values())

    @contextmanager
    def node(self, session: str) -> Iterator[None]:
        """Be a node of a session, whatever tells sessions apart."""
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
                    self._look_later()

    def put(self, session: str, item: Item) -> str:
        """Keep an item and return the number under which it can be taken."""
        number = secrets.token_hex(16)
        with self._lock:
            self._sessions[session].kept[number] = item
        return number

    def pop(self, session: str, number: str) -> Item:
        """Return an item, which is kept no longer.

        Raises
        ------
        Mri2QmapError
            When nothing is kept under that number in that session.
        """
        with self._lock:
            known = self._sessions.get(session)
            item = None if known is None else known.kept.pop(number, None)
        if item is None:
            raise Mri2QmapError(
                "an item arrived as a reference that this worker does not hold: it was made by "
                "another worker, or its session ended. All nodes must connect to one worker"
            )
        return item

    def drop_expired(self) -> None:
        """Drop what sessions without nodes have left for longer than the time of grace."""
        with self._lock:
            self._timer = None
            now = time.monotonic()
            for key, session in list(self._sessions.items()):
                if session.nodes == 0 and now - session.empty_since >= self._grace:
                    del self._sessions[key]
            if any(session.nodes == 0 for session in self._sessions.values()):
                self._look_later()

    def close(self) -> None:
        """Drop everything."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            self._sessions.clear()

    def _look_later(self) -> None:
        if self._timer is None:
            self._timer = threading.Timer(self._grace, self.drop_expired)
            self._timer.daemon = True
            self._timer.start()

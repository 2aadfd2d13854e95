"""Admission of scans and of received messages within a memory budget."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.cancellation import raise_if_cancelled
from mri2qmap.pipeline.memory_queue import MemoryQueue, Ticket

ADVICE = (
    "use a coarser matrix, fewer coefficients, a machine with more memory, or a higher limit "
    "(--memory, or memory=)"
)
ALWAYS_RECEIVED = 2**22
"""Received messages that each connection may hold besides the budget [bytes]."""
OPENING_FACTOR = 5
"""Memory that a configuration and a header take while they are read, over their length."""
KEPT_OPENING = 2**23
"""Memory that they take at most when they have been read [bytes]."""
_OPENINGS = 2**28
"""Memory for all configurations and headers [bytes], if that is more than `_OPENINGS_SHARE`."""
_OPENINGS_SHARE = 1 / 8
"""Memory for all configurations and headers, over the budget; it is not a part of it."""
_DIGITS = 11
"""Decimals of a number of GiB that tell single bytes apart, and one."""
_LOOK = 0.25
"""Time between two looks of a waiting reconstruction at whether it is cancelled [s]."""


_REQUESTER: ContextVar[Hashable] = ContextVar("requester of memory", default=None)


@contextmanager
def requested_by(requester: Hashable) -> Iterator[None]:
    """Let what this thread reserves count as requested by someone, such as an address."""
    token = _REQUESTER.set(requester)
    try:
        yield
    finally:
        _REQUESTER.reset(token)


class MemoryBudget:
    """Admits reconstructions while the sum of their memory estimates fits.

    Those who request them, see `requested_by`, take turns: each has one reconstruction in a turn,
    in the order in which they came. So many scans of one requester cannot keep out another one. The
    next in the queue is admitted before all others, so that small scans cannot delay a large one
    for ever. Several scans of one requester never hold all memory, see `MemoryQueue`. Received
    messages that no reconstruction has taken yet count, too, see `ReceivedBytes`.

    Parameters
    ----------
    total
        Total memory [bytes].
    patience
        Time that a reconstruction waits for others to end [s].
    host
        Memory for received messages [bytes] where `total` is that of a GPU; None: `total` is for
        both.
    """

    def __init__(self, total: int, patience: float = 60.0, host: int | None = None) -> None:
        self.total = total
        self.patience = patience
        self._host = host
        self._used = 0
        self._received = 0
        self._openings = 0
        self._queue = MemoryQueue(total)
        self._changed = threading.Condition()

    @property
    def reserved(self) -> int:
        """Memory of the admitted reconstructions [bytes]."""
        return self._used

    @property
    def received(self) -> int:
        """Memory of received messages, besides `ALWAYS_RECEIVED` of each connection [bytes]."""
        return self._received

    @property
    def waiting(self) -> int:
        """Number of reconstructions in the queue."""
        return len(self._queue)

    @property
    def largest_message(self) -> int:
        """Size up to which there can be room for a message [bytes]."""
        return self.total if self._host is None else self._host

    def crowds(self) -> bool:
        """Whether this thread's requester has several reconstructions while another has none."""
        with self._changed:
            return self._queue.crowds(_REQUESTER.get())

    @contextmanager
    def share(
        self,
        size: int,
        name: str,
        place: Callable[[int], None] | None = None,
        first: bool = False,
        patience: float | None = None,
    ) -> Iterator[None]:
        """Reserve `size` bytes while the context is active; wait for them if necessary.

        Parameters
        ----------
        size
            Memory to reserve [bytes].
        name
            What needs the memory, for messages.
        place
            Receives the place in the queue, from 1, when waiting begins and when it changes. It
            can also increase, by others whose turn it is.
        first
            Whether this adds to a reservation: it goes first, since the others wait for its end.
        patience
            Time to wait [s]; None: that of the budget.

        Raises
        ------
        Mri2QmapError
            If `size` exceeds the total, or the memory is not released within the patience.
        BaseException
            The error of a `Cancellation` that is active.
        """
        if size > self.total:
            needed, available = gib_apart(size, self.total)
            raise Mri2QmapError(
                f"{name} needs about {needed} of memory, but only {available} are available; "
                f"{ADVICE}"
            )
        ticket = self._wait_for(size, name, place, first, patience)
        try:
            yield
        finally:
            with self._changed:
                self._used -= size
                self._queue.release(ticket)
                self._changed.notify_all()

    @contextmanager
    def leftover(self, size: int) -> Iterator[bool]:
        """Reserve `size` bytes while the context is active, if nobody else wants them.

        Yields
        ------
        bool
            Whether they are reserved: there is room, and no reconstruction waits.
        """
        with self._changed:
            free = not self._queue and self._taken() + size <= self.total
            if free:
                self._used += size
        try:
            yield free
        finally:
            if free:
                with self._changed:
                    self._used -= size
                    self._changed.notify_all()

    def _wait_for(
        self,
        size: int,
        name: str,
        place: Callable[[int], None] | None,
        first: bool,
        patience: float | None = None,
    ) -> Ticket:
        start = time.monotonic()
        patience = self.patience if patience is None else patience
        told = 0
        with self._changed:
            ticket = self._queue.enter(_REQUESTER.get(), size, first)
        admitted = False
        try:
            while True:
                with self._changed:
                    if self._queue.next() is ticket and self._taken() + size <= self.total:
                        self._used += size
                        self._queue.admit(ticket)
                        admitted = True
                        return ticket
                    number = self._queue.place(ticket)
                    left = start + patience - time.monotonic()
                    if left <= 0:
                        raise self._no_memory(ticket, name, time.monotonic() - start)
                    if number == told or place is None:
                        self._changed.wait(min(left, _LOOK))
                raise_if_cancelled()
                if place is not None and number != told:
                    place(number)  # without the lock: it may wait for a client
                    told = number
        finally:
            with self._changed:
                if not admitted:
                    self._queue.leave(ticket)
                self._changed.notify_all()

    def _no_memory(self, ticket: Ticket, name: str, waited: float) -> Mri2QmapError:
        """Return the error of a reconstruction that has waited in vain [s]."""
        needs = f"{name} needs about {gib(ticket.size)} of memory"
        if self._queue.is_limited(ticket):
            held = self._queue.held_by(ticket.requester)
            return Mri2QmapError(
                f"{needs}; other reconstructions of the same address hold {gib(held)} and did not "
                f"end within {waited:.0f} s. Several of one address may hold at most "
                f"{gib(self._queue.most)} of {gib(self.total)} together: try again later, when "
                "they have ended, or give the server more memory (--memory)"
            )
        return Mri2QmapError(
            f"{needs}; other reconstructions hold {gib(self._taken())} of {gib(self.total)} and "
            f"did not end within {waited:.0f} s: try again later"
        )

    def _taken(self) -> int:
        return self._used + (self._received if self._host is None else 0)

    def _room(self) -> int:
        """Return the room for received messages [bytes]."""
        free = self.total - self._used if self._host is None else self._host
        return free - self._received


class ReceivedBytes:
    """Received messages of one connection, as a part of a memory budget.

    A connection may always hold `ALWAYS_RECEIVED` bytes, so that a scan goes on even if the budget
    is reserved completely. More is taken from the free part of the budget, once the scan is
    admitted.

    Parameters
    ----------
    budget
        Budget of all connections; None: no limit.

    Attributes
    ----------
    held
        Bytes that the connection holds.
    admitted
        Whether the connection may use the free part of the budget.
    """

    def __init__(self, budget: MemoryBudget | None = None) -> None:
        self.held = 0
        self._opening = 0
        self._budget = budget or MemoryBudget(2**63)
        self.admitted = budget is None
        self._closed = False

    @property
    def patience(self) -> float:
        """Time to wait for room for one message [s]."""
        return self._budget.patience

    @property
    def beyond(self) -> bool:
        """Whether the connection holds a part of the budget."""
        return self.held > ALWAYS_RECEIVED

    @property
    def opening(self) -> int:
        """Room for a configuration and a header that the connection has taken [bytes]."""
        return self._opening

    def open(self, length: int) -> bool:
        """Take room for a configuration and a header of this length; return whether there was.

        Short ones need none.
        """
        size = _counted(OPENING_FACTOR * length)
        budget = self._budget
        with budget._changed:
            most = max(_OPENINGS, _OPENINGS_SHARE * budget.total)
            if size and budget._openings and budget._openings + size > most:
                return False
            self._opening = size
            budget._openings += size
        return True

    def opened(self) -> None:
        """Return room that is not needed any more when the header has been read."""
        with self._budget._changed:
            kept = min(self._opening, KEPT_OPENING)
            self._budget._openings -= self._opening - kept
            self._opening = kept

    def admit(self) -> None:
        """Let the connection use the free part of the budget."""
        with self._budget._changed:
            self.admitted = True
            self._budget._changed.notify_all()

    def take(self, size: int, timeout: float) -> bool:
        """Count `size` more bytes; wait for room, and return whether there was.

        Raises
        ------
        ConnectionError
            After `close`.
        """
        with self._budget._changed:
            found = self._budget._changed.wait_for(
                lambda: self._closed or self._fits(self.held + size), timeout
            )
            if self._closed:
                raise ConnectionError("the connection is closed")
            if found:
                self._set(self.held + size)
            return found

    def add(self, size: int) -> None:
        """Count `size` more bytes (fewer, if negative) without waiting; no effect after `close`."""
        with self._budget._changed:
            if not self._closed:
                self._set(self.held + size)

    def close(self) -> None:
        """Return all bytes to the budget, and take no more."""
        with self._budget._changed:
            self._set(0)
            self._budget._openings -= self._opening
            self._opening = 0
            self._closed = True

    def _fits(self, held: int) -> bool:
        more = _counted(held) - _counted(self.held)
        return more == 0 or (self.admitted and more <= self._budget._room())

    def _set(self, held: int) -> None:
        self._budget._received += _counted(held) - _counted(self.held)
        if held < self.held:
            self._budget._changed.notify_all()
        self.held = held


def _counted(held: int) -> int:
    return max(0, held - ALWAYS_RECEIVED)


def gib(size: int, digits: int = 1) -> str:
    """Return a number of bytes in GiB, for messages."""
    return f"{size / 2**30:.{digits}f} GiB"


def gib_apart(size: int, limit: int) -> tuple[str, str]:
    """Return two different numbers of bytes in GiB, with as many digits as tell them apart."""
    for digits in range(1, _DIGITS):
        if gib(size, digits) != gib(limit, digits):
            break
    return gib(size, digits), gib(limit, digits)

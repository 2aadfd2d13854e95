"""The order in which reconstructions that wait for memory are admitted."""

from __future__ import annotations

import bisect
import itertools
from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass

MOST_OF_ONE = 3 / 4
"""Part of the memory that several reconstructions of one requester may hold together."""
_FIRST = 0


@dataclass(eq=False)
class Ticket:
    """A reconstruction that waits, or that has been admitted.

    Attributes
    ----------
    requester
        Who requests it, such as an address; None: nobody in particular.
    size
        Memory that it needs [bytes].
    turn
        Its turn; `_FIRST` if it goes before those that hold no memory.
    number
        Counts all of them.
    """

    requester: Hashable
    size: int
    turn: int
    number: int

    @property
    def order(self) -> tuple[int, int]:
        """The queue is sorted by it."""
        return self.turn, self.number


class MemoryQueue:
    """Those who wait for memory, by turns, and what each requester holds.

    Requesters who hold no memory go before those who do. In a turn, each requester has one
    reconstruction, in the order in which they came. One who holds memory gets more only up to
    `MOST_OF_ONE`. Until then, he waits, with all that he requested later, and the others go before
    him.

    Not thread-safe: its budget has a lock.

    Parameters
    ----------
    total
        Total memory [bytes].
    """

    def __init__(self, total: int) -> None:
        self.most = int(MOST_OF_ONE * total)
        self._waiting: list[Ticket] = []
        self._held: Counter[Hashable] = Counter()
        self._admitted: Counter[Hashable] = Counter()  # number of reconstructions
        self._numbers = itertools.count()
        self._turn = _FIRST

    def __len__(self) -> int:
        """Return the number of those who wait."""
        return len(self._waiting)

    def __iter__(self) -> Iterator[Ticket]:
        """Yield those who wait, in their order."""
        return iter(sorted(self._waiting, key=lambda ticket: (self._follows(ticket), ticket.order)))

    def _follows(self, ticket: Ticket) -> int:
        """Whether others go first, by turn."""
        if ticket.turn == _FIRST:
            return 0
        return 1 + (ticket.requester is not None and self._held[ticket.requester] > 0)

    def crowds(self, requester: Hashable) -> bool:
        """Whether a requester has several reconstructions while one who has none waits."""
        return self._admitted[requester] > 1 and any(
            not self._admitted[ticket.requester] for ticket in self._waiting
        )

    def enter(self, requester: Hashable, size: int, first: bool) -> Ticket:
        """Add a reconstruction, in the next turn in which its requester has none.

        Parameters
        ----------
        requester, size
            See `Ticket`.
        first
            Whether it adds to what an admitted reconstruction holds.
        """
        turn = _FIRST
        if not first:
            turns = (other.turn for other in self._waiting if other.requester == requester)
            turn = 1 + max([self._turn, *turns])
        ticket = Ticket(requester, size, turn, next(self._numbers))
        bisect.insort(self._waiting, ticket, key=lambda other: other.order)
        return ticket

    def place(self, ticket: Ticket) -> int:
        """Return its place, from 1."""
        return list(self).index(ticket) + 1

    def next(self) -> Ticket | None:
        """Return the one to be admitted before all others; None if all of them must wait."""
        limited: set[Hashable] = set()
        for ticket in self:
            if ticket.turn == _FIRST or ticket.requester not in limited:
                if not self._is_too_much(ticket):
                    return ticket
                limited.add(ticket.requester)
        return None

    def is_limited(self, ticket: Ticket) -> bool:
        """Whether it waits because of what its requester holds, however much is free."""
        before = itertools.takewhile(lambda other: other is not ticket, self)
        same = (other for other in before if other.requester == ticket.requester)
        return ticket.turn != _FIRST and any(map(self._is_too_much, (*same, ticket)))

    def held_by(self, requester: Hashable) -> int:
        """Return what the admitted reconstructions of a requester hold [bytes]."""
        return self._held[requester]

    def admit(self, ticket: Ticket) -> None:
        """Remove one that gets its memory."""
        self._waiting.remove(ticket)
        self._turn = max(self._turn, ticket.turn)
        self._held[ticket.requester] += ticket.size
        self._admitted[ticket.requester] += ticket.turn != _FIRST

    def release(self, ticket: Ticket) -> None:
        """Count what an admitted one held no longer."""
        self._held[ticket.requester] -= ticket.size
        self._admitted[ticket.requester] -= ticket.turn != _FIRST
        if not self._admitted[ticket.requester]:
            del self._admitted[ticket.requester]
        if not self._held[ticket.requester]:
            del self._held[ticket.requester]

    def leave(self, ticket: Ticket) -> None:
        """Remove one that waits no longer; its turn is that of the next one of its requester."""
        self._waiting.remove(ticket)
        for other in self._waiting:
            if other.requester == ticket.requester and other.turn > ticket.turn != _FIRST:
                other.turn -= 1
        self._waiting.sort(key=lambda other: other.order)

    def _is_too_much(self, ticket: Ticket) -> bool:
        held = 0 if ticket.requester is None else self._held[ticket.requester]
        return ticket.turn != _FIRST and held > 0 and held + ticket.size > self.most

"""The order in which connections are served, and which of them are given up, by address."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, TypeVar


class Waiting(Protocol):
    """A connection that waits: the address that it counts for, and when its handshake ended."""

    host: str
    complete: float


T = TypeVar("T")
_W = TypeVar("_W", bound=Waiting)


def fair_order(waiting: Iterable[_W], held: Mapping[str, int]) -> list[_W]:
    """Return the order in which those who wait get places.

    First those whose address has none, then those whose address would have one already, and so on;
    among these, in order of arrival. So many connections of one address never delay another one.

    Parameters
    ----------
    waiting
        Connections that wait.
    held
        Number of places that each address holds.
    """
    count = Counter(held)
    ranked = []
    for one in sorted(waiting, key=lambda one: one.complete):
        ranked.append((count[one.host], one))
        count[one.host] += 1
    return [one for _, one in sorted(ranked, key=lambda entry: entry[0])]


def newest_of_most(items: Iterable[T], host: Callable[[T], str], amount: Callable[[T], int]) -> T:
    """Return the last item of the address whose items have most of something together.

    Of several such addresses, the one that came last gives way: those who came before have waited
    for longer.
    """
    known = list(items)
    total = _total(known, host, amount)
    most = max(total.values())
    return next(one for one in reversed(known) if total[host(one)] == most)


def oldest_of_most(items: Iterable[T], host: Callable[[T], str]) -> T:
    """Return the first item of the address with most items."""
    known = list(items)
    most = _total(known, host, lambda one: 1).most_common(1)[0][0]
    return next(one for one in known if host(one) == most)


def _total(
    items: Iterable[T], host: Callable[[T], str], amount: Callable[[T], int]
) -> Counter[str]:
    total: Counter[str] = Counter()
    for one in items:
        total[host(one)] += amount(one)
    return total

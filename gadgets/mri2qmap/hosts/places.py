"""Who has a place at a server, and who gives it to others when all are taken."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from mri2qmap.hosts.connection_bounds import ConnectionBounds
from mri2qmap.hosts.message_socket import MessageSocket

FIRST_DATA = 1.0
"""Time that a connection has for the first data of its scan before it may lose its place [s]."""
PAUSE = 3.0
"""Time without data after which a scan may lose a place to an address that has fewer [s]."""
_LOOK = 0.05
"""Time between two looks for peers that have left [s]: each asks the system about all of them."""
NO_DATA = "no data of the scan came, and its place was needed"
NO_MEMORY = "the scan waited for memory, and its place was needed"


@dataclass(eq=False)
class Served:
    """A connection that is served since a moment.

    It is `leaving` if it has no place any more. If `only_header`, nothing else had been received
    before its thread began.
    """

    peer: MessageSocket
    host: str
    leaving: bool = False
    only_header: bool = False
    since: float = field(default_factory=time.monotonic)

    def without_data(self, least: float) -> bool:
        """Whether no data of its scan have arrived for so many seconds since it is served."""
        return not self._started and time.monotonic() - self.since >= least

    def idle(self, least: float) -> bool:
        """Whether no data of its scan have arrived, though the server has read for so long [s].

        While the connection waits for the server, such as for its turn to have its configuration
        read, it is not idle.
        """
        awaited = self.peer.awaited_since
        return not self._started and awaited is not None and time.monotonic() - awaited >= least

    @property
    def has_left(self) -> bool:
        """Whether its peer will send nothing, while the connection waits for the server."""
        waits = self.only_header and not self._started and self.peer.awaited_since is None
        return waits and self.peer.sends_nothing_more

    @property
    def waits_for_memory(self) -> bool:
        """Whether its scan waits for memory."""
        return self.peer.activity is not None and self.peer.activity.waits_for_memory

    def pauses(self, least: float) -> bool:
        """Whether its scan, on all of its connections, has waited for data for so long [s]."""
        since = None if self.peer.activity is None else self.peer.activity.quiet_since()
        return since is not None and time.monotonic() - since >= least

    @property
    def _started(self) -> bool:
        return self.peer.activity is None or self.peer.activity.started.is_set()


class Places:
    """Chooses who gives a place or memory to others. Not thread-safe.

    Parameters
    ----------
    bounds
        Number of places.
    end
        Ends a connection, which has been marked as leaving, with a reason.
    """

    def __init__(self, bounds: ConnectionBounds, end: Callable[[Served, str], None]) -> None:
        self._bounds = bounds
        self._end = end
        self._next_look = 0.0

    def make(self, open_: Collection[Served], host: str) -> str | None:
        """Let a connection give up its place if necessary; return the reason if none can.

        All whose peer has left lose theirs. If there is none, it is one of the address that holds
        most: one that is idle, or else, if this address has at least two more than the one that
        wants a place, one whose scan waits for memory or pauses. If it has none of these, it is the
        turn of the address with next to most, and so on. A scan that computes keeps its place.

        Parameters
        ----------
        open_
            All connections, in order of their start.
        host
            Address that wants a place.
        """
        if len(open_) >= self._bounds.places + self._bounds.leaving:
            return "too many connections end at the same time"
        served = [one for one in open_ if not one.leaving]
        count = Counter(one.host for one in served)
        own = count[host]
        if own >= self._bounds.of_one_address:
            what = f"{own} connections of this address"
            of_host = [one for one in served if one.host == host]
            found = self._end_left(of_host) or self._end_idle(of_host)
        elif len(served) >= self._bounds.places:
            what = f"all {len(served)} places"
            found = self._end_left(served) or self._end_one(served, count, own)
        else:
            return None
        return None if found else f"{what} are in use"

    def free_opening(self, open_: Iterable[Served]) -> None:
        """Let an idle connection give up its memory for a long header, if there is one."""
        served = [one for one in open_ if one.peer.received.opening]
        if any(one.leaving for one in served):
            return  # its memory becomes free
        size: Counter[str] = Counter()
        for one in served:
            size[one.host] += one.peer.received.opening
        if size:
            most = size.most_common(1)[0][0]
            self._end_idle(one for one in served if one.host == most)

    def _end_one(self, served: list[Served], count: Counter[str], own: int) -> bool:
        for host, places in count.most_common():
            if places < own:
                break  # those with fewer keep theirs
            of_host = [one for one in served if one.host == host]
            if self._end_idle(of_host):
                return True
            if places < own + 2:
                continue
            newest = next((one for one in reversed(of_host) if one.waits_for_memory), None)
            if newest is not None:
                return self._let_go(newest, NO_MEMORY)
            pausing = next((one for one in of_host if one.pauses(PAUSE)), None)
            if pausing is not None:
                return self._let_go(pausing, NO_DATA)
        return False

    def _end_left(self, served: Iterable[Served]) -> bool:
        """End all whose peer has left, now and then; return whether there is one."""
        now = time.monotonic()
        if now < self._next_look:
            return False
        self._next_look = now + _LOOK
        left = [one for one in served if one.has_left]
        for one in left:
            self._let_go(one, NO_DATA)
        return bool(left)

    def _end_idle(self, served: Iterable[Served]) -> bool:
        """Let the first idle one of some connections lose its place; return whether there is."""
        idle = next((one for one in served if one.idle(FIRST_DATA)), None)
        return idle is not None and self._let_go(idle, NO_DATA)

    def _let_go(self, one: Served, reason: str) -> bool:
        one.leaving = True
        self._end(one, f"{reason}: try again later")
        return True

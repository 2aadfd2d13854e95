"""Connections until they are served: one thread reads the first messages of all of them."""

from __future__ import annotations

import contextlib
import io
import math
import selectors
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from mri2qmap.hosts.allowed_peers import ALL_PEERS, AllowedPeers
from mri2qmap.hosts.connection_bounds import ConnectionBounds
from mri2qmap.hosts.deadlines import Deadlines, find_vanished_peers
from mri2qmap.hosts.message_encoding import encode_message
from mri2qmap.hosts.message_limits import DEFAULT_LIMITS
from mri2qmap.hosts.peer_state import is_gone, sends_nothing_more
from mri2qmap.hosts.protocol import (
    Close,
    Message,
    MessageId,
    Query,
    read_message,
)
from mri2qmap.hosts.waiting_line import fair_order, newest_of_most, oldest_of_most
from mri2qmap.machine.networks import network_of

MOST_BYTES = 2**26
"""Maximum size of what all of them have sent [bytes]; the address with most makes room."""
MOST_QUERIES = 16
"""Maximum number of queries of a connection before its configuration, and before its header."""
TOO_MANY_QUERIES = f"more than {MOST_QUERIES} queries arrived"
LEFT = "the peer closed the connection without a CLOSE message"
_ACCEPTED = 64
"""Maximum number of connections that are accepted in a turn."""
_READ = 2**16
_OFFER = 0.05
"""Time between two offers to those who wait [s]: each looks at all of them."""
_PREFIXES = {  # of the messages that may come first: size without the content, place of its length
    MessageId.CONFIG_FILE: (1026, None),
    MessageId.CONFIG_DOCUMENT: (6, struct.Struct("<2xI")),
    MessageId.HEADER: (6, struct.Struct("<2xI")),
    MessageId.QUERY: (26, struct.Struct("<18xQ")),
}
_CONFIGURATIONS = (MessageId.CONFIG_FILE, MessageId.CONFIG_DOCUMENT)

Answer = Callable[[Query], Message]


class HalfOpen:
    """A connection until the end of its handshake: a configuration and a header.

    Attributes
    ----------
    connection, host, name
        The connection, the address of the peer or the network that stands for it (`network_of`),
        and the address with its port.
    content
        What the peer has sent.
    opened, until
        When the connection was accepted, and when it is given up or, if it waits to be served,
        refused (`time.monotonic`).
    complete
        When the handshake had ended.
    refused
        Whether the peer has been sent an error.
    """

    def __init__(self, connection: socket.socket, address: tuple[Any, ...], until: float) -> None:
        self.connection = connection
        self.host = network_of(str(address[0]))
        self.name = f"{address[0]}:{address[1]}" if len(address) > 1 else "peer"
        self.content = bytearray()
        self.opened, self.complete, self.until = time.monotonic(), math.inf, until
        self.refused = False
        self._start = 0
        self._queries = 0
        self._configured = False

    @property
    def asks_too_much(self) -> bool:
        """Whether the peer has sent more queries than are answered."""
        return self._queries > MOST_QUERIES

    @property
    def has_sent_only_its_header(self) -> bool:
        """Whether the handshake has been received, and nothing after it."""
        return self._end() == len(self.content)

    @property
    def has_left(self) -> bool:
        """Whether the peer will send nothing after its handshake: no data, and no CLOSE."""
        return self.has_sent_only_its_header and sends_nothing_more(self.connection)

    def receive(self, answer: Answer | None) -> bool:
        """Receive what has arrived; return whether the handshake has ended, in whatever way.

        Parameters
        ----------
        answer
            Answers queries; without it, a query ends the handshake.

        Raises
        ------
        ConnectionError
            If the peer is gone, or has been refused.
        """
        try:
            part = self.connection.recv(_READ, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError as error:
            raise ConnectionError(str(error)) from error
        if self.refused:
            if not part:
                raise ConnectionError("refused")
            return False
        self.content += part
        return not part or self._complete(answer)

    def refuse(self, message: Message, until: float) -> None:
        """Send an error; the connection is to be read until the peer has received it."""
        self.refused, self.until = True, until
        self.content.clear()
        content = b"".join(part for m in (message, Close()) for part in encode_message(m))
        with contextlib.suppress(OSError):
            self.connection.send(content, socket.MSG_DONTWAIT)
            self.connection.shutdown(socket.SHUT_WR)

    def _complete(self, answer: Answer | None) -> bool:
        while True:
            end = self._end()
            if end is None:
                return False
            identifier = int.from_bytes(self.content[self._start : self._start + 2], "little")
            if end < 0 or identifier == MessageId.HEADER:
                return True
            if identifier == MessageId.QUERY:
                self._queries += 1
                if answer is None or self.asks_too_much:
                    return True
                query = read_message(io.BytesIO(self.content[self._start : end]))
                del self.content[self._start : end]
                with contextlib.suppress(OSError):
                    reply = b"".join(encode_message(answer(query)))  # type: ignore[arg-type]
                    self.connection.send(reply, socket.MSG_DONTWAIT)
                continue
            self._configured = True
            self._start = end

    def _end(self) -> int | None:
        """Return the end of the next message: None if unknown or not here; -1 for a wrong one."""
        known = len(self.content) - self._start
        if known < 2:
            return None
        identifier = int.from_bytes(self.content[self._start : self._start + 2], "little")
        if identifier not in _PREFIXES or (self._configured and identifier in _CONFIGURATIONS):
            return -1
        size, length = _PREFIXES[MessageId(identifier)]
        if length is not None:
            if known < size:
                return None
            (count,) = length.unpack_from(self.content, self._start)
            if count > DEFAULT_LIMITS.text:
                return -1
            size += count
        return self._start + size if known >= size else None


class Reception:
    """Accepts connections and reads their handshakes, without a thread for each.

    Parameters
    ----------
    server
        Listening socket.
    deadlines
        Deadlines of the connections.
    bounds
        How many connections there may be.
    admit
        Receives each connection whose handshake has ended. It returns None, and owns the connection
        from then on, or the reason why the connection cannot be served now. Then the connection
        waits, and is offered again.
    held
        Returns how many places each address has: those who wait are offered by it, see
        `fair_order`.
    refusal
        Makes the message for a connection that has waited in vain, from the connection and the
        reason.
    answer
        See `HalfOpen.receive`.
    report
        Receives lines for the log.
    peers
        Whose connections are taken; others are closed at once.
    """

    def __init__(
        self,
        server: socket.socket,
        deadlines: Deadlines,
        bounds: ConnectionBounds,
        admit: Callable[[HalfOpen], str | None],
        held: Callable[[], Counter[str]],
        refusal: Callable[[HalfOpen, str], Message],
        answer: Answer | None,
        report: Callable[[str], None],
        peers: AllowedPeers = ALL_PEERS,
    ) -> None:
        self._peers = peers
        self._server = server
        self._deadlines = deadlines
        self._bounds = bounds
        self._admit = admit
        self._held = held
        self._refusal = refusal
        self._answer = answer
        self._report = report
        self._open: dict[int, HalfOpen] = {}
        self._waiting: list[tuple[HalfOpen, str]] = []  # with the reasons
        self._count = 0
        self._next_offer = 0.0
        self._selector = selectors.DefaultSelector()
        server.setblocking(False)
        self._selector.register(server, selectors.EVENT_READ)

    @property
    def waiting(self) -> int:
        """Number of connections that wait to be served, when they were last offered."""
        return self._count

    def turn(self, timeout: float) -> None:
        """Do what there is to do; wait for it if necessary.

        Raises
        ------
        OSError
            If a connection cannot be accepted.
        """
        if len(self._waiting) > self._count:  # a new one has not been offered a place
            timeout = min(timeout, max(0.0, self._next_offer - time.monotonic()))
        problem: OSError | None = None
        for key, _ in self._selector.select(timeout):
            if key.fileobj is self._server:
                try:
                    self._accept()
                except OSError as error:
                    problem = error  # the others must not wait for it
            elif (opened := self._open.get(key.fd)) is not None:
                self._receive(opened)
        now = time.monotonic()
        if self._waiting and (not self._count or now >= self._next_offer or self._overflows):
            self._offer()
        for peer in [peer for peer in self._open.values() if now >= peer.until]:
            if peer.refused:
                self._drop(peer)
            else:
                allowed = self._deadlines.handshake
                self._refuse(peer, f"no configuration and header arrived within {allowed:g} s")
        if problem is not None:
            raise problem

    def make_room(self, count: int = 1) -> None:
        """Drop connections: those that were refused, then the oldest of the address with most."""
        for _ in range(min(count, len(self._open))):
            refused = next((peer for peer in self._open.values() if peer.refused), None)
            oldest = refused or oldest_of_most(self._open.values(), lambda peer: peer.host)
            if refused is None:
                self._refuse(oldest, "its place was needed before it had sent its header")
            self._drop(oldest)

    def close(self) -> None:
        """Refuse and close all connections."""
        for peer in [*self._open.values(), *(waiting for waiting, _ in self._waiting)]:
            if not peer.refused:
                peer.refuse(self._refusal(peer, "the server is stopping"), 0.0)
            peer.connection.close()
        self._open.clear()
        self._waiting.clear()
        self._selector.close()

    def _accept(self) -> None:
        for _ in range(_ACCEPTED):
            try:
                connection, address = self._server.accept()
            except BlockingIOError:  # there is none, or the peer has given up meanwhile
                return
            self._welcome(connection, address)

    def _welcome(self, connection: socket.socket, address: tuple[Any, ...]) -> None:
        if not self._peers.allows(str(address[0]) if address else ""):
            self._report(f"a connection from {address[0]} was closed: it is not allowed")
            connection.close()
            return
        connection.setblocking(True)
        find_vanished_peers(connection, self._deadlines, self._deadlines.write)
        if len(self._open) >= self._bounds.half_open:
            self.make_room()
        until = time.monotonic() + self._deadlines.handshake
        self._remember(HalfOpen(connection, address, until))

    def _receive(self, peer: HalfOpen) -> None:
        try:
            if not peer.receive(self._answer):
                self._bound_bytes()
                return
        except ConnectionError as error:
            self._drop(peer, "" if peer.refused else str(error))
            return
        if peer.asks_too_much:
            self._refuse(peer, TOO_MANY_QUERIES)
            return
        self._forget(peer)  # its thread may end before this one goes on
        peer.complete = time.monotonic()
        peer.until = peer.complete + self._deadlines.place
        self._waiting.append((peer, ""))

    @property
    def _overflows(self) -> bool:
        """Whether those who wait take far too much room."""
        content = sum(len(peer.content) for peer, _ in self._waiting)
        return len(self._waiting) > 2 * self._bounds.waiting or content > MOST_BYTES

    def _offer(self) -> None:
        """Let those who wait be served, in a fair order; refuse who has waited for long enough."""
        now = time.monotonic()
        self._next_offer = now + _OFFER
        reasons = dict(self._waiting)
        self._waiting = []
        refused: dict[str, tuple[int, str]] = {}  # by address: the size of what it had sent
        for peer in fair_order(reasons, self._held()):
            size = len(peer.content)
            if is_gone(peer.connection):
                peer.connection.close()
                continue
            if peer.has_left:
                self._refuse(peer, LEFT)
                continue
            least, reason = refused.get(peer.host, (math.inf, ""))
            if size < least:
                found = self._admit(peer)
                if found is None:
                    continue
                refused[peer.host], reason = (size, found), found
            if now >= peer.until:
                self._refuse(peer, reason)
            else:
                self._waiting.append((peer, reason))
        self._bound_waiting()
        self._count = len(self._waiting)

    def _bound_waiting(self) -> None:
        """Refuse the last in the line, and those of the address that has sent most, if needed."""
        while len(self._waiting) > self._bounds.waiting:
            self._refuse(*self._waiting.pop())
        while sum(len(peer.content) for peer, _ in self._waiting) > MOST_BYTES:
            newest = newest_of_most(
                self._waiting, lambda entry: entry[0].host, lambda entry: len(entry[0].content)
            )
            self._waiting.remove(newest)
            self._refuse(*newest)

    def _refuse(self, peer: HalfOpen, reason: str) -> None:
        """Tell a connection why it is not served; read it until it has received that."""
        if peer.connection.fileno() not in self._open:
            self._remember(peer)
        peer.refuse(self._refusal(peer, reason), time.monotonic() + self._deadlines.linger)

    def _bound_bytes(self) -> None:
        while sum(len(peer.content) for peer in self._open.values()) > MOST_BYTES:
            one = newest_of_most(
                self._open.values(), lambda peer: peer.host, lambda peer: len(peer.content)
            )
            own = (peer for peer in self._open.values() if peer.host == one.host)
            largest = max(own, key=lambda peer: len(peer.content))
            self._refuse(largest, "there is no memory for its configuration and header")

    def _remember(self, peer: HalfOpen) -> None:
        self._open[peer.connection.fileno()] = peer
        self._selector.register(peer.connection, selectors.EVENT_READ)

    def _forget(self, peer: HalfOpen) -> None:
        self._selector.unregister(peer.connection)
        del self._open[peer.connection.fileno()]

    def _drop(self, peer: HalfOpen, reason: str = "") -> None:
        self._forget(peer)
        peer.connection.close()
        if reason:
            self._report(f"{peer.name} was disconnected: {reason}")

"""Bounds on the time and on the bytes that a DICOM peer takes, which the library does not set."""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from pynetdicom.association import Association
    from pynetdicom.events import Event
    from pynetdicom.transport import AssociationSocket

MOST_PDU_BYTES = 1 << 20
"""Maximum size of a PDU of the peer; the library announces that it takes 16 KiB [bytes]."""
MOST_ANSWER_BYTES = 16 << 20
"""Maximum size of all that the peer sends in one exchange: a report on 90000 objects [bytes]."""
_P_DATA = 4
_CHUNK = 1 << 16
_LOOK = 0.2
"""Time between two looks at whether the association has been aborted [s]."""
_FAREWELL = 1.0
"""Time for what is sent after the time of an exchange: the abort [s]."""
_END = 5.0
"""Time for the threads of the library to end when the connection has been closed [s]."""


class PeerBounds:
    """Bounds of one association, for whose events it has `handlers`.

    The library reads PDUs of any announced size, and its deadlines hold for each receive and each
    send. What ends the association here is to the library the loss of the connection.

    Parameters
    ----------
    timeout
        How long the peer may take for each PDU, for the negotiation, and between two parts that it
        reads [s].

    Attributes
    ----------
    problem
        Which size the peer has exceeded; empty if none.
    """

    def __init__(self, timeout: float) -> None:
        self.problem = ""
        self._timeout = timeout
        self._until = math.inf
        self._closing = math.inf
        self._received = 0
        self._association: Association | None = None
        self._transport: AssociationSocket | None = None
        self._connection: socket.socket | None = None

    @property
    def handlers(self) -> list[Any]:
        """Event handlers for the association."""
        from pynetdicom import evt

        return [(evt.EVT_CONN_OPEN, self.attach), (evt.EVT_ABORTED, self._hasten)]

    def attach(self, event: Event) -> None:
        """Bound a connection that has just been opened.

        Small packets are sent without delay: the head of each object, a packet of its own, else
        waits for 40 ms (Nagle's algorithm and delayed acknowledgements).
        """
        self._association = event.assoc
        self._transport = transport = event.assoc.dul.socket
        if transport is None or transport.socket is None:
            return
        self._connection = transport.socket
        self.allow(self._timeout)
        with contextlib.suppress(OSError):
            transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport.recv = self._receive  # type: ignore[method-assign, assignment]
        transport.send = self._send  # type: ignore[method-assign, assignment]

    def allow(self, seconds: float) -> None:
        """Give the peer time for the next exchange."""
        self._received = 0
        self._until = time.monotonic() + seconds

    def close(self) -> None:
        """Close the connection, and wait until the threads of the library have ended."""
        association, connection = self._association, self._connection
        if association is None or connection is None:
            return
        association.dul.kill_dul()
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        if association.is_acceptor and not association.is_established:
            # it waits for a request in this queue; None is what it gets when its time is over
            association.dul.to_user_queue.put(cast(Any, None))
        for thread in (association.dul, association):
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join(_END)
        connection.close()

    def _hasten(self, event: Event) -> None:
        """Read no further PDU to its end: the association has been aborted."""
        self._closing = time.monotonic() + _LOOK

    def _receive(self, count: int) -> bytearray:
        """Read a number of bytes, or fewer if the peer closes: the head of a PDU, or its rest."""
        connection = cast("AssociationSocket", self._transport).socket
        if connection is None:
            raise OSError("the connection is closed")
        self._received += count
        for size, most, what in (
            (count, MOST_PDU_BYTES, "a PDU"),
            (self._received, MOST_ANSWER_BYTES, "an answer"),
        ):
            if size > most:
                self.problem = f"the peer sends {what} of more than {most >> 20} MiB"
                raise OSError(self.problem)
        content = bytearray()
        end = time.monotonic() + self._timeout
        while len(content) < count:
            left = min(end, self._closing) - time.monotonic()
            if left <= 0:
                raise TimeoutError("the peer takes too long for a PDU")
            connection.settimeout(min(left, _LOOK))
            try:
                part = connection.recv(min(count - len(content), _CHUNK))
            except TimeoutError:
                continue
            if not part:
                break
            content += part
        return content

    def _send(self, content: bytes) -> None:
        """Send a PDU; failures are reported as the library does it."""
        transport = cast("AssociationSocket", self._transport)
        now = time.monotonic()
        end = self._until if content[0] == _P_DATA else max(self._until, now + _FAREWELL)
        rest = memoryview(content)
        try:
            while rest:
                left = end - time.monotonic()
                if left <= 0 or transport.socket is None:
                    raise TimeoutError
                transport.socket.settimeout(min(left, self._timeout))
                rest = rest[transport.socket.send(rest) :]
        except (OSError, ValueError):
            transport.event_queue.put("Evt17")  # the connection is closed (PS3.8 section 9.2)

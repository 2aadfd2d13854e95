"""The half of a socket for messages that sends, and what both halves share."""

from __future__ import annotations

import contextlib
import itertools
import math
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts.activity import Activity
from mri2qmap.hosts.deadlines import Deadlines, find_vanished_peers
from mri2qmap.hosts.message_encoding import encode_message, stored_parts
from mri2qmap.hosts.protocol import Message, Part, StoredMessage
from mri2qmap.machine.cancellation import Cancellation
from mri2qmap.pipeline.memory_budget import ReceivedBytes

_JOINED = 2**16
"""Messages up to this size are sent with one call [bytes]."""
STEP = 2**16
"""Part of a message whose transfer counts as progress [bytes]; a byte now and then does not."""
_SLOWEST = 2**16
"""Mean rate at which a peer must read while it is waited for [bytes/s]."""
LOOK = 0.25
"""Time between two looks of a waiting thread at what else may have happened [s]."""
_NO_WAIT = socket.MSG_DONTWAIT | getattr(socket, "MSG_NOSIGNAL", 0)
_GONE = select.POLLERR | select.POLLHUP | select.POLLNVAL
_HALF_CLOSED = getattr(select, "POLLRDHUP", 0)


class SendingSocket:
    """Sends messages, and knows whether the peer can be reached.

    Parameters
    ----------
    connection
        Connected socket, blocking; owned by this object from now on.
    deadlines
        Deadlines of the connection.
    received
        Counts the received bytes.

    Attributes
    ----------
    deadlines, received
        As given.
    needed
        Tells whether others wait for its place, or, if its argument is true, for memory.
    cancellation
        Cancelled when the peer is lost or the connection is aborted, and by the host, which lets it
        be active in the thread of the computation.
    activity
        Of the scan to which the connection belongs; None: others watch over it.
    half_closed, input_ended
        Whether the peer has closed its sending half, and whether all of its data have been read.
        A CLOSE message sets neither.
    lost
        Whether the peer can no longer be reached.
    blocked
        Whether a thread waits for the peer to read.
    opened, progress, sent, heard
        When the connection was made, when the last part of a message was transferred in either
        direction, when the last message was sent, and when the last message of use was received
        (`time.monotonic`).
    """

    def __init__(
        self, connection: socket.socket, deadlines: Deadlines, received: ReceivedBytes
    ) -> None:
        self.deadlines = deadlines
        self.received = received
        self.needed: Callable[[bool], bool] = lambda holds_memory: False
        self.cancellation = Cancellation()
        self.activity: Activity | None = Activity()
        self.half_closed = self.input_ended = self.lost = self.blocked = False
        self.opened = self.progress = self.sent = self.heard = time.monotonic()
        self._socket = connection
        self._sending = threading.Lock()
        self._unsent = b""
        self._read, self._stalled = 0, 0.0  # bytes that the peer took, and time it was waited for
        find_vanished_peers(connection, deadlines)

    @property
    def contended(self) -> bool:
        """Whether others wait for what this connection holds."""
        reserved = self.activity is not None and self.activity.holds_memory
        return self.needed(reserved or self.received.beyond)

    def send(self, message: Message | StoredMessage, within: float | None = None) -> None:
        """Send a message. May be called from several threads.

        Parameters
        ----------
        within
            Time after which a peer that reads nothing is given up [s]; default: `write` of the
            deadlines. One that reads gets more time, in proportion to what it has read.

        Raises
        ------
        ConnectionError
            If the peer has disconnected, or does not read.
        Mri2QmapError
            If a message on a disk cannot be read. The connection is then lost within the message.
        """
        if isinstance(message, StoredMessage):
            parts = stored_parts(message)
        else:
            content = encode_message(message)
            short = sum(len(part) for part in content) <= _JOINED
            parts = iter([b"".join(content)] if short else content)
        try:
            with self._sending:
                if within is not None:  # a deadline of this message alone
                    self._read, self._stalled = 0, 0.0
                whole = itertools.chain([self._unsent], parts)
                self._send_parts(whole, within or self.deadlines.write)
        except OSError as error:
            self.lose(f"the peer has disconnected ({error})")
            self.abort()  # a part of a message may have been sent
            raise ConnectionError(f"the peer has disconnected ({error})") from error
        except Mri2QmapError as error:
            self.abort(error)
            raise

    def try_send(self, message: Message) -> None:
        """Send a short message, or the rest of the last one, as far as that need not wait."""
        if not self._sending.acquire(blocking=False):
            return
        try:
            if self._poll(select.POLLOUT, 0.0) & select.POLLOUT:
                content = self._unsent or b"".join(encode_message(message))
                self._unsent = content[self._socket.send(content, _NO_WAIT) :]
                self.sent = time.monotonic()
        except OSError as error:
            self.lose(f"the peer has disconnected ({error})")
        finally:
            self._sending.release()

    def check(self) -> None:
        """Find out without reading whether the peer is lost, or has closed its sending half."""
        try:
            events = self._poll(_HALF_CLOSED, 0.0)
        except OSError:
            events = select.POLLNVAL
        if events & _GONE:
            self.lose("the peer has disconnected")
        elif events & _HALF_CLOSED:
            self.half_closed = True

    def lose(self, reason: str) -> None:
        """Note that the peer can no longer be reached, and cancel what is computed for it."""
        self.lost = self.half_closed = self.input_ended = True
        self.cancellation.cancel(ConnectionError(reason))

    def abort(self, error: BaseException | None = None) -> None:
        """Shut down the connection, and cancel what is computed for it, with `error` if given."""
        self.cancellation.cancel(error or ConnectionError("the connection was aborted"))
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _send_parts(self, parts: Iterable[Part], within: float) -> None:
        unmarked, contended = 0, False
        begin = time.monotonic()
        for part in parts:
            view = memoryview(part)
            while view:
                try:
                    sent = self._socket.send(view, _NO_WAIT)
                except BlockingIOError:
                    self.blocked = True
                    before, contended = contended, self.contended
                    # what it read before does not count; one that sends data will read later
                    if (not before) if contended else (self.heard > begin):
                        begin, self._read, self._stalled = time.monotonic(), 0, 0.0
                    most = min(within, self.deadlines.contended) if contended else within
                    if self._stalled >= most + self._read / _SLOWEST:
                        raise TimeoutError(f"it has read {self._read} bytes") from None
                    self._stalled -= time.monotonic()
                    self._poll(select.POLLOUT, LOOK)
                    self._stalled += time.monotonic()
                    continue
                view = view[sent:]
                self._read += sent
                unmarked += sent
                if unmarked >= STEP:
                    self.progress, self.blocked, unmarked = time.monotonic(), False, 0
        self._unsent = b""
        self.blocked = False
        self.progress = self.sent = time.monotonic()

    def _poll(self, events: int, seconds: float) -> int:
        """Wait for events, and return those that there are; OSError if the connection is closed."""
        number = self._socket.fileno()
        if number < 0:
            raise ConnectionError("the connection is closed")
        poll = select.poll()
        poll.register(number, events)
        found = poll.poll(math.ceil(1000 * seconds))
        return found[0][1] if found else 0

"""Messages over a socket, with deadlines for both directions."""

from __future__ import annotations

import contextlib
import itertools
import math
import select
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterable
from typing import TypeVar

import ismrmrd

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts.activity import Activity
from mri2qmap.hosts.deadlines import DEFAULT_DEADLINES, Deadlines, find_vanished_peers
from mri2qmap.hosts.message_encoding import encode_message, stored_parts
from mri2qmap.hosts.message_limits import DEFAULT_LIMITS, Limits
from mri2qmap.hosts.message_skipping import Skipped, skip_content
from mri2qmap.hosts.peer_state import sends_nothing_more
from mri2qmap.hosts.protocol import (
    Close,
    ConnectionEndedError,
    Message,
    MessageId,
    Part,
    StoredMessage,
    read_content,
    read_identifier,
)
from mri2qmap.machine.cancellation import Cancellation
from mri2qmap.pipeline.memory_budget import ALWAYS_RECEIVED, ReceivedBytes

_CHUNK = ALWAYS_RECEIVED // 2
"""Memory allocated at a time [bytes]: an announced length alone allocates none."""
_JOINED = 2**16
"""Messages up to this size are sent with one call [bytes]."""
_STEP = 2**16
"""Part of a message whose transfer counts as progress [bytes]; a byte now and then does not."""
_SLOWEST = 2**16
"""Mean rate at which a peer must read while it is waited for [bytes/s]."""
LOOK = 0.25
"""Time between two looks of a waiting thread at what else may have happened [s]."""
_NO_WAIT = socket.MSG_DONTWAIT | getattr(socket, "MSG_NOSIGNAL", 0)
_GONE = select.POLLERR | select.POLLHUP | select.POLLNVAL
_HALF_CLOSED = getattr(select, "POLLRDHUP", 0)
T = TypeVar("T")


class _DeadlineError(ConnectionError):
    """The deadline of a call has passed."""


class MessageSocket:
    """Sends and receives messages.

    Each call waits by `select.poll` with a deadline of its own, because a thread that sends and one
    that receives would share the timeout of the socket.

    Parameters
    ----------
    connection
        Connected socket, blocking; owned by this object from now on.
    limits
        Size limits of received messages.
    deadlines
        Deadlines of the connection.
    ahead
        Bytes of the peer that have been received before.
    received
        Counts the received bytes; no limit if None.

    Attributes
    ----------
    deadlines, received
        As given.
    needed, crowds, data_come, uses
        Tells whether others wait for its place, or, if its argument is true, for memory; tells
        whether its address has several scans while another has none; is called when a part of a
        large message of use has arrived; tells whether an acquisition is of use.
    cancellation
        Cancelled when the peer is lost or the connection is aborted, and by the host, which lets it
        be active in the thread of the computation.
    activity
        Of the scan to which the connection belongs; None: others watch over it.
    heartbeat
        Makes the text that tells the peer that a computation goes on; None: none is sent.
    waits_for_memory
        Whether a message has had to wait for memory.
    acquisition
        Header of the last acquisition, also of one whose samples have not arrived.
    useful
        Whether the last message is of use for the scan: neither a waveform nor skipped.
    message_bytes
        Size of the last message, as counted by `received`.
    half_closed, input_ended
        Whether the peer has closed its sending half, and whether all of its data have been read.
        A CLOSE message sets neither.
    lost
        Whether the peer can no longer be reached.
    awaited_since
        Since when the server reads a message of the handshake, or what follows it
        (`time.monotonic`); None while it does something else before that.
    blocked
        Whether a thread waits for the peer to read.
    opened, progress, useful_progress, sent
        When the connection was made, when the last part of a message was transferred in either
        direction, when the last part of a message of use was received, and when the last message
        was sent (`time.monotonic`).
    """

    def __init__(
        self,
        connection: socket.socket,
        limits: Limits = DEFAULT_LIMITS,
        deadlines: Deadlines = DEFAULT_DEADLINES,
        ahead: bytes | bytearray = b"",
        received: ReceivedBytes | None = None,
    ) -> None:
        self.deadlines = deadlines
        self.needed: Callable[[bool], bool] = lambda holds_memory: False
        self.crowds: Callable[[], bool] = lambda: False
        self.data_come: Callable[[], None] = lambda: None
        self.uses: Callable[[ismrmrd.AcquisitionHeader], bool] = lambda header: True
        self.cancellation = Cancellation()
        self.activity: Activity | None = Activity()
        self.heartbeat: Callable[[], Message] | None = None
        self.received = received or ReceivedBytes()
        self.half_closed = self.input_ended = self.lost = self.blocked = False
        self.waits_for_memory, self.useful = False, True
        self._acquisition: ismrmrd.AcquisitionHeader | None = None
        self.opened = self.progress = self.sent = self._heard = time.monotonic()
        self.useful_progress = self.opened
        self.awaited_since: float | None = None
        self._socket = connection
        self._limits = limits
        self._ahead = memoryview(bytes(ahead))
        self._until = math.inf
        self._look: Callable[[], None] | None = None
        self._counted = False
        self.message_bytes = self._credit = self._unmarked = 0
        self._sending = threading.Lock()
        self._unsent = b""
        self._read, self._stalled = 0, 0.0  # bytes that the peer took, and time it was waited for
        find_vanished_peers(connection, deadlines)

    @property
    def sends_nothing_more(self) -> bool:
        """Whether the peer has closed its sending half, and no data wait in the system."""
        try:
            return sends_nothing_more(self._socket)
        except OSError:  # it is closed
            return True

    @property
    def contended(self) -> bool:
        """Whether others wait for what this connection holds."""
        reserved = self.activity is not None and self.activity.holds_memory
        return self.needed(reserved or self.received.beyond)

    @property
    def acquisition(self) -> ismrmrd.AcquisitionHeader | None:
        """See the attributes of the class."""
        return self._acquisition

    @acquisition.setter
    def acquisition(self, header: ismrmrd.AcquisitionHeader) -> None:
        self._acquisition, self.useful = header, self.uses(header)

    def read(self, n_bytes: int) -> Part:
        """See `mri2qmap.hosts.protocol.Source`."""
        content = bytearray()
        done = 0
        while done < n_bytes:
            if done == len(content):
                more = min(n_bytes - done, _CHUNK)
                self._reserve(more)
                content.extend(bytes(more))
            with memoryview(content) as view:
                received = self._receive_into(view[done:])
            self._count_progress(received, large=n_bytes > _STEP)
            if received == 0:
                self.half_closed = self.input_ended = True
                if done == 0:
                    raise ConnectionEndedError("the peer closed the connection")
                raise ConnectionError(
                    f"the peer closed the connection: {done} of {n_bytes} bytes arrived"
                )
            done += received
        return content

    def receive(
        self,
        timeout: float | None = None,
        look: Callable[[], None] | None = None,
        counted: bool = False,
        skip: Collection[int] = (),
    ) -> Message | Skipped:
        """Wait for the next message.

        Parameters
        ----------
        timeout
            Time to wait for the whole message [s]; None: no limit.
        look
            Called now and then while this waits; its errors end the waiting.
        counted
            Whether `received` counts the message, for which this may have to wait.
        skip
            Identifiers of messages that are skipped; they are not counted.

        Raises
        ------
        Mri2QmapError
            If there is no memory for the message.
        ProtocolError, ConnectionEndedError, ConnectionError
            See `read_message`; ConnectionError also after a timeout.
        """
        self._until = math.inf if timeout is None else time.monotonic() + timeout
        self._look = look
        self._counted = counted
        self.message_bytes = 0
        identifier = read_identifier(self)
        message: Message | Skipped
        if identifier != MessageId.ACQUISITION:  # its header tells
            self.useful = identifier != MessageId.WAVEFORM
        if identifier in skip:
            self._counted = self.useful = False
            message = skip_content(identifier, self, self._limits)
        else:
            message = read_content(identifier, self, self._limits)
        self.progress = time.monotonic()
        if self.useful:
            self.useful_progress = self.progress
            if isinstance(message, ismrmrd.Acquisition | ismrmrd.Image):
                self._heard = self.progress
        return message

    @property
    def handshake_left(self) -> float:
        """Time that is left for the messages of the handshake [s]."""
        return max(0.0, self.opened + self.deadlines.handshake - time.monotonic())

    def receive_opening(self) -> Message | Skipped:
        """Wait for a message of the handshake, up to its common deadline; see `receive`."""
        self.awaited_since = time.monotonic()
        try:
            return self.receive(self.handshake_left)
        finally:
            self.awaited_since = None

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

    def skip(self) -> None:
        """Discard input for a moment, and note whether it has ended or the peer is lost."""
        self._ahead = memoryview(b"")
        try:
            if self.input_ended:
                self._poll(0, LOOK)
                self.check()
            elif not self._socket.recv(2**16, socket.MSG_DONTWAIT):
                self.half_closed = self.input_ended = True
        except BlockingIOError:
            with contextlib.suppress(OSError):
                self._poll(select.POLLIN, LOOK)
        except OSError as error:
            self.lose(f"the peer has disconnected ({error})")

    def lose(self, reason: str) -> None:
        """Note that the peer can no longer be reached, and cancel what is computed for it."""
        self.lost = self.half_closed = self.input_ended = True
        self.cancellation.cancel(ConnectionError(reason))

    def abort(self, error: BaseException | None = None) -> None:
        """Shut down the connection, and cancel what is computed for it, with `error` if given."""
        self.cancellation.cancel(error or ConnectionError("the connection was aborted"))
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def drop(self) -> None:
        """Close the connection without a CLOSE message."""
        self.abort()
        self._socket.close()
        self.received.close()

    def close(self) -> None:
        """Send a CLOSE message if the peer is still connected, and close the connection."""
        if self._socket.fileno() < 0:
            return
        if not self.lost:
            with contextlib.suppress(ConnectionError):
                self.send(Close(), self.deadlines.linger)
                self._linger()
        self.drop()

    def _linger(self) -> None:
        """Wait until the peer has read the last messages.

        Closing a socket with unread input resets the connection, and the peer would lose them.
        """
        end = time.monotonic() + self.deadlines.linger
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            while not (self.input_ended or self.lost) and time.monotonic() < end:
                self.skip()

    def _reserve(self, size: int) -> None:
        """Count bytes before they are received; wait for room."""
        if not self._counted:
            return
        if size > self._credit:
            more = max(size - self._credit, _STEP)  # not each small part
            end = math.inf
            while not self.received.take(more, LOOK):
                self.waits_for_memory = True
                if self.activity is not None:
                    self.activity.started.set()
                self.check()
                if self.lost:
                    raise ConnectionError("the peer has disconnected")
                if self._look is not None:
                    self._look()
                if self.received.held > self.message_bytes + self._credit:
                    continue  # earlier messages wait for the computation
                end = min(end, time.monotonic() + self.received.patience)
                if self.received.admitted and time.monotonic() >= end:
                    raise Mri2QmapError(
                        f"there is no memory for a message of more than {self.message_bytes} "
                        "bytes beside the running reconstructions: try again later"
                    )
            self._credit += more
        self._credit -= size
        self.message_bytes += size

    def _receive_into(self, view: memoryview) -> int:
        if not self._ahead:
            if len(view) >= _STEP:
                return self._arrived(lambda: self._socket.recv_into(view, 0, socket.MSG_DONTWAIT))
            # each call gives the interpreter to other threads, so small parts share one
            self._ahead = memoryview(
                self._arrived(lambda: self._socket.recv(_STEP, socket.MSG_DONTWAIT))
            )
        count = min(len(view), len(self._ahead))
        view[:count] = self._ahead[:count]
        self._ahead = self._ahead[count:] or memoryview(b"")  # frees the bytes
        return count

    def _arrived(self, receive: Callable[[], T]) -> T:
        """Return what a call receives, when something has arrived."""
        try:
            while True:
                try:
                    received = receive()
                    break
                except BlockingIOError:
                    left = self._until - time.monotonic()
                    if left <= 0:
                        raise _DeadlineError("timed out: the peer is silent") from None
                    self._poll(select.POLLIN, min(left, LOOK))
                if self._look is not None:
                    self._look()
        except OSError as error:
            if not isinstance(error, _DeadlineError):
                self.lose(f"the peer has disconnected ({error})")
            raise ConnectionError(str(error)) from error
        return received

    def _count_progress(self, received: int, large: bool) -> None:
        """Note that a part of a message has come; texts are not `large`."""
        self._unmarked += received
        if self._unmarked >= _STEP:
            self.progress = time.monotonic()
            self._unmarked = 0
            if self.useful:
                self.useful_progress = self.progress
                if large:
                    self.data_come()

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
                    if (not before) if contended else (self._heard > begin):
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
                if unmarked >= _STEP:
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

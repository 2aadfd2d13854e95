"""Messages over a socket, with deadlines for both directions."""

from __future__ import annotations

import contextlib
import math
import select
import socket
import time
from collections.abc import Callable, Collection
from typing import TypeVar

import ismrmrd

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts.deadlines import DEFAULT_DEADLINES, Deadlines
from mri2qmap.hosts.message_limits import DEFAULT_LIMITS, Limits
from mri2qmap.hosts.message_skipping import Skipped, skip_content
from mri2qmap.hosts.peer_state import sends_nothing_more
from mri2qmap.hosts.protocol import (
    Close,
    ConnectionEndedError,
    Message,
    MessageId,
    Part,
    read_content,
    read_identifier,
)
from mri2qmap.hosts.sending_socket import LOOK, STEP, SendingSocket
from mri2qmap.pipeline.memory_budget import ALWAYS_RECEIVED, ReceivedBytes

_CHUNK = ALWAYS_RECEIVED // 2
"""Memory allocated at a time [bytes]: an announced length alone allocates none."""
T = TypeVar("T")


class _DeadlineError(ConnectionError):
    """The deadline of a call has passed."""


class MessageSocket(SendingSocket):
    """Sends and receives messages; see also the attributes of `SendingSocket`.

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
    crowds, data_come, uses
        Tells whether its address has several scans while another has none; is called when a part of
        a large message of use has arrived; tells whether an acquisition is of use.
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
    awaited_since
        Since when the server reads a message of the handshake, or what follows it
        (`time.monotonic`); None while it does something else before that.
    useful_progress
        When the last part of a message of use was received (`time.monotonic`).
    """

    def __init__(
        self,
        connection: socket.socket,
        limits: Limits = DEFAULT_LIMITS,
        deadlines: Deadlines = DEFAULT_DEADLINES,
        ahead: bytes | bytearray = b"",
        received: ReceivedBytes | None = None,
    ) -> None:
        super().__init__(connection, deadlines, received or ReceivedBytes())
        self.crowds: Callable[[], bool] = lambda: False
        self.data_come: Callable[[], None] = lambda: None
        self.uses: Callable[[ismrmrd.AcquisitionHeader], bool] = lambda header: True
        self.heartbeat: Callable[[], Message] | None = None
        self.waits_for_memory, self.useful = False, True
        self._acquisition: ismrmrd.AcquisitionHeader | None = None
        self.useful_progress = self.opened
        self.awaited_since: float | None = None
        self._limits = limits
        self._ahead = memoryview(bytes(ahead))
        self._until = math.inf
        self._look: Callable[[], None] | None = None
        self._counted = False
        self.message_bytes = self._credit = self._unmarked = 0

    @property
    def sends_nothing_more(self) -> bool:
        """Whether the peer has closed its sending half, and no data wait in the system."""
        try:
            return sends_nothing_more(self._socket)
        except OSError:  # it is closed
            return True

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
            self._count_progress(received, large=n_bytes > STEP)
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
                self.heard = self.progress
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
            more = max(size - self._credit, STEP)  # not each small part
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
            if len(view) >= STEP:
                return self._arrived(lambda: self._socket.recv_into(view, 0, socket.MSG_DONTWAIT))
            # each call gives the interpreter to other threads, so small parts share one
            self._ahead = memoryview(
                self._arrived(lambda: self._socket.recv(STEP, socket.MSG_DONTWAIT))
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
        if self._unmarked >= STEP:
            self.progress = time.monotonic()
            self._unmarked = 0
            if self.useful:
                self.useful_progress = self.progress
                if large:
                    self.data_come()

"""Queue of received messages."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial

import ismrmrd

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts.activity import Activity
from mri2qmap.hosts.message_pacing import (
    UNPACED,
    UnusedMessages,
    discarding,
    pause_between_discards,
)
from mri2qmap.hosts.message_skipping import ALL_BUT_CLOSE, Skipped
from mri2qmap.hosts.message_socket import MessageSocket
from mri2qmap.hosts.peer_watch import PeerWatch
from mri2qmap.hosts.protocol import Close, ConnectionEndedError, Message, Text, message_bytes
from mri2qmap.hosts.sending_socket import LOOK
from mri2qmap.hosts.session_message import PREFIX, is_session_only
from mri2qmap.machine.cancellation import raise_if_cancelled
from mri2qmap.pipeline.acquisition_kinds import ENCODING_SPACE, is_imaging, is_noise_scan
from mri2qmap.pipeline.memory_budget import ALWAYS_RECEIVED

MOST_SKIPPED = 1000
"""Maximum number of messages of a scan that it has no use for."""
_LITTLE = ALWAYS_RECEIVED // 2
"""As `limit` of an inbox whose reader keeps no message [bytes]."""
_DATA = (ismrmrd.Acquisition, ismrmrd.Image)


class Inbox:
    """Queue of received messages, filled by a background thread.

    Iterating yields the messages up to CLOSE. If an error ended the stream, it is raised after all
    messages that arrived before it, unless the computation is cancelled earlier.

    The thread also watches over the peer, see `PeerWatch`.

    Parameters
    ----------
    peer
        Connection to receive from; only the inbox may receive from it.
    limit
        Maximum size of the queue [bytes], besides what `peer.received` allows; receiving pauses
        while it is full.
    half_close
        Whether the peer may close its sending half after CLOSE and still reads. If not, it is gone
        then.
    skip
        Identifiers of messages that are left out; a scan may have `MOST_SKIPPED` of them.

    Attributes
    ----------
    peer
        As given.
    skipped
        Number of messages that were left out because of `skip`.
    start
        Time at which the inbox was made (`time.perf_counter`).
    encoding_space
        Encoding of the acquisitions that the scan needs, as they arrive.
    last_acquisition
        Time at which the last acquisition arrived (`time.perf_counter`); None before the first.
    """

    def __init__(
        self,
        peer: MessageSocket,
        limit: int = 2**31,
        half_close: bool = False,
        skip: Collection[int] = (),
    ) -> None:
        self.peer = peer
        self.skipped = 0
        self._skip = skip
        self.start = time.perf_counter()
        self.last_acquisition: float | None = None
        self.encoding_space = ENCODING_SPACE
        self._limit = limit
        self._counts_taken = False
        self._waiting: deque[tuple[Message, int, bool]] = deque()
        self._bytes = 0
        self._ended = False
        self._discarding = False
        self._error: BaseException | None = None
        self._begun = False  # whether one for `_channels`, or an image, has arrived
        self._channels: int | None = None
        self._noise_scans = 0
        self._unused = UnusedMessages()
        self._quiet_from: float | None = None
        self._changed = threading.Condition()
        self._own = Activity()  # of this connection alone, for what it holds itself
        self._own.join(self.quiet_since)
        self._activities = [self._own]
        self._watch = PeerWatch(peer, half_close, self._own, self.quiet_since)
        peer.data_come, peer.uses = self._credit, self._uses
        peer.awaited_since = time.monotonic()
        if peer.activity is not None:
            self.belong_to(peer.activity)
        receive = partial(copy_context().run, self._receive)  # it reads documents for this peer
        self._thread = threading.Thread(target=receive, name="inbox", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Message]:
        """Yield messages as they arrive.

        Raises
        ------
        BaseException
            The error of the stream, or of a `Cancellation` that is active.
        """
        while True:
            raise_if_cancelled()
            with self._changed:
                if not (self._waiting or self._ended):
                    self._quiet_from = self._quiet_from or time.monotonic()
                    while not (self._waiting or self._ended):
                        self._changed.wait(LOOK)
                        raise_if_cancelled()
                if not self._waiting:
                    break
                message, size, useful = self._pop()
                # with what is of no use, the computation still waits
                self._quiet_from = None if useful else self._quiet_from or time.monotonic()
            kept = size if self._counts_taken else 0
            self.peer.received.add(kept - size)
            try:
                yield message
            finally:
                del message  # not to be held while the next one is on its way
                self.peer.received.add(-kept)
        if self._error is not None:
            raise self._error

    @property
    def ended_empty(self) -> bool:
        """Whether the stream has ended without acquisitions for the scan, or images."""
        return self._ended and not self._begun and self._error is None

    def hold_little(self) -> None:
        """Receive only a little ahead, for a reader that keeps no message.

        The message that it has taken counts as received until it takes the next one.
        """
        with self._changed:
            self._limit = min(self._limit, _LITTLE)
            self._counts_taken = True

    def take_text(self, timeout: float) -> str | None:
        """Wait for the first message, at most for `timeout` [s]; take it if it is a text.

        Returns
        -------
        str or None
            The text; None if there is no message, or another one, which stays.

        Raises
        ------
        BaseException
            The error of a `Cancellation` that is active.
        """
        end = time.monotonic() + timeout
        with self.waiting(), self._changed:
            while not (self._waiting or self._ended or self.peer.waits_for_memory):
                if time.monotonic() >= end:
                    return None
                self._changed.wait(LOOK)
                raise_if_cancelled()
            message = self._waiting[0][0] if self._waiting else None
            if not isinstance(message, Text):
                return None
            _, size, _ = self._pop()
        self.peer.received.add(-size)
        return message.text

    def wait_for_channels(self) -> int | None:
        """Wait for the first noise scan or imaging acquisition.

        Returns
        -------
        int or None
            Its number of receive channels. None if the stream ends, if images arrive instead, or
            if another message cannot be received before memory is reserved for the scan.

        Raises
        ------
        BaseException
            The error of a `Cancellation` that is active.
        """
        with self.waiting(), self._changed:
            while not (self._begun or self._ended or self.peer.waits_for_memory):
                self._changed.wait(LOOK)
                raise_if_cancelled()
        announced = self.peer.acquisition
        if self._channels is None and announced is not None and self._is_planned(announced):
            return int(announced.active_channels)
        return self._channels

    def belong_to(self, activity: Activity) -> None:
        """Make the connection one of a scan, and end it when the scan pauses for too long.

        The scan pauses only while all of its connections wait.
        """
        if any(known.started.is_set() for known in self._activities):
            activity.started.set()
        activity.join(self.quiet_since)
        self._activities.append(activity)
        self.peer.activity = activity

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the connection as quiet: the computation waits for data, here or elsewhere."""
        self._quiet_from = time.monotonic()
        try:
            yield
        finally:
            self._quiet_from = None

    def quiet_since(self) -> float | None:
        """Return since when the computation waits for a message of use (`time.monotonic`).

        Returns None if it does not wait.
        """
        if self._ended:
            return None
        if self._discarding:
            return self.peer.progress
        moment = self._quiet_from
        if moment is None or self.peer.blocked:  # it may be passing on what is of no use
            return None
        return max(moment, self.peer.useful_progress)

    def discard(self, timeout: float | None = None) -> None:
        """Discard queued and later messages until the stream ends, or the connection is cancelled.

        Parameters
        ----------
        timeout
            Maximum time to wait for the end of the stream [s]; None: no limit but `contended` of
            the deadlines, for which others may wait for the place of the connection meanwhile.
        """
        self._clear()
        end = math.inf if timeout is None else time.monotonic() + timeout
        needed = 0.0  # for how long others have waited for what the connection holds
        with discarding(), self._changed:
            while not self._ended and self.peer.cancellation.error is None:
                left = end - time.monotonic()
                if left <= 0 or needed > self.peer.deadlines.contended:
                    break
                self._changed.wait(min(left, LOOK))
                needed += LOOK if self.peer.needed(True) else 0.0

    def close(self) -> None:
        """Free the memory, and watch over the peer no longer."""
        for activity in self._activities:
            activity.leave(self.quiet_since)
        self.peer.heartbeat = None
        self._clear()

    def _pop(self) -> tuple[Message, int, bool]:
        """Remove the first message, with its size and use; `_changed` is held."""
        message, size, useful = self._waiting.popleft()
        self._bytes -= size
        self._changed.notify_all()
        return message, size, useful

    def _clear(self) -> None:
        """Discard queued and later messages."""
        with self._changed:
            self._discarding = True
            self._waiting.clear()
            freed, self._bytes = self._bytes, 0
            self._changed.notify_all()
        self.peer.received.add(-freed)

    def _receive(self) -> None:
        peer = self.peer
        error: BaseException | None = None
        try:
            while not isinstance(message := self._next(), Close):
                if isinstance(message, Skipped):
                    continue
                if isinstance(message, _DATA) and not is_session_only(message):
                    for activity in self._activities:
                        activity.data_came(counts=self._brings_the_scan_on(message))
                useful = peer.useful
                if isinstance(message, ismrmrd.Acquisition):
                    self._noise_scans += is_noise_scan(message)
                    self.last_acquisition = time.perf_counter()
                    if self._is_planned(message):
                        self._channels = self._channels or int(message.active_channels)
                        self._begun = True
                elif isinstance(message, ismrmrd.Image):
                    self._begun = True
                self._put(message, useful)
                del message
                if not useful:
                    self._unused.pause_after_one()
                self._watch.look()
        except ConnectionEndedError:
            error = ConnectionError("the peer closed the connection without a CLOSE message")
        except BaseException as problem:  # otherwise the reader would wait forever
            error = problem
        self._unused.end()
        if isinstance(error, ConnectionError):
            peer.cancellation.cancel(error)  # the scan cannot become complete
        with self._changed:
            self._ended, self._error = True, error
            self._watch.input_ended()
            self._changed.notify_all()
        with discarding():
            while not peer.lost:
                peer.skip()
                self._pace()

    def _pace(self) -> None:
        """Let others go first while this discards what nobody wants."""
        pause_between_discards()
        self._watch.look()

    def _next(self) -> Message | Skipped:
        """Receive a message; what is not wanted is not decoded."""
        if self._discarding:
            self._pace()
            return self.peer.receive(look=self._pace, skip=ALL_BUT_CLOSE)
        message = self.peer.receive(look=self._watch.look, counted=True, skip=self._skip)
        if isinstance(message, Skipped):
            self.skipped += 1
            if self.skipped > MOST_SKIPPED:
                raise Mri2QmapError(
                    f"more than {MOST_SKIPPED} images arrived within the scan, which has no use "
                    "for any; send acquisitions"
                )
            self._watch.look()
        return message

    def _put(self, message: Message, useful: bool) -> None:
        counted = self.peer.message_bytes
        size = max(counted, message_bytes(message))
        self.peer.received.add(size - counted)
        with self._changed:
            while self._bytes >= self._limit and not self._discarding:
                self._changed.wait(LOOK)
                self.peer.check()
                self._watch.look()
            if not self._discarding:
                self._waiting.append((message, size, useful))
                self._bytes += size
                self._changed.notify_all()
                return
        self.peer.received.add(-size)

    def _credit(self) -> None:
        for activity in self._activities:
            activity.credit()

    def _brings_the_scan_on(self, message: ismrmrd.Acquisition | ismrmrd.Image) -> bool:
        """Whether the scan needs a message to become complete; there are any number of others."""
        if isinstance(message, ismrmrd.Acquisition):
            return is_imaging(message, self.encoding_space)
        return f"{PREFIX}item" in message.meta

    def _uses(self, acquisition: ismrmrd.AcquisitionHeader) -> bool:
        """Whether an acquisition may be of use for the maps; no scan has many noise scans."""
        return self._is_planned(acquisition) and not (
            self._noise_scans >= UNPACED and is_noise_scan(acquisition)
        )

    def _is_planned(self, acquisition: ismrmrd.Acquisition | ismrmrd.AcquisitionHeader) -> bool:
        """Whether memory is planned for the channels of an acquisition."""
        return is_imaging(acquisition, self.encoding_space) or is_noise_scan(acquisition)

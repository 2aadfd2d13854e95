"""The watch over a peer while its scan is received and computed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NoReturn

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts.activity import Activity
from mri2qmap.hosts.message_socket import MessageSocket
from mri2qmap.hosts.sending_socket import LOOK

CROWDING = 3.0
"""As `contended` of `Deadlines`, for a scan whose address has memory for several scans while one of
an address that has none waits for it [s]."""


class PeerWatch:
    """Cancels the computation for a peer that is gone, silent or in the way; sends heartbeats.

    Parameters
    ----------
    peer
        The peer.
    half_close
        Whether it may close its sending half and still reads. If not, it is gone then.
    own
        Activity of this connection alone, for what it holds itself.
    quiet_since
        Returns since when the computation waits for the peer (`time.monotonic`); None: it does not.
    """

    def __init__(
        self,
        peer: MessageSocket,
        half_close: bool,
        own: Activity,
        quiet_since: Callable[[], float | None],
    ) -> None:
        self._peer = peer
        self._half_close = half_close
        self._own = own
        self._quiet_since = quiet_since
        self._ended_at = math.inf
        self._next_look = self._last_beat = 0.0

    def input_ended(self) -> None:
        """Note that all of the scan has been received."""
        self._ended_at = time.monotonic()

    def look(self) -> None:
        """Look after the peer, now and then.

        Raises
        ------
        Mri2QmapError
            If the scan is silent for too long.
        """
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + LOOK
        if self._peer.half_closed and not self._half_close:
            self._peer.lose("the server has disconnected")
        self._send_heartbeat(now)
        if self._ended_at < math.inf:
            self._limit_computing(now)
        elif self._peer.activity is not None:
            self._limit_pauses(now, self._peer.activity)

    def _limit_pauses(self, now: float, scan: Activity) -> None:
        """End a scan that pauses for too long."""
        peer = self._peer
        since = scan.quiet_since()
        if since is not None and now - since > peer.deadlines.silence:
            self._give_up(
                f"no data came for {peer.deadlines.silence:g} s, although the scan has not ended "
                "(waveforms and ignored acquisitions do not count): start the server with a larger "
                "--silence if the sequence has such pauses"
            )
        holds = peer.received.beyond and peer.needed(True)
        waited = max(scan.waited(peer.contended), self._own.waited(holds))
        longest = peer.deadlines.contended
        if waited > min(longest, CROWDING):
            longest = min(longest, CROWDING) if peer.crowds() else longest
        if waited > longest:
            self._give_up(
                f"hardly any data came for {longest:g} s while others waited for "
                "the memory or the place of this scan: send it again without such pauses, or start "
                "the server with a larger --contended"
            )

    def _limit_computing(self, now: float) -> None:
        """End a computation that takes very long while others wait."""
        peer = self._peer
        longest = peer.deadlines.computing
        if now - self._ended_at > longest and peer.contended:
            peer.cancellation.cancel(
                Mri2QmapError(
                    f"it was computed for more than {longest:g} s, and another scan needs its "
                    "memory or its place: take a pipeline with less work, send it to the queue of "
                    "the server, or start the server with a larger --longest"
                )
            )

    def _give_up(self, reason: str) -> NoReturn:
        error = Mri2QmapError(reason)
        self._peer.cancellation.cancel(error)
        raise error

    def _send_heartbeat(self, now: float) -> None:
        """Tell the peer that a computation goes on; find out whether a half-closed peer reads."""
        peer = self._peer
        heartbeat = peer.heartbeat
        if heartbeat is None or peer.lost or not (peer.half_closed or self._quiet_since() is None):
            return
        interval = peer.deadlines.probe if peer.half_closed else peer.deadlines.heartbeat
        if now - max(peer.sent, self._last_beat) >= interval:
            self._last_beat = now
            peer.try_send(heartbeat())

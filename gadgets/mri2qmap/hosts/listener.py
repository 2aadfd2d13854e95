"""TCP listener that serves each connection in its own thread, once its handshake has arrived."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts.allowed_peers import ALL_PEERS, AllowedPeers
from mri2qmap.hosts.connection_bounds import ConnectionBounds, free_descriptors
from mri2qmap.hosts.deadlines import DEFAULT_DEADLINES, Deadlines
from mri2qmap.hosts.error_text import format_error, log_error
from mri2qmap.hosts.half_open import LEFT, Answer, HalfOpen, Reception
from mri2qmap.hosts.message_limits import TEXT_OF_A_CLIENT, Limits
from mri2qmap.hosts.message_socket import MessageSocket
from mri2qmap.hosts.places import Places, Served
from mri2qmap.hosts.protocol import Message, Text
from mri2qmap.hosts.sending_socket import LOOK
from mri2qmap.machine.process_setup import trim_freed_memory
from mri2qmap.pipeline.memory_budget import MemoryBudget, ReceivedBytes
from mri2qmap.pipeline.scan_log import add_log_context

logger = logging.getLogger(__name__)

STUCK = 30.0
"""Time after which a listener that has not looked for connections counts as stuck [s]."""


class Listener:
    """Listens on a TCP port and serves its connections until it is stopped.

    A connection gets a thread once its configuration and header have arrived. If all places are
    taken, one gives up its place, see `Places`; if none can, the new one waits, and is refused in
    the end. Places are fair by address, see `mri2qmap.hosts.waiting_line`. If all memory for long
    headers is taken, the oldest idle connection of the address that has most loses its place.

    There are fewer places if this process may open few files, see `ConnectionBounds`.

    Parameters
    ----------
    address, port
        Address and port; port 0 selects a free port.
    serve
        Function that serves one connection. The listener closes the connection afterwards. An
        exception is logged and ends only this connection.
    deadlines
        Deadlines of all connections.
    budget
        Memory budget, of which received messages are a part; None: no limit.
    answer
        Answers queries before the configuration; None: `serve` receives them.
    failure
        Makes the message that tells a peer an error.
    peers
        Whose connections are taken.

    Attributes
    ----------
    port
        Port that the listener is bound to.
    peers
        As given.
    bounds
        How many connections there may be.

    Raises
    ------
    Mri2QmapError
        If the port cannot be bound.
    """

    def __init__(
        self,
        address: str,
        port: int,
        serve: Callable[[MessageSocket], None],
        deadlines: Deadlines = DEFAULT_DEADLINES,
        budget: MemoryBudget | None = None,
        answer: Answer | None = None,
        failure: Callable[[str], Message] = Text,
        peers: AllowedPeers = ALL_PEERS,
    ) -> None:
        if not 0 <= port < 2**16:
            raise Mri2QmapError(f"port {port}: a number from 0 to 65535 is expected")
        try:
            family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][0]
            self._socket = socket.create_server((address, port), family=family, backlog=128)
        except OSError as error:
            why, *_ = (error.strerror or str(error)).split(" (while attempting")
            raise Mri2QmapError(
                f"{address}:{port}: cannot listen on this address ({why}); "
                "choose another --port or --address"
            ) from error
        self.port: int = self._socket.getsockname()[1]
        self._serve = serve
        self._deadlines = deadlines
        self._budget = budget
        self._failure = failure
        self.peers = peers
        self.bounds = ConnectionBounds.fitting(free_descriptors())
        self._places = Places(self.bounds, self._end)
        self._reception = Reception(
            self._socket,
            deadlines,
            self.bounds,
            self._admit,
            self._held,
            self._refusal,
            answer,
            logger.info,
            peers,
        )
        self._lock = threading.Lock()
        self._open: dict[threading.Thread, Served] = {}
        self._stopped = threading.Event()
        self._turned = time.monotonic()

    def start(self) -> None:
        """Start to accept connections in a thread."""
        threading.Thread(target=self.run, name="listener", daemon=True).start()

    def run(self) -> None:
        """Accept connections until `stop` is called."""
        try:
            while not self._stopped.is_set():
                self._turned = time.monotonic()
                try:
                    self._reception.turn(LOOK)
                except OSError as error:
                    if not self._stopped.is_set():  # for example too many open files: retry
                        logger.warning("a connection could not be accepted: %s", error)
                        self._reception.make_room(max(1, self.bounds.half_open // 4))
                        self._stopped.wait(0.1)
                except Exception:  # a fault of this program must not make it deaf
                    logger.exception("a connection could not be accepted")
                    self._reception.make_room()
                    self._stopped.wait(0.1)
        finally:
            self._reception.close()

    @property
    def responds(self) -> bool:
        """Whether connections are accepted, or could be: the thread that does it is not stuck."""
        return self.stopped or time.monotonic() - self._turned < STUCK

    @property
    def stopped(self) -> bool:
        """Whether new connections are refused."""
        return self._stopped.is_set()

    def __len__(self) -> int:
        """Return the number of connections that are being served."""
        with self._lock:
            return len(self._open)

    def stop(self) -> None:
        """Refuse new connections and those without a complete handshake; others continue."""
        with self._lock:
            self._stopped.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._socket.close()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until all connections have ended.

        Parameters
        ----------
        timeout
            Maximum time to wait [s]; None: no limit.

        Returns
        -------
        bool
            Whether all connections have ended.
        """
        with self._lock:
            threads = list(self._open)
        end = None if timeout is None else time.monotonic() + timeout
        for thread in threads:
            thread.join(None if end is None else max(0.0, end - time.monotonic()))
        return len(self) == 0

    def cancel(self, error: BaseException, idle: float | None = None) -> None:
        """Cancel all computations; their peers are told the error.

        Parameters
        ----------
        error
            Tells why.
        idle
            Cancel only connections without any data of their scan for so many seconds.
        """
        for served in self._all():
            if idle is None or served.without_data(idle):
                served.peer.cancellation.cancel(error)

    def abort(self) -> None:
        """Abort all connections."""
        for served in self._all():
            served.peer.abort()

    def _all(self) -> list[Served]:
        with self._lock:
            return list(self._open.values())

    def _admit(self, opened: HalfOpen) -> str | None:
        """Serve a connection in a thread; return the reason if that is impossible now."""
        with self._lock:
            if self._stopped.is_set():
                return "the server is stopping"
            return self._places.make(self._open.values(), opened.host) or self._start(opened)

    def _refusal(self, opened: HalfOpen, reason: str) -> Message:
        logger.warning("%s was refused: %s", opened.name, reason)
        return self._error(reason if reason == LEFT else f"{reason}: try again later")

    def _start(self, opened: HalfOpen) -> str | None:
        """Start the thread of a connection; return the reason if the system cannot."""
        received = ReceivedBytes(self._budget)
        if not received.open(len(opened.content)):
            self._places.free_opening(self._open.values())
            return "there is no memory for its configuration and header"
        limits = Limits(text=TEXT_OF_A_CLIENT)
        if self._budget is not None:
            limits = replace(limits, message=min(limits.message, self._budget.largest_message))
        peer = MessageSocket(opened.connection, limits, self._deadlines, opened.content, received)
        waited = time.monotonic() - opened.complete
        peer.opened = opened.opened + waited  # one deadline for the whole handshake
        peer.needed = self._needed
        if self._budget is not None:
            peer.crowds = self._budget.crowds
        thread = threading.Thread(
            target=self._serve_one, args=(peer, opened.name), name="connection", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            received.close()
            return f"the server is too busy ({error})"
        self._open[thread] = Served(peer, opened.host, only_header=opened.has_sent_only_its_header)
        return None

    def _held(self) -> Counter[str]:
        """Return how many places each address holds."""
        with self._lock:
            return Counter(one.host for one in self._open.values() if not one.leaving)

    def _end(self, one: Served, reason: str) -> None:
        """End a connection that has lost its place."""
        one.peer.try_send(self._error(reason))
        one.peer.abort(ConnectionError(reason))

    def _needed(self, holds_memory: bool) -> bool:
        """Whether others wait for a place, or for memory; see `MessageSocket`."""
        waits = self._budget is not None and self._budget.waiting > 0
        return self._reception.waiting > 0 or (holds_memory and waits)

    def _error(self, text: str) -> Message:
        return self._failure(f"{format_error(Mri2QmapError(text))}\n")

    def _serve_one(self, peer: MessageSocket, name: str) -> None:
        add_log_context(peer=name)
        try:
            self._serve(peer)
        except ConnectionError as error:
            logger.info("a connection ended: %s", error)
        except Exception as error:
            log_error(logger, error)
        finally:
            with self._lock:
                self._open[threading.current_thread()].leaving = True
            peer.close()
            with self._lock:
                del self._open[threading.current_thread()]
            trim_freed_memory()

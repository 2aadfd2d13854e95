"""TCP listener that serves each connection in its own thread."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts.error_text import log_error
from mri2qmap.hosts.message_socket import MessageSocket
from mri2qmap.pipeline.scan_log import add_log_context

logger = logging.getLogger(__name__)

MOST_CONNECTIONS = 64
"""Maximum number of simultaneous connections; further connections wait."""


class Listener:
    """Listens on a TCP port and serves its connections until it is stopped.

    Parameters
    ----------
    address, port
        Address and port; port 0 selects a free port.
    serve
        Function that serves one connection. The listener closes the connection afterwards. An
        exception is logged and ends only this connection.

    Attributes
    ----------
    port
        Port that the listener is bound to.

    Raises
    ------
    Mri2QmapError
        If the port cannot be bound.
    """

    def __init__(self, address: str, port: int, serve: Callable[[MessageSocket], None]) -> None:
        if not 0 <= port < 2**16:
            raise Mri2QmapError(f"port {port}: a number from 0 to 65535 is expected")
        try:
            family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][0]
            self._socket = socket.create_server((address, port), family=family, backlog=128)
        except OSError as error:
            raise Mri2QmapError(
                f"{address}:{port}: cannot listen on this address ({error.strerror or error}); "
                "choose another --port or --address"
            ) from error
        self.port: int = self._socket.getsockname()[1]
        self._serve = serve
        self._places = threading.Semaphore(MOST_CONNECTIONS)
        self._lock = threading.Lock()
        self._open: dict[threading.Thread, MessageSocket] = {}
        self._stopped = threading.Event()

    def start(self) -> None:
        """Start to accept connections in a thread."""
        threading.Thread(target=self.run, name="listener", daemon=True).start()

    def run(self) -> None:
        """Accept connections until `stop` is called."""
        while not self._stopped.is_set():
            self._places.acquire()
            try:
                connection, address = self._socket.accept()
            except OSError as error:
                self._places.release()
                if not self._stopped.is_set():  # for example too many open files: retry
                    logger.warning("a connection could not be accepted: %s", error)
                    self._stopped.wait(0.1)
                continue
            peer = MessageSocket(connection)
            thread = threading.Thread(
                target=self._serve_one, args=(peer, _name(address)), name="connection", daemon=True
            )
            try:
                with self._lock:
                    thread.start()
                    self._open[thread] = peer
            except RuntimeError as error:  # the system cannot start another thread
                logger.warning("a connection could not be served: %s", error)
                peer.drop()
                self._places.release()

    def __len__(self) -> int:
        """Return the number of connections that are being served."""
        with self._lock:
            return len(self._open)

    def stop(self) -> None:
        """Refuse new connections; current connections continue."""
        self._stopped.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes accept()
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

    def abort(self) -> None:
        """Abort all connections."""
        with self._lock:
            peers = list(self._open.values())
        for peer in peers:
            peer.abort()

    def _serve_one(self, peer: MessageSocket, name: str) -> None:
        add_log_context(peer=name)
        try:
            self._serve(peer)
        except ConnectionError as error:
            logger.info("a connection ended: %s", error)
        except Exception as error:
            log_error(logger, error)
        finally:
            peer.close()
            with self._lock:
                del self._open[threading.current_thread()]
            self._places.release()


def _name(address: tuple[Any, ...]) -> str:
    """Return the address of a peer as text."""
    host, port, *_ = address
    return f"{host}:{port}"

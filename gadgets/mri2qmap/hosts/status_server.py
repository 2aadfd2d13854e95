"""HTTP on a port of its own: whether a service is alive and ready, and its metrics."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from mri2qmap.errors import Mri2QmapError

logger = logging.getLogger(__name__)

REQUEST_SECONDS = 5.0
"""Time that a client has for its request and for reading the response [s]."""
MOST_REQUESTS = 8
"""Maximum number of simultaneous requests; the oldest one makes room for a further one."""
_ROOM_SECONDS = 1.0
"""Time for the oldest request to end when its connection has been closed [s]."""
_TEXT = "text/plain; charset=utf-8"


class StatusServer(ThreadingHTTPServer):
    """Answers ``GET /health``, ``/ready`` and ``/metrics``.

    ``/health`` answers 200 while the process can answer. ``/ready`` answers 200 if a scan would be
    accepted now, and 503 with the reason otherwise. ``/metrics`` has the text format of Prometheus.

    Parameters
    ----------
    address, port
        Address and port; port 0 selects a free port.
    registry
        The metrics.
    why_not_ready
        Returns the reason why no scan is accepted; empty if there is none.

    Attributes
    ----------
    port
        Port that the server is bound to.

    Raises
    ------
    Mri2QmapError
        If the port cannot be bound.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        address: str,
        port: int,
        registry: CollectorRegistry,
        why_not_ready: Callable[[], str],
    ) -> None:
        if not 0 <= port < 2**16:
            raise Mri2QmapError(f"--status-port {port}: a number from 0 to 65535 is expected")
        self.registry = registry
        self.why_not_ready = why_not_ready
        self._places = threading.BoundedSemaphore(MOST_REQUESTS)
        self._lock = threading.Lock()
        self._open: dict[int, socket.socket] = {}
        try:
            self.address_family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][0]
            super().__init__((address, port), _Handler)
        except OSError as error:
            raise Mri2QmapError(
                f"{address}:{port}: cannot listen for status requests on this address "
                f"({error.strerror or error}); choose another --status-port or --status-address"
            ) from error
        self.port: int = self.server_address[1]

    def __enter__(self) -> StatusServer:
        """Start to answer in a thread."""
        threading.Thread(target=self.serve_forever, name="status", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, and release the port."""
        self.shutdown()
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread; close the oldest connection if too many are open."""
        if not self._places.acquire(blocking=False):
            with self._lock:
                oldest = next(iter(self._open.values()), None)
                if oldest is not None:
                    _abort(oldest)
            if not self._places.acquire(timeout=_ROOM_SECONDS):
                self.shutdown_request(request)
                return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no further thread can be started
            self._places.release()
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer one request."""
        # The deadline of the handler holds for each part of a request; this one for the whole.
        end = threading.Timer(REQUEST_SECONDS, _abort, (request,))
        end.daemon = True
        end.start()
        with self._lock:
            self._open[id(request)] = request
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                del self._open[id(request)]
            end.cancel()
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log that a request could not be answered."""
        logger.debug("a status request could not be answered", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: StatusServer
    timeout = REQUEST_SECONDS
    server_version = "mri2qmap"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer a request."""
        path = self.path.partition("?")[0]
        if path == "/health":
            self._answer(HTTPStatus.OK, "ok\n")
        elif path == "/ready":
            reason = self.server.why_not_ready()
            if reason:
                self._answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{reason}\n")
            else:
                self._answer(HTTPStatus.OK, "ready\n")
        elif path == "/metrics":
            metrics = generate_latest(self.server.registry)
            self._answer(HTTPStatus.OK, metrics, CONTENT_TYPE_LATEST)
        else:
            self._answer(HTTPStatus.NOT_FOUND, "/health, /ready and /metrics are known\n")

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        """Log no requests: a monitor sends one every few seconds."""

    def _answer(self, status: HTTPStatus, content: str | bytes, kind: str = _TEXT) -> None:
        body = content.encode() if isinstance(content, str) else content
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _abort(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return

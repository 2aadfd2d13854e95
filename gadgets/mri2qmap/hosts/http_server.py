"""HTTP beside a service, for monitors and people: read only, and bounded in every respect."""

from __future__ import annotations

import io
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self, cast

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts.allowed_peers import ALL_PEERS

logger = logging.getLogger(__name__)

REQUEST_SECONDS = 5.0
"""Time that a client has for its request and for reading the response [s]."""
MOST_REQUESTS = 32
"""Maximum number of simultaneous requests; one of the address with the most makes room for a
further one: its oldest."""
MOST_STREAMS = 8
"""Maximum number of responses without an end; further ones are refused."""
MOST_REQUEST_BYTES = 2**14
"""Maximum size of the first line and the headers of a request [bytes]."""
MOST_WAITING = 128
"""Connections that the system keeps until they are taken; each waits for at most
`MOST_WAITING` / `RATE`."""
RATE = 100.0
"""Rate at which requests are taken, if they are many [1/s]; further ones wait."""
UNPACED = 20
"""Number of requests that are taken at any rate after a pause."""
TEXT = "text/plain; charset=utf-8"
_ROOM_SECONDS = 1.0
"""Time for the oldest request to end when its connection has been closed [s]."""
_LOOK = 0.1
"""Time between two looks at whether the server is to end [s]."""
_METHODS = ("GET", "HEAD")


class HttpServer(ThreadingHTTPServer):
    """Answers requests in threads, while it is entered.

    Parameters
    ----------
    address, port
        Address and port; port 0 selects a free port.
    handler
        Answers a request.
    purpose, options
        What the requests are for, and the options that choose address and port, for messages.

    Attributes
    ----------
    port
        Port that the server is bound to.
    closing
        Set when responses without an end are to end.
    peers
        Whose requests are answered; others are disconnected.

    Raises
    ------
    Mri2QmapError
        If the port cannot be bound.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = MOST_WAITING

    def __init__(
        self, address: str, port: int, handler: type[HttpHandler], purpose: str, options: str
    ) -> None:
        if not 0 <= port < 2**16:
            option = options.partition(" ")[0]
            raise Mri2QmapError(f"{option} {port}: a number from 0 to 65535 is expected")
        self.closing = threading.Event()
        self.peers = ALL_PEERS
        self._places = threading.BoundedSemaphore(MOST_REQUESTS)
        self._lock = threading.Lock()
        self._open: dict[socket.socket, tuple[str, threading.Timer]] = {}
        self._due = 0.0
        self._streams: set[socket.socket] = set()
        try:
            self.address_family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][0]
            super().__init__((address, port), handler)
        except OSError as error:
            raise Mri2QmapError(
                f"{address}:{port}: cannot listen for {purpose} on this address "
                f"({error.strerror or error}); choose another {options}"
            ) from error
        self.port: int = self.server_address[1]

    def __enter__(self) -> Self:
        """Start to answer in a thread."""
        arguments = (_LOOK,)
        thread = threading.Thread(target=self.serve_forever, args=arguments, name="http")
        thread.daemon = True
        thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, end all responses, and release the port."""
        self.closing.set()
        self.shutdown()
        self.server_close()
        with self._lock:
            for connection in (*self._open, *self._streams):
                _abort(connection)

    def verify_request(self, request: object, client_address: Any) -> bool:
        """Return whether a connection is taken."""
        return self.peers.allows(str(client_address[0]))

    @contextmanager
    def stream(self, connection: socket.socket) -> Iterator[bool]:
        """Let the response on a connection have no end, if there is room for it.

        It then has neither a deadline nor a place among the requests.

        Yields
        ------
        bool
            Whether there was room.
        """
        with self._lock:
            room = len(self._streams) < MOST_STREAMS
            if room:
                self._streams.add(connection)
                self._open.pop(connection)[1].cancel()
                self._places.release()
        try:
            yield room
        finally:
            with self._lock:
                self._streams.discard(connection)

    @property
    def has_room(self) -> bool:
        """Whether there is room for a response without an end."""
        with self._lock:
            return len(self._streams) < MOST_STREAMS

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread; pause if they are many, and make room if too many are open."""
        now = time.monotonic()
        self._due = max(self._due, now - UNPACED / RATE) + 1 / RATE
        if self._due > now:
            self.closing.wait(self._due - now)  # the others wait with it
        if not self._places.acquire(blocking=False):
            with self._lock:
                hosts = Counter(host for host, _ in self._open.values())
                for most, _ in hosts.most_common(1):
                    _abort(next(c for c, (host, _) in self._open.items() if host == most))
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
            self._open[request] = str(client_address[0]), end
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                if self._open.pop(request, None) is not None:
                    self._places.release()
            end.cancel()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log that a request could not be answered."""
        logger.debug("a request could not be answered", exc_info=True)


class HttpHandler(BaseHTTPRequestHandler):
    """Answers one request; subclasses define `respond`.

    Attributes
    ----------
    more_headers
        Sent with each answer.
    """

    timeout = REQUEST_SECONDS
    server_version = "mri2qmap"
    sys_version = ""
    default_request_version = "HTTP/1.0"  # answers to lines that cannot be read have a status
    more_headers: Mapping[str, str] = {}

    def respond(self, path: str) -> None:
        """Answer a request for a path, without its query."""
        raise NotImplementedError

    def answer(
        self, status: HTTPStatus, content: str | bytes, kind: str = TEXT, **headers: str
    ) -> None:
        """Send a whole answer.

        Parameters
        ----------
        status, content, kind
            Status, body and media type.
        headers
            Further headers, by their name with ``_`` for ``-``.
        """
        body = content.encode() if isinstance(content, str) else content
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        self.begin(status, {"Content-Type": kind, "Content-Length": str(len(body)), **more})
        if self.command != "HEAD":
            self.wfile.write(body)

    def begin(self, status: HTTPStatus, headers: Mapping[str, str]) -> None:
        """Send the status and the headers of an answer."""
        self.send_response(status)
        for name, value in {**headers, **self.more_headers, "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()

    def do_GET(self) -> None:
        """Answer a request."""
        self.respond(self.path.partition("?")[0])

    do_HEAD = do_GET  # noqa: N815

    def setup(self) -> None:
        """Limit the size of the request."""
        super().setup()
        self.rfile = _BoundedReader(cast(io.BufferedReader, self.rfile).detach())

    def handle(self) -> None:
        """Answer a request; one whose first line is too long, too."""
        try:
            super().handle()
        except HTTPException:
            self.requestline = self.command = ""
            self.request_version = self.default_request_version
            self.send_error(HTTPStatus.REQUEST_URI_TOO_LONG)

    def parse_request(self) -> bool:
        """Read a request; refuse methods that could change anything."""
        if not super().parse_request():
            return False
        if self.command in _METHODS:
            return True
        known = ", ".join(_METHODS)
        self.answer(HTTPStatus.METHOD_NOT_ALLOWED, f"{known} are allowed\n", Allow=known)
        return False

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer a request that cannot be read; nothing of it is repeated."""
        status = HTTPStatus(code)
        self.answer(status, f"{status.phrase}\n")

    def log_message(self, format: str, *args: object) -> None:
        """Log no requests: a monitor sends one every few seconds."""


class _BoundedReader(io.BufferedReader):
    """Lines of a request."""

    _left = MOST_REQUEST_BYTES

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        self._left -= len(line)
        if self._left < 0:
            raise HTTPException("the request is too large")
        return line


def _abort(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return

"""The live view of a service: a page in the browser that shows what it does, and changes nothing.

The page gets the whole state by server-sent events, in two parts, each when it has changed. Times
are in seconds on the clock of the service, and each message has the present time on it, so the
clock of the browser does not matter.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
import select
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from http import HTTPStatus
from importlib import resources
from typing import Any

from mri2qmap.hosts.http_server import HttpHandler, HttpServer
from mri2qmap.hosts.live_scans import LiveScans

INTERVAL = 0.4
"""Time between two looks at what has changed [s]."""
BEAT = 5.0
"""Time after which a message is sent although nothing has changed [s]."""
STREAM_SECONDS = 600.0
"""Time after which the events end; the page asks for them again [s]."""
_SEND_BUFFER = 2**16
"""Sent messages that the system keeps for a browser that does not read [bytes]."""
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[\w.-]+)(?::\d{1,5})?", re.ASCII)
_SECURITY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_FILES = {
    "/": ("dashboard.html", "text/html; charset=utf-8"),
    "/dashboard.css": ("dashboard.css", "text/css; charset=utf-8"),
    "/dashboard.js": ("dashboard.js", "text/javascript; charset=utf-8"),
    "/dashboard.svg": ("dashboard.svg", "image/svg+xml"),
}


@dataclass(frozen=True)
class ServiceState:
    """What a service has besides its scans.

    Attributes
    ----------
    not_ready
        Reason why no scan is accepted; empty if there is none.
    connections, most_connections
        Connections that are served, and their maximum number.
    memory_total, memory_reserved, memory_received
        Memory for all reconstructions, of those that run, and of received messages [bytes].
    """

    not_ready: str
    connections: int
    most_connections: int
    memory_total: int
    memory_reserved: int
    memory_received: int


class Dashboard(HttpServer):
    """Answers ``GET /``, what this page loads, and ``/events``.

    Other methods than GET and HEAD are refused. So are requests under the name of another host: a
    page of another site whose name leads to this address would be able to read the answers.

    Parameters
    ----------
    address, port
        Address and port; port 0 selects a free port.
    live
        The scans.
    service
        Returns the state of the service.
    about
        Texts by what they are: "name" of the service, its "version", "address" and "device".

    Raises
    ------
    Mri2QmapError
        If the port cannot be bound.
    """

    def __init__(
        self,
        address: str,
        port: int,
        live: LiveScans,
        service: Callable[[], ServiceState],
        about: Mapping[str, str],
    ) -> None:
        self.files = {
            path: (resources.files(__package__).joinpath(name).read_bytes(), kind)
            for path, (name, kind) in _FILES.items()
        }
        digest = hashlib.sha256(b"".join(content for content, _ in self.files.values()))
        self.about = {**about, "page": digest.hexdigest()[:16]}  # another page: to be loaded again
        self.names = {"localhost", socket.gethostname().lower(), address.lower()}
        self.live = live
        self._service = service
        super().__init__(address, port, _Handler, "the dashboard", "--dashboard")

    def parts(self) -> dict[str, Any]:
        """Return the state in parts that change at different rates, as JSON values."""
        state = self.live.state()
        return {
            "now": {
                "service": asdict(self._service()),
                "running": state["running"],
                "waiting": state["waiting"],
            },
            "past": {"about": self.about, "done": state["done"], "failed": state["failed"]},
        }


class _Handler(HttpHandler):
    server: Dashboard
    more_headers = _SECURITY

    def respond(self, path: str) -> None:
        if not self._is_for_this_host():
            text = "this page is known by another name: use the IP address of the host\n"
            self.answer(HTTPStatus.MISDIRECTED_REQUEST, text)
        elif path in self.server.files:
            content, kind = self.server.files[path]
            self.answer(HTTPStatus.OK, content, kind)
        elif path == "/events":
            self._stream()
        else:
            self.answer(HTTPStatus.NOT_FOUND, "there is no such page\n")

    def _is_for_this_host(self) -> bool:
        """Whether the request names this host, or an IP address, which leads nowhere else."""
        given = self.headers.get_all("Host") or []
        found = _HOST.fullmatch(given[0].lower()) if len(given) == 1 else None
        if found is None:
            return False
        try:
            ipaddress.ip_address(found[1].strip("[]"))
        except ValueError:
            return found[1] in self.server.names
        return True

    def _stream(self) -> None:
        if self.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            self.answer(HTTPStatus.FORBIDDEN, "events are for the page of this server\n")
        elif self.command == "HEAD":
            status = HTTPStatus.OK if self.server.has_room else HTTPStatus.SERVICE_UNAVAILABLE
            self.answer(status, "", "text/event-stream")
        else:
            with self.server.stream(self.connection) as room:
                if room:
                    self._send_events()
                else:
                    text = "the dashboard is open too often: close one of its pages\n"
                    self.answer(HTTPStatus.SERVICE_UNAVAILABLE, text, Retry_After="5")

    def _send_events(self) -> None:
        """Send what changes until the client, the service or the time ends it.

        A client that does not read ends it, too: each message has to be taken within the timeout
        of the connection.
        """
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        self.begin(HTTPStatus.OK, {"Content-Type": "text/event-stream"})
        self.wfile.write(b"retry: 1000\n\n")
        known: dict[str, str] = {}
        begun = beat = time.monotonic()
        while (now := time.monotonic()) - begun < STREAM_SECONDS:
            parts = {name: json.dumps(part) for name, part in self.server.parts().items()}
            changed = [f'"{n}": {text}' for n, text in parts.items() if known.get(n) != text]
            if changed or now - beat >= BEAT:
                content = ", ".join([f'"clock": {self.server.live.now()}', *changed])
                self.wfile.write(f"data: {{{content}}}\n\n".encode())
                known, beat = parts, now
            if self.server.closing.wait(INTERVAL) or self._is_left():
                return

    def _is_left(self) -> bool:
        """Whether the client has closed the connection."""
        poll = select.poll()
        poll.register(self.connection, select.POLLIN)
        return bool(poll.poll(0)) and not self.connection.recv(1, socket.MSG_PEEK)

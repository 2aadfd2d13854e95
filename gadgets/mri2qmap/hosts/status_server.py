"""HTTP on a port of its own: whether a service is alive and ready, and its metrics."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from http import HTTPStatus

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from mri2qmap.hosts.http_server import HttpHandler, HttpServer

FRESH = 0.25
"""Time for which the text of the metrics is used again [s]."""


class StatusServer(HttpServer):
    """Answers ``GET /health``, ``/ready`` and ``/metrics``.

    ``/health`` answers 200 while connections are accepted and the queue goes on, and 503 otherwise.
    ``/ready`` answers 200 if a scan would be accepted now, and 503 with the reason otherwise.
    ``/metrics`` has the text format of Prometheus; it is made once for all requests within `FRESH`.

    Parameters
    ----------
    address, port
        Address and port; port 0 selects a free port.
    registry
        The metrics.
    why_not_ready
        Returns the reason why no scan is accepted; empty if there is none.
    responds
        Returns whether connections are accepted, and the queue goes on.

    Raises
    ------
    Mri2QmapError
        If the port cannot be bound.
    """

    def __init__(
        self,
        address: str,
        port: int,
        registry: CollectorRegistry,
        why_not_ready: Callable[[], str],
        responds: Callable[[], bool] = lambda: True,
    ) -> None:
        self.registry = registry
        self.responds = responds
        self.why_not_ready = why_not_ready
        self._making = threading.Lock()
        self._metrics = b""
        self._stale = 0.0
        options = "--status-port or --status-address"
        super().__init__(address, port, _Handler, "status requests", options)

    def metrics(self) -> bytes:
        """Return the metrics in the text format of Prometheus."""
        with self._making:
            if time.monotonic() >= self._stale:
                self._metrics = generate_latest(self.registry)
                self._stale = time.monotonic() + FRESH
            return self._metrics


class _Handler(HttpHandler):
    server: StatusServer

    def respond(self, path: str) -> None:
        if path == "/health":
            if self.server.responds():
                self.answer(HTTPStatus.OK, "ok\n")
            else:
                self.answer(HTTPStatus.SERVICE_UNAVAILABLE, "it does not go on; see the log\n")
        elif path == "/ready":
            reason = self.server.why_not_ready()
            if reason:
                self.answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{reason}\n")
            else:
                self.answer(HTTPStatus.OK, "ready\n")
        elif path == "/metrics":
            self.answer(HTTPStatus.OK, self.server.metrics(), CONTENT_TYPE_LATEST)
        else:
            self.answer(HTTPStatus.NOT_FOUND, "/health, /ready and /metrics are known\n")

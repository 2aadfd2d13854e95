"""Health, readiness and metrics over HTTP."""

import socket
import urllib.error
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, Gauge

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts import http_server
from mri2qmap.hosts.http_server import MOST_REQUESTS, HttpHandler
from mri2qmap.hosts.status_server import StatusServer


@pytest.fixture
def why():
    return []


@pytest.fixture
def server(why, monkeypatch):
    monkeypatch.setattr(http_server, "REQUEST_SECONDS", 1.0)
    monkeypatch.setattr(HttpHandler, "timeout", 1.0)
    registry = CollectorRegistry()
    Gauge("mri2qmap_connections", "Open connections", registry=registry).set(3)
    with StatusServer("127.0.0.1", 0, registry, lambda: "".join(why)) as server:
        yield server


def get(server, path, method="GET"):
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_health_and_metrics(server):
    assert get(server, "/health") == (200, "ok\n")
    assert get(server, "/health", "HEAD") == (200, "")
    status, text = get(server, "/metrics")
    assert status == 200
    assert "\nmri2qmap_connections 3.0\n" in text


def test_readiness_has_a_reason(server, why):
    assert get(server, "/ready") == (200, "ready\n")
    why.append("the service is stopping")
    assert get(server, "/ready") == (503, "the service is stopping\n")
    assert get(server, "/health") == (200, "ok\n")


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/", "GET", 404),
        ("/../etc/passwd", "GET", 404),
        ("/health", "POST", 405),
        ("/health", "TRACE", 405),
    ],
)
def test_anything_else_is_refused(server, path, method, status):
    assert get(server, path, method)[0] == status


def test_slow_clients_make_room(server):
    """More than there are places, each of which begins a request and does not end it."""
    address = "127.0.0.1", server.port
    slow = [socket.create_connection(address) for _ in range(2 * MOST_REQUESTS)]
    for connection in slow:
        connection.sendall(b"GET /health HTTP/1.1\r\nX")
    for _ in range(3):
        assert get(server, "/health") == (200, "ok\n")
    for connection in slow:
        connection.settimeout(5)
        assert connection.recv(100)[:4] in (b"", b"HTTP")
        connection.close()


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_wrong_port_is_refused(port):
    with pytest.raises(Mri2QmapError, match="--status-port"):
        StatusServer("127.0.0.1", port, CollectorRegistry(), str)


def test_a_port_in_use_is_refused(server):
    with pytest.raises(Mri2QmapError, match="choose another --status-port"):
        StatusServer("127.0.0.1", server.port, CollectorRegistry(), str)

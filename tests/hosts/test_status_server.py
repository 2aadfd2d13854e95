"""Health, readiness and metrics over HTTP."""

import contextlib
import socket
import threading
import time
import urllib.error
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, Gauge

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts import http_server
from mri2qmap.hosts.http_server import MOST_REQUESTS, MOST_WAITING, RATE, UNPACED, HttpHandler
from mri2qmap.hosts.status_server import FRESH, StatusServer


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


def test_many_connections_at_once_wait_for_the_server():
    """They are not lost, so that a monitor among them has an answer when its turn comes."""
    waiting = []
    server = StatusServer("127.0.0.1", 0, CollectorRegistry(), str)
    for _ in range(MOST_WAITING // 2):
        waiting.append(socket.create_connection(("127.0.0.1", server.port), timeout=5))
    with server:
        assert get(server, "/health") == (200, "ok\n")
    for connection in waiting:
        connection.close()


def test_health_beside_idle_connections_that_come_again():
    ended = threading.Event()

    def idle(port):
        while not ended.is_set():
            with contextlib.suppress(OSError):
                with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                    connection.sendall(b"GET /health HT")
                    connection.recv(10)

    with StatusServer("127.0.0.1", 0, CollectorRegistry(), str) as server:
        threads = [threading.Thread(target=idle, args=(server.port,)) for _ in range(50)]
        for thread in threads:
            thread.start()
        try:
            time.sleep(0.5)
            for _ in range(4):
                assert get(server, "/health") == (200, "ok\n")
        finally:
            ended.set()
    for thread in threads:
        thread.join()


def test_address_with_the_most_connections_makes_room():
    with StatusServer("127.0.0.1", 0, CollectorRegistry(), str) as server:
        address = "127.0.0.1", server.port
        with contextlib.ExitStack() as stack:
            first = stack.enter_context(socket.create_connection(address))
            first.sendall(b"GET /health HTTP/1.1\r\n")
            for _ in range(MOST_REQUESTS + 4):
                stack.enter_context(socket.create_connection(address, None, ("127.0.0.2", 0)))
            assert get(server, "/health") == (200, "ok\n")
            first.sendall(b"\r\n")
            first.settimeout(10)
            assert b" 200 " in first.recv(1000)


def test_metrics_are_made_a_few_times_a_second():
    class Slow:
        count = 0

        def collect(self):
            self.count += 1
            return ()

    registry, slow = CollectorRegistry(), Slow()
    registry.register(slow)
    with StatusServer("127.0.0.1", 0, registry, str) as server:
        slow.count, begun = 0, time.monotonic()
        for _ in range(50):
            assert get(server, "/metrics")[0] == 200
        assert 1 <= slow.count <= (time.monotonic() - begun) / FRESH + 1


def test_requests_without_end_are_paced(server):
    count = UNPACED + 60
    begun = time.monotonic()
    for _ in range(count):
        assert get(server, "/health")[0] == 200
    assert time.monotonic() - begun >= (count - UNPACED) / RATE * 0.9


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_wrong_port_is_refused(port):
    with pytest.raises(Mri2QmapError, match="--status-port"):
        StatusServer("127.0.0.1", port, CollectorRegistry(), str)


def test_a_port_in_use_is_refused(server):
    with pytest.raises(Mri2QmapError, match="choose another --status-port"):
        StatusServer("127.0.0.1", server.port, CollectorRegistry(), str)

"""The dashboard over HTTP: what it answers, and what its clients cannot do."""

import http.client
import json
import socket
import time
from contextlib import ExitStack, closing, suppress

import pytest
from helpers.waiting import DEADLINE, eventually

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts import dashboard as module
from mri2qmap.hosts import http_server
from mri2qmap.hosts.dashboard import Dashboard, ServiceState
from mri2qmap.hosts.http_server import MOST_REQUEST_BYTES, MOST_REQUESTS, MOST_STREAMS, HttpHandler
from mri2qmap.hosts.service_record import ServiceRecord

ABOUT = {"name": "mri2qmap serve", "version": "1", "address": "here:9002", "device": "cpu"}
SERVICE = ServiceState("", 1, 64, 2**34, 2**30, 0)
HOSTILE = "</script><img src=x onerror=alert(1)>\r\n\r\ndata: {}\u2028\ud800"


@pytest.fixture
def record():
    return ServiceRecord()


@pytest.fixture
def service():
    return [SERVICE]


@pytest.fixture
def server(record, service, monkeypatch):
    monkeypatch.setattr(module, "INTERVAL", 0.05)
    monkeypatch.setattr(http_server, "REQUEST_SECONDS", 2.0)
    monkeypatch.setattr(HttpHandler, "timeout", 2.0)
    with Dashboard("127.0.0.1", 0, record.live, lambda: service[0], ABOUT) as server:
        yield server


def ask(server, path, method="GET", **headers):
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE)) as client:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        client.request(method, path, headers=names)
        answer = client.getresponse()
        return answer, answer.read()


def send(server, content):
    """Send raw bytes and return all of the answer."""
    with socket.create_connection(("127.0.0.1", server.port), DEADLINE) as client:
        with suppress(ConnectionError):
            client.sendall(content)
        received = b""
        with suppress(ConnectionError):
            while part := client.recv(2**16):
                received += part
        return received


class Events:
    """The events of a server."""

    def __init__(self, server, buffer=None):
        self._client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE)
        if buffer is not None:
            self._client._create_connection = lambda address, *_: small(address, buffer)
        self._client.request("GET", "/events")
        self.answer = self._client.getresponse()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.answer.close()
        self._client.close()

    def next(self, part):
        """Return the next message that has a part."""
        while True:
            line = self.answer.readline()
            assert line, "the events have ended"
            if line.startswith(b"data: "):
                message = json.loads(line.removeprefix(b"data: "))
                if part in message:
                    return message

    def ended(self):
        with suppress(ConnectionError):
            while self.answer.readline():
                pass
        return True


def small(address, buffer):
    """A connection that takes little that it does not read."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    client.settimeout(DEADLINE)
    client.connect(address)
    return client


@pytest.mark.parametrize(
    ("path", "kind", "words"),
    [
        ("/", "text/html; charset=utf-8", b"<title>MRI2Qmap</title>"),
        ("/?x=1", "text/html; charset=utf-8", b"<title>MRI2Qmap</title>"),
        ("/dashboard.js", "text/javascript; charset=utf-8", b"EventSource"),
        ("/dashboard.css", "text/css; charset=utf-8", b"prefers-color-scheme"),
        ("/dashboard.svg", "image/svg+xml", b"<svg"),
    ],
)
def test_the_page_and_its_parts(server, path, kind, words):
    answer, content = ask(server, path)
    assert (answer.status, answer.headers["Content-Type"]) == (200, kind)
    assert words in content
    again, nothing = ask(server, path, "HEAD")
    assert (again.status, nothing) == (200, b"")
    assert again.headers["Content-Length"] == str(len(content))


@pytest.mark.parametrize("path", ["/", "/events", "/nothing", "/dashboard.js"])
def test_a_strict_policy_of_each_answer(server, path):
    answer, _ = ask(server, path, "HEAD")
    policy = answer.headers["Content-Security-Policy"].split("; ")
    assert policy[0] == "default-src 'none'"
    assert "frame-ancestors 'none'" in policy
    assert not any(word in " ".join(policy) for word in ("unsafe", "http", "*", "data:"))
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_the_page_names_nothing_elsewhere():
    text = b"".join(
        module.resources.files("mri2qmap.hosts").joinpath(name).read_bytes()
        for name, _ in module._FILES.values()
    )
    assert text.replace(b"http://www.w3.org/2000/svg", b"").count(b"://") == 0
    for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "Date"):
        assert word.encode() not in text


@pytest.mark.parametrize("path", ["/nothing", "/../../etc/passwd", "/%2e%2e/x", "/events/"])
def test_other_paths_are_unknown(server, path):
    assert ask(server, path)[0].status == 404


@pytest.mark.parametrize(
    "method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get", "X"]
)
@pytest.mark.parametrize("path", ["/", "/events"])
def test_methods_that_are_not_allowed(server, method, path):
    request = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
    head = send(server, request.encode()).partition(b"\r\n\r\n")[0]
    assert head.startswith(b"HTTP/1.0 405 ")
    assert b"Allow: GET, HEAD" in head


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", None),
        (b"\r\n", None),
        (b"GET", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 505),
        (b"GET / <b> HTTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + 200 * b"X: 1\r\n" + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nX: " + MOST_REQUEST_BYTES * b"x" + b"\r\n\r\n", 431),
        (b"GET /" + MOST_REQUEST_BYTES * b"x" + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET /" + 2**17 * b"x" + b" HTTP/1.1\r\n\r\n", 414),
    ],
)
def test_requests_that_cannot_be_read(server, content, status):
    answer = send(server, content + (b"" if content.endswith(b"\r\n") else b"\r\n"))
    assert answer[:12] == (b"" if status is None else b"HTTP/1.0 %d" % status)
    assert b"<b>" not in answer
    assert ask(server, "/")[0].status == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:80", 200),
        ("localhost:8000", 200),
        ("LOCALHOST", 200),
        ("[::1]:9004", 200),
        ("192.168.1.7:9004", 200),
        (socket.gethostname(), 200),
        ("evil.example", 421),
        ("evil.example:9004", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost@evil.example", 421),
        ("", 421),
        ("[::1", 421),
        ("localhost:port", 421),
    ],
)
@pytest.mark.parametrize("path", ["/", "/events"])
def test_only_names_of_this_host_are_answered(server, host, status, path):
    assert ask(server, path, "HEAD", Host=host)[0].status == status


@pytest.mark.parametrize("hosts", [[], ["localhost", "evil.example"]])
def test_one_host_has_to_be_named(server, hosts):
    lines = "".join(f"Host: {host}\r\n" for host in hosts)
    assert send(server, f"GET / HTTP/1.1\r\n{lines}\r\n".encode()).startswith(b"HTTP/1.0 421")


@pytest.mark.parametrize(
    ("site", "status"), [("same-origin", 200), ("none", 200), ("cross-site", 403), ("x", 403)]
)
def test_events_are_not_for_pages_of_other_sites(server, site, status):
    assert ask(server, "/events", "HEAD", Sec_Fetch_Site=site)[0].status == status


def test_events_tell_what_changes_and_nothing_else(server, record, service):
    with Events(server) as events:
        assert events.answer.headers["Content-Type"] == "text/event-stream"
        first = events.next("now")
        assert first["past"]["about"]["name"] == "mri2qmap serve"
        assert (first["past"]["done"], first["now"]["running"]) == ([], [])
        service[0] = ServiceState("the server is stopping", 1, 64, 2**34, 2**30, 5)
        message = events.next("now")
        assert message["now"]["service"]["not_ready"] == "the server is stopping"
        assert "past" not in message
        with record.session("10.0.0.5") as entry, entry.begin("a scan"):
            pass
        message = events.next("past")
        assert message["past"]["done"][0]["peer"] == "10.0.0.5"
        assert first["clock"] <= message["past"]["done"][0]["ended"] <= message["clock"]


def test_hostile_texts_stay_in_their_message(server, record):
    with Events(server) as events:
        events.next("past")
        with suppress(Mri2QmapError), record.session("10.0.0.5"):
            raise Mri2QmapError(HOSTILE)
        (failed,) = events.next("past")["past"]["failed"]
    assert "<img src=x onerror=alert(1)>" in failed["reason"]
    assert failed["reason"].isprintable()


def test_idle_events_beat(server, monkeypatch):
    monkeypatch.setattr(module, "BEAT", 0.1)
    with Events(server) as events:
        clocks = [events.next("clock")["clock"] for _ in range(4)]
    assert clocks == sorted(clocks)
    assert clocks[-1] > clocks[0]


def test_events_end_after_a_time(server, monkeypatch):
    monkeypatch.setattr(module, "STREAM_SECONDS", 0.2)
    with Events(server) as events:
        assert events.ended()


def test_too_many_pages_are_refused_until_one_closes(server):
    with ExitStack() as stack:
        opened = [stack.enter_context(Events(server)) for _ in range(MOST_STREAMS)]
        for events in opened:
            events.next("now")
        assert ask(server, "/events", "HEAD")[0].status == 503
        answer, text = ask(server, "/events")
        assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
        assert b"close one" in text
        for _ in range(2 * MOST_REQUESTS):  # all else is answered
            assert ask(server, "/")[0].status == 200
        opened[3].__exit__()
        eventually(lambda: server.has_room, "its place does not become free")
        stack.enter_context(Events(server)).next("now")


def test_a_slow_reader_is_dropped(server):
    about, server.about = server.about, {**server.about, "large": "x" * 2**24}
    with Events(server, buffer=2**12) as slow:
        assert slow.answer.readline() + slow.answer.readline() == b"retry: 1000\n\n"
        assert slow.answer.read(6) == b"data: "  # and no more
        server.about = about
        with Events(server) as other:
            assert other.next("now")
            eventually(lambda: len(server._streams) == 1, "it is not dropped")
            server.about = {**about, "more": "text"}
            assert other.next("past")["past"]["about"]["more"] == "text"


def test_slow_requests_neither_hold_places_nor_events(server):
    with ExitStack() as stack:
        events = stack.enter_context(Events(server))
        events.next("now")
        for _ in range(2 * MOST_REQUESTS):
            address = "127.0.0.1", server.port
            slow = stack.enter_context(socket.create_connection(address, DEADLINE))
            slow.sendall(b"GET / HTTP/1.1\r\nX")
        assert ask(server, "/")[0].status == 200
        server.about = {**server.about, "more": "text"}
        assert events.next("past")["past"]["about"]["more"] == "text"


def test_a_request_that_trickles_in_ends(server):
    with socket.create_connection(("127.0.0.1", server.port), DEADLINE) as client:
        begun = time.monotonic()
        with suppress(ConnectionError):
            while time.monotonic() - begun < DEADLINE:
                client.sendall(b"X")
                client.settimeout(0.1)
                with suppress(TimeoutError):
                    if not client.recv(1):
                        break
        assert time.monotonic() - begun < DEADLINE


def test_it_ends_with_open_events(record):
    with ExitStack() as stack:
        with Dashboard("127.0.0.1", 0, record.live, lambda: SERVICE, ABOUT) as server:
            opened = [stack.enter_context(Events(server)) for _ in range(3)]
            opened[0].next("now")
        assert all(events.ended() for events in opened)
        eventually(lambda: not server._streams, "a stream does not end")


def test_a_port_in_use_is_refused(server, record):
    with pytest.raises(Mri2QmapError, match="choose another --dashboard"):
        Dashboard("127.0.0.1", server.port, record.live, lambda: SERVICE, ABOUT)

"""PACS whose answers have no end, in size or in time, or are no answers."""

import contextlib
import gzip
import json
import os
import socket
import ssl
import struct
import threading
import time

import pytest
from helpers.dicom_peers import COMMITMENT, TITLE, Node, WebServer, dicom_node, web_server
from helpers.pacs_fixtures import contents, push, status
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.sop_class import MRImageStorage, ParametricMapStorage

JSON = "application/dicom+json"
IMPATIENT = ("--timeout", "0.5", "--attempts", "1", "--commitment", "0")
PATIENT = ("--timeout", "20", "--attempts", "1", "--commitment", "0")
MUCH = 100_000_000
"""What is sent without an end, at most [bytes]; the bounds are far below."""
LONG = 20.0
"""How long it drips, at most [s]."""


class Peer:
    """A server on a socket that treats all connections in one way."""

    def __init__(self, behaviour):
        self.sent = 0
        self.done = threading.Event()
        self._behaviour = behaviour
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self):
        self._threads[0].start()
        return self

    def __exit__(self, *error):
        self.done.set()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listening.close()
        for thread in self._threads:
            thread.join()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                thread = threading.Thread(target=self._serve, args=(connection,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection):
        with contextlib.suppress(OSError), connection:
            connection.settimeout(LONG)
            connection.recv(65536)
            self._behaviour(self, connection)

    def drip(self, connection, part):
        begun = time.monotonic()
        while time.monotonic() - begun < LONG and not self.done.wait(0.1):
            connection.sendall(part)

    def flood(self, connection, part):
        while self.sent < MUCH:
            connection.sendall(part)
            self.sent += len(part)


def own_threads():
    """Threads of the library for associations of this program."""
    found = []
    for thread in threading.enumerate():
        if isinstance(thread, DULServiceProvider):
            found += [thread] if thread.assoc.ae.ae_title == "MRI2QMAP" else []
        elif isinstance(thread, Association) and thread.ae.ae_title == "MRI2QMAP":
            found.append(thread)
    return found


def all_pending(run_folder, capsys):
    return status(capsys)["pending"] == len(contents(run_folder))


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/dicom+json\r\n"


@pytest.mark.parametrize(
    ("start", "part"),
    [(HEAD + b"\r\n", b"[" * 2**16), (HEAD, b"A: " + b"x" * 60_000 + b"\r\n")],
    ids=["body", "headers"],
)
def test_http_answer_without_end_in_size(run_folder, spool_place, capsys, start, part):
    def behave(peer, connection):
        connection.sendall(start)
        peer.flood(connection, part)

    with Peer(behave) as peer:
        assert push(run_folder, "--to", f"http://127.0.0.1:{peer.port}/", *PATIENT) == 4
    assert "the peer sends an answer of more than 4 MiB" in capsys.readouterr().out
    assert peer.sent < MUCH / 2
    assert all_pending(run_folder, capsys)


def test_http_answer_that_is_large_when_decompressed(run_folder, spool_place, capsys):
    def behave(peer, connection):
        content = gzip.compress(bytes(MUCH), 1)
        sizes = f"Content-Encoding: gzip\r\nContent-Length: {len(content)}\r\n\r\n"
        connection.sendall(HEAD + sizes.encode() + content)
        peer.done.wait(LONG)

    with Peer(behave) as peer:
        assert push(run_folder, "--to", f"http://127.0.0.1:{peer.port}/", *PATIENT) == 4
    assert "the peer sends an answer of more than 4 MiB" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("start", "part"),
    [
        (HEAD + b"Content-Length: 1000\r\n\r\n", b" "),
        (b"", b"H"),
        (HEAD + b"A: ", b"x"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
    ids=["body", "status", "headers", "informational answers"],
)
def test_http_answer_without_end_in_time(run_folder, spool_place, capsys, start, part):
    def behave(peer, connection):
        connection.sendall(start)
        peer.drip(connection, part)

    with Peer(behave) as peer:
        begun = time.monotonic()
        assert push(run_folder, "--to", f"http://127.0.0.1:{peer.port}/", *IMPATIENT) == 4
        assert time.monotonic() - begun < LONG / 2
    assert "no answer within 0.5 s" in capsys.readouterr().out
    assert all_pending(run_folder, capsys)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        json.dumps({"00081199": {"vr": "LO", "Value": ["x"]}}).encode(),
        json.dumps(
            {
                "00081198": {
                    "vr": "SQ",
                    "Value": [{"00081197": {"vr": "LO", "Value": ["a", "b"]}}, {}],
                }
            }
        ).encode(),
        b'{"00081199": 1}',
        b"<" * 1000,
        os.urandom(1000),
    ],
    ids=["deep", "no sequence", "no reason", "no attribute", "no json", "noise"],
)
@pytest.mark.parametrize("kind", [JSON, "application/dicom+xml"])
def test_http_answer_that_says_nothing(run_folder, spool_place, capsys, content, kind):
    place = run_folder / "dicom" / "parametric" / "T1map.dcm"
    with web_server(WebServer(answer=lambda objects: (202, content, kind))) as server:
        assert push(place, "--to", server.place, *PATIENT) == 4
    assert "does not say whether it stored the object" in capsys.readouterr().out


def test_pdu_without_end_in_size(run_folder, spool_place, capsys):
    def behave(peer, connection):
        connection.sendall(b"\2\0" + struct.pack(">I", 2**32 - 1))
        peer.flood(connection, bytes(2**16))

    with Peer(behave) as peer:
        assert push(run_folder, "--to", f"{TITLE}@127.0.0.1:{peer.port}", *PATIENT) == 4
    assert "the peer sends a PDU of more than 1 MiB" in capsys.readouterr().out
    assert peer.sent < MUCH / 2
    assert all_pending(run_folder, capsys)


def test_association_answer_without_end_in_time(run_folder, spool_place, capsys):
    def behave(peer, connection):
        connection.sendall(b"\2\0" + struct.pack(">I", 1000))
        peer.drip(connection, b"\0")

    with Peer(behave) as peer:
        begun = time.monotonic()
        assert push(run_folder, "--to", f"{TITLE}@127.0.0.1:{peer.port}", *IMPATIENT) == 4
        assert time.monotonic() - begun < LONG / 2
        assert not own_threads()
    assert "answered no association within 0.5 s" in capsys.readouterr().out
    assert all_pending(run_folder, capsys)


def test_store_answer_without_end_in_time(run_folder, spool_place, capsys):
    done = threading.Event()

    def drip(event, number):
        with contextlib.suppress(OSError, AttributeError):
            connection = event.assoc.dul.socket.socket
            connection.sendall(b"\4\0" + struct.pack(">I", 1000))
            begun = time.monotonic()
            while time.monotonic() - begun < LONG and not done.wait(0.1):
                connection.sendall(b"\0")
        return 0x0000

    with dicom_node(Node(answer=drip)) as node:
        begun = time.monotonic()
        assert push(run_folder, "--to", node.place, *IMPATIENT) == 4
        assert time.monotonic() - begun < LONG / 2
        assert not own_threads()
        done.set()
    assert "gave no answer within 0.5 s" in capsys.readouterr().out
    assert all_pending(run_folder, capsys)


def test_store_answer_without_end_in_size(run_folder, spool_place, capsys):
    """Fragments of a command, none of which is the last."""
    sent = []

    def flood(event, number):
        context = event.context.context_id
        part = bytes(2**14)
        item = struct.pack(">IBB", len(part) + 2, context, 1) + part
        with contextlib.suppress(OSError, AttributeError):
            while sum(sent) < MUCH:
                event.assoc.dul.socket.socket.sendall(b"\4\0" + struct.pack(">I", len(item)) + item)
                sent.append(len(item))
        return 0x0000

    with dicom_node(Node(answer=flood)) as node:
        assert push(run_folder, "--to", node.place, *PATIENT) == 4
    assert "the peer sends an answer of more than 16 MiB" in capsys.readouterr().out
    assert sum(sent) < MUCH / 2
    assert all_pending(run_folder, capsys)


def test_peer_that_reads_a_byte_now_and_then(run_folder, spool_place, tmp_path, capsys):
    """The deadline of an object holds for sending it, too."""
    from pydicom import dcmread

    large = dcmread(run_folder / "dicom" / "parametric" / "T1map.dcm")
    large.add_new(0x00090010, "LO", "TEST")
    large.add_new(0x00091001, "OB", bytes(20_000_000))
    large.save_as(tmp_path / "large.dcm", enforce_file_format=True)

    with dicom_node() as node:

        def behave(peer, connection):
            """Pass the association on, and take the object slowly."""
            with socket.create_connection(("127.0.0.1", node.port)) as behind:
                behind.sendall(request.pop())
                connection.sendall(behind.recv(65536))
                begun = time.monotonic()
                while time.monotonic() - begun < LONG and connection.recv(20_000):
                    if peer.done.wait(0.05):
                        return

        request = []

        class Proxy(Peer):
            def _serve(self, connection):
                with contextlib.suppress(OSError), connection:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 20_000)
                    request.append(connection.recv(65536))
                    self._behaviour(self, connection)

        with Proxy(behave) as peer:
            # the allowance for the size is 160 s
            from mri2qmap.pacs import store_scu

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(store_scu, "_SLOWEST", 1e9)
                begun = time.monotonic()
                place = f"{TITLE}@127.0.0.1:{peer.port}"
                assert push(tmp_path / "large.dcm", "--to", place, *IMPATIENT) == 4
                assert time.monotonic() - begun < LONG / 2
            assert not own_threads()
    assert "gave no answer within 0.5 s" in capsys.readouterr().out


@pytest.mark.parametrize("noise", [b"\xff" * 6 + b"\4\0\0\0\x10\0" + b"\1" * 9, os.urandom(5000)])
def test_noise_is_told_in_one_line(run_folder, spool_place, capsys, caplog, noise):
    def behave(peer, connection):
        connection.sendall(noise)
        peer.done.wait(LONG)

    caplog.set_level(0)
    with Peer(behave) as peer:
        assert push(run_folder, "--to", f"{TITLE}@127.0.0.1:{peer.port}", *IMPATIENT) == 4
        for thread in own_threads():
            thread.join(10)
    output = capsys.readouterr()
    assert len(output.out.splitlines()) == 3  # what was recorded, what is pending, and why
    assert "Traceback" not in output.err
    assert not [r for r in caplog.records if r.name.startswith("pynetdicom")]
    assert all_pending(run_folder, capsys)


@pytest.mark.parametrize("encrypted", [False, True])
def test_silent_caller_is_left_when_the_report_is_there_or_late(
    run_folder, spool_place, certificates, capsys, encrypted
):
    """Somebody calls the port for reports, and says nothing, or part of a PDU."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    callers = []

    def action(event):
        for words in (b"", b"\1\0\0\0\0\x64abc"):
            callers.append(socket.create_connection(("127.0.0.1", port)))
            callers[-1].sendall(words)
        return 0x0000, None

    context = None
    options = ["--timeout", "10", "--attempts", "1", "--commitment", "1", "--listen"]
    options.append(f"127.0.0.1:{port}")
    if encrypted:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates.authority)
        context.load_cert_chain(certificates.server, certificates.server_key)
        context.verify_mode = ssl.CERT_REQUIRED
        options += ["--ca-file", certificates.authority, "--cert", certificates.client]
        options += ["--key", certificates.client_key]
    classes = (MRImageStorage, ParametricMapStorage, COMMITMENT)
    with dicom_node(classes=classes, handlers=((evt.EVT_N_ACTION, action),), tls=context) as node:
        begun = time.monotonic()
        assert push(run_folder, "--to", node.place, *options) == 0
        assert time.monotonic() - begun < LONG
        assert not own_threads()
    for caller in callers:
        caller.close()
    assert "no report within 1 s" in capsys.readouterr().out


def test_report_over_tls_arrives_beside_a_silent_caller(
    run_folder, spool_place, certificates, capsys
):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with contextlib.ExitStack() as silent:

        def report(content):
            entity = AE(TITLE)
            entity.add_requested_context(COMMITMENT)
            own = ssl.create_default_context(cafile=certificates.authority)
            own.load_cert_chain(certificates.server, certificates.server_key)
            own.check_hostname = False
            from pynetdicom import build_role

            roles = [build_role(COMMITMENT, scp_role=True)]
            association = entity.associate(
                "127.0.0.1", port, ext_neg=roles, tls_args=(own, "127.0.0.1")
            )
            association.send_n_event_report(content, 1, COMMITMENT, COMMITMENT + ".1")
            association.release()

        def action(event):
            silent.enter_context(socket.create_connection(("127.0.0.1", port)))
            threading.Thread(target=report, args=(event.action_information,)).start()
            return 0x0000, None

        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificates.server, certificates.server_key)
        options = ["--timeout", "20", "--attempts", "1", "--commitment", "10"]
        options += ["--listen", f"127.0.0.1:{port}", "--ca-file", certificates.authority]
        options += ["--cert", certificates.client, "--key", certificates.client_key]
        classes = (MRImageStorage, ParametricMapStorage, COMMITMENT)
        handlers = ((evt.EVT_N_ACTION, action),)
        with dicom_node(classes=classes, handlers=handlers, tls=context) as node:
            assert push(run_folder, "--to", node.place, *options) == 0
    count = len(contents(run_folder))
    assert f"the peer keeps {count} of {count}" in capsys.readouterr().out

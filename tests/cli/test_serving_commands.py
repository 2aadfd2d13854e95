"""`mri2qmap serve` and `mri2qmap worker` as processes."""

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import ExitStack

import pytest
from helpers.live import CLOSE, DEADLINE, counted, opening, own_server, receive_all
from helpers.scans import header, write_scan
from helpers.waiting import eventually

from mri2qmap.cli.main import main


@pytest.fixture
def started():
    """Start a server; it is killed at the end of the test, should it still run."""
    with ExitStack() as running:

        def start(command: str, *options: str) -> tuple[subprocess.Popen, int]:
            server = running.enter_context(own_server(command, "--device", "cpu", *options))
            return server.process, server.port

        yield start


def ended(process: subprocess.Popen) -> str:
    output, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    return output


def test_sigterm_lets_what_runs_finish_and_refuses_new_clients(started):
    process, port = started("serve")
    with socket.create_connection(("127.0.0.1", port), DEADLINE) as client:
        client.sendall(opening(b"<a/>"))
        answer = client.recv(2)  # it is being served
        assert answer
        process.send_signal(signal.SIGTERM)
        client.sendall(CLOSE)
    assert "stopped" in ended(process)


def test_a_second_signal_breaks_off_what_runs(started):
    process, port = started("serve")
    with socket.create_connection(("127.0.0.1", port), DEADLINE) as client:
        client.sendall(counted(3, b"<h/>"))  # waits for CLOSE after it has told the error
        client.recv(2)
        process.send_signal(signal.SIGTERM)
        assert "finishing 1" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert "stopped" in ended(process)


def test_the_first_sigterm_ends_the_server_although_a_client_is_idle(started):
    process, port = started("serve", "--grace", "0.5")
    with socket.create_connection(("127.0.0.1", port), DEADLINE) as client:
        client.sendall(counted(3, b"<h/>"))
        client.recv(2)
        process.send_signal(signal.SIGTERM)
        assert "stopped" in ended(process)


def test_the_worker_tells_a_client_where_to_go_and_ends_with_ctrl_c(started):
    process, port = started("worker")
    with socket.create_connection(("127.0.0.1", port), DEADLINE) as client:
        client.sendall(counted(3, header().encode()) * 2 + CLOSE)
        (failure,) = receive_all(client)
    assert "mri2qmap serve" in failure.text
    process.send_signal(signal.SIGINT)
    assert "stopped" in ended(process)


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_status_and_log_of_a_server(command, tmp_path):
    """The port of the status is the first thing that is said."""
    words = ["--port", "0", "--status-port", "0", "--log-format", "json", "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mri2qmap.cli.main", command, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    def get(path):
        with urllib.request.urlopen(f"{status}{path}", timeout=DEADLINE) as response:
            return response.read().decode()

    try:
        status = re.match(r"status: (http://127.0.0.1:\d+)/", process.stdout.readline())[1]
        port = int(process.stdout.readline().rpartition(":")[2])
        assert (get("/health"), get("/ready")) == ("ok\n", "ready\n")
        with socket.create_connection(("127.0.0.1", port), DEADLINE) as client:
            client.sendall(opening(b"<a/>") if command == "serve" else counted(3, b"<h/>") * 2)
            client.sendall(CLOSE)
            receive_all(client)
        kind = {"serve": "scan", "worker": "node"}[command]
        eventually(
            lambda: f'mri2qmap_{kind}s_total{{outcome="refused"}} 1.0' in get("/metrics"),
            "it is not counted",
        )
        assert ("mri2qmap_stored_bytes 0.0" in get("/metrics")) == (command == "worker")
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
        process.wait()
    lines = [json.loads(line) for line in errors.splitlines()]
    (line,) = (line for line in lines if line["logger"] == "mri2qmap.scan_events")
    assert line["message"].startswith(f"{kind} refused after ")
    assert (line["session"], line["outcome"]) == ("#1", "refused")
    assert line["peer"].startswith("127.0.0.1:")


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_sigterm_ends_a_server_whose_dashboard_is_open(command):
    with own_server(command, "--device", "cpu", "--dashboard", "0") as server, ExitStack() as stack:
        url = re.search(r"^dashboard: (http://127.0.0.1:\d+/)$", server.said, re.MULTILINE)[1]
        address = "127.0.0.1", int(url.rstrip("/").rpartition(":")[2])
        for _ in range(3):
            events = stack.enter_context(urllib.request.urlopen(f"{url}events", timeout=DEADLINE))
            events.readline()
            silent = stack.enter_context(socket.create_connection(address, DEADLINE))
            silent.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")  # reads nothing
            begun = stack.enter_context(socket.create_connection(address, DEADLINE))
            begun.sendall(b"GET / HT")
        server.process.send_signal(signal.SIGTERM)
        assert "stopped" in ended(server.process)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        *(
            (["--memory", value], "positive size such as")
            for value in ("0", "nan", "inf", "1e30", "6 cats")
        ),
        (["--patience", "-1"], "0 s or more"),
        (["--silence", "0"], "--silence 0: a positive number of seconds"),
        (["--silence", "nan"], "--silence nan"),
        (["--contended", "-1"], "--contended -1: a positive number of seconds"),
        (["--grace", "-1"], "--grace -1: 0 s or more"),
        (["--device", "cuda:77"], "cuda:77"),
        (["--allow-folder", "/no/such/folder"], "it is not a folder of this machine"),
        (["--allow-push", "PACS"], "--allow-push: destination 'PACS': AE@host:port"),
        (["--status-port", "99999999"], "--status-port 99999999: a number from 0 to 65535"),
        (["--status-port", "0", "--status-address", "no.such.host.invalid"], "--status-address"),
        *(
            (["--dashboard", value], "PORT or ADDRESS:PORT is expected for --dashboard")
            for value in ("", "here", "65536", "-1", "1.5", "a:b", "[x]:1", "127.0.0.1:")
        ),
        (["--dashboard", "no.such.host.invalid:0"], "choose another --dashboard"),
        (["--address", "no.such.host.invalid"], "cannot listen on"),
        (["--port", "99999999"], "0 to 65535"),
    ],
)
def test_wrong_options_are_refused(capsys, more, words):
    assert main(["serve", "--port", "0", *more]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("command", ["serve", "worker"])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], []),
        (["--patience", "5"], ["--contended 10", "the 5 s for which a scan waits for memory"]),
        (["--patience", "0"], ["--contended 10", "the 0 s for which a scan waits for memory"]),
        (["--patience", "5", "--contended", "4"], []),
        (
            ["--patience", "60", "--contended", "30"],
            ["--contended 30", "the 20 s for which a connection waits for a place"],
        ),
    ],
)
def test_deadlines_that_never_act_are_told_at_the_start(caplog, capsys, command, options, words):
    assert main([command, "--port", "99999999", *options]) == 2  # it does not start
    warnings = [r.getMessage() for r in caplog.records if "--contended" in r.getMessage()]
    assert len(warnings) == bool(words)
    assert all(word in warnings[0] for word in words)


def test_a_scan_of_the_real_gadgets_is_refused_in_words_and_sigterm_ends_the_server(
    started, tmp_path, capsys
):
    scan = write_scan(tmp_path / "scan.h5", header(angles="10 20"))
    process, port = started("serve")
    server = f"127.0.0.1:{port}"
    assert main(["replay", str(scan), "--server", server, "-o", str(tmp_path / "maps")]) == 2
    assert "frame" in capsys.readouterr().err
    process.send_signal(signal.SIGTERM)
    assert "stopped" in ended(process)

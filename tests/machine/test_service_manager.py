import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from argparse import Namespace
from contextlib import nullcontext
from pathlib import Path

import pytest
from helpers.live import own_server
from helpers.waiting import DEADLINE

from mri2qmap.cli import serving
from mri2qmap.cli.main import build_parser
from mri2qmap.hosts import listener as listener_module
from mri2qmap.hosts.listener import Listener
from mri2qmap.machine import service_manager
from mri2qmap.machine.service_manager import ALIVE, READY, STOPPING, ServiceManager

UNITS = sorted((Path(__file__).parents[2] / "systemd").glob("*.service"))


@pytest.fixture
def manager(tmp_path, monkeypatch):
    """Socket of a service manager."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(DEADLINE)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
            monkeypatch.delenv(name, raising=False)
        yield receiver


def test_states_are_sent(manager):
    ServiceManager().tell(READY)
    assert manager.recv(100) == b"READY=1"


def test_an_abstract_socket(monkeypatch):
    name = f"mri2qmap-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0{name}")
        receiver.settimeout(DEADLINE)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        ServiceManager().tell(STOPPING)
        assert receiver.recv(100) == b"STOPPING=1"


@pytest.mark.parametrize("path", ["", "/no/socket", "relative", "@nobody-listens"])
def test_without_a_manager_nothing_happens(monkeypatch, path):
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    ServiceManager().tell(READY)


@pytest.mark.parametrize(
    ("values", "interval"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_interval_of_the_watchdog(manager, monkeypatch, values, interval):
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    assert ServiceManager().interval == interval


def test_the_watchdog_hears_three_times_an_interval(manager, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    now = [1000.0]
    monkeypatch.setattr(service_manager.time, "monotonic", lambda: now[0])
    found, told = ServiceManager(), []
    monkeypatch.setattr(found, "tell", lambda state: told.append((now[0], state)))
    for _ in range(60):
        found.alive()
        now[0] += 1
    assert told == [(1000.0 + 10 * n, ALIVE) for n in range(6)]


def test_a_server_tells_its_manager(manager, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "300000")
    with own_server("serve", "--memory", "1") as server:
        assert manager.recv(100) == b"READY=1"
        assert {manager.recv(100) for _ in range(3)} == {b"WATCHDOG=1"}
        server.process.send_signal(signal.SIGTERM)
        said = manager.recv(100)
        while said == b"WATCHDOG=1":
            said = manager.recv(100)
        assert said == b"STOPPING=1"
        assert server.process.wait(DEADLINE) == 0


def test_a_listener_that_is_stuck_does_not_respond(monkeypatch):
    listener = Listener("127.0.0.1", 0, lambda peer: None)
    assert listener.responds
    monkeypatch.setattr(listener_module, "STUCK", 0.0)
    assert not listener.responds
    listener.stop()
    assert listener.responds  # it is not to accept any more


def test_a_fault_does_not_make_a_listener_deaf(monkeypatch, caplog):
    listener = Listener("127.0.0.1", 0, lambda peer: None)
    turn, faults = listener._reception.turn, [ValueError("a fault")]

    def faulty(timeout):
        if faults:
            raise faults.pop()
        turn(timeout)

    monkeypatch.setattr(listener._reception, "turn", faulty)
    listener.start()
    with socket.create_connection(("127.0.0.1", listener.port), DEADLINE) as connection:
        connection.sendall(b"\x04\x00")
        connection.settimeout(DEADLINE)
        assert connection.recv(2) == b"\x04\x00"
    listener.stop()
    assert listener.wait(DEADLINE)
    assert "a fault" in caplog.text


def ended_listening(monkeypatch, listener, grace=1.0):
    """Exit code of a service whose listener is stuck."""
    monkeypatch.setattr(listener_module, "STUCK", 0.0)
    monkeypatch.setattr(serving, "DEAF", 0.2)
    monkeypatch.setattr(listener, "start", lambda: None)
    args = Namespace(grace=grace, address="127.0.0.1")
    return serving.listen_until_told(args, "mri2qmap serve", listener, nullcontext())


def test_a_service_that_stays_deaf_ends(monkeypatch, caplog):
    """A container engine does not start a container again that is unhealthy."""
    listener = Listener("127.0.0.1", 0, lambda peer: None)
    assert ended_listening(monkeypatch, listener) == serving.NOT_LISTENING
    assert "no connections are accepted" in caplog.text


def test_a_service_ends_though_its_listener_holds_a_lock(monkeypatch):
    listener = Listener("127.0.0.1", 0, lambda peer: None)
    held, ended = threading.Event(), threading.Event()

    def end(code):
        assert code == serving.NOT_LISTENING
        ended.set()
        held.set()

    for name in ("LAST_WORDS", "LAST_ANSWER"):
        monkeypatch.setattr(serving, name, 0.1)
    monkeypatch.setattr(serving.os, "_exit", end)
    stop = listener.stop
    monkeypatch.setattr(listener, "stop", lambda: (held.wait(DEADLINE), stop()))
    ended_listening(monkeypatch, listener, grace=0.1)
    assert ended.is_set()


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
class TestUnits:
    def test_the_commands_are_known(self, unit):
        commands = re.findall(r"^Exec\w+=\S+/mri2qmap (.*)$", unit.read_text(), re.MULTILINE)
        assert [build_parser().parse_args(words.split()).subcommand for words in commands] == [
            "doctor",
            unit.stem.removeprefix("mri2qmap-"),
        ]

    def test_units_that_share_a_folder_are_one_user(self, unit):
        # systemd gives the folder to the user of the unit that was started last
        assert re.findall(r"^(?:User|StateDirectory)=(.*)$", unit.read_text(), re.MULTILINE) == [
            "mri2qmap",
            "mri2qmap",
        ]

    def test_running_scans_may_finish(self, unit):
        from mri2qmap.hosts.deadlines import DEFAULT_DEADLINES

        (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)$", unit.read_text(), re.MULTILINE)
        assert int(seconds) > DEFAULT_DEADLINES.grace + 20

    def test_systemd_reads_it(self, unit, tmp_path):
        tool = shutil.which("systemd-analyze")
        if tool is None:
            pytest.skip("systemd-analyze is not installed")
        # the program is not installed where the unit expects it
        text = unit.read_text().replace("/opt/mri2qmap/bin/mri2qmap", "/bin/true")
        path = tmp_path / unit.name
        path.write_text(text)
        done = subprocess.run([tool, "verify", path], capture_output=True, text=True, check=False)
        assert unit.name not in done.stdout + done.stderr


def test_there_are_units():
    assert len(UNITS) == 2

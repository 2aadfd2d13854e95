"""Messages within a scan that its maps do not need: they are few, paced, and no progress."""

import contextlib
import itertools
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ismrmrd
import numpy as np
import pytest
from helpers.good_peers import FIRST, FOR_ONE, NODE, check_nodes, check_scan
from helpers.hostile_peers import beside, connected, remaining
from helpers.live import CLOSE, DEADLINE, data, dial, receive_all, running_worker, scan_server
from helpers.scans import acquisitions, expected_sum, noise_scan, readout
from helpers.server_side import message as item_bytes
from helpers.waiting import eventually

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts import inbox as inbox_module
from mri2qmap.hosts import message_pacing, worker_node
from mri2qmap.hosts.deadlines import Deadlines
from mri2qmap.hosts.inbox import Inbox
from mri2qmap.hosts.message_pacing import FEW, UNPACED, UnusedMessages
from mri2qmap.hosts.message_socket import MessageSocket
from mri2qmap.hosts.protocol import Message
from mri2qmap.pipeline.memory_budget import MemoryBudget

pytestmark = pytest.mark.usefixtures("fake_gadgets")


def waveform() -> ismrmrd.Waveform:
    return ismrmrd.Waveform.from_array(np.zeros((1, 1), np.uint32))


def changed(samples: int = 1, **fields: int) -> ismrmrd.Acquisition:
    head = readout(0, 0).getHead()
    for name, value in fields.items():
        setattr(head, name, value)
    acquisition = ismrmrd.Acquisition(head)
    acquisition.resize(samples, 1, 0)
    return acquisition


UNUSED: dict[str, Callable[[], Message]] = {
    "waveform": waveform,
    "other encoding": lambda: changed(encoding_space_ref=3),
    "navigator": lambda: changed(flags=1 << (ismrmrd.ACQ_IS_NAVIGATION_DATA - 1)),
}
each_kind = pytest.mark.parametrize("kind", UNUSED)


@contextmanager
def useless(port: int, first: bytes, kind: str) -> Iterator[socket.socket]:
    """Begins a scan, and then sends only what its maps do not need."""
    left, unit = threading.Event(), item_bytes(UNUSED[kind]())

    def send(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while not left.wait(0.02):
                connection.sendall(5 * unit)

    with connected(port) as connection:
        connection.sendall(first + item_bytes(acquisitions()[0]))
        with beside(send, connection, left):
            yield connection


@each_kind
def test_they_do_not_prolong_a_scan(kind):
    with (
        scan_server(deadlines=Deadlines(silence=0.6, error=0.3, linger=0.2)) as listener,
        useless(listener.port, FIRST, kind) as connection,
    ):
        assert b"no data came for 0.6 s" in remaining(connection)


@each_kind
def test_they_do_not_prolong_the_scan_of_a_node(kind, monkeypatch):
    """The node passes waveforms on, which is no progress either."""
    monkeypatch.setattr(worker_node, "GATHERING", 0.05)
    with (
        running_worker(deadlines=Deadlines(silence=0.6, error=0.3)) as (worker, _),
        useless(worker.port, NODE, kind) as connection,
    ):
        eventually(lambda: len(worker) == 1, "it is not connected")
        connection.settimeout(DEADLINE)
        assert b"no data came for 0.6 s" in remaining(connection)


CONTENDED = Deadlines(contended=0.5, place=DEADLINE)


@each_kind
def test_they_do_not_keep_memory_from_one_that_waits(kind):
    budget = MemoryBudget(FOR_ONE, patience=DEADLINE)
    with (
        scan_server(budget, CONTENDED) as listener,
        useless(listener.port, FIRST, kind) as connection,
    ):
        eventually(lambda: budget.reserved > 0, "it holds no memory")
        check_scan(listener)
        assert b"hardly any data came for 0.5 s" in remaining(connection)


@each_kind
def test_they_do_not_keep_the_memory_of_a_node(kind, monkeypatch):
    monkeypatch.setattr(worker_node, "GATHERING", 0.05)
    budget = MemoryBudget(FOR_ONE, patience=DEADLINE)
    with (
        running_worker(budget, CONTENDED) as (worker, _),
        useless(worker.port, NODE, kind),
    ):
        eventually(lambda: budget.reserved > 0, "it holds no memory")
        check_nodes(worker)


@each_kind
def test_a_scan_may_have_some_but_not_any_number(kind, monkeypatch):
    monkeypatch.setattr(message_pacing, "MOST_UNUSED", 4)
    unit = item_bytes(UNUSED[kind]())
    with scan_server() as listener, dial(listener) as good, dial(listener) as bad:
        good.sendall(FIRST + 2 * unit + data() + 2 * unit + CLOSE)
        (image,) = (m for m in receive_all(good) if isinstance(m, ismrmrd.Image))
        assert image.data[0, 0, 0, 0] == pytest.approx(expected_sum(2), rel=1e-5)
        bad.sendall(FIRST + 2 * unit + data() + 3 * unit)
        assert b"more than 4 messages arrived" in remaining(bad)


def test_noise_scans_without_end_are_of_no_use(monkeypatch):
    monkeypatch.setattr(message_pacing, "MOST_UNUSED", 4)
    monkeypatch.setattr(inbox_module, "UNPACED", 3)
    with scan_server() as listener, dial(listener) as bad:
        bad.sendall(FIRST + 8 * item_bytes(noise_scan()))
        assert b"more than 4 messages arrived" in remaining(bad)


@each_kind
def test_long_ones_do_not_count_as_data(kind):
    """Neither their parts do, nor those of what is between them, such as identifiers."""
    long = changed(2**15, encoding_space_ref=3) if kind == "other encoding" else UNUSED[kind]()
    theirs, ours = socket.socketpair()
    with theirs:
        peer, credits = MessageSocket(ours), []
        peer.data_come = lambda: credits.append(1)
        peer.uses = lambda header: not (header.encoding_space_ref or header.flags)
        before = peer.useful_progress
        sender = threading.Thread(target=theirs.sendall, args=(2000 * item_bytes(UNUSED[kind]()),))
        sender.start()
        for _ in range(2000):
            peer.receive(DEADLINE)
        sender.join(DEADLINE)
        sender = threading.Thread(target=theirs.sendall, args=(item_bytes(long),))
        sender.start()
        peer.receive(DEADLINE)
        sender.join(DEADLINE)
        assert (peer.useful_progress, credits) == (before, [])
        assert peer.progress > before
        theirs.sendall(item_bytes(changed()))
        peer.receive(DEADLINE)
        assert peer.useful_progress > before
        peer.drop()


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(message_pacing, "time", made)
    return made


def of_others(number: int) -> list[UnusedMessages]:
    others = [UnusedMessages() for _ in range(number)]
    for other in others:
        for _ in range(UNPACED + 1):
            other.pause_after_one()
    return others


@pytest.mark.parametrize(("others", "rate"), [(0, 2000), (4, 400), (19, 100), (39, 50), (60, 50)])
def test_connections_share_a_rate(clock, others, rate):
    crowd, one = of_others(others), UnusedMessages()
    start = clock.now
    for _ in range(UNPACED if not others else FEW):
        one.pause_after_one()
    assert clock.now == start
    for _ in range(UNPACED):
        one.pause_after_one()
    start, number = clock.now, 40 * rate
    for _ in range(number):
        one.pause_after_one()
    assert number / (clock.now - start) == pytest.approx(rate, rel=0.12)  # 2 s are saved
    for other in (*crowd, one):
        other.end()
    assert message_pacing._SENDING_UNUSED.number == 0


def test_many_that_begin_together_do_not_each_have_the_unpaced_ones(clock):
    """The first ones of many connections would otherwise keep all scans waiting."""
    crowd = [UnusedMessages() for _ in range(50)]
    sent = 0
    while clock.now == 1000.0:
        crowd[sent % 50].pause_after_one()
        sent += 1
    assert sent < 3 * UNPACED
    for messages in crowd:
        messages.end()


def test_five_scans_with_an_ecg_are_not_slowed(clock):
    crowd, one = of_others(4), UnusedMessages()
    for number in itertools.count():
        clock.now = start = 1000.0 + number / 400
        one.pause_after_one()
        assert clock.now == start
        if number > 10 * UNPACED:
            break
    for other in (*crowd, one):
        other.end()


def test_one_that_ends_leaves_the_rate_to_others(clock):
    ended, one = UnusedMessages(), UnusedMessages()
    for messages in (ended, one):
        for _ in range(UNPACED + 1):
            messages.pause_after_one()
    assert message_pacing._SENDING_UNUSED.number == 2
    ended.end()
    assert message_pacing._SENDING_UNUSED.number == 1
    one.end()


@pytest.mark.parametrize("end", [CLOSE, b"", b"\xff\xff"])
def test_an_inbox_leaves_the_rate_however_it_ends(end, monkeypatch):
    monkeypatch.setattr(message_pacing, "FEW", 3)
    theirs, ours = socket.socketpair()
    peer = MessageSocket(ours)
    with theirs:
        messages = Inbox(peer)
        theirs.sendall(5 * item_bytes(waveform()))
        eventually(lambda: message_pacing._SENDING_UNUSED.number == 1, "it is not counted")
        theirs.sendall(end)
        if not end:
            theirs.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(ConnectionError, Mri2QmapError):
            assert len(list(messages)) == 5
        assert message_pacing._SENDING_UNUSED.number == 0
        peer.drop()


def test_a_computation_that_waits_for_its_peer_to_read_is_not_silent():
    """A node that passes a waveform on waits for the server, not for data."""
    theirs, ours = socket.socketpair()
    peer = MessageSocket(ours)
    with theirs:
        messages = Inbox(peer)
        theirs.sendall(item_bytes(waveform()))
        next(iter(messages))
        assert messages.quiet_since() is not None
        peer.blocked = True
        assert messages.quiet_since() is None
        peer.drop()


def test_a_node_that_has_no_gadget_yet_needs_no_torch():
    """Nodes tell the server that they live before they import what takes seconds."""
    imports = "import sys, mri2qmap.hosts.external_node, mri2qmap.hosts.inbox"
    code = f"{imports}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

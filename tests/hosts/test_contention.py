"""Scans that pause while others wait for the memory or the places that they hold."""

import contextlib
import dataclasses
import select
import socket
import threading
import time
from contextlib import ExitStack

import ismrmrd
import numpy as np
import pytest
from helpers.chain_server import Chain
from helpers.chains import connect_node, pipeline, scan_through, total, two_nodes
from helpers.good_peers import FIRST, FOR_ONE, NODE, check_nodes, check_scan
from helpers.hostile_peers import (
    beside,
    connected,
    drip,
    idle_after_header,
    idle_within_scan,
    remaining,
)
from helpers.live import (
    CLOSE,
    DEADLINE,
    counted,
    data,
    dial,
    opening,
    receive_all,
    running_worker,
    scan_server,
)
from helpers.scans import acquisitions, expected_sum, header
from helpers.server_side import configuration
from helpers.server_side import message as item_bytes
from helpers.waiting import eventually

from mri2qmap.hosts import connection_bounds, peer_watch, worker_node
from mri2qmap.hosts.activity import DATA_CREDIT, Activity
from mri2qmap.hosts.deadlines import Deadlines
from mri2qmap.hosts.message_socket import MessageSocket
from mri2qmap.hosts.protocol import Text
from mri2qmap.pipeline.memory_budget import MemoryBudget

pytestmark = pytest.mark.usefixtures("fake_gadgets")

SHORT = Deadlines(contended=0.5, place=DEADLINE)
GIVEN_UP = b"hardly any data came for 0.5 s while others waited"


def holds_memory(budget: MemoryBudget):
    return lambda: budget.reserved > 0


@pytest.mark.parametrize("peer", [idle_within_scan, drip])
def test_a_scan_that_pauses_gives_its_memory_to_one_that_waits(peer):
    budget = MemoryBudget(FOR_ONE, patience=DEADLINE)
    with scan_server(budget, SHORT) as listener, peer(listener.port, FIRST) as connection:
        eventually(holds_memory(budget), "it holds no memory")
        time.sleep(2 * SHORT.contended)  # it may pause while nobody waits
        assert budget.reserved
        check_scan(listener)
        assert GIVEN_UP in remaining(connection)


@pytest.mark.parametrize("peer", [idle_within_scan, drip])
def test_a_node_that_pauses_gives_its_memory_to_one_that_waits(peer, monkeypatch):
    monkeypatch.setattr(worker_node, "GATHERING", 0.05)
    budget = MemoryBudget(FOR_ONE, patience=DEADLINE)
    with running_worker(budget, SHORT) as (worker, _), peer(worker.port, NODE) as connection:
        eventually(holds_memory(budget), "it holds no memory")
        check_nodes(worker)
        connection.sendall(CLOSE)
        assert GIVEN_UP in remaining(connection)


def test_a_scan_that_is_computed_for_long_gives_its_memory_to_one_that_waits(endless_maps):
    budget = MemoryBudget(FOR_ONE, patience=DEADLINE)
    deadlines = Deadlines(computing=0.3, place=DEADLINE)
    with scan_server(budget, deadlines) as listener, dial(listener) as long:
        long.sendall(FIRST + data() + CLOSE)
        assert endless_maps.started.wait(DEADLINE)
        time.sleep(3 * deadlines.computing)  # it may go on while nobody waits
        assert not endless_maps.ended.is_set()
        with dial(listener) as other:
            other.sendall(FIRST + data() + CLOSE)
            assert b"computed for more than 0.3 s, and another scan" in remaining(long)
            eventually(lambda: budget.reserved > 0 and not budget.waiting, "it waits for ever")


def test_a_scan_in_real_time_keeps_its_memory():
    """Its pauses are short, but together longer than what a silent scan may wait."""
    deadlines = dataclasses.replace(SHORT, contended=0.3)
    budget = MemoryBudget(FOR_ONE, patience=DEADLINE)
    with scan_server(budget, deadlines) as listener, dial(listener) as connection:
        connection.sendall(FIRST)
        sent, waiting = acquisitions(), threading.Thread(target=check_scan, args=(listener,))
        connection.sendall(item_bytes(sent[0]))
        eventually(holds_memory(budget), "it holds no memory")
        waiting.start()
        eventually(lambda: budget.waiting == 1, "the other does not wait")
        for acquisition in sent[1:]:
            time.sleep(0.5 * DATA_CREDIT)
            connection.sendall(item_bytes(acquisition))
        connection.sendall(CLOSE)
        (image,) = (m for m in receive_all(connection) if isinstance(m, ismrmrd.Image))
        waiting.join(DEADLINE)
    assert image.data[0, 0, 0, 0] == pytest.approx(expected_sum(2), rel=1e-5)


def test_scans_that_pause_give_their_places_to_those_that_wait(monkeypatch):
    monkeypatch.setattr(connection_bounds, "MOST_OF_ONE_ADDRESS", 3)
    with scan_server(deadlines=SHORT) as listener, ExitStack() as peers:
        for _ in range(3):
            peers.enter_context(idle_within_scan(listener.port, FIRST))
        eventually(
            lambda: all(s.peer.activity.started.is_set() for s in listener._all()), "no data came"
        )
        check_scan(listener)


@pytest.mark.parametrize("scans", [1, 2])
def test_an_address_with_several_scans_has_less_patience(monkeypatch, scans):
    """If one without any waits; a single scan may pause for longer."""
    monkeypatch.setattr(peer_watch, "CROWDING", 0.3)
    budget = MemoryBudget(scans * FOR_ONE, patience=DEADLINE)
    deadlines = Deadlines(contended=1.0 if scans == 1 else DEADLINE)
    with scan_server(budget, deadlines) as listener, ExitStack() as peers:
        pausing = []
        for number in range(scans):
            pausing.append(peers.enter_context(idle_within_scan(listener.port, FIRST)))
            held = number * FOR_ONE
            eventually(lambda held=held: budget.reserved > held, "it holds no memory")
        check_scan(listener, "127.0.0.2")
        ended = next(c for c in pausing if select.select([c], [], [], 0.5)[0])
        seconds = b"1 s" if scans == 1 else b"0.3 s"
        assert b"hardly any data came for " + seconds in remaining(ended)


def test_many_waiting_scans_of_one_address_do_not_keep_out_another():
    budget = MemoryBudget(FOR_ONE, patience=DEADLINE)
    deadlines = Deadlines(contended=DEADLINE)
    with scan_server(budget, deadlines) as listener, ExitStack() as peers:
        begun = FIRST + item_bytes(acquisitions()[0])
        of_one = []
        for number in range(12):
            of_one.append(peers.enter_context(idle_after_header(listener.port, begun)))
            eventually(holds_memory(budget), "it holds no memory")
            eventually(lambda n=number: budget.waiting == n, "it does not wait")
        other = threading.Thread(target=check_scan, args=(listener, "127.0.0.2"), daemon=True)
        other.start()
        eventually(lambda: budget.waiting == 12, "it does not wait")
        of_one[0].close()  # it holds the memory; then it is the turn of the next
        eventually(lambda: budget.waiting == 11, "its memory is not free")
        of_one[1].close()
        other.join(DEADLINE)
        assert not other.is_alive()
        assert budget.waiting >= 9  # the other scans of the address wait, but for one


def test_nodes_of_two_servers_take_turns(monkeypatch):
    monkeypatch.setattr(worker_node, "GATHERING", 0.05)
    budget = MemoryBudget(FOR_ONE, patience=DEADLINE)
    with running_worker(budget) as (worker, _), ExitStack() as peers:
        for number, host in enumerate(("127.0.0.1", "127.0.0.1", "127.0.0.1", "127.0.0.2")):
            place = "127.0.0.1", worker.port
            node = peers.enter_context(socket.create_connection(place, DEADLINE, (host, 0)))
            node.sendall(NODE + item_bytes(acquisitions()[0]))
            eventually(holds_memory(budget), "it holds no memory")
            eventually(lambda n=number: budget.waiting == n, "it does not wait")
        hosts = [ticket.requester for ticket in budget._queue]
    assert hosts == ["127.0.0.2", "127.0.0.1", "127.0.0.1"]  # who holds none goes first


def test_headers_alone_are_silent_at_the_worker():
    """The later nodes wait for the memory of a session whose first node waits for data."""
    deadlines = Deadlines(silence=0.5)
    first = connect_node("coil_sensitivity", transport="reference")
    nodes = pipeline(first, connect_node("parametric_maps"))
    with running_worker(deadlines=deadlines) as (worker, _):
        chain = Chain(worker, nodes, header())
        eventually(
            lambda: any("no data came for 0.5 s" in text for text in chain.errors),
            "it does not end",
        )
        chain.hang_up()


def test_a_twin_that_sends_does_not_hide_that_a_scan_is_silent(monkeypatch):
    """Two scans of one protocol have the same header."""
    monkeypatch.setattr(worker_node, "GATHERING", 0.05)
    deadlines = Deadlines(silence=0.5)
    with running_worker(deadlines=deadlines) as (worker, _):
        with idle_within_scan(worker.port, NODE) as silent, connected(worker.port) as live:
            live.sendall(NODE)
            for acquisition in acquisitions():
                live.sendall(item_bytes(acquisition))
                time.sleep(0.1)
            live.sendall(CLOSE)
            silent.sendall(CLOSE)
            assert b"no data came for 0.5 s" in remaining(silent)
            assert b"no data came" not in remaining(live)


def test_pauses_are_added_up_only_while_others_wait(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    activity = Activity()
    since: list[float | None] = [now[0]]
    activity.join(lambda: since[0])

    def after(seconds: float, contended: bool = True) -> float:
        now[0] += seconds
        return activity.waited(contended)

    assert after(50, contended=False) == 0  # nobody waited
    assert after(1) == pytest.approx(1)
    since[0] = now[0] + 0.5  # a message came
    activity.data_came()
    assert after(1) == pytest.approx(2 - DATA_CREDIT)
    activity.data_came(counts=False)  # a message that the scan does not need
    assert after(1) == pytest.approx(3 - DATA_CREDIT)
    since[0] = None  # it computes
    assert after(10) == pytest.approx(3 - DATA_CREDIT)
    assert after(1, contended=False) == 0
    for _ in range(100):
        activity.data_came()
    since[0] = now[0]
    assert after(0.25) == pytest.approx(0.25)  # no credit in advance


@pytest.mark.parametrize("reads", [0, 2048])
def test_texts_do_not_excuse_a_peer_that_hardly_reads_while_others_wait(reads):
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**14)
    left = threading.Event()
    peer = MessageSocket(ours, deadlines=SHORT)

    def talk() -> None:
        with contextlib.suppress(ConnectionError):  # it is given up before `left` is set
            while not left.wait(0.1):
                theirs.sendall(counted(5, b"still here"))
                theirs.recv(reads) if reads else None

    def listen() -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                peer.receive()

    threads = [threading.Thread(target=work, daemon=True) for work in (talk, listen)]
    for thread in threads:
        thread.start()
    waiting = threading.Timer(2 * SHORT.contended, setattr, (peer, "needed", lambda holds: True))
    waiting.start()
    start = time.monotonic()
    with pytest.raises(ConnectionError, match="it has read"):
        peer.send(Text("x" * 2**22))
    assert waiting.finished.is_set()  # nobody waited before
    assert time.monotonic() - start < DEADLINE / 2
    left.set()
    peer.drop()
    for thread in threads:
        thread.join(DEADLINE)
    theirs.close()


class Shares(MemoryBudget):
    """Knows what has been reserved."""

    def __init__(self, total: int, patience: float) -> None:
        super().__init__(total, patience)
        self.sizes: list[int] = []

    def share(self, size, *arguments, **options):
        self.sizes.append(size)
        return super().share(size, *arguments, **options)


@pytest.mark.parametrize("trickles", [False, True])
def test_a_node_that_holds_received_bytes_gives_them_to_a_scan_that_waits(trickles):
    """Its first message is large, so it has not joined a session yet."""
    budget = Shares(FOR_ONE, patience=DEADLINE)

    def check_both_nodes() -> None:
        """They join before memory is planned, so each scan needs the same."""
        found = total(scan_through(worker, two_nodes(transport="reference")))
        assert found == pytest.approx(expected_sum(2), rel=1e-5)

    image = item_bytes(ismrmrd.Image(data=np.zeros((1, 32, 256, 512), np.float32)))
    first = opening(configuration(gadget="parametric_maps"), header())  # that of the others
    with running_worker(budget, SHORT) as (worker, _), connected(worker.port) as connection:
        check_both_nodes()
        (size,) = budget.sizes
        budget.total = size + 2**21
        connection.sendall(first + image[: 2**23])
        eventually(lambda: budget.received > 2**21, "it holds nothing")
        left = threading.Event()

        def trickle(connection: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while trickles and not left.wait(0.3):
                    connection.sendall(bytes(2**16))

        with beside(trickle, connection, left):
            check_both_nodes()
        assert budget.received == 0


def test_messages_that_a_scan_does_not_need_earn_no_time():
    """Navigators and noise scans without end, and images that are no items."""
    budget = MemoryBudget(FOR_ONE, patience=DEADLINE)
    with scan_server(budget, SHORT) as listener, connected(listener.port) as connection:
        noise = acquisitions()[0]
        noise.setFlag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
        connection.sendall(FIRST + item_bytes(noise))
        eventually(holds_memory(budget), "it holds no memory")
        left = threading.Event()

        def send(connection: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while not left.wait(DATA_CREDIT / 4):
                    connection.sendall(item_bytes(noise))

        with beside(send, connection, left):
            check_scan(listener)

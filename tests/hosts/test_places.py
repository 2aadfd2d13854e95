"""Places at a server are fair by address, and follow what the system allows."""

import errno
import socket
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass

import ismrmrd
import pytest
from helpers.good_peers import FIRST, PIPELINE, check_scan
from helpers.hostile_peers import crowd, remaining, silent
from helpers.live import CLOSE, DEADLINE, PLENTY, counted, data, dial, receive_all, scan_server
from helpers.scans import acquisitions
from helpers.server_side import message as item_bytes
from helpers.waiting import eventually

from mri2qmap.hosts import connection_bounds, places, server
from mri2qmap.hosts import listener as listener_module
from mri2qmap.hosts.connection_bounds import ConnectionBounds
from mri2qmap.hosts.deadlines import Deadlines
from mri2qmap.hosts.listener import Listener
from mri2qmap.hosts.waiting_line import fair_order
from mri2qmap.machine.cancellation import raise_if_cancelled
from mri2qmap.pipeline.memory_budget import MemoryBudget
from mri2qmap.pipeline.scan_log import peer_host

pytestmark = pytest.mark.usefixtures("fake_gadgets")

MANY, FEW, NONE = "127.0.0.2", "127.0.0.3", "127.0.0.4"
PATIENT = Deadlines(contended=10 * DEADLINE, place=10 * DEADLINE)
"""Nothing ends by a deadline within a test."""
BEGUN = FIRST + item_bytes(acquisitions()[0])


def few_places(monkeypatch, count: int) -> None:
    monkeypatch.setattr(connection_bounds, "MOST_CONNECTIONS", count)


def served_from(listener: Listener) -> Counter[str]:
    return listener._held()


def begin(peers: ExitStack, listener: Listener, host: str, sent: bytes = BEGUN) -> socket.socket:
    """Connect, and wait until the connection has a place and has sent data."""
    before = len(listener)
    connection = peers.enter_context(dial(listener, host))
    connection.sendall(sent)
    eventually(
        lambda: (
            len(listener) == before + 1
            and all(one.peer.activity.started.is_set() for one in listener._all())
        ),
        "it has no place",
    )
    return connection


def wait_in_line(
    peers: ExitStack, listener: Listener, host: str, sent: bytes = FIRST + data() + CLOSE
) -> socket.socket:
    """Connect, and wait until the connection waits for a place."""
    before = listener._reception.waiting
    connection = peers.enter_context(dial(listener, host))
    connection.sendall(sent)
    eventually(lambda: listener._reception.waiting == before + 1, "it does not wait")
    return connection


def told(connection: socket.socket) -> str:
    return remaining(connection).decode(errors="replace")


def is_served(connection: socket.socket) -> bool:
    return any(isinstance(m, ismrmrd.Image) for m in receive_all(connection))


def test_a_scan_that_pauses_gives_its_place_to_an_address_that_has_none(monkeypatch):
    """It is one of the address that has most, although that of the other one began earlier."""
    few_places(monkeypatch, 4)
    monkeypatch.setattr(places, "PAUSE", 0.05)
    with scan_server(deadlines=PATIENT) as listener, ExitStack() as peers:
        begin(peers, listener, FEW)
        many = [begin(peers, listener, MANY) for _ in range(3)]
        check_scan(listener, NONE)
        assert served_from(listener)[FEW] == 1
        assert served_from(listener)[MANY] == 2
        assert "no data of the scan came, and its place was needed" in told(many[0])


def test_a_scan_that_waits_for_memory_gives_its_place_to_an_address_that_has_none(monkeypatch):
    """The one that has waited for the shortest time."""
    few_places(monkeypatch, 4)
    budget = MemoryBudget(PLENTY, patience=10 * DEADLINE)
    with scan_server(budget, PATIENT) as listener, ExitStack() as peers:
        with budget.share(PLENTY, "another scan"):
            begin(peers, listener, FEW)
            many = [begin(peers, listener, MANY) for _ in range(3)]
            eventually(lambda: budget.waiting == 4, "they do not wait")
            good = peers.enter_context(dial(listener, NONE))
            good.sendall(FIRST + data() + CLOSE)
            eventually(lambda: served_from(listener)[NONE] == 1, "it gets no place")
            assert served_from(listener) == {FEW: 1, MANY: 2, NONE: 1}
            assert "the scan waited for memory, and its place was needed" in told(many[2])
        assert is_served(good)


def test_a_scan_of_an_address_with_as_few_places_keeps_its_place(monkeypatch):
    few_places(monkeypatch, 2)
    monkeypatch.setattr(places, "PAUSE", 0.05)
    deadlines = Deadlines(contended=10 * DEADLINE, place=0.5)
    with scan_server(deadlines=deadlines) as listener, ExitStack() as peers:
        for host in (MANY, FEW):
            begin(peers, listener, host)
        late = peers.enter_context(dial(listener, NONE))
        late.sendall(FIRST + data() + CLOSE)
        assert "all 2 places are in use: try again later" in told(late)
        assert served_from(listener) == {MANY: 1, FEW: 1}


def test_scans_that_compute_keep_their_places(monkeypatch, endless_maps):
    few_places(monkeypatch, 2)
    monkeypatch.setattr(places, "PAUSE", 0.05)
    deadlines = Deadlines(contended=0.1, place=0.5)
    with scan_server(deadlines=deadlines) as listener, ExitStack() as peers:
        for _ in range(2):
            begin(peers, listener, MANY, FIRST + data() + CLOSE)
        assert endless_maps.started.wait(DEADLINE)
        eventually(
            lambda: all(one.peer.activity.quiet_since() is None for one in listener._all()),
            "they do not compute",
        )
        late = peers.enter_context(dial(listener, NONE))
        late.sendall(FIRST + data() + CLOSE)
        assert "all 2 places are in use: try again later" in told(late)
        assert served_from(listener) == {MANY: 2}
        assert not endless_maps.ended.is_set()


def test_those_who_hold_no_place_are_served_first(monkeypatch):
    few_places(monkeypatch, 2)
    with scan_server(deadlines=PATIENT) as listener, ExitStack() as peers:
        busy = [begin(peers, listener, host) for host in (MANY, FEW)]
        many = [wait_in_line(peers, listener, MANY) for _ in range(3)]
        good = wait_in_line(peers, listener, NONE, BEGUN)  # keeps its place
        busy[1].close()
        eventually(lambda: served_from(listener)[NONE] == 1, "others are served before it")
        assert listener._reception.waiting == 3
        good.close()
        assert all(map(is_served, many))


@dataclass
class Waits:
    host: str
    complete: float


def test_the_line_is_fair_by_address():
    line = [Waits(host, moment) for moment, host in enumerate("aaabac")]
    order = fair_order(reversed(line), {"b": 1, "d": 7})
    assert [(one.host, one.complete) for one in order] == [
        *(("a", 0), ("c", 5)),
        *(("a", 1), ("b", 3)),
        *(("a", 2), ("a", 4)),
    ]


def test_the_newest_is_refused_where_each_address_has_one(monkeypatch):
    few_places(monkeypatch, 1)
    monkeypatch.setattr(connection_bounds, "MOST_WAITING", 2)
    with scan_server(deadlines=PATIENT) as listener, ExitStack() as peers:
        busy = begin(peers, listener, "127.0.0.9")
        first, second = (wait_in_line(peers, listener, host) for host in (MANY, FEW))
        late = peers.enter_context(dial(listener, NONE))
        late.sendall(FIRST + data() + CLOSE)
        assert "in use: try again later" in told(late)
        busy.close()
        assert is_served(first)
        assert is_served(second)


def test_those_who_have_left_do_not_wait(monkeypatch):
    """They have sent neither data nor the end of their scan."""
    few_places(monkeypatch, 1)
    with scan_server(deadlines=PATIENT) as listener, ExitStack() as peers:
        busy = begin(peers, listener, "127.0.0.9")
        for waiting in [wait_in_line(peers, listener, host, FIRST) for host in (MANY, FEW)]:
            waiting.close()
        good = peers.enter_context(dial(listener, NONE))
        good.sendall(FIRST + data() + CLOSE)
        good.shutdown(socket.SHUT_WR)
        eventually(lambda: listener._reception.waiting == 1, "those who have left wait")
        busy.close()
        assert is_served(good)


def test_the_delay_of_the_server_is_not_held_against_a_client(monkeypatch):
    """It waits for its turn to have its pipeline read, while another one wants its place."""
    few_places(monkeypatch, 1)
    monkeypatch.setattr(places, "FIRST_DATA", 0.05)
    turn, read = threading.Event(), server.read_opening

    def read_later(receive, files):
        first = receive()
        assert turn.wait(DEADLINE)
        messages = iter([first])
        return read(lambda: next(messages, None) or receive(), files)

    monkeypatch.setattr(server, "read_opening", read_later)
    with scan_server(deadlines=PATIENT) as listener, ExitStack() as peers:
        good = peers.enter_context(dial(listener, FEW))
        good.sendall(FIRST + data() + CLOSE)
        eventually(lambda: len(listener) == 1, "it is not served")
        late = wait_in_line(peers, listener, NONE)
        time.sleep(0.3)  # longer than the time for the first data
        turn.set()
        assert is_served(good)
        assert is_served(late)


def test_those_who_leave_before_their_turn_lose_their_places(monkeypatch):
    few_places(monkeypatch, 1)
    turn, read = threading.Event(), server.read_opening

    def read_later(receive, files):
        if peer_host() == FEW:
            receive()
            while not turn.wait(0.05):
                raise_if_cancelled()
        return read(receive, files)

    monkeypatch.setattr(server, "read_opening", read_later)
    with scan_server(deadlines=PATIENT) as listener, ExitStack() as peers:
        leaving = peers.enter_context(dial(listener, FEW))
        leaving.sendall(FIRST)
        eventually(lambda: len(listener) == 1, "it is not served")
        leaving.close()
        check_scan(listener, NONE)
        turn.set()


def test_a_wrong_message_that_trickles_is_idle(monkeypatch):
    """A thread reads it, and waits for the peer."""
    few_places(monkeypatch, 1)
    monkeypatch.setattr(places, "FIRST_DATA", 0.05)
    with scan_server(deadlines=PATIENT) as listener, ExitStack() as peers:
        wrong = peers.enter_context(dial(listener, FEW))
        wrong.sendall(counted(2, PIPELINE) + item_bytes(acquisitions()[0])[:40])
        eventually(lambda: len(listener) == 1, "it is not served")
        check_scan(listener, NONE)
        assert "no data of the scan came, and its place was needed" in told(wrong)


@pytest.mark.parametrize("descriptors", [0, 20, 40, 60, 100, 200, 500, 1000, 10**5, float("inf")])
def test_there_are_only_as_many_connections_as_descriptors(descriptors):
    bounds = ConnectionBounds.fitting(descriptors)
    kinds = (bounds.half_open, bounds.waiting, bounds.places, bounds.leaving)
    assert min(*kinds, bounds.of_one_address) >= 1
    assert bounds.of_one_address <= bounds.places
    if descriptors >= 40:
        assert sum(kinds) <= descriptors - 16
    if descriptors >= 1000:
        assert kinds == (256, 128, 64, 128)
        assert bounds.of_one_address == 48


def test_idle_connections_do_not_take_all_descriptors(monkeypatch):
    monkeypatch.setattr(listener_module, "free_descriptors", lambda: 50)
    with scan_server() as listener, crowd(silent, 60, listener.port, FIRST):
        check_scan(listener, NONE)
        assert len(listener._reception._open) <= listener.bounds.half_open < 20


def test_several_idle_connections_make_room_when_there_are_no_descriptors(monkeypatch):
    with scan_server() as listener, crowd(silent, 8, listener.port, FIRST) as idle:
        reception = listener._reception
        eventually(lambda: len(reception._open) == 8, "they are not accepted")
        accept, refused = reception._accept, []

        def accept_eight() -> None:
            if len(reception._open) >= len(idle):
                refused.append(len(reception._open))
                raise OSError(errno.EMFILE, "Too many open files")
            accept()

        monkeypatch.setattr(reception, "_accept", accept_eight)
        check_scan(listener, NONE)
        assert refused == [8]
        assert len(reception._open) <= 4

"""No peer can hold the server or the worker: each is ended, and others are served meanwhile."""

import argparse
import contextlib
import dataclasses
import gc
import itertools
import os
import signal
import socket
import struct
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext

import ismrmrd
import numpy as np
import pytest
from helpers.chain_server import Chain
from helpers.chains import two_nodes
from helpers.good_peers import FIRST, FOR_ONE, NODE, PIPELINE, check_nodes, check_scan
from helpers.hostile_peers import (
    HOSTILE_PEERS,
    crowd,
    huge_announcement,
    idle_after_header,
    idle_within_scan,
    never_reads,
    reads_a_little,
    remaining,
    silent,
    trickle,
    vanish,
)
from helpers.live import (
    CLOSE,
    DEADLINE,
    PLENTY,
    counted,
    data,
    dial,
    listening,
    opening,
    receive_all,
    running_worker,
    scan_server,
)
from helpers.scans import (
    GainSettings,
    SumSettings,
    acquisitions,
    expected_sum,
    header,
)
from helpers.server_side import configuration
from helpers.server_side import message as item_bytes
from helpers.waiting import eventually

from mri2qmap.cli import serving
from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts import (
    client_options,
    connection_bounds,
    external_node,
    half_open,
    inbox,
    places,
    protocol,
    sending_socket,
    server,
    worker_node,
)
from mri2qmap.hosts.connecting import connect
from mri2qmap.hosts.deadlines import Deadlines
from mri2qmap.hosts.listener import Listener
from mri2qmap.hosts.message_skipping import IMAGES
from mri2qmap.hosts.message_socket import MessageSocket
from mri2qmap.hosts.protocol import Close, Text, message_bytes
from mri2qmap.hosts.server import ScanServer
from mri2qmap.pacs import inline
from mri2qmap.pipeline import memory_budget
from mri2qmap.pipeline.memory_budget import ALWAYS_RECEIVED, KEPT_OPENING, MemoryBudget
from mri2qmap.pipeline.memory_plan import planned_bytes
from mri2qmap.pipeline.pipeline_file import parse_pipeline
from mri2qmap.pipeline.scan_header import ScanInfo

pytestmark = pytest.mark.usefixtures("fake_gadgets")

OTHER_HOST = "127.0.0.2"
SHORT = Deadlines(
    handshake=0.6,
    place=0.6,
    silence=0.6,
    write=0.6,
    error=0.3,
    linger=0.2,
    grace=0.3,
    heartbeat=0.1,
    probe=0.1,
)


@pytest.fixture(autouse=True)
def short_delay(monkeypatch):
    monkeypatch.setattr(external_node, "ERROR_DELAY", 0.01)


@pytest.fixture
def large_maps(monkeypatch, fake_gadgets):
    """Let parametric_maps make an image that is larger than the buffers of a connection."""

    def large(items, scan, settings):
        list(items)
        yield ismrmrd.Image(data=np.zeros((1, 256, 256, 256), np.float32))

    large.__annotations__["settings"] = SumSettings
    monkeypatch.setattr(sys.modules["mri2qmap.parametric_maps"], "parametric_maps", large)


@pytest.mark.parametrize("name", HOSTILE_PEERS)
def test_many_hostile_clients_keep_no_good_one_from_being_served(name):
    """All deadlines are longer than the test: it does not depend on their end."""
    pauses = name == "idle_within_scan"  # such scans keep their places and memory, as others do
    enough = PLENTY if pauses or name == "never_reads" else FOR_ONE
    budget = MemoryBudget(enough, patience=DEADLINE)
    with scan_server(budget) as listener, crowd(HOSTILE_PEERS[name], 64, listener.port, FIRST):
        check_scan(listener, OTHER_HOST if pauses else "127.0.0.1")
        held = [served for served in listener._all() if not served.leaving]
        assert len(held) <= connection_bounds.MOST_OF_ONE_ADDRESS + 1


@pytest.mark.parametrize("name", [name for name in HOSTILE_PEERS if name != "idle_within_scan"])
def test_many_hostile_nodes_keep_no_good_one_from_being_served(name, monkeypatch):
    monkeypatch.setattr(worker_node, "GATHERING", 0.05)  # no other nodes come for theirs
    enough = PLENTY if name == "never_reads" else FOR_ONE  # these are whole scans, and would queue
    budget = MemoryBudget(enough, patience=DEADLINE)
    with running_worker(budget) as (worker, _), crowd(HOSTILE_PEERS[name], 64, worker.port, NODE):
        check_nodes(worker)


def test_a_wrong_first_message_does_not_prolong_the_handshake():
    """It is read by a thread, but with what is left of the time."""
    with scan_server(deadlines=SHORT) as listener, dial(listener) as connection:
        connection.sendall(struct.pack("<H", 1008))
        assert b"timed out" in remaining(connection)


@pytest.mark.parametrize("side", ["client", "server"])
def test_vanished_peers_are_looked_for_on_all_sockets(side):
    deadlines = Deadlines(keepalive_idle=7, keepalive_interval=3, keepalive_count=2, write=11)
    sockets = []

    def serve(peer: MessageSocket) -> None:
        if side == "server":
            sockets.append(peer._socket.dup())

    with listening(serve, deadlines) as listener:
        peer = connect("127.0.0.1", listener.port, deadlines)
        peer.send(Close())
        if side == "client":
            sockets.append(peer._socket.dup())
        else:
            eventually(lambda: bool(sockets), "it is not served")
        options = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
        with sockets[0] as found:
            assert found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            values = [found.getsockopt(socket.IPPROTO_TCP, getattr(socket, o)) for o in options]
        assert values == [7, 3, 2, 11_000 if side == "server" else 0]
        peer.drop()


def test_half_open_connections_have_no_threads():
    with scan_server() as listener:
        before = threading.active_count()
        with crowd(silent, 40, listener.port, FIRST), crowd(trickle, 1, listener.port, FIRST):
            check_scan(listener)
            assert threading.active_count() <= before + 4  # one trickles, one scan may end
            assert len(listener) <= 1


@pytest.mark.parametrize(
    ("peer", "words"),
    [
        (silent, b""),
        (trickle, b""),
        (idle_after_header, b"no data came for 0.6 s"),
        (idle_within_scan, b"no data came for 0.6 s"),
        (HOSTILE_PEERS["half_close_without_close"], b"without a CLOSE message"),
    ],
)
def test_a_hostile_client_is_ended_and_its_memory_is_free(peer, words):
    budget = MemoryBudget(PLENTY, patience=0)
    with scan_server(budget, SHORT) as listener, peer(listener.port, FIRST) as connection:
        assert words in remaining(connection)
        eventually(lambda: len(listener) == 0, "the connection is not ended")
        with budget.share(PLENTY, "all"):
            pass
        assert budget._received == 0


def test_trickled_messages_end_with_the_silence():
    """Single bytes within a message do not prolong a scan."""
    with scan_server(deadlines=SHORT) as listener, dial(listener) as connection:
        connection.sendall(FIRST)
        content = b""
        for byte in itertools.cycle(struct.pack("<H", 1008) + bytes(40)):
            try:
                connection.sendall(bytes([byte]))
                connection.settimeout(0.05)
                content += connection.recv(2**16)
            except TimeoutError:
                continue
            except OSError:
                break
            if b"no data came for" in content:
                return
        assert b"no data came for" in content


def test_a_client_that_never_reads_does_not_block_the_queue():
    """Each change of its place makes a text, until its buffers are full."""
    budget = MemoryBudget(FOR_ONE, patience=DEADLINE)
    with scan_server(budget) as listener, ExitStack() as peers:
        with budget.share(FOR_ONE, "another scan"):
            for _ in range(12):
                peers.enter_context(never_reads(listener.port, FIRST))
            eventually(lambda: len(budget._queue) == 12, "they do not wait")
        check_scan(listener)


@pytest.mark.usefixtures("large_maps")
@pytest.mark.parametrize("reads", [never_reads, reads_a_little])
def test_a_client_that_does_not_read_is_ended(reads, monkeypatch):
    """An image of 64 MiB at 200 KiB/s would take minutes."""
    monkeypatch.setattr(sending_socket, "_SLOWEST", 2**20)
    budget = MemoryBudget(PLENTY, patience=0)
    with scan_server(budget, SHORT) as listener, reads(listener.port, FIRST):
        eventually(lambda: len(listener) == 1, "it is not served")
        eventually(lambda: len(listener) == 0, "the connection is not ended")
        with budget.share(PLENTY, "all"):
            pass


@pytest.mark.parametrize("sent", [FIRST, FIRST + data() + CLOSE])
def test_a_client_without_network_is_found_by_keepalive(endless_maps, sent):
    deadlines = Deadlines(keepalive_idle=1, keepalive_interval=1, keepalive_count=1, write=1)
    with scan_server(deadlines=deadlines) as listener:
        connection = dial(listener)
        connection.sendall(sent)
        eventually(lambda: len(listener) == 1, "it is not served")
        if sent != FIRST:
            assert endless_maps.started.wait(DEADLINE)
        if not vanish(connection):
            connection.close()
            pytest.skip("this user may not close a connection without telling the peer")
        eventually(lambda: len(listener) == 0, "the session stays")


def test_a_message_larger_than_the_budget_is_refused_before_it_is_read():
    with scan_server(MemoryBudget(2**30)) as listener:
        with huge_announcement(listener.port, FIRST) as connection:
            assert b"the limit is 1073741824" in remaining(connection)
        check_scan(listener)


def test_a_message_is_received_only_as_far_as_there_is_memory():
    nodes = parse_pipeline(PIPELINE, "a test", "a test").nodes
    size = planned_bytes(ScanInfo.from_header(header()), nodes)
    budget = MemoryBudget(size + 2 * ALWAYS_RECEIVED, patience=0.2)
    head = ismrmrd.WaveformHeader()
    head.channels, head.number_of_samples = 480, 2**16 - 1
    waveform = struct.pack("<H", 1026) + bytes(head) + bytes(4 * 480 * (2**16 - 1))
    most = 0
    with scan_server(budget) as listener, dial(listener) as connection:
        received = budget._room

        def room():
            nonlocal most
            most = max(most, budget._received)
            return received()

        budget._room = room
        sender = threading.Thread(target=send_quietly, args=(connection, FIRST + waveform))
        sender.start()
        assert any("no memory for a message" in text for text in texts(connection))
        sender.join(DEADLINE)
        assert most <= 2 * ALWAYS_RECEIVED
        eventually(lambda: budget._received == 0, "its memory is not free")


def send_quietly(connection: socket.socket, content: bytes) -> None:
    try:
        connection.sendall(content)
    except OSError:
        return  # the server has refused it


def texts(connection: socket.socket) -> list[str]:
    return [m.text for m in receive_all(connection) if isinstance(m, Text)]


def test_the_oldest_half_open_connection_makes_room(monkeypatch):
    monkeypatch.setattr(connection_bounds, "MOST_HALF_OPEN", 3)
    with scan_server() as listener, crowd(silent, 3, listener.port, FIRST) as first:
        check_scan(listener)
        assert any("its place was needed" in text for text in texts(first[0]))
        with dial(listener), dial(listener):
            assert any("its place was needed" in text for text in texts(first[1]))
        check_scan(listener)


def test_large_openings_make_room(monkeypatch):
    monkeypatch.setattr(half_open, "MOST_BYTES", 2**20)
    with scan_server() as listener, ExitStack() as peers:
        connections = [peers.enter_context(dial(listener)) for _ in range(3)]
        for connection, more in zip(connections, (2, 0, 1), strict=True):
            send_quietly(connection, struct.pack("<HI", 2, 2**24) + bytes(2**18 + more * 2**17))
        assert any("no memory for its configuration" in text for text in texts(connections[0]))
        check_scan(listener)
        assert all(not ended(connection) for connection in connections[1:])


def test_half_open_bytes_of_one_address_do_not_keep_out_another(monkeypatch):
    monkeypatch.setattr(half_open, "MOST_BYTES", 2**20)
    begin = struct.pack("<HI", 2, 2**24)
    with scan_server() as listener, ExitStack() as peers:
        many = [peers.enter_context(dial(listener, OTHER_HOST)) for _ in range(8)]
        for connection in many:
            send_quietly(connection, begin + bytes(2**17 - 2**12))
        good = peers.enter_context(dial(listener))
        send_quietly(good, begin + bytes(2**18))
        eventually(lambda: any(ended(connection) for connection in many), "none makes room")
        assert not ended(good)


LONG = header(extra=f"<!-- {'x' * 2**20} -->")
"""A header for which a connection takes room."""


def test_idle_peers_with_long_headers_make_room(monkeypatch):
    """The address that holds most does, not one that has waited for longer."""
    monkeypatch.setattr(memory_budget, "_OPENINGS", 9 * 2**19)  # room for four
    monkeypatch.setattr(memory_budget, "_OPENINGS_SHARE", 0)
    monkeypatch.setattr(places, "FIRST_DATA", 0.1)
    budget = MemoryBudget(PLENTY)
    with scan_server(budget) as listener, ExitStack() as peers:
        other = peers.enter_context(dial(listener, OTHER_HOST))
        other.sendall(opening(PIPELINE, LONG))
        many = [peers.enter_context(dial(listener)) for _ in range(3)]
        for connection in many:
            connection.sendall(opening(PIPELINE, LONG))
        eventually(lambda: len(listener) == 4, "they are not served")
        good = peers.enter_context(dial(listener, "127.0.0.3"))
        good.sendall(opening(PIPELINE, LONG) + data() + CLOSE)
        assert any(isinstance(m, ismrmrd.Image) for m in receive_all(good))
        received = [connection.recv(2**12) for connection in (other, *many)]
        told = [b"its place was needed" in content for content in received]
        assert told[0] is False
        assert told.count(True) == 1


def test_room_for_a_long_header_is_given_back_when_it_has_been_read():
    budget = MemoryBudget(PLENTY)
    long = header(extra=f"<!-- {'x' * 2**22} -->")
    with scan_server(budget) as listener, dial(listener) as client:
        client.sendall(opening(PIPELINE, long))
        eventually(lambda: budget._openings == KEPT_OPENING, "it holds more than it needs")
        client.sendall(data() + CLOSE)
        assert any(isinstance(m, ismrmrd.Image) for m in receive_all(client))
    eventually(lambda: budget._openings == 0, "room is left behind")


def test_who_waits_is_counted_while_it_is_offered_again(monkeypatch):
    """Otherwise those who hold what is needed would look idle to nobody, now and then."""
    monkeypatch.setattr(connection_bounds, "MOST_OF_ONE_ADDRESS", 2)
    with scan_server() as listener, two_busy_clients(listener) as busy, dial(listener) as third:
        reception = listener._reception
        third.sendall(FIRST + data() + CLOSE)
        eventually(lambda: reception.waiting == 1, "it does not wait")
        seen = []
        admit = reception._admit
        monkeypatch.setattr(
            reception, "_admit", lambda peer: (seen.append(reception.waiting), admit(peer))[1]
        )
        eventually(lambda: len(seen) >= 2, "it is not offered again")
        assert set(seen) == {1}
        busy[0].close()
        assert any(isinstance(m, ismrmrd.Image) for m in receive_all(third))


QUERY = struct.pack("<HQQQ", 6, 0, 1, 0)


def test_queries_without_end_are_refused_and_keep_nobody_waiting():
    with scan_server() as listener, ExitStack() as peers:
        many = [peers.enter_context(dial(listener)) for _ in range(20)]
        for connection in many:
            send_quietly(connection, 2000 * QUERY)
        check_scan(listener)
        for connection in many:
            assert any("more than 16 queries" in text for text in texts(connection))


@pytest.mark.parametrize("sent", [FIRST, FIRST + data()])
def test_queries_within_a_scan_are_few(monkeypatch, sent):
    monkeypatch.setattr(server, "_MOST_TEXTS", 5)
    with scan_server() as listener, dial(listener) as client:
        client.sendall(sent + 6 * QUERY + CLOSE)
        assert any("more than 5 texts" in text for text in texts(client))


def test_connections_are_accepted_together(monkeypatch):
    """One that comes after many others does not wait for a turn of each of them."""
    turns = []
    turn = half_open.Reception.turn
    monkeypatch.setattr(
        half_open.Reception, "turn", lambda self, t: (turns.append(1), turn(self, t))
    )
    with scan_server() as listener:
        with ExitStack() as peers:
            for _ in range(40):
                peers.enter_context(dial(listener))
            eventually(lambda: len(listener._reception._open) == 40, "they are not accepted")
            before = len(turns)
            more = [peers.enter_context(dial(listener)) for _ in range(40)]
            eventually(lambda: len(listener._reception._open) == 80, "they are not accepted")
        assert len(turns) - before < len(more)


def large_metadata(elements: int) -> bytes:
    """An image with metadata of so many elements."""
    meta = b"<ismrmrdMeta>" + b"<a/>" * elements + b"</ismrmrdMeta>"
    head = ismrmrd.ImageHeader()
    head.data_type, head.channels = ismrmrd.DATATYPE_USHORT, 1
    head.matrix_size[:] = 1, 1, 1
    return struct.pack("<H", 1022) + bytes(head) + struct.pack("<Q", len(meta)) + meta + b"\0\0"


def test_what_is_not_wanted_is_not_decoded(monkeypatch):
    """Images within a scan, and all that comes after an error."""
    decoded = []
    monkeypatch.setattr(protocol, "parse_meta", lambda document: decoded.append(document))
    image = large_metadata(60_000)
    with scan_server() as listener, dial(listener) as client:
        client.sendall(FIRST + 3 * image + data() + CLOSE)
        answer = receive_all_but_images(client)
        assert any("ignored 3 images" in text for text in answer)
        with dial(listener) as wrong:
            wrong.sendall(opening(PIPELINE, "<x/>") + 3 * image + data() + CLOSE)
            assert any("<ismrmrdHeader> is expected" in text for text in texts(wrong))
    assert decoded == []


def receive_all_but_images(connection: socket.socket) -> list[str]:
    peer = MessageSocket(connection)
    found = []
    while not isinstance(message := peer.receive(DEADLINE, skip=IMAGES), Close):
        found += [message.text] if isinstance(message, Text) else []
    return found


def test_images_that_a_scan_has_no_use_for_are_few(monkeypatch):
    monkeypatch.setattr(inbox, "MOST_SKIPPED", 3)
    with scan_server() as listener, dial(listener) as client:
        client.sendall(FIRST + data() + 4 * large_metadata(1))
        assert any("more than 3 images arrived" in text for text in texts(client))


def test_a_scan_without_acquisitions_takes_no_memory(monkeypatch):
    budget = MemoryBudget(PLENTY)
    monkeypatch.setattr(budget, "share", None)
    with scan_server(budget) as listener, dial(listener) as client:
        client.sendall(FIRST + CLOSE)
        assert any("it ended without any" in text for text in texts(client))


def test_a_node_with_an_error_gives_its_place_to_others(monkeypatch):
    deadlines = dataclasses.replace(SHORT, silence=DEADLINE, contended=0.5)
    with running_worker(deadlines=deadlines) as (listener, _), dial(listener) as node:
        monkeypatch.setattr(listener, "_needed", lambda holds: True)
        node.sendall(opening(configuration(gadget="coil_sensitivity", factr=1)))
        node.sendall(data())  # and no end
        found = receive_all(node)
        assert any("factr" in getattr(message, "text", "") for message in found)


def ended(connection: socket.socket) -> bool:
    connection.settimeout(0.01)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_a_handshake_that_does_not_end_is_told():
    deadlines = dataclasses.replace(SHORT, handshake=0.5)
    with scan_server(deadlines=deadlines) as listener, dial(listener) as silent_peer:
        with dial(listener) as half:
            half.sendall(FIRST[:-1])
            for connection in (silent_peer, half):
                (text,) = texts(connection)
                assert "no configuration and header arrived within 0.5 s" in text
        check_scan(listener)


def test_who_waits_when_the_server_stops_is_told():
    with scan_server() as listener, dial(listener) as half:
        half.sendall(FIRST[:-1])
        check_scan(listener)
        listener.stop()
        (text,) = texts(half)
        assert "the server is stopping" in text


def has_data(served) -> bool:
    return served.peer.activity.started.is_set()


@contextmanager
def two_busy_clients(listener: Listener) -> Iterator[list[socket.socket]]:
    with ExitStack() as peers:
        busy = [peers.enter_context(dial(listener)) for _ in range(2)]
        for number, peer in enumerate(busy):
            peer.sendall(FIRST + data())
            eventually(
                lambda n=number: sum(has_data(s) for s in listener._all()) == n + 1, "no data came"
            )
        yield busy


def test_without_idle_connections_a_new_one_waits_and_is_refused_in_the_end(monkeypatch):
    monkeypatch.setattr(connection_bounds, "MOST_OF_ONE_ADDRESS", 2)
    deadlines = Deadlines(place=0.3)
    with scan_server(deadlines=deadlines) as listener, two_busy_clients(listener):
        began = time.monotonic()
        with dial(listener) as third:
            third.sendall(FIRST + data() + CLOSE)
            (text,) = texts(third)
        assert "2 connections of this address are in use: try again later" in text
        assert time.monotonic() - began >= deadlines.place
        assert len(listener) == 2


def test_a_connection_that_waits_is_served_when_another_one_ends(monkeypatch):
    """Also if its handshake had taken nearly all of its time."""
    monkeypatch.setattr(connection_bounds, "MOST_OF_ONE_ADDRESS", 2)
    deadlines = Deadlines(handshake=1.0, place=DEADLINE)
    with scan_server(deadlines=deadlines) as listener, two_busy_clients(listener) as busy:
        with dial(listener) as third:
            third.sendall(FIRST[:-1])
            time.sleep(0.6)
            third.sendall(FIRST[-1:] + data() + CLOSE)
            time.sleep(0.6)
            assert len(listener) == 2
            busy[0].close()
            (image,) = (m for m in receive_all(third) if isinstance(m, ismrmrd.Image))
        assert image.data[0, 0, 0, 0] == pytest.approx(expected_sum(2), rel=1e-5)


def test_only_so_many_connections_wait(monkeypatch):
    monkeypatch.setattr(connection_bounds, "MOST_OF_ONE_ADDRESS", 2)
    monkeypatch.setattr(connection_bounds, "MOST_WAITING", 2)
    with scan_server() as listener, two_busy_clients(listener) as busy, ExitStack() as peers:
        waiting = [peers.enter_context(dial(listener)) for _ in range(3)]
        for number, peer in enumerate(waiting):
            peer.sendall(FIRST + data() + CLOSE)
            if number < 2:
                eventually(
                    lambda n=number: len(listener._reception._waiting) == n + 1, "it does not wait"
                )
        (text,) = texts(waiting[2])
        assert "in use: try again later" in text
        busy[0].close()
        for peer in waiting[:2]:
            assert any(isinstance(m, ismrmrd.Image) for m in receive_all(peer))


@pytest.mark.parametrize("half_closed", [False, True])
def test_a_client_that_goes_away_ends_its_computation(endless_maps, half_closed):
    budget = MemoryBudget(PLENTY, patience=0)
    with scan_server(budget) as listener, dial(listener) as connection:
        connection.sendall(FIRST + data() + CLOSE)
        assert endless_maps.started.wait(DEADLINE)
        if half_closed:
            connection.shutdown(socket.SHUT_WR)
            while b"still at work: ADMM" not in connection.recv(2**16):
                pass
        connection.close()
        assert endless_maps.ended.wait(DEADLINE)
        eventually(lambda: len(listener) == 0, "the session stays")
        with budget.share(PLENTY, "all"):
            pass


@pytest.fixture
def gate(monkeypatch, fake_gadgets):
    """Let coil_sensitivity compute until the gate is opened."""
    opened = threading.Event()
    module = sys.modules["mri2qmap.coil_sensitivity"]
    gain = module.coil_sensitivity

    def wait(items, scan, settings):
        yield from gain(iter(list(items)), scan, settings)
        for _ in scan.report.progress(iter(lambda: opened.wait(0.02), True), "calibration"):
            pass

    wait.__annotations__["settings"] = GainSettings
    monkeypatch.setattr(module, "coil_sensitivity", wait)
    return opened


def test_a_half_closed_client_that_reads_is_served(gate):
    """It is told that the computation goes on, which is not taken for silence."""
    with scan_server(deadlines=SHORT) as listener, dial(listener) as connection:
        connection.sendall(FIRST + data() + CLOSE)
        connection.shutdown(socket.SHUT_WR)
        peer = MessageSocket(connection)
        beats = 0
        while beats < 8:
            message = peer.receive(DEADLINE)
            beats += isinstance(message, Text) and "still at work: calibration" in message.text
        gate.set()
        assert any(isinstance(m, ismrmrd.Image) for m in receive_all(connection))


def test_a_node_may_wait_for_another_one_that_computes(gate):
    with running_worker(deadlines=SHORT) as (listener, _):
        chain = Chain(listener, two_nodes(), header())
        chain.send(acquisitions())
        time.sleep(3 * SHORT.silence)
        gate.set()
        chain.finish()
        assert chain.errors == []
        assert len(chain.items) == 1


def test_a_silent_scan_ends_at_all_nodes():
    with running_worker(deadlines=SHORT) as (listener, _):
        chain = Chain(listener, two_nodes(), header())
        chain.send(acquisitions()[:3], close=False)
        eventually(lambda: len(listener) == 0, "the nodes stay")
        chain.finish()
        assert "no data came for" in chain.errors[0]


def wait_for_text(connection: socket.socket, words: str) -> None:
    peer = MessageSocket(connection)
    while words not in getattr(peer.receive(DEADLINE), "text", ""):
        pass


def test_waiting_clients_are_told_their_place():
    budget = MemoryBudget(PLENTY, patience=DEADLINE)
    with scan_server(budget) as listener, ExitStack() as held:
        holder = held.enter_context(ExitStack())
        holder.enter_context(budget.share(PLENTY, "another scan"))
        first, second = (held.enter_context(dial(listener)) for _ in range(2))
        for place, connection in enumerate((first, second), start=1):
            connection.sendall(FIRST + data() + CLOSE)
            wait_for_text(connection, f"place {place} in the queue")
        first.close()  # its waiting ends
        wait_for_text(second, "place 1 in the queue")
        holder.close()
        assert any(isinstance(m, ismrmrd.Image) for m in receive_all(second))


@pytest.mark.parametrize("signals", [1, 2])
@pytest.mark.parametrize("computing", [False, True])
def test_sigterm_ends_the_server_whatever_its_clients_do(
    endless_maps, monkeypatch, capsys, signals, computing
):
    monkeypatch.setattr(serving, "LAST_WORDS", DEADLINE)
    server = ScanServer(MemoryBudget(PLENTY), "cpu")
    grace = 0.2 if signals == 1 else 10 * DEADLINE
    with listening(server.serve) as listener, dial(listener) as connection:
        monkeypatch.setattr(listener, "start", lambda: None)  # it runs already
        connection.sendall(FIRST + (data() + CLOSE if computing else b""))
        eventually(lambda: len(listener) == 1, "it is not served")
        if computing:
            assert endless_maps.started.wait(DEADLINE)

        def send_signals() -> None:
            for _ in range(signals):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.3)

        killer = threading.Timer(0.2, send_signals)
        killer.start()
        options = argparse.Namespace(address="127.0.0.1", grace=grace)
        assert serving.listen_until_told(options, "test", listener, nullcontext()) == 0
        killer.join()
        assert any("the server was stopped" in text for text in texts(connection))
    assert "test: stopped" in capsys.readouterr().out


@pytest.mark.parametrize(("held", "left"), [("for ever", True), ("until it is ended", False)])
def test_sigterm_ends_the_server_whatever_becomes_of_a_push(monkeypatch, caplog, held, left):
    """What is not sent is in the spool, so a peer that holds the push costs nothing."""
    ended = []
    monkeypatch.setattr(inline, "pushes", lambda: held == "for ever" or not ended)
    monkeypatch.setattr(inline, "end_pushes", ended.append)
    monkeypatch.setattr(serving, "LAST_ANSWER", 0.3)
    exits = []
    monkeypatch.setattr(serving.os, "_exit", exits.append)
    monkeypatch.setattr(serving.logging, "shutdown", lambda: None)
    with scan_server() as listener:
        monkeypatch.setattr(listener, "start", lambda: None)  # it runs already
        killer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM))
        killer.start()
        options = argparse.Namespace(address="127.0.0.1", grace=0.2)
        serving.listen_until_told(options, "test", listener, nullcontext())
        killer.join()
    assert ended == ["the server was stopped before all was sent"]
    assert exits == ([0] if left else [])
    assert ("a peer does not let a push end" in caplog.text) == left


def test_the_first_sigterm_does_not_wait_for_a_client_that_sends_only_its_header(monkeypatch):
    monkeypatch.setattr(serving, "BEFORE_DATA", 0.2)
    server = ScanServer(MemoryBudget(PLENTY), "cpu")
    with listening(server.serve) as listener, dial(listener) as connection:
        monkeypatch.setattr(listener, "start", lambda: None)  # it runs already
        connection.sendall(FIRST)
        eventually(lambda: len(listener) == 1, "it is not served")
        killer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM))
        killer.start()
        options = argparse.Namespace(address="127.0.0.1", grace=10 * DEADLINE)
        assert serving.listen_until_told(options, "test", listener, nullcontext()) == 0
        killer.join()
        assert any("the server was stopped" in text for text in texts(connection))


def large_image() -> bytes:
    return item_bytes(ismrmrd.Image(data=np.ones((1, 64, 256, 128), np.float32)))


def test_the_first_message_of_a_later_node_may_be_large():
    """It is needed before the session of the node, and so its memory, is known."""
    assert len(large_image()) > 2 * ALWAYS_RECEIVED
    first = opening(configuration(gadget="parametric_maps"), header(fov="24 24 24"))
    deadlines = dataclasses.replace(SHORT, silence=3.0)
    with running_worker(deadlines=deadlines) as (worker, _), dial(worker) as connection:
        connection.sendall(first + large_image() + CLOSE)
        assert b"no data came" not in remaining(connection)


def test_a_node_cannot_lengthen_the_silence_that_its_worker_bears():
    first = opening(configuration(gadget="coil_sensitivity", silence="1e300"))
    with running_worker(deadlines=SHORT) as (worker, _), dial(worker) as connection:
        connection.sendall(first + data()[: len(data()) // 2])
        assert b"no data came" in remaining(connection)


def test_waveforms_alone_do_not_begin_a_scan(monkeypatch):
    monkeypatch.setattr(serving, "BEFORE_DATA", 0.2)
    wave = item_bytes(ismrmrd.Waveform.from_array(np.ones((1, 4), np.uint32)))
    with scan_server() as listener, dial(listener) as connection:
        connection.sendall(FIRST + wave)
        eventually(lambda: len(listener) == 1, "it is not served")
        time.sleep(0.3)
        listener.cancel(Mri2QmapError("the server was stopped"), idle=0.2)
        assert any("the server was stopped" in text for text in texts(connection))


def test_a_node_with_an_error_does_not_keep_its_worker_from_stopping():
    """It waits for the end of its input, before it tells the error."""
    with running_worker() as (worker, _), dial(worker) as connection:
        connection.sendall(opening(configuration(gadget="coil_sensitivity", unknown="1")))
        eventually(lambda: len(worker) == 1, "it is not served")
        time.sleep(0.2)
        worker.cancel(Mri2QmapError("the worker was stopped"))
        assert worker.wait(DEADLINE)


def test_small_messages_do_not_hide_that_a_peer_hardly_reads(monkeypatch):
    monkeypatch.setattr(sending_socket, "_SLOWEST", 2**20)
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    left = threading.Event()

    def read() -> None:
        with contextlib.suppress(OSError):
            while theirs.recv(2048) and not left.wait(0.02):
                pass

    def send() -> None:
        for _ in range(10_000):
            peer.send(Text("x" * 1000))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    peer = MessageSocket(ours, deadlines=SHORT)
    with pytest.raises(ConnectionError, match="it has read"):
        send()
    left.set()
    peer.drop()
    reader.join(DEADLINE)
    theirs.close()


def test_a_receiver_with_a_deadline_does_not_disturb_a_sender():
    """Both use one socket at the same time."""
    ours, theirs = socket.socketpair()
    peer, content = MessageSocket(ours), "x" * 2**23
    sender = threading.Thread(target=peer.send, args=(Text(content),))
    sender.start()
    for _ in range(20):
        with pytest.raises(ConnectionError, match="timed out"):
            peer.receive(0.005)
    assert sender.is_alive()  # waits for the reader
    assert MessageSocket(theirs).receive(DEADLINE) == Text(content)
    sender.join(DEADLINE)
    assert not peer.lost
    for end in (ours, theirs):
        end.close()


@pytest.mark.parametrize(
    ("setting", "value"), [("silence", 0.0), ("grace", -1.0), ("write", float("nan"))]
)
def test_impossible_deadlines_are_refused(setting, value):
    with pytest.raises(Mri2QmapError, match=f"{setting} .* is expected"):
        Deadlines(**{setting: value})


def test_a_client_that_sends_its_options_only_holds_no_memory():
    budget = MemoryBudget(FOR_ONE, patience=0)
    with scan_server(budget) as listener, dial(listener) as connection:
        connection.sendall(FIRST + counted(5, b'{"mri2qmap": {"dicom": true}}'))
        time.sleep(0.5)
        check_scan(listener)


def test_deeply_nested_options_are_those_of_another_client():
    with scan_server() as listener, dial(listener) as connection:
        text = b'{"mri2qmap":' + b"[" * 4000
        connection.sendall(FIRST + counted(5, text) + data() + CLOSE)
        received = receive_all(connection)
    assert any(isinstance(message, ismrmrd.Image) for message in received)


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ([b"x" * (2**16 + 1)], "a text of 65537 bytes is announced; the limit is 65536"),
        ([b"{}"] * 1001, "more than 1000 texts arrived within the scan"),
    ],
)
def test_texts_within_a_scan_are_short_and_few(sent, words):
    with scan_server() as listener, dial(listener) as connection:
        connection.sendall(FIRST + data() + b"".join(counted(5, text) for text in sent))
        connection.sendall(CLOSE)
        assert any(words in text for text in texts(connection))
        check_scan(listener)


def test_a_long_text_is_no_options(monkeypatch):
    monkeypatch.setattr(client_options.json, "loads", lambda text: pytest.fail("it is parsed"))
    parsed = client_options.parse_client_options("[" * 5000)
    assert parsed == client_options.ClientOptions(dicom=False)


def test_waiting_texts_count_as_the_memory_that_they_take():
    long = "x" * 999 + "\N{BRAIN}"
    assert message_bytes(Text(long)) > 4000
    for value in (long, [long], ["x"] * 100):
        image = ismrmrd.Image(data=np.zeros((1, 1, 1, 1), np.float32))
        image.meta = ismrmrd.Meta({"name": value})
        assert message_bytes(image) > 4000


@pytest.mark.usefixtures("fake_gadgets")
def test_arrays_of_a_cancelled_scan_are_free_at_once(monkeypatch):
    """Without the garbage collector: the error refers to the frames that hold them."""
    arrays = []

    def holding(items, scan, settings):
        array = np.zeros(10)
        arrays.append(weakref.ref(array))
        yield from items

    holding.__annotations__["settings"] = GainSettings
    monkeypatch.setattr(sys.modules["mri2qmap.coil_sensitivity"], "coil_sensitivity", holding)
    gc.disable()
    try:
        with scan_server() as listener:
            with dial(listener) as connection:
                connection.sendall(FIRST + data())
                eventually(lambda: bool(arrays), "it is not served")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            eventually(lambda: arrays[0]() is None, "the array is kept")
    finally:
        gc.enable()

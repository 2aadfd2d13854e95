"""The worker, with a substitute of the Gadgetron server between its nodes."""

import struct
import threading

import pytest
import torch
from helpers.chain_server import Chain
from helpers.chains import connect_node, pipeline, scan_through, total, two_nodes
from helpers.live import CLOSE, DEADLINE, counted, data, dial, opening, running_worker
from helpers.scans import acquisitions, expected_sum, header
from helpers.server_side import configuration, read_answer
from helpers.waiting import WatchedBudget, eventually

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts import external_node, worker_node
from mri2qmap.hosts.item_store import ItemStore
from mri2qmap.hosts.stage_timing import NodeTiming
from mri2qmap.pipeline.geometry import Geometry
from mri2qmap.pipeline.items import Tsmi
from mri2qmap.pipeline.memory_budget import MemoryBudget
from mri2qmap.pipeline.memory_plan import available_bytes, planned_bytes
from mri2qmap.pipeline.scan_header import ScanInfo

pytestmark = pytest.mark.usefixtures("fake_gadgets")


@pytest.fixture(autouse=True)
def short_delay(monkeypatch):
    monkeypatch.setattr(external_node, "ERROR_DELAY", 0.01)


@pytest.fixture(scope="module")
def worker():
    with running_worker() as (listener, running):
        yield listener, running


def test_scan_passes_through_all_nodes(worker):
    listener, running = worker
    chain = scan_through(listener, two_nodes())
    assert total(chain) == pytest.approx(expected_sum(2), rel=1e-5)
    assert chain.texts == []
    assert len(running.item_store) == 0


def test_nodes_report_to_the_client_if_enabled(worker):
    chain = scan_through(worker[0], two_nodes(report="text"))
    assert all(text.startswith("MRI2Qmap: ") for text in chain.texts)
    (first,) = (a for text in chain.texts if (a := NodeTiming.from_line(text)) is not None)
    assert (first.name, first.items_in, first.items_out) == ("coil_sensitivity", 11, 11)
    assert 0 <= first.ready_s <= first.first_item_s <= first.last_item_s <= first.total_s
    assert 0 <= first.last_acquisition_s <= first.total_s


@pytest.mark.usefixtures("large_items")
def test_large_items_are_sent_as_references(worker):
    listener, running = worker
    whole = scan_through(listener, two_nodes(3))
    small = scan_through(listener, two_nodes(3, transport="reference"))
    assert total(whole) == total(small) == 15
    image = whole.items[0].data.nbytes
    assert whole.crossing_bytes > 5 * 2 * image
    assert small.crossing_bytes < image + 10_000
    assert len(running.item_store) == 0


@pytest.mark.usefixtures("large_items")
def test_the_last_gadget_sends_the_client_nothing_but_its_images(worker):
    """Its file may have the same transport for all nodes."""
    listener, running = worker
    first = connect_node("coil_sensitivity", factor=3, transport="reference")
    last = connect_node("parametric_maps", transport="reference")
    assert total(scan_through(listener, pipeline(first, last))) == 15
    assert len(running.item_store) == 0


@pytest.mark.usefixtures("large_items")
def test_simultaneous_sessions_do_not_mix(worker):
    listener, running = worker
    results: dict[int, float] = {}

    def scan(factor: int) -> None:
        chain = scan_through(listener, two_nodes(factor, transport="reference"))
        results[factor] = total(chain)

    threads = [threading.Thread(target=scan, args=(factor,)) for factor in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert results == {factor: 5 * factor for factor in range(1, 7)}
    assert len(running.item_store) == 0


@pytest.mark.usefixtures("large_items")
def test_items_of_an_aborted_session_are_deleted(monkeypatch):
    monkeypatch.setattr(worker_node, "GATHERING", 0.05)
    kept = []
    with running_worker() as (listener, running):
        put = running.item_store.put
        monkeypatch.setattr(
            running.item_store, "put", lambda *args: kept.append(args) or put(*args)
        )
        running.sessions._grace = 0.01
        chain = Chain(
            listener,
            pipeline(connect_node("coil_sensitivity", factor=1, transport="reference")),
            header(),
        )
        chain.send(acquisitions())
        chain.finish()
        assert len(kept) == 1
        eventually(lambda: len(running.item_store) == 0, "the item is not dropped")


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (pipeline(connect_node("coil")), ['gadget "coil" is not known']),
        (pipeline(connect_node("")), ['name="gadget"']),
        (pipeline(connect_node("coil_sensitivity", transport="x")), ['transport="x"']),
        (pipeline(connect_node("coil_sensitivity", factr=1)), ["coil_sensitivity", "factr"]),
        (
            pipeline(connect_node("coil_sensitivity", fail_with="user")),
            ["gadget coil_sensitivity", "cannot be amplified"],
        ),
        (
            pipeline(connect_node("coil_sensitivity", fail_with="bug")),
            ["gadget coil_sensitivity", "ZeroDivisionError"],
        ),
    ],
)
def test_errors_reach_the_server_and_the_next_scan_works(worker, document, words):
    chain = scan_through(worker[0], document)
    (error,) = chain.errors
    assert error.startswith("MRI2Qmap error: ")
    for word in words:
        assert word in error
    assert total(scan_through(worker[0], two_nodes())) == pytest.approx(expected_sum(2), rel=1e-5)


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (opening(configuration(gadget="coil_sensitivity"), "<x/>") + CLOSE, "ISMRMRD header"),
        (counted(3, b"<h/>") + counted(3, b"<h/>") + CLOSE, "Header and Header arrived"),
        (struct.pack("<H", 1) + bytes(1024) + counted(3, b"<h/>") + CLOSE, "mri2qmap serve"),
        (opening(configuration(gadget="coil_sensitivity")) + data()[:-3], None),
        (opening(configuration(gadget="coil_sensitivity")) + struct.pack("<H", 999), None),
        (struct.pack("<HI", 2, 2**32 - 1), None),
        (b"GET / HTTP/1.1\r\n\r\n", None),
        (CLOSE, None),
        (b"", None),
    ],
)
def test_invalid_messages_end_only_their_connection(worker, sent, words):
    with dial(worker[0]) as connection:
        connection.sendall(sent)
        if words is not None:
            assert words in read_answer(connection).errors[0]
    assert total(scan_through(worker[0], two_nodes())) == pytest.approx(expected_sum(2), rel=1e-5)


def test_disconnected_server_ends_its_nodes(worker, endless_maps):
    chain = Chain(worker[0], two_nodes(), header())
    chain.send(acquisitions())
    assert endless_maps.started.wait(DEADLINE)
    assert not endless_maps.ended.is_set()
    for node in chain.nodes:
        node.shutdown(2)
    assert endless_maps.ended.wait(DEADLINE)
    chain.hang_up()


def test_scan_exceeding_the_memory_is_refused():
    with running_worker(MemoryBudget(2**20)) as (listener, _):
        chain = scan_through(listener, two_nodes())
    assert "GiB of memory" in chain.errors[0]


def test_nodes_of_a_scan_share_one_memory_reservation():
    size = planned_bytes(ScanInfo.from_header(header()))
    budget = MemoryBudget(size + 1, patience=5)
    with running_worker(budget) as (listener, _):
        for _ in range(3):
            assert total(scan_through(listener, two_nodes())) > 0
    with budget.share(size, "all"):
        pass


def test_scan_waits_for_memory_and_is_refused_after_the_patience():
    other = header(fov="24 24 24")
    size = planned_bytes(ScanInfo.from_header(header()))
    budget = WatchedBudget(size + 1, patience=0)
    with running_worker(budget) as (listener, _):
        first = Chain(listener, two_nodes(), header())
        start, *rest = acquisitions()
        first.send([start], close=False)
        assert budget.held.wait(DEADLINE)
        second = scan_through(listener, two_nodes(), other)
        assert "try again later" in second.errors[0]
        first.send(rest)
        first.finish()
        assert total(first) > 0
        budget.patience = DEADLINE  # until the first one's memory is back
        assert total(scan_through(listener, two_nodes(), other)) > 0


def test_reference_is_valid_once_and_in_its_session_only():
    store = ItemStore()
    item = Tsmi(torch.zeros(5, 8, 8, 8, dtype=torch.complex64), Geometry((8, 8, 8), (1, 1, 1)))
    number = store.put("a", item, limit=5 * 8**3 * 8)
    assert (len(store), store.n_bytes) == (1, 5 * 8**3 * 8)
    with pytest.raises(Mri2QmapError, match="planned"):
        store.put("a", item, limit=2 * store.n_bytes - 1)
    with pytest.raises(Mri2QmapError, match="unknown to this worker"):
        store.pop("b", number)
    assert store.pop("a", number) is item
    with pytest.raises(Mri2QmapError, match="unknown to this worker"):
        store.pop("a", number)
    assert (len(store), store.n_bytes) == (0, 0)


def test_available_memory_is_plausible():
    assert 2**20 < available_bytes(torch.device("cpu")) < 2**50

"""Sessions at the worker: who belongs together, whose memory is reserved, what an error frees."""

import functools
import itertools
import struct
import sys
import threading
import time
import types
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass

import ismrmrd
import numpy as np
import pytest
import torch
from helpers.chain_server import Chain
from helpers.chains import connect_node, pipeline, scan_through, total, two_nodes
from helpers.live import CLOSE, DEADLINE, data, dial, opening, receive_all, running_worker
from helpers.scans import COILS, GainSettings, SumSettings, acquisitions, header
from helpers.server_side import configuration
from helpers.server_side import message as item_bytes
from helpers.waiting import eventually

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts import external_node, worker_node
from mri2qmap.hosts.message_socket import MessageSocket
from mri2qmap.hosts.protocol import Failure, RelayedText
from mri2qmap.hosts.session_message import encode_session, is_session_only
from mri2qmap.hosts.worker_node import WorkerNode
from mri2qmap.hosts.worker_sessions import WorkerSessions
from mri2qmap.pipeline.geometry import Geometry
from mri2qmap.pipeline.items import Tsmi
from mri2qmap.pipeline.memory_budget import MemoryBudget
from mri2qmap.pipeline.memory_plan import planned_bytes, with_channels
from mri2qmap.pipeline.pipeline_file import GadgetNode
from mri2qmap.pipeline.scan_header import ScanInfo

SOON = 2.0
"""Seconds within which a broken session is gone; the grace for items is 30 s."""
SIZE = planned_bytes(with_channels(ScanInfo.from_header(header()), COILS))
ENOUGH = planned_bytes(ScanInfo.from_header(header()))
"""Memory for one scan, also if its number of coils is unknown."""
ITEM_BYTES = 5 * 32**3 * 8


class Ledger(MemoryBudget):
    """A budget that notes what is held, and the most that was."""

    def __init__(self, capacity: int, patience: float = DEADLINE) -> None:
        super().__init__(capacity, patience)
        self.held = self.peak = 0
        self._noting = threading.Lock()

    def _note(self, size: int) -> None:
        with self._noting:
            self.held += size
            self.peak = max(self.peak, self.held)

    @contextmanager
    def share(self, size, name, patience=None):
        with super().share(size, name, patience):
            self._note(size)
            try:
                yield
            finally:
                self._note(-size)


@dataclass(frozen=True)
class CompressionSettings:
    """Settings of the gadget in the middle."""

    coefficients: int = 5
    fails: bool = False


class Stage:
    """What the gadgets of the tests do, and what they have seen."""

    def __init__(self) -> None:
        self.works = threading.Event()  # the first gadget of a scan with a seed works...
        self.may_end = threading.Event()  # ... until this
        self.spared: list[tuple[str, bool]] = []
        self.at_work: Counter[str] = Counter()
        self.most_at_work = 0
        self._lock = threading.Lock()

    def note(self, key: str, change: int) -> None:
        with self._lock:
            self.at_work[key] += change
            self.most_at_work = max(self.most_at_work, sum(n > 0 for n in self.at_work.values()))

    def make(self, items, scan, settings):
        """Turn a scan into a TSMI of `factor`.

        With a seed it works until it may end. From seed 2 on, there is another TSMI before that;
        with seed 3, the work is a single step that does not look whether it is cancelled.
        """
        self.spared.append(("make", scan.spare_memory))
        self.note(str(int(settings.factor)), 1)
        list(items)
        values = torch.full((5, 32, 32, 32), settings.factor, dtype=torch.complex64)
        tsmi = Tsmi(values, Geometry((32, 32, 32), scan.voxel_size))
        if settings.seed >= 2:
            yield tsmi
        if settings.seed == 3:
            assert self.may_end.wait(DEADLINE)
        elif settings.seed:
            for _ in scan.report.progress(itertools.repeat(None), "work"):
                self.works.set()
                if self.may_end.wait(0.002):
                    break
        time.sleep(0.02)  # long enough for another scan to be seen beside it
        self.note(str(int(settings.factor)), -1)
        yield tsmi

    def forward(self, items, scan, settings):
        self.spared.append(("forward", scan.spare_memory))
        if settings.fails:
            next(items)
            raise Mri2QmapError("this scan cannot be forwarded")
        yield from items

    def add(self, items, scan, settings):
        """Turn a TSMI into an image of the sum of its coefficients."""
        self.spared.append(("add", scan.spare_memory))
        for item in items:
            assert isinstance(item, Tsmi)
            volume = item.tsmi.real.sum(0, keepdim=True).numpy()
            yield ismrmrd.Image(data=np.ascontiguousarray(volume))


@pytest.fixture
def stage(monkeypatch):
    found = Stage()

    def gadget(name, work, settings):
        def function(items, scan, settings):
            yield from work(items, scan, settings)

        function.__annotations__["settings"] = settings
        module = types.ModuleType(f"mri2qmap.{name}")
        setattr(module, name, function)
        monkeypatch.setitem(sys.modules, module.__name__, module)

    gadget("coil_sensitivity", found.make, GainSettings)
    gadget("subspace_compression", found.forward, CompressionSettings)
    gadget("parametric_maps", found.add, SumSettings)
    monkeypatch.setattr(external_node, "ERROR_DELAY", 0.01)
    return found


def assert_nothing_is_left(running, budget: Ledger, seconds: float = SOON) -> None:
    eventually(
        lambda: (budget.held, len(running.sessions), running.item_store.n_bytes) == (0, 0, 0),
        "memory, items or a session are left",
        seconds,
    )
    assert len(running.item_store) == 0


@pytest.mark.parametrize("transport", ["reference", "value"])
@pytest.mark.parametrize(("fitting", "capacity"), [(1, ENOUGH), (2, 11 * SIZE // 4)])
def test_twins_run_one_after_the_other_within_the_budget(stage, transport, fitting, capacity):
    """Two of one address have at most three quarters of the memory."""
    budget = Ledger(capacity)
    results: dict[int, float] = {}
    with running_worker(budget) as (listener, running):

        def scan(factor: int) -> None:
            results[factor] = total(scan_through(listener, two_nodes(factor, transport=transport)))

        threads = [threading.Thread(target=scan, args=(factor,)) for factor in range(1, 7)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        assert results == {factor: 5 * factor for factor in range(1, 7)}
        assert budget.peak <= budget.total < (fitting + 1) * SIZE
        assert stage.most_at_work <= fitting
        assert_nothing_is_left(running, budget)


def test_memory_is_spared_in_all_nodes_of_a_session_by_the_settings_of_one(stage):
    xml = header(matrix="96 96 96", fov="192 192 192")
    scan = with_channels(ScanInfo.from_header(xml), COILS)

    def planned(coefficients: int, spare: bool) -> int:
        settings = CompressionSettings(coefficients)
        others = GainSettings(), SumSettings()
        names = "subspace_compression", "coil_sensitivity", "parametric_maps"
        nodes = [
            GadgetNode(name, stage.make, s)
            for name, s in zip(names, (settings, *others), strict=True)
        ]
        return planned_bytes(ScanInfo(**{**vars(scan), "spare_memory": spare}), nodes)

    budget = Ledger(planned(9, spare=False) - 1)
    assert planned(5, spare=False) < budget.total
    with running_worker(budget) as (listener, running):
        for coefficients, spared in ((5, False), (9, True)):
            stage.spared.clear()
            first = connect_node("coil_sensitivity", transport="reference", report="text")
            second = connect_node(
                "subspace_compression", coefficients=coefficients, transport="reference"
            )
            chain = scan_through(
                listener, pipeline(first, second, connect_node("parametric_maps")), xml
            )
            assert total(chain) == 5
            assert dict(stage.spared) == dict.fromkeys(("make", "forward", "add"), spared)
            assert any("at the cost of time" in text for text in chain.texts) is spared
            assert_nothing_is_left(running, budget)


def test_a_node_that_joins_late_gets_more_memory_at_once_or_is_refused(stage, monkeypatch):
    """By value, the settings of later nodes are unknown when memory is reserved."""
    xml = header(matrix="96 96 96", fov="192 192 192")
    known = planned_bytes(with_channels(ScanInfo.from_header(xml), COILS))
    document = pipeline(
        connect_node("coil_sensitivity", seed=1),
        connect_node("subspace_compression", coefficients=9),
        connect_node("parametric_maps"),
    )
    for capacity, refused in ((known + 2**20, True), (4 * known, False)):
        budget = Ledger(capacity)
        stage.may_end.set()
        with running_worker(budget) as (listener, running):
            chain = scan_through(listener, document, xml)
            assert budget.peak <= capacity
            if refused:
                assert "GiB" in chain.errors[0]
            else:
                assert total(chain) == 5
            assert_nothing_is_left(running, budget)


@pytest.mark.parametrize("broken", ["client", "first node", "second node"])
def test_an_aborted_scan_frees_memory_and_items_and_leaves_its_twin_alone(stage, broken):
    budget = Ledger(3 * SIZE)
    document = two_nodes(3, transport="reference", seed=1)
    with running_worker(budget) as (listener, running):
        twin = Chain(listener, document, header())
        twin.send(acquisitions())
        eventually(lambda: budget.held == SIZE, "the twin is not admitted")
        chain = Chain(listener, two_nodes(4, transport="reference", seed=1), header())
        chain.send(acquisitions())
        eventually(lambda: stage.at_work["4"] == 1, "the scan does not start")
        assert budget.held == 2 * SIZE
        broken_nodes = {"client": chain.nodes, "first node": chain.nodes[:1]}
        chain.break_off(broken_nodes.get(broken, chain.nodes[1:]))
        eventually(lambda: budget.held == SIZE, "the memory is not returned", SOON)
        assert len(running.sessions) == 1
        stage.may_end.set()
        twin.finish()
        assert total(twin) == 15
        chain.hang_up()
        assert_nothing_is_left(running, budget)


def first_and_second_node(listener, first: str):
    """Two nodes of a session without a server between them; the second knows its session."""
    nodes = [dial(listener), dial(listener)]
    nodes[0].sendall(opening(first.encode()))
    nodes[1].sendall(opening(configuration(gadget="parametric_maps")))
    peer = MessageSocket(nodes[0])
    name = peer.receive(DEADLINE)
    assert is_session_only(name)
    nodes[1].sendall(item_bytes(name))
    return nodes, peer


def test_items_that_nobody_can_take_go_with_the_memory_when_a_node_breaks(stage):
    budget = Ledger(ENOUGH)
    with running_worker(budget) as (listener, running):
        first = configuration(gadget="coil_sensitivity", transport="reference").decode()
        nodes, peer = first_and_second_node(listener, first)
        nodes[0].sendall(data() + CLOSE)
        eventually(lambda: running.item_store.n_bytes == ITEM_BYTES, "no item is stored")
        peer.receive(DEADLINE)
        peer.close()  # the first node has ended well
        eventually(lambda: len(listener) == 1, "the first node does not end")
        assert (len(running.item_store), budget.held) == (1, SIZE)
        nodes[1].close()
        assert_nothing_is_left(running, budget)


def test_a_gadget_joins_a_session_once(stage):
    """Memory is planned for each gadget of a scan once."""
    budget = Ledger(ENOUGH)
    with running_worker(budget) as (listener, running):
        first = configuration(gadget="coil_sensitivity", transport="reference").decode()
        nodes, peer = first_and_second_node(listener, first)
        nodes[0].sendall(data())
        eventually(lambda: len(running.sessions) == 1, "there is no session")
        (session,) = running.sessions._sessions.values()
        eventually(lambda: len(session.joined) == 2, "the second node has not joined")
        with dial(listener) as again:
            again.sendall(opening(configuration(gadget="parametric_maps")))
            again.sendall(item_bytes(encode_session(session.name)) + CLOSE)
            (failure,) = (m for m in receive_all(again) if isinstance(m, Failure))
            assert "this scan has a node parametric_maps already" in failure.text
        for node in nodes:
            node.close()
        peer.drop()
        assert_nothing_is_left(running, budget)


def join_session(sessions: WorkerSessions, gadget: str, first: object) -> WorkerNode:
    """A node of a chain, with its first message."""
    node = WorkerNode(sessions, "header", None)
    node.join(GadgetNode(gadget, None, None), first, last=False)
    return node


def test_a_gadget_joins_the_memory_of_a_scan_once():
    """Also where a node has a session of its own and uses the memory of another one."""
    sessions = WorkerSessions(MemoryBudget(ENOUGH))
    join = functools.partial(join_session, sessions)
    opened = join("coil_sensitivity", None)
    sessions.find(encode_session(opened.session)).spare_memory = False
    borrowing = join("toeplitz_cg", acquisitions()[0])
    assert borrowing.session != opened.session
    assert borrowing.activity is opened.activity
    join("pnp_admm", encode_session(opened.session))
    for name in (opened.session, borrowing.session):
        with pytest.raises(Mri2QmapError, match="has a node pnp_admm already"):
            join("pnp_admm", encode_session(name))
    join("combined_matching", encode_session(borrowing.session))


def test_what_arrives_by_value_beyond_the_plan_is_reserved_for_the_whole_session():
    """However many nodes of a session take items, they have the memory of one plan together."""
    plan, more = 1000, 300
    budget = MemoryBudget(plan + more, patience=0)
    sessions = WorkerSessions(budget)
    first, second = (WorkerNode(sessions, "header", None) for _ in range(2))
    first.join(GadgetNode("coil_sensitivity", None, None), None, last=False)
    second.join(GadgetNode("toeplitz_cg", None, None), encode_session(first.session), last=True)
    session = sessions.find(encode_session(first.session))
    session.held.enter_context(budget.share(plan, "this scan"))
    session.granted = plan
    first.arrived(800)
    second.arrived(150)
    assert budget.reserved == plan
    second.arrived(100)
    assert budget.reserved == plan + 50
    first.arrived(250)
    assert budget.reserved == plan + more
    with pytest.raises(Mri2QmapError, match="what arrives by value in this scan"):
        second.arrived(1)
    for node in (first, second):
        node.leave()
    assert budget.reserved == 0


def test_a_node_that_comes_after_the_end_of_its_session_borrows_from_no_twin():
    """The twin needs its memory for its own node of this gadget."""
    sessions = WorkerSessions(MemoryBudget(ENOUGH))
    twin = join_session(sessions, "coil_sensitivity", None)
    sessions.find(encode_session(twin.session)).spare_memory = False
    item = ismrmrd.Image(data=np.zeros((1, 1, 1, 1), np.float32))
    item.meta = encode_session("gone").meta | {"mri2qmap_item": "Tsmi"}
    late = join_session(sessions, "toeplitz_cg", item)
    assert late.activity is not twin.activity
    assert late.reserves


def test_a_node_of_the_scan_goes_before_a_stranger_with_its_header():
    """Whoever knows the header can open a session that uses the memory of the scan."""
    sessions = WorkerSessions(MemoryBudget(ENOUGH))
    join = functools.partial(join_session, sessions)
    opened = join("coil_sensitivity", None)
    sessions.find(encode_session(opened.session)).spare_memory = False
    stranger = join("toeplitz_cg", acquisitions()[0])
    own = join("toeplitz_cg", encode_session(opened.session))
    assert own.cancellation.error is None
    assert "memory of a scan whose own node" in str(stranger.cancellation.error)
    with pytest.raises(Mri2QmapError, match="has a node toeplitz_cg already"):
        join("toeplitz_cg", encode_session(opened.session))


def test_items_go_at_once_and_the_memory_with_the_last_node(stage):
    budget = Ledger(ENOUGH)
    with running_worker(budget) as (listener, running):
        first = configuration(gadget="coil_sensitivity", transport="reference", seed=3).decode()
        nodes, peer = first_and_second_node(listener, first)
        nodes[0].sendall(data() + CLOSE)
        eventually(lambda: running.item_store.n_bytes == ITEM_BYTES, "no item is stored")
        nodes[1].close()
        eventually(lambda: running.item_store.n_bytes == 0, "the item is still there", SOON)
        assert budget.held == SIZE  # the first node still computes
        stage.may_end.set()
        peer.close()
        assert_nothing_is_left(running, budget)


def test_items_stay_while_a_node_that_takes_them_may_come(stage, monkeypatch):
    monkeypatch.setattr(worker_node, "GATHERING", 0.05)
    budget = Ledger(ENOUGH)
    with running_worker(budget) as (listener, running):
        alone = pipeline(connect_node("coil_sensitivity", transport="reference"))
        chain = scan_through(listener, alone)
        assert (len(running.item_store), budget.held) == (1, SIZE)
        late = dial(listener)
        late.sendall(opening(configuration(gadget="parametric_maps")))
        for item in chain.items:
            late.sendall(item_bytes(item))
        late.sendall(CLOSE)
        assert float(MessageSocket(late).receive(DEADLINE).data[0, 0, 0, 0]) == 5
        late.close()
        assert_nothing_is_left(running, budget)


def test_items_of_a_node_that_never_comes_are_deleted_after_a_time(stage, monkeypatch):
    monkeypatch.setattr(worker_node, "GATHERING", 0.05)
    budget = Ledger(ENOUGH)
    with running_worker(budget) as (listener, running):
        running.sessions._grace = 0.2
        scan_through(listener, pipeline(connect_node("coil_sensitivity", transport="reference")))
        assert budget.held == SIZE
        assert_nothing_is_left(running, budget)


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ({"factr": 1}, 'property "factr" is not known'),
        ({"transport": "x"}, 'transport="x"'),
        ({"gadget": "maps"}, 'gadget "maps" is not known'),
        ({"dicom": "perhaps"}, 'dicom="perhaps"'),
    ],
)
def test_an_error_of_a_later_node_ends_the_work_of_those_before(stage, second, words):
    """Otherwise the server sends it on when they have ended: after the reconstruction."""
    budget = Ledger(ENOUGH)
    first = connect_node("coil_sensitivity", transport="reference", seed=1)
    document = pipeline(first, connect_node(**{"gadget": "parametric_maps", **second}))
    with running_worker(budget) as (listener, running):
        chain = Chain(listener, document, header())
        chain.send(acquisitions())
        chain.finish()  # although the first node would work for ever
        assert all(words in error for error in chain.errors)
        assert len(chain.errors) == 2
        assert_nothing_is_left(running, budget)


@pytest.mark.parametrize(("transport", "know"), [("reference", 3), ("value", 2)])
def test_an_error_of_a_node_that_runs_ends_those_before_and_after_it(stage, transport, know):
    """Those that know each other report what happened, and not what followed from it."""
    budget = Ledger(ENOUGH)
    nodes = [
        connect_node("coil_sensitivity", transport=transport, seed=2),
        connect_node("subspace_compression", transport=transport, fails="true"),
        connect_node("parametric_maps"),
    ]
    with running_worker(budget) as (listener, running):
        chain = Chain(listener, pipeline(*nodes), header())
        chain.send(acquisitions())
        chain.finish()  # although the first node would work for ever
        assert chain.items == []
        assert len(chain.errors) == 3
        assert sum("this scan cannot be forwarded" in error for error in chain.errors) == know
        assert_nothing_is_left(running, budget)


def test_an_error_goes_to_the_client_as_text_before_the_end_of_the_input(stage):
    budget = Ledger(ENOUGH)
    with running_worker(budget) as (listener, running):
        with dial(listener) as node:
            wrong = configuration(gadget="coil_sensitivity", factor=-1, report="text")
            node.sendall(opening(wrong))
            text = MessageSocket(node).receive(DEADLINE)
            assert isinstance(text, RelayedText)
            assert text.text.startswith("MRI2Qmap error: gadget coil_sensitivity")
            assert "factor must be positive" in text.text
        assert_nothing_is_left(running, budget)


def test_a_scan_that_waits_for_memory_leaves_when_its_client_does(stage):
    budget = Ledger(ENOUGH)
    document = two_nodes(3, transport="reference", seed=1)
    with running_worker(budget) as (listener, running):
        running_scan = Chain(listener, document, header())
        running_scan.send(acquisitions())
        assert stage.works.wait(DEADLINE)
        waiting = Chain(listener, document, header())
        eventually(lambda: len(running.sessions) == 2, "the second scan does not wait")
        waiting.break_off()
        eventually(lambda: len(running.sessions) == 1, "the second scan waits on", SOON)
        waiting.hang_up()
        stage.may_end.set()
        running_scan.finish()
        assert total(running_scan) == 15
        assert_nothing_is_left(running, budget)


def test_a_session_of_another_worker_is_refused(stage):
    with running_worker() as (one, _), running_worker() as (other, running):
        first = dial(one)
        first.sendall(opening(configuration(gadget="coil_sensitivity", transport="reference")))
        name = MessageSocket(first).receive(DEADLINE)
        with dial(other) as second:
            second.sendall(
                opening(configuration(gadget="parametric_maps")) + item_bytes(name) + CLOSE
            )
            assert struct.unpack("<H", second.recv(2)) == (8,)
            assert b"same worker" in second.recv(1000)
        first.close()
        assert len(running.sessions) == 0


def test_a_scan_without_items_ends_with_an_error(stage):
    with running_worker() as (listener, running):
        with dial(listener) as node:
            node.sendall(opening(configuration(gadget="parametric_maps")) + CLOSE)
            assert struct.unpack("<H", node.recv(2)) == (8,)
            assert b"no item arrived" in node.recv(1000)
        assert len(running.sessions) == 0

"""What is known of the scans of a service while they go on and when they have ended."""

import json
import threading
from contextlib import ExitStack, suppress
from types import SimpleNamespace

import pytest
from helpers.chains import scan_through, two_nodes
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
)
from helpers.scans import acquisitions, header, scan_info
from helpers.server_side import configuration, conversation, read_answer
from helpers.waiting import eventually

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts.live_scans import KEPT, Judgement
from mri2qmap.hosts.server import ScanServer, answer
from mri2qmap.hosts.service_record import ServiceRecord
from mri2qmap.hosts.stage_timing import StageTiming
from mri2qmap.pipeline.memory_budget import MemoryBudget


@pytest.fixture
def record():
    return ServiceRecord()


def host(active: str, *gadgets: str, received: int = 0) -> SimpleNamespace:
    """What an `InProcessHost` tells: the first gadget has worked for 2 s, the active one for 3."""
    timings = [StageTiming(name) for name in ("source", *gadgets, "output")]
    timings[0].items_out, timings[1].busy = received, 2.0
    return SimpleNamespace(timings=timings, active=(active, 3.0), provenance=None)


def pick(state: list[dict], *names: str) -> list[tuple]:
    return [tuple(scan[name] for name in names) for scan in state]


def test_a_scan_from_its_header_to_its_end(record):
    def live():
        return record.live.state()

    with record.session("10.0.0.5") as entry:
        assert live() == {"running": [], "waiting": [], "done": [], "failed": []}
        entry.describe("mri2qmap", scan_info(header(matrix="8 6 4", fov="16 12 8")))
        (state,) = live()["running"]
        assert (state["pipeline"], state["peer"], state["number"]) == ("mri2qmap", "10.0.0.5", 1)
        assert (state["matrix"], state["frames"]) == ([8, 6, 4], 4)  # x, y, z
        assert (state["running"], state["gadgets"], state["received"]) == (False, [], None)
        entry.size = 2**30
        entry.queued(2)
        assert pick(live()["waiting"], "place", "memory") == [(2, 2**30)]
        assert live()["running"] == []
        with entry.begin("a scan"):
            entry.host = host("toeplitz_cg", "coil_sensitivity", "toeplitz_cg", received=7)
            (state,) = live()["running"]
            assert live()["waiting"] == []
            assert (state["running"], state["received"]) == (True, 7)
            assert state["gadgets"] == [
                {"name": "coil_sensitivity", "active": False, "seconds": 2.0},
                {"name": "toeplitz_cg", "active": True, "seconds": 3.0},
            ]
            entry.stage_seconds, entry.sent = {"toeplitz_cg": 4.04}, 3
    ((done,), failed) = live()["done"], live()["failed"]
    assert failed == live()["running"] == []
    assert (done["outcome"], done["reason"], done["results"], done["light"]) == (
        "done",
        "",
        3,
        None,
    )
    assert done["gadgets"] == [{"name": "toeplitz_cg", "active": False, "seconds": 4.0}]
    assert 0 <= done["since"] <= done["ended"] <= record.live.now()
    json.dumps(live(), allow_nan=False)


def test_steps_of_the_gadget_that_works(record):
    def step():
        (state,) = record.live.state()["running"]
        return next((g["step"] for g in state["gadgets"] if "step" in g), None)

    with record.session() as entry, entry.begin("a scan"):
        entry.describe("", scan_info())
        entry.host = host("pnp_admm", "coil_sensitivity", "pnp_admm")
        seen = []
        for _ in entry.steps("ab", "ADMM", 2):
            seen.append(step())
            for _ in entry.steps(iter("c"), "CG", None):
                seen.append(step())
        assert seen == [
            {"name": "ADMM", "done": 0, "total": 2},
            {"name": "CG", "done": 0, "total": None},
            {"name": "ADMM", "done": 1, "total": 2},
            {"name": "CG", "done": 0, "total": None},
        ]
        assert step() is None
        steps = entry.steps("ab", "ADMM", 2)
        next(steps)
        assert step() is not None
        steps.close()  # a computation that ends early
        assert step() is None


@pytest.mark.parametrize(
    ("error", "outcome", "reason"),
    [
        (Mri2QmapError("no\n  frames"), "refused", "no frames"),
        (
            ConnectionError("the client has disconnected"),
            "cancelled",
            "the client has disconnected",
        ),
        (ZeroDivisionError("a bug"), "failed", "ZeroDivisionError: a bug"),
        (Mri2QmapError("/data/PAT/scan.h5 is gone"), "refused", "scan.h5 is gone"),
        (Mri2QmapError("\u202e\x1b[1m"), "refused", r"\u202e\x1b[1m"),
        (Mri2QmapError("x" * 9999), "refused", "x" * 400 + "..."),
        (Mri2QmapError(""), "refused", "no message"),
    ],
)
def test_failures_have_a_reason_of_one_line(record, error, outcome, reason):
    with suppress(type(error)), record.session("::1"):
        raise error
    state = record.live.state()
    assert pick(state["failed"], "outcome", "reason", "peer") == [(outcome, reason, "::1")]
    assert state["done"] == []


def test_failures_do_not_push_out_scans(record):
    with record.session() as entry, entry.begin("a scan"):
        pass
    for _ in range(3 * KEPT):
        with suppress(Mri2QmapError), record.session():
            raise Mri2QmapError("wrong")
    state = record.live.state()
    assert pick(state["done"], "number") == [(1,)]
    assert len(state["failed"]) == KEPT
    assert state["failed"][0]["number"] == 3 * KEPT + 1  # the last one comes first
    assert not record.live._open
    assert not record.live._ended


def test_a_session_that_only_asked_leaves_nothing(record):
    with record.session():
        pass
    assert not any(record.live.state().values())


def test_nodes_of_a_scan_are_one_scan(record):
    scan, key = scan_info(), object()
    with ExitStack() as outer, ExitStack() as inner:  # nested, as the log context of a thread is
        two = outer.enter_context(record.session("10.0.0.7"))
        one = inner.enter_context(record.session("10.0.0.7"))
        for entry, gadget in ((two, "toeplitz_cg"), (one, "coil_sensitivity")):
            entry.describe("", scan, key)
            entry.host = host(gadget, gadget, received=5)
        outer.enter_context(two.begin("gadget toeplitz_cg"))
        inner.enter_context(one.begin("gadget coil_sensitivity"))
        with record.session() as other:
            other.describe("", scan, object())
            assert pick(record.live.state()["running"], "number") == [(1,), (3,)]
        (state,) = record.live.state()["running"]
        assert [g["name"] for g in state["gadgets"]] == ["coil_sensitivity", "toeplitz_cg"]
        assert state["received"] == 5
        one.stage_seconds = {"coil_sensitivity": 1.0}
        inner.close()
        (state,) = record.live.state()["running"]
        assert (state["number"], len(state["gadgets"])) == (1, 2)
        assert record.live.state()["done"] == []
        two.stage_seconds = {"toeplitz_cg": 2.0}
    assert pick(record.live.state()["done"], "number", "peer") == [(1, "10.0.0.7")]
    assert [g["seconds"] for g in record.live.state()["done"][0]["gadgets"]] == [1.0, 2.0]


def test_a_failed_scan_has_the_reason_of_the_node_that_failed(record):
    scan, key = scan_info(), object()
    first, second = record.session(), record.session()
    for session in (first, second):
        session.__enter__().describe("", scan, key)
    quoting = Mri2QmapError("gadget b: ended because of another gadget of this scan: a bug")
    for session, error in ((second, quoting), (first, ZeroDivisionError("a bug"))):
        assert session.__exit__(type(error), error, None) is False
    (failed,) = record.live.state()["failed"]
    assert (failed["outcome"], failed["reason"]) == ("failed", "ZeroDivisionError: a bug")


@pytest.mark.parametrize("fails", [False, True])
def test_a_run_is_judged_by_its_record(record, fails, caplog):
    def judge(run):
        if fails:
            raise KeyError("iterations")
        return Judgement("amber", [f"{run['pipeline']} is new", *(["x"] * 100)])

    record.live.judge = judge
    with record.session() as entry, entry.begin("a scan"):
        entry.judge_run({"pipeline": "llr"})
    (done,) = record.live.state()["done"]
    assert (done["outcome"], done["light"]) == ("done", None if fails else "amber")
    assert done["findings"][:1] == ([] if fails else ["llr is new"])
    assert len(done["findings"]) < 10
    assert any(record.levelname in ("WARNING", "ERROR") for record in caplog.records) == fails


def test_it_may_be_looked_at_while_scans_come_and_go(record):
    """Many threads, as a service has them."""
    ended, errors = threading.Event(), []

    def look():
        while not ended.is_set():
            try:
                json.dumps(record.live.state())
            except Exception as error:
                errors.append(error)

    def scan():
        for _ in range(100):
            with record.session() as entry, entry.begin("a scan"):
                entry.describe("llr", scan_info())
                entry.host = host("output", "coil_sensitivity")

    lookers, scans = ([threading.Thread(target=what) for _ in range(3)] for what in (look, scan))
    for thread in (*lookers, *scans):
        thread.start()
    for thread in scans:
        thread.join()
    ended.set()
    for thread in lookers:
        thread.join()
    assert errors == []
    assert len(record.live.state()["done"]) == KEPT


def test_a_server_tells_what_it_does(endless_maps, small_pipeline):
    server = ScanServer(MemoryBudget(PLENTY), "cpu")
    with (
        listening(server.serve, budget=MemoryBudget(PLENTY), answer=answer) as listener,
        dial(listener) as client,
    ):
        client.sendall(opening(small_pipeline.read_bytes()) + data() + CLOSE)
        assert endless_maps.started.wait(DEADLINE)
        (state,) = server.record.live.state()["running"]
        assert (state["peer"], state["received"]) == ("127.0.0.1", len(acquisitions()))
        assert state["memory"] > 0
        active = state["gadgets"][1]
        assert (active["name"], active["active"]) == ("parametric_maps", True)
        assert active["step"]["name"] == "ADMM"
        assert active["step"]["total"] is None
        client.close()
        eventually(lambda: server.record.live.state()["failed"], "the scan does not end")
        (failed,) = server.record.live.state()["failed"]
        assert failed["outcome"] == "cancelled"


def test_a_scan_that_waits_for_memory_has_its_place(small_pipeline):
    budget = MemoryBudget(2**30, patience=60)
    server = ScanServer(budget, "cpu")
    with ExitStack() as stack:
        listener = stack.enter_context(listening(server.serve, budget=budget, answer=answer))
        stack.enter_context(budget.share(2**30, "another one"))
        client = stack.enter_context(dial(listener))
        client.sendall(opening(small_pipeline.read_bytes()) + data())
        eventually(lambda: server.record.live.state()["waiting"], "it does not wait")
        ((place, running),) = pick(server.record.live.state()["waiting"], "place", "running")
        assert (place, running) == (1, False)


@pytest.mark.parametrize("transport", ["value", "reference"])
def test_a_chain_of_nodes_is_one_scan(fake_gadgets, transport):
    with running_worker() as (listener, worker):
        live = worker.record.live
        fails = two_nodes(fail_with="user", transport="reference")
        for document in (two_nodes(transport=transport), fails):
            scan_through(listener, document)
        eventually(lambda: live.state()["done"] and live.state()["failed"], "they do not end")
        ((done,), (failed,)) = live.state()["done"], live.state()["failed"]
    assert [gadget["name"] for gadget in done["gadgets"]] == ["coil_sensitivity", "parametric_maps"]
    assert done["memory"] > 0
    assert failed["reason"] == "gadget coil_sensitivity: this scan cannot be amplified"


def test_a_worker_tells_what_its_nodes_do(fake_gadgets):
    with running_worker() as (listener, worker):
        asked = configuration(gadget="coil_sensitivity", fail_with="bug")
        with dial(listener) as node:
            node.sendall(conversation(asked, header(), acquisitions()))
            assert read_answer(node).errors
        with dial(listener) as node:
            node.sendall(counted(3, header().encode()) * 2 + CLOSE)
            receive_all(node)
        live = worker.record.live
        eventually(lambda: len(live.state()["failed"]) == 2, "they do not end")
        second, first = live.state()["failed"]
    assert (first["outcome"], first["matrix"]) == ("failed", [8, 8, 8])
    assert "ZeroDivisionError" in first["reason"]
    assert (second["outcome"], "matrix" in second) == ("refused", False)

"""Which worker gets which scan, and what happens after failures, with workers that do nothing."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from mri2qmap.cohort import dispatch
from mri2qmap.cohort.cluster import CohortWorker
from mri2qmap.cohort.dispatch import Dispatcher
from mri2qmap.cohort.planning import PlannedScan
from mri2qmap.errors import Mri2QmapError
from mri2qmap.storage.work_folder import WorkFolder

DONE = {"seconds": 1.0, "peak_memory": 5, "started": 7.0}
FAILED = {"error": "it cannot", "seconds": 1.0, "started": 7.0}
A, B = CohortWorker("tcp://a:1", 10), CohortWorker("tcp://b:1", 20)


@dataclass(frozen=True)
class FakeAttempt:
    key: str
    scan: str
    address: str


@dataclass
class FakeCluster:
    """Workers whose attempts end in the order in which they were started.

    Attributes
    ----------
    answer
        Result of a scan on a worker; None: the worker is lost with it; "endless": it does not end.
    """

    present: list[CohortWorker]
    answer: Callable[[str, str], dict | str | None] = lambda scan, address: DONE
    given: list[tuple[str, str]] = field(default_factory=list)
    open: list[FakeAttempt] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    looks: int = 0

    def workers(self):
        self.looks += 1
        return list(self.present)

    def start(self, address, memory, job):
        self.given.append((job["scan"], address))
        attempt = FakeAttempt(str(len(self.given)), job["scan"], address)
        self.open.append(attempt)
        return attempt

    def ended(self, timeout):
        for attempt in self.open:
            answer = self.answer(attempt.scan, attempt.address)
            if answer == "endless":
                continue
            self.open.remove(attempt)
            if answer is None:
                self.present = [w for w in self.present if w.address != attempt.address]
            return attempt
        return None

    def result(self, attempt):
        return self.answer(attempt.scan, attempt.address)

    def give_up(self, attempt):
        self.dropped.append(attempt.scan)
        self.open = [other for other in self.open if other != attempt]


@pytest.fixture
def reconstruct(tmp_path):
    """Function that dispatches scans with given plans of memory; returns outcomes by name."""

    def run(cluster, memory: dict[str, int], patience: float = 0.0):
        scans = [
            PlannedScan(name, Path(name), tmp_path / name, size, {"never": "made"})
            for name, size in memory.items()
        ]
        outcomes = {}

        def on_end(outcome):
            assert outcome.scan not in outcomes
            outcomes[outcome.scan] = outcome

        with WorkFolder(tmp_path, ".work") as work:

            def make_job(scan, worker, part):
                assert part.is_dir()
                return {"scan": scan.name, "memory": worker.memory}

            Dispatcher(cluster, work, make_job, on_end, patience).run(scans)
            assert [path.name for path in work.path.iterdir()] == ["lock"]
        return outcomes

    return run


def states(outcomes):
    return {name: outcome.state for name, outcome in outcomes.items()}


def test_a_worker_has_one_scan_at_a_time_and_small_ones_leave_large_workers_free(reconstruct):
    cluster = FakeCluster([B, A])
    outcomes = reconstruct(cluster, {"small": 1, "large": 15, "middle": 5})
    assert cluster.given[:2] == [("large", B.address), ("middle", A.address)]
    assert cluster.given[2][0] == "small"
    assert set(states(outcomes).values()) == {"done"}
    assert outcomes["large"].worker == B.address
    assert (outcomes["large"].seconds, outcomes["large"].peak_memory) == (1.0, 5)


def test_a_scan_that_no_worker_can_hold_fails_at_once(reconstruct):
    cluster = FakeCluster([A, B])
    outcomes = reconstruct(cluster, {"fits": 20, "huge": 30 * 2**30}, patience=1e6)
    assert states(outcomes) == {"fits": "done", "huge": "failed"}
    assert "needs about 30.0 GiB of memory, and no worker announces more than" in (
        outcomes["huge"].reason
    )


@pytest.mark.parametrize(
    ("workers", "given"),
    [
        ([A], [A.address, A.address]),
        ([A, B], [A.address, B.address]),
        ([A, replace(B, unfit="it is of glass")], [A.address, A.address]),
    ],
)
def test_a_failed_scan_is_tried_once_more_on_another_worker_if_there_is_one(
    reconstruct, workers, given
):
    cluster = FakeCluster(workers, lambda scan, address: FAILED)
    outcomes = reconstruct(cluster, {"scan": 1})
    assert cluster.given == [("scan", address) for address in given]
    assert states(outcomes) == {"scan": "failed"}
    assert (outcomes["scan"].reason, outcomes["scan"].worker) == ("it cannot", given[-1])


def test_a_failed_scan_waits_for_the_other_worker(reconstruct):
    order = itertools.count()

    def answer(scan, address):
        if scan == "long":
            return "endless" if next(order) < 6 else DONE
        return FAILED if address == A.address else DONE

    cluster = FakeCluster([A, replace(B, memory=100)], answer)
    outcomes = reconstruct(cluster, {"long": 50, "bad": 1})
    assert cluster.given == [("long", B.address), ("bad", A.address), ("bad", B.address)]
    assert set(states(outcomes).values()) == {"done"}


def test_the_scan_of_a_lost_worker_runs_on_another(reconstruct):
    cluster = FakeCluster([A, B], lambda scan, address: None if address == A.address else DONE)
    outcomes = reconstruct(cluster, {"x": 1, "y": 1, "z": 1})
    assert set(states(outcomes).values()) == {"done"}
    assert {outcome.worker for outcome in outcomes.values()} == {B.address}


def test_a_worker_can_be_lost_without_a_word(reconstruct):
    """Its attempt never ends, but it is no longer among the workers."""
    cluster = FakeCluster([A, B])
    found = cluster.workers

    def workers():
        if cluster.looks == 2:
            cluster.present = [B]
        return found()

    cluster.workers = workers
    cluster.answer = lambda scan, address: "endless" if address == A.address else DONE
    outcomes = reconstruct(cluster, {"x": 1, "y": 1})
    assert set(states(outcomes).values()) == {"done"}
    assert cluster.given.count(("x", A.address)) == 1


def test_when_all_workers_are_lost_scans_wait_for_a_new_one(reconstruct, monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(dispatch.time, "monotonic", lambda: float(next(clock)))
    cluster = FakeCluster([A], lambda scan, address: None if address == A.address else DONE)
    found = cluster.workers

    def workers():
        if cluster.looks == 20:
            cluster.present = [B]
        return found()

    cluster.workers = workers
    assert states(reconstruct(cluster, {"x": 1}, patience=100)) == {"x": "done"}
    assert cluster.given[-1] == ("x", B.address)

    cluster = FakeCluster([A], lambda scan, address: None)
    outcome = reconstruct(cluster, {"x": 1}, patience=10)["x"]
    assert outcome.state == "failed"
    assert outcome.reason.startswith("the worker was lost")
    assert outcome.reason.endswith("there was no worker within 10 s")
    assert 8 <= cluster.looks <= 14


def test_a_worker_that_stays_paused_is_not_waited_for(reconstruct, monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(dispatch.time, "monotonic", lambda: float(next(clock)))
    cluster = FakeCluster([replace(A, running=False)])
    outcome = reconstruct(cluster, {"x": 1}, patience=10)["x"]
    assert "were paused or out of reach for 10 s" in outcome.reason
    assert cluster.given == []


def test_a_folder_that_is_complete_is_done_whatever_the_worker_says(reconstruct, monkeypatch):
    record = {"total_s": 3.0, "gadgets": [{"rss_peak_bytes": 9}, {"rss_peak_bytes": None}]}
    monkeypatch.setattr(PlannedScan, "new_record", lambda scan: record)
    cluster = FakeCluster([A, B], lambda scan, address: None)
    outcome = reconstruct(cluster, {"x": 1})["x"]
    assert (outcome.state, outcome.seconds, outcome.peak_memory) == ("done", 3.0, 9)
    assert len(cluster.given) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, Mri2QmapError])
def test_when_it_ends_early_nothing_goes_on(reconstruct, error):
    cluster = FakeCluster([A, B], lambda scan, address: "endless")

    def ended(timeout):
        raise error("end")

    cluster.ended = ended
    with pytest.raises(error):
        reconstruct(cluster, {"x": 1, "y": 1, "z": 1})
    assert sorted(cluster.dropped) == sorted(scan for scan, _ in cluster.given)
    assert len(cluster.given) == 2

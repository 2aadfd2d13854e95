"""Which worker reconstructs which scan, and what happens after a failure."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mri2qmap.cohort.cluster import Attempt, Cluster, CohortWorker
from mri2qmap.cohort.outcome import ScanOutcome
from mri2qmap.cohort.planning import PlannedScan
from mri2qmap.pipeline.memory_budget import gib, gib_apart
from mri2qmap.storage.work_folder import WorkFolder

ATTEMPTS = 2
"""How often a scan is tried."""
_POLL = 0.5
"""Time between two looks at the workers [s]."""
JobMaker = Callable[[PlannedScan, CohortWorker, Path], Mapping[str, Any]]
"""Makes the argument of `mri2qmap.cohort.task.reconstruct_scan` of a scan, a worker and the folder
for unfinished files."""


@dataclass
class _Waiting:
    """A scan that waits for a worker.

    Attributes
    ----------
    scan
        The scan.
    attempts
        How often it was tried.
    failed_on
        Workers that it failed on.
    reason, worker
        Of the last failure.
    homeless
        Since when no worker can hold it [s]; None: one can.
    """

    scan: PlannedScan
    attempts: int = 0
    failed_on: set[str] = field(default_factory=set)
    reason: str = ""
    worker: str = ""
    homeless: float | None = None


@dataclass
class _Running:
    waiting: _Waiting
    worker: CohortWorker
    attempt: Attempt
    part: Path


class Dispatcher:
    """Gives scans to workers, one at a time to each.

    The largest scan comes first, and of the free workers that can hold it the smallest takes it. A
    scan that failed, or whose worker was lost, is tried once more, on another worker if there is
    one. A worker that is unfit gets none.

    Parameters
    ----------
    cluster
        The workers.
    folder
        For unfinished files.
    make_job
        See `JobMaker`.
    on_end
        Called with the outcome of each scan that ends.
    patience
        How long a scan waits for a worker that can hold it, if there are no workers yet, one was
        lost or one is paused [s]. It does not wait otherwise.
    """

    def __init__(
        self,
        cluster: Cluster,
        folder: WorkFolder,
        make_job: JobMaker,
        on_end: Callable[[ScanOutcome], object],
        patience: float,
    ) -> None:
        self._cluster = cluster
        self._folder = folder
        self._make_job = make_job
        self._on_end = on_end
        self._patience = patience
        self._waiting: list[_Waiting] = []
        self._running: dict[str, _Running] = {}
        self._known: list[CohortWorker] = []
        self._lost_one = False
        self._count = 0

    def run(self, scans: list[PlannedScan]) -> None:
        """Reconstruct scans; return when each has ended.

        Raises
        ------
        Mri2QmapError
            If the scheduler is gone, or the folder for unfinished files cannot be written.
        """
        self._waiting = [_Waiting(scan) for scan in scans]
        try:
            while self._waiting or self._running:
                workers = self._fit_workers()
                self._assign(workers)
                self._end_homeless(workers)
                if not self._waiting and not self._running:
                    break
                ended = self._cluster.ended(_POLL)
                while ended is not None:
                    self._end(ended)
                    ended = self._cluster.ended(0)
        finally:
            for running in list(self._running.values()):
                self._drop(running)

    def _fit_workers(self) -> list[CohortWorker]:
        """Return the workers that may take scans; take note of those that are lost."""
        workers = self._cluster.workers()
        present = {worker.address for worker in workers}
        self._lost_one |= any(worker.address not in present for worker in self._known)
        self._known = workers
        for running in list(self._running.values()):
            if running.worker.address not in present:
                self._lose(running)
        return [worker for worker in workers if not worker.unfit]

    def _busy(self) -> set[str]:
        return {running.worker.address for running in self._running.values()}

    def _assign(self, workers: list[CohortWorker]) -> None:
        busy = self._busy()
        for waiting in sorted(self._waiting, key=lambda waiting: -waiting.scan.memory):
            able = _able(workers, waiting)
            able = [w for w in able if w.address not in waiting.failed_on] or able
            free = [worker for worker in able if worker.running and worker.address not in busy]
            if free:
                chosen = min(free, key=lambda worker: worker.memory)
                busy.add(chosen.address)
                self._start(waiting, chosen)

    def _start(self, waiting: _Waiting, worker: CohortWorker) -> None:
        waiting.attempts += 1
        self._count += 1
        part = self._folder.part(str(self._count))
        job = self._make_job(waiting.scan, worker, part)
        attempt = self._cluster.start(worker.address, waiting.scan.memory, job)
        self._waiting.remove(waiting)
        self._running[attempt.key] = _Running(waiting, worker, attempt, part)

    def _end(self, attempt: Attempt) -> None:
        """Take note of an attempt that ended."""
        running = self._running.get(attempt.key)
        if running is None:  # was given up
            return
        values = self._cluster.result(attempt)
        if values is None:
            self._lose(running)
            return
        self._drop(running)
        if "error" in values:
            self._fail(running, values["error"])
        else:
            seconds, peak, started = (values[k] for k in ("seconds", "peak_memory", "started"))
            name, address = running.waiting.scan.name, running.worker.address
            self._on_end(ScanOutcome(name, "done", seconds, peak, address, "", started))

    def _lose(self, running: _Running) -> None:
        """Try a scan again whose worker is gone."""
        self._lost_one = True
        self._drop(running)
        self._fail(running, "the worker was lost: it ended, was killed, or is out of reach")

    def _fail(self, running: _Running, reason: str) -> None:
        waiting, address = running.waiting, running.worker.address
        record = waiting.scan.new_record()
        if record is not None:  # it was done before the worker could tell
            outcome = ScanOutcome.from_record(
                waiting.scan.name, record, state="done", worker=address
            )
            self._on_end(outcome)
            return
        waiting.failed_on.add(address)
        waiting.reason, waiting.worker = reason, address
        if waiting.attempts < ATTEMPTS:
            self._waiting.append(waiting)
        else:
            self._on_end(ScanOutcome(waiting.scan.name, "failed", None, None, address, reason))

    def _drop(self, running: _Running) -> None:
        """Forget an attempt; where it still runs, it ends."""
        self._running.pop(running.attempt.key, None)
        self._folder.revoke(running.part)
        self._cluster.give_up(running.attempt)

    def _end_homeless(self, workers: list[CohortWorker]) -> None:
        """Let scans fail that no worker can hold."""
        now = time.monotonic()
        may_come = self._lost_one or not all(worker.running for worker in self._known)
        patience = self._patience if may_come or not self._known else 0.0
        busy = self._busy()
        for waiting in list(self._waiting):
            if any(w.running or w.address in busy for w in _able(workers, waiting)):
                waiting.homeless = None
                continue
            if waiting.homeless is None:
                waiting.homeless = now
            if now - waiting.homeless >= patience:
                self._waiting.remove(waiting)
                reason = self._why_homeless(workers, waiting)
                name, last = waiting.scan.name, waiting.worker
                self._on_end(ScanOutcome(name, "failed", None, None, last, reason))

    def _why_homeless(self, workers: list[CohortWorker], waiting: _Waiting) -> str:
        needed = f"it needs about {gib(waiting.scan.memory)} of memory"
        if _able(workers, waiting):
            text = (
                f"{needed}, and the workers that have it were paused or out of reach for "
                f"{self._patience:g} s"
            )
        elif workers:
            most = max(worker.memory for worker in workers)
            memory, announced = gib_apart(waiting.scan.memory, most)
            text = (
                f"it needs about {memory} of memory, and no worker announces more than "
                f"{announced}: fewer workers on a machine, one with more memory, or a coarser "
                "matrix"
            )
        elif self._known:
            unfit = "; ".join(f"{worker.address}: {worker.unfit}" for worker in self._known)
            text = f"no worker can reconstruct it: {unfit}"
        else:
            text = f"{needed}, and there was no worker within {self._patience:g} s"
        return f"{waiting.reason}; then {text}" if waiting.reason else text


def _able(workers: list[CohortWorker], waiting: _Waiting) -> list[CohortWorker]:
    return [worker for worker in workers if worker.memory >= waiting.scan.memory]

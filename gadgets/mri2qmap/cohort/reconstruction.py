"""`mri2qmap.reconstruct_cohort`: several scans, each into a folder of its own."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from mri2qmap.api.progress import Progress, reporter_of
from mri2qmap.api.reconstruction import DEFAULT_PIPELINE
from mri2qmap.api.settings import Settings, overrides_of
from mri2qmap.cohort.cluster import (
    PURPOSE,
    CohortWorker,
    DaskCluster,
    connected,
    local_cluster,
)
from mri2qmap.cohort.dispatch import Dispatcher
from mri2qmap.cohort.outcome import CohortTable, ScanOutcome
from mri2qmap.cohort.planning import PlannedScan, plan_cohort
from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.container_limits import usable_cores
from mri2qmap.machine.devices import select_device
from mri2qmap.machine.optional_packages import load_optional
from mri2qmap.pipeline.memory_plan import available_bytes, checked_memory
from mri2qmap.pipeline.progress_bars import bars_end_here
from mri2qmap.pipeline.scan_profile_files import ScanProfileInput
from mri2qmap.pipeline.scan_section import chosen_profile
from mri2qmap.storage.inputs import as_path
from mri2qmap.storage.work_folder import WorkFolder

WORK_FOLDER = ".mri2qmap.cohort"
SHARE = 0.8
"""Of the memory that is free, what the workers of this machine may take unless told otherwise."""
PATIENCE = 60.0
"""How long a scan waits for a worker [s]."""


@bars_end_here()
def reconstruct_cohort(
    scans: Sequence[str | os.PathLike[str]],
    output: str | Path,
    pipeline: str | Path = DEFAULT_PIPELINE,
    device: str = "auto",
    settings: Settings | None = None,
    progress: Progress = None,
    group: str | None = None,
    memory: int | None = None,
    *,
    scheduler: str | None = None,
    workers: int | None = None,
    threads: int | None = None,
    patience: float = PATIENCE,
    overwrite: bool = False,
    report: bool = True,
    pdf: bool = False,
    command: Sequence[str] = (),
    on_end: Callable[[ScanOutcome], object] | None = None,
    scan_profile: ScanProfileInput | None = None,
) -> list[ScanOutcome]:
    """Reconstruct several scans with processes of this machine or of others.

    A scan that fails, or whose worker is lost, is tried once more, on another worker where there is
    one; the others are not affected. A scan that does not pass the checks of `mri2qmap.validate`
    fails before anything runs, without a worker. A scan whose folder is complete and was made from
    the same file with the same pipeline, settings and version is skipped.

    The worker processes of this machine are started anew, so the main module of a program must be
    safe to import: ``if __name__ == "__main__":``.

    Parameters
    ----------
    scans
        Paths of ISMRMRD files with different names.
    output
        Folder of the results: a folder for each scan with the name of its file without suffix, as
        `mri2qmap.reconstruct` saves it, and ``cohort.csv``, the table of outcomes.
    pipeline, settings, group
        See `mri2qmap.reconstruct`. Files are read by the workers, and
        before that for the checks.
    device
        Device of each worker.
    progress
        See `mri2qmap.reconstruct`; the steps are the scans.
    memory
        Bytes that all workers of this machine may use together; None: 0.8 of what is free. Not
        with a scheduler, whose workers announce their memory.
    scheduler
        Address of a Dask scheduler, ``tcp://HOST:PORT``; None: start workers on this machine.
    workers
        Number of workers of this machine; None: as many as cores and memory allow, or 1 with a GPU.
    threads
        CPU threads for each scan; None: as many as its worker has, on this machine those of PyTorch
        divided by the number of workers.
    patience
        With a scheduler: how long a scan waits for a worker that can hold it, if there is none yet
        or one was lost [s]. Otherwise such a scan fails at once.
    overwrite
        Make all scans again. A folder is replaced when its new content is complete.
    report
        Whether each folder gets report.html and report.png.
    pdf
        Whether it gets report.pdf as well.
    command
        The command line that asked for the run, for the records.
    on_end
        Called with the outcome of each scan when it ends.
    scan_profile
        Convention in which all scans are written, see `mri2qmap.reconstruct`.

    Returns
    -------
        The outcomes, in the order of `scans`.

    Raises
    ------
    Mri2QmapError
        Before anything runs: if Dask is not installed, for wrong arguments, for two scans of one
        name, and for a folder that was made from something else; later, if the scheduler is lost or
        the table cannot be written. Errors of single scans are in the outcomes.
    """
    load_optional("distributed", PURPOSE)
    if isinstance(scans, str | os.PathLike) or not isinstance(scans, Sequence):
        raise Mri2QmapError(f"scans: a list of paths is expected, got {type(scans).__name__}")
    _check(scheduler, workers, threads, memory, patience)
    reporter = reporter_of(progress)
    folder = as_path(output, "output").resolve()
    profile = None
    if scan_profile is not None:
        profile = chosen_profile(None, scan_profile, "cohort")
    overrides = overrides_of(settings)
    plan = plan_cohort(scans, folder, pipeline, overrides, group, overwrite, reporter, profile)
    outcomes = {name: ScanOutcome(name, "unfinished") for name in plan.names}
    table = CohortTable(folder, outcomes.values())
    step = reporter.steps(len(plan.names), "scans")

    def end(outcome: ScanOutcome) -> None:
        outcomes[outcome.scan] = outcome
        table.put(outcome)
        reporter.log(f"{outcome.scan}: {outcome.state}{outcome.reason and f' ({outcome.reason})'}")
        if on_end is not None:
            on_end(outcome)
        step()

    def make_job(scan: PlannedScan, worker: CohortWorker, part: Path) -> Mapping[str, Any]:
        return {
            "part": str(part),
            "threads": threads,
            "arguments": {
                "scan": str(scan.file),
                "output": str(scan.output),
                "pipeline": plan.pipeline,
                "device": device,
                "settings": plan.settings,
                "scan_profile": profile,
                "group": group,
                "memory": worker.memory,
                "overwrite": overwrite,
                "report": report,
                "pdf": pdf,
                "command": list(command),
            },
        }

    needed: AbstractContextManager[DaskCluster | None] = nullcontext()
    if plan.scans:
        needed = _cluster(plan.scans, device, memory, scheduler, workers, threads)
    with needed as cluster, WorkFolder(folder, WORK_FOLDER) as work:
        table.write()
        for outcome in plan.ended:
            end(outcome)
        if cluster is not None:
            Dispatcher(cluster, work, make_job, end, patience).run(plan.scans)
    return list(outcomes.values())


def _cluster(
    scans: Sequence[PlannedScan],
    device: str,
    memory: int | None,
    scheduler: str | None,
    workers: int | None,
    threads: int | None,
) -> AbstractContextManager[DaskCluster]:
    if scheduler is not None:
        return connected(scheduler)
    chosen = select_device(device)
    total = int(SHARE * available_bytes(chosen)) if memory is None else memory
    cores = usable_cores()
    if workers is None:
        largest = max(scan.memory for scan in scans)
        most = 1 if chosen.type == "cuda" else cores // (threads or 1)
        workers = max(1, min(len(scans), most, total // largest))
    if threads is None:
        threads = max(1, torch.get_num_threads() // workers)
    return local_cluster(workers, threads, total // workers)


def _check(
    scheduler: str | None,
    workers: int | None,
    threads: int | None,
    memory: int | None,
    patience: float,
) -> None:
    for name, value in (("workers", workers), ("threads", threads)):
        if value is not None and (type(value) is not int or not 1 <= value <= 1024):
            raise Mri2QmapError(f"{name} {value!r}: a whole number from 1 to 1024 is expected")
    if memory is not None:
        checked_memory(memory)
    if not isinstance(patience, int | float) or not 0 <= patience < math.inf:
        raise Mri2QmapError(f"patience {patience!r}: 0 s or more is expected")
    if scheduler is None:
        return
    if workers is not None:
        raise Mri2QmapError(
            "workers: their number is for workers of this machine; a scheduler has its own"
        )
    if memory is not None:
        raise Mri2QmapError(
            "memory: the workers of a scheduler announce their own: dask worker --resources "
            "'memory=BYTES'"
        )

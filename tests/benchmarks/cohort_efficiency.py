"""Efficiency of a cohort on this machine: python tests/benchmarks/cohort_efficiency.py.

Not a test: it simulates a scan, has copies of it reconstructed by worker processes of a Dask
scheduler on the loopback, and prints

    efficiency = sum of task seconds / (workers x seconds of the phase)

A task is one scan on a worker, from its start there to its result, as the worker's clock measures
it. A worker that is killed (--kill: when it has written the first file of its first scan) counts
neither as a task nor as a worker. The phase begins with the first task and ends

* "with work for all": when a worker becomes free for which no scan is left; only the parts of the
  tasks within this phase count,
* "to the end": with the last task. The workers that wait for the last scans count as idle.

So it measures what dispatching costs, and not how fast the machine is: tasks of more workers than
cores take longer, and are busy in this time. The start of the workers is before the phase; the
libraries, which a worker loads with its first scan, belong to the task. The dictionary and the
compiled loops are made before, by a run of one scan.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[:0] = [str(Path(__file__).parents[1])]

from helpers.dask_processes import KILLED, dask_processes  # noqa: E402
from helpers.phantoms import write_labels  # noqa: E402

import mri2qmap  # noqa: E402


def busy(outcomes: list[mri2qmap.ScanOutcome], end: float) -> float:
    """Seconds that the workers spent on tasks until `end`."""
    return sum(
        max(0.0, min(outcome.started + outcome.seconds, end) - outcome.started)
        for outcome in outcomes
    )


def report(outcomes: list[mri2qmap.ScanOutcome], workers: int) -> None:
    """Print both efficiencies."""
    start = min(outcome.started for outcome in outcomes)
    ends = [outcome.started + outcome.seconds for outcome in outcomes]
    # From the end of the last task of the worker that is the first to have nothing more to do.
    last = {}
    for outcome, end in zip(outcomes, ends, strict=True):
        last[outcome.worker] = max(end, last.get(outcome.worker, 0.0))
    for name, end in (("with work for all", min(last.values())), ("to the end", max(ends))):
        spent, phase = busy(outcomes, end), end - start
        print(
            f"  {name:18} {spent:7.1f} s of tasks / ({workers} x {phase:6.1f} s) = "
            f"{spent / (workers * phase):.3f}"
        )
    print(f"  tasks: {' '.join(f'{outcome.seconds:.1f}' for outcome in outcomes)} s")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scans", type=int, default=12)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--matrix", type=int, default=24)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--pipeline", default="mri2qmap")
    parser.add_argument("--kill", action="store_true", help="kill one of them in its first scan")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mri2qmap-") as name:
        folder = Path(name)
        labels = write_labels(folder / "labels.nii.gz")
        scan = mri2qmap.simulate(
            anatomy=str(labels),
            matrix=args.matrix,
            field_of_view=0.2,
            coils=2,
            frames=args.frames,
            noise=0.1,
        )
        files = [folder / f"scan{number}.h5" for number in range(args.scans)]
        scan.save(files[0], folder / "truth")
        for file in files[1:]:
            shutil.copy2(files[0], file)
        mri2qmap.reconstruct(files[0], args.pipeline, progress=False)
        with dask_processes(folder / "dask") as dask:
            for number in range(args.workers):
                dask.start_worker(KILLED if args.kill and number == 0 else "")
            dask.wait_for(args.workers)
            outcomes = mri2qmap.reconstruct_cohort(
                files, folder / "out", args.pipeline, progress=False, scheduler=dask.address
            )
    failed = [outcome for outcome in outcomes if outcome.state != "done"]
    assert not failed, failed
    print(
        f"{args.scans} scans of {args.matrix}^3, {args.frames} frames, pipeline {args.pipeline}; "
        f"{args.workers} workers of one thread on {os.cpu_count()} cores"
        f"{', of which one was killed' if args.kill else ''}"
    )
    report(outcomes, args.workers - args.kill)


if __name__ == "__main__":
    main()

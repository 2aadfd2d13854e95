"""Times of whole runs, from raw data to DICOM, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mri2qmap.api.simulation import simulate
from mri2qmap.errors import Mri2QmapError
from mri2qmap.pipeline.progress import Reporter

_EXTENT = 0.22
"""Field of view [m]."""


@dataclass(frozen=True)
class WholeRun:
    """A run of `mri2qmap replay` on a simulated scan.

    Attributes
    ----------
    matrix
        Voxels along an axis.
    seconds
        From the start of the command to its end.
    gadget_seconds
        Computing time by gadget.
    peak
        Peak memory [bytes].
    """

    matrix: int
    seconds: float
    gadget_seconds: dict[str, float]
    peak: int


def measure_whole_runs(
    program: Sequence[str],
    matrices: Sequence[int],
    pipeline: str,
    coils: int,
    threads: int,
    seed: int,
    report: Reporter,
) -> list[WholeRun]:
    """Simulate scans of R = 4 and noise 0.25 and reconstruct them; report the progress.

    Parameters
    ----------
    program
        Words that start the command line of this package.
    matrices, pipeline, coils, threads, seed
        Of the scans and runs.
    report
        Receives the progress.

    Raises
    ------
    Mri2QmapError
        If a run fails.
    """
    found = []
    for n in report.progress(matrices, "whole runs", total=len(matrices)):
        with tempfile.TemporaryDirectory() as place:
            scan, out = Path(place) / "scan.h5", Path(place) / "maps"
            simulate(
                matrix=n,
                field_of_view=_EXTENT,
                coils=coils,
                acceleration=4.0,
                noise=0.25,
                seed=seed,
            ).save(scan)
            command = [
                *program,
                "replay",
                str(scan),
                "-p",
                pipeline,
                "-o",
                str(out),
                "--threads",
                str(threads),
            ]
            start = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True)
            seconds = time.perf_counter() - start
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["failed"])[-1]
                raise Mri2QmapError(f"bench steps: the run of {n}^3 voxels failed: {last}")
            record = json.loads((out / "run.json").read_text(encoding="utf-8"))
        gadgets = record["gadgets"]
        found.append(
            WholeRun(
                n,
                seconds,
                {gadget["name"]: gadget["busy_s"] for gadget in gadgets},
                max(gadget["rss_peak_bytes"] for gadget in gadgets),
            )
        )
    return found


def whole_runs_report(runs: Sequence[WholeRun], pipeline: str, coils: int) -> str:
    """Return the table in Markdown."""
    gadgets = list(dict.fromkeys(name for run in runs for name in run.gadget_seconds))
    lines = [
        "# From raw data to DICOM",
        "",
        f"`mri2qmap replay` with the pipeline {pipeline}, {coils} coils, R = 4, noise 0.25: time "
        "of the command, computing time of each gadget [s], and peak memory.",
        "",
        f"| matrix | command | {' | '.join(gadgets)} | peak [GiB] |",
        f"|{'---|' * (len(gadgets) + 3)}",
    ]
    for run in runs:
        times = [run.seconds, *(run.gadget_seconds.get(name, 0.0) for name in gadgets)]
        cells = " | ".join(f"{seconds:.1f}" for seconds in times)
        lines.append(f"| {run.matrix}^3 | {cells} | {run.peak / 2**30:.2f} |")
    return "\n".join(lines) + "\n"

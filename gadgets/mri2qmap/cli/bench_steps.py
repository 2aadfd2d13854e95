"""``mri2qmap bench steps``: the steps of a reconstruction against the limits of the machine."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mri2qmap.cli.console import say
from mri2qmap.errors import Mri2QmapError
from mri2qmap.storage.result_files import ResultFiles

REPORT, NUMBERS, GROWTH, ROOFLINE = "steps.md", "steps.json", "growth.png", "roofline.png"

_DESCRIPTION = """\
Times the steps of a reconstruction on random data: the gram, the adjoint transform, the search of
the dictionary, the simulation of its signals, and the denoiser for one patch, with growing matrix,
coils, frames, atoms and patches. Operations and least memory traffic of each are compared with the
fastest matrix product and the fastest sum of two arrays of this machine. With --whole, scans of
these matrices are simulated and reconstructed, from raw data to DICOM.

The folder gets steps.md, the tables; growth.png and roofline.png; and steps.json, all numbers. The
machine should do nothing else.

examples:
  mri2qmap bench steps -o out/steps
  mri2qmap bench steps --matrix 32 64 --whole 32 64 --threads 2 -o out/steps
"""


def add_parser(parts: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the part to the command."""
    parser = parts.add_parser(
        "steps",
        help="the steps of a reconstruction against the limits of the machine",
        description="Time the steps of a reconstruction, and their growth.",
        epilog=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("-o", "--out", type=Path, required=True, metavar="OUT", help="folder of the results")
    lists: list[tuple[str, Any, str, str]] = [
        ("matrix", int, "voxels along an axis, even", "32 48 64 96"),
        ("coils", int, "receive coils", "1 2 4 8"),
        ("frames", int, "time frames", "125 250 500 1000"),
        ("atom-step", float, "steps of the table of T1 and T2", "0.16 0.08 0.04 0.02"),
        ("patch", int, "sides of patches, multiples of 8", "32 48 64"),
    ]
    for name, kind, what, default in lists:
        values = [kind(word) for word in default.split()]
        words = f"{what} (default: {default})"
        add(f"--{name}", type=kind, nargs="+", default=values, metavar="N", help=words)
    add("--whole", type=int, nargs="+", default=[], metavar="N", help="matrices of whole runs")
    add("--pipeline", default="mri2qmap", metavar="NAME", help="of whole runs (default: mri2qmap)")
    add("--whole-coils", type=int, default=8, metavar="N", help="of whole runs (default: 8)")
    add("--rounds", type=int, default=3, metavar="N", help="(default: 3)")
    add("--threads", type=int, metavar="N", help="CPU threads (default: all)")
    add("--seed", type=int, default=0, metavar="N", help="of all that is random (default: 0)")
    add("-v", "--verbose", action="count", default=argparse.SUPPRESS, help="say what is done")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure, and write tables, figures and numbers."""
    _check(args)

    from mri2qmap.machine.container_limits import usable_cores
    from mri2qmap.pipeline.pipeline_file import read_pipeline
    from mri2qmap.studies.step_bench import (
        StepSettings,
        measure_limits,
        measure_steps,
        steps_report,
    )
    from mri2qmap.studies.step_figures import growth_figure, roofline_figure
    from mri2qmap.studies.whole_runs import measure_whole_runs, whole_runs_report

    settings = StepSettings(
        matrices=tuple(args.matrix),
        coils=tuple(args.coils),
        frames=tuple(args.frames),
        atom_steps=tuple(args.atom_step),
        patches=tuple(args.patch),
        rounds=args.rounds,
        threads=usable_cores() if args.threads is None else args.threads,
        seed=args.seed,
    )
    read_pipeline(args.pipeline)
    files = ResultFiles(args.out, [REPORT, NUMBERS, GROWTH, ROOFLINE])
    limits = measure_limits(settings.threads)
    timings = measure_steps(settings, args.report)
    runs = measure_whole_runs(
        [sys.executable, "-P", "-m", "mri2qmap.cli.main"],
        args.whole,
        args.pipeline,
        args.whole_coils,
        settings.threads,
        settings.seed,
        args.report,
    )
    text = steps_report(settings, limits, timings)
    if runs:
        text += "\n" + whole_runs_report(runs, args.pipeline, args.whole_coils)
    numbers = {
        "settings": dataclasses.asdict(settings),
        "limits": dataclasses.asdict(limits),
        "steps": [dataclasses.asdict(timing) for timing in timings],
        "whole_runs": [dataclasses.asdict(one) for one in runs],
    }
    files.write(NUMBERS, json.dumps(numbers, indent=1) + "\n")
    files.write(REPORT, text)
    files.write(GROWTH, lambda path: growth_figure(path, timings))
    files.write(ROOFLINE, lambda path: roofline_figure(path, limits, timings))
    say(text.rstrip("\n"))
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse impossible values at once."""
    checks: list[tuple[str, Callable[[Any], bool], str]] = [
        ("matrix", lambda n: 8 <= n <= 1024 and n % 2 == 0, "even numbers from 8 to 1024"),
        ("whole", lambda n: 8 <= n <= 1024 and n % 2 == 0, "even numbers from 8 to 1024"),
        ("coils", lambda n: n >= 1, "1 or more"),
        ("whole_coils", lambda n: n >= 1, "1 or more"),
        ("frames", lambda n: 2 <= n <= 8192, "2 to 8192"),
        ("atom_step", lambda a: 0.01 <= a <= 1, "0.01 to 1"),
        ("patch", lambda n: 8 <= n <= 256 and n % 8 == 0, "multiples of 8 up to 256"),
        ("rounds", lambda n: n >= 1, "1 or more"),
        ("seed", lambda n: 0 <= n < 2**63, "0 to 2^63 - 1"),
    ]
    for name, fits, expected in checks:
        given = getattr(args, name)
        for value in given if isinstance(given, list) else [given]:
            if not fits(value):
                option = name.replace("_", "-")
                raise Mri2QmapError(f"--{option} {value}: expected {expected}")

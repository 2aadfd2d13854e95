"""``mri2qmap bench speed``: the time of the reconstruction against that of other libraries."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from mri2qmap.cli.console import say
from mri2qmap.errors import Mri2QmapError
from mri2qmap.storage.result_files import ResultFiles

REPORT, NUMBERS = "speed.md", "speed.json"

_DESCRIPTION = """\
Solves the normal equations of one simulated problem, k-space samples of a subspace by several
coils, with this package and with others, each in a process of its own and in turn: set-up, steps of
plain conjugate gradients, peak memory, and the distance from a solution in double precision. The
others are BART (pics), finufft with two transforms for each product, mri-nufft, sigpy and mrpro;
those that are not installed are named and left out.

The folder gets speed.md, the table, and speed.json, all numbers. The machine should do nothing
else.

examples:
  mri2qmap bench speed -o out/speed
  mri2qmap bench speed --matrix 96 --coils 1 --peers mri2qmap bart -o out/speed
"""


def add_parser(parts: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the part to the command."""
    parser = parts.add_parser(
        "speed",
        help="conjugate gradients against other libraries",
        description="Compare the time and the memory of conjugate gradients.",
        epilog=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("-o", "--out", type=Path, required=True, metavar="OUT", help="folder of the results")
    add("--matrix", type=int, default=64, metavar="N", help="voxels, even (default: 64)")
    add("--coils", type=int, default=8, metavar="N", help="receive coils (default: 8)")
    add("--coefficients", type=int, default=5, metavar="S", help="of the subspace (default: 5)")
    add("--frames", type=int, default=500, metavar="L", help="time frames (default: 500)")
    add("--acceleration", type=float, default=4.0, metavar="R", help="(default: 4)")
    add("--iterations", type=int, default=10, metavar="N", help="steps (default: 10)")
    add("--rounds", type=int, default=3, metavar="N", help="(default: 3)")
    add("--threads", type=int, metavar="N", help="CPU threads of each (default: all)")
    add("--seed", type=int, default=0, metavar="N", help="of all that is random (default: 0)")
    add("--peers", nargs="+", metavar="NAME", help="which libraries (default: all)")
    add("-v", "--verbose", action="count", default=argparse.SUPPRESS, help="say what is done")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure, and write table and numbers."""
    from mri2qmap.machine.container_limits import usable_cores
    from mri2qmap.studies.speed_bench import SpeedSettings, measure_speed, speed_report
    from mri2qmap.studies.speed_peers import PEERS

    names = tuple(PEERS) if args.peers is None else tuple(dict.fromkeys(args.peers))
    _check(args, names, tuple(PEERS))
    chosen: dict[str, Any] = {
        field.name: getattr(args, field.name)
        for field in dataclasses.fields(SpeedSettings)
        if hasattr(args, field.name)
    }
    threads = usable_cores() if args.threads is None else args.threads
    settings = SpeedSettings(**chosen | {"peers": names, "threads": threads})
    files = ResultFiles(args.out, [REPORT, NUMBERS])
    timings, left_out = measure_speed(settings, args.report)
    text = speed_report(settings, timings, left_out)
    numbers = {
        "settings": dataclasses.asdict(settings),
        "timings": [dataclasses.asdict(timing) for timing in timings],
    }
    files.write(NUMBERS, json.dumps(numbers, indent=1) + "\n")
    files.write(REPORT, text)
    say(text.rstrip("\n"))
    return 0


def _check(args: argparse.Namespace, names: tuple[str, ...], known: tuple[str, ...]) -> None:
    """Refuse impossible values at once."""
    checks = [
        ("matrix", args.matrix >= 8 and args.matrix % 2 == 0, "an even number, 8 or more"),
        ("coils", args.coils >= 1, "1 or more"),
        ("coefficients", 1 <= args.coefficients <= min(args.frames, 32), "1 to 32, of the frames"),
        ("frames", 2 <= args.frames <= 65536, "2 to 65536"),
        ("acceleration", args.acceleration > 0, "above 0"),
        ("iterations", args.iterations >= 3, "3 or more"),
        ("rounds", args.rounds >= 1, "1 or more"),
        ("seed", 0 <= args.seed < 2**63, "0 to 2^63 - 1"),
    ]
    for name, valid, expected in checks:
        if not valid:
            raise Mri2QmapError(f"--{name} {getattr(args, name)}: expected {expected}")
    for name in names:
        if name not in known:
            raise Mri2QmapError(f"--peers {name}: unknown; known are {', '.join(known)}")

"""`mri2qmap warm-up`: compile what the first reconstruction would have to wait for."""

from __future__ import annotations

import argparse
import time
from typing import Any

from mri2qmap.cli.console import say

_DESCRIPTION = """\
Reconstruct a tiny simulated scan, so that compiled loops and the dictionary of the built-in
sequence are in the cache (MRI2QMAP_CACHE). After an installation or update, the first real scan is
then as fast as all others.
"""

_EXAMPLES = """\
examples:
  mri2qmap warm-up
  mri2qmap warm-up --pipeline mri2qmap lrtv
"""

_SETTINGS = {"mri2qmap": {"pnp_admm": {"iterations": 1}}}
"""Settings that make the reconstruction shorter, by pipeline."""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "warm-up",
        help="compile what the first reconstruction would have to wait for",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-p",
        "--pipeline",
        nargs="+",
        default=["mri2qmap"],
        help="pipelines that will be used (default: mri2qmap)",
    )
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    from mri2qmap.api.reconstruction import reconstruct
    from mri2qmap.api.simulation import simulate
    from mri2qmap.errors import Mri2QmapError
    from mri2qmap.machine.folders import cache_choice

    choice = cache_choice()
    if choice.folder is None:
        raise Mri2QmapError(
            f"there is no folder for the cache: {'; '.join(choice.refused) or 'none is known'}; "
            "set MRI2QMAP_CACHE to a folder that may be written"
        )
    scan = simulate(anatomy="nist", matrix=16, field_of_view=0.2, coils=2)  # needs no extra
    for pipeline in args.pipeline:
        start = time.perf_counter()
        reconstruct(scan, pipeline=pipeline, settings=_SETTINGS.get(pipeline), device=args.device)
        say(f"{pipeline}: ready after {time.perf_counter() - start:.1f} s")
    say(f"cache: {choice.folder}")
    return 0

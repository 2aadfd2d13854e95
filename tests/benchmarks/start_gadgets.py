"""Time the start of each gadget's process: python tests/benchmarks/start_gadgets.py [--runs 5].

Not a test. A process does what a node of a Gadgetron server does before its first item: it imports
the host and the gadget, and reads the settings. Printed are seconds, the least of all runs: wall
clock of the whole process, and what lies beyond a process that imports PyTorch only (wall clock,
and processor time, which other programs on the machine do not change much). Files are in the cache
of the system from the first run on.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

from mri2qmap.pipeline.pipeline_file import GADGETS

TORCH = "import torch"
NODE = """
from mri2qmap.hosts import external_node, gadget_run
from mri2qmap.pipeline.pipeline_file import load_gadget
from mri2qmap.pipeline.settings import parse_settings
function, settings = load_gadget({gadget!r})
external_node.external_node({gadget!r})
parse_settings(settings, {{}}, {gadget!r})
"""


def least(code: str, runs: int) -> tuple[float, float]:
    """Wall-clock and processor time of a process that runs some code [s]."""
    times = []
    for _ in range(runs):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        wall = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        times.append((wall, used))
    return min(wall for wall, _ in times), min(used for _, used in times)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    least(NODE.format(gadget=GADGETS[-1]), 1)  # so that files are in the cache
    wall, used = least(TORCH, runs)
    print(f"{'':22}{'process s':>10}{'beyond PyTorch s':>18}{'processor s':>13}")
    print(f"{'import torch':22}{wall:10.2f}{0:18.2f}{used:13.2f}")
    for gadget in GADGETS:
        own_wall, own_used = least(NODE.format(gadget=gadget), runs)
        print(f"{gadget:22}{own_wall:10.2f}{own_wall - wall:18.2f}{own_used - used:13.2f}")


if __name__ == "__main__":
    main()

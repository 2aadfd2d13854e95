"""Time one gram while another process keeps a core busy: python tests/benchmarks/busy_core.py.

Not a test: it prints seconds for the process as this package sets it up, as the libraries set
themselves up, and with one thread, each in fresh processes, once with and once without a neighbour.
The machine should do nothing else, and have two cores or more.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from contextlib import contextmanager

PROGRAM = """
import sys, time, torch
import mri2qmap
from mri2qmap.operators.toeplitz import ToeplitzGram
n, repeats = int(sys.argv[1]), int(sys.argv[2])
generator = torch.Generator().manual_seed(0)
gram = ToeplitzGram(torch.rand(2, 2, 2, 15, n, n, n, generator=generator))
tsmi = torch.randn(5, n, n, n, dtype=torch.complex64, generator=generator)
gram(tsmi)
for _ in range(repeats):
    start = time.perf_counter()
    gram(tsmi)
    print(time.perf_counter() - start)
"""
UNSET = {"KMP_BLOCKTIME": "200"}
"""One variable of its kind keeps the package from setting the others; libgomp does not read it."""
WAYS = {"as set up": (2, {}), "not set up": (2, UNSET), "one thread": (1, {})}
"""Name: number of threads, environment."""


@contextmanager
def neighbour(present: bool):
    """Another process that keeps the last core busy."""
    if not present:
        yield
        return
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        os.sched_setaffinity(busy.pid, {max(os.sched_getaffinity(0))})
        yield
    finally:
        busy.kill()
        busy.wait()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--matrix", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    for present in (False, True):
        print("beside a busy core" if present else "alone")
        times: dict[str, list[float]] = {name: [] for name in WAYS}
        with neighbour(present):
            for _ in range(args.rounds):  # in turns: the rest of the machine changes
                for name, (threads, environment) in WAYS.items():
                    done = subprocess.run(
                        [
                            *(sys.executable, "-c", PROGRAM),
                            *(str(args.matrix), str(args.repeats)),
                        ],
                        env={**os.environ, "OMP_NUM_THREADS": str(threads), **environment},
                        check=True,
                        capture_output=True,
                        text=True,
                    )
                    times[name] += [float(line) for line in done.stdout.split()]
        for name, found in times.items():
            print(f"  {name:14} best {min(found):6.3f} s, median {statistics.median(found):6.3f} s")


if __name__ == "__main__":
    main()

"""Time one reconstruction by one process and by two: python tests/benchmarks/compare_processes.py.

Not a test: it prints seconds of the record (run.json): the whole run, each gadget, and from the
last acquisition to the last map. With --device cpu, each process has --threads threads, so two need
twice as many cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def simulated(folder: Path, matrix: int, coils: int, acceleration: float) -> Path:
    """Simulate a scan of the system phantom, which needs no download."""
    scan = folder / "scan.h5"
    words = ["--anatomy", "nist", "--matrix", str(matrix), "--coils", str(coils)]
    words += ["--acceleration", str(acceleration)]
    command = [sys.executable, "-m", "mri2qmap.cli.main", "simulate", str(scan), *words]
    subprocess.run(command, check=True)
    return scan


def reconstructed(scan: Path, output: Path, count: int, words: list[str]) -> dict[str, Any]:
    """Reconstruct by so many processes; return the record."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    call = ["-m", "mri2qmap.cli.main", "replay", str(scan), "-o", str(output), *words]
    prefix = launcher if count > 1 else []
    subprocess.run([sys.executable, *prefix, *call], check=True, env=os.environ)
    record: dict[str, Any] = json.loads((output / "run.json").read_text())
    assert record["processes"] == count
    return record


def times(record: dict[str, Any]) -> dict[str, float]:
    """Seconds by what they are of."""
    gadgets = {gadget["name"]: gadget["busy_s"] for gadget in record["gadgets"]}
    last = record["last_acquisition_to_last_map_s"]
    return {"whole run": record["total_s"], **gadgets, "last readout to last map": last}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--matrix", type=int, default=64)
    parser.add_argument("--coils", type=int, default=8)
    parser.add_argument("--acceleration", type=float, default=4.0)
    parser.add_argument("--pipeline", default="mri2qmap")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    words = ["-p", args.pipeline, "--device", args.device, "--threads", str(args.threads)]
    words += ["--set", f"coil_sensitivity.virtual_coils={args.coils}"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        scan = simulated(folder, args.matrix, args.coils, args.acceleration)
        reconstructed(scan, folder / "first", 1, words)  # dictionary and compiled loops
        one, several = (
            times(reconstructed(scan, folder / str(count), count, words))
            for count in (1, args.processes)
        )
    print(f"{'':28}{'1 process':>12}{f'{args.processes} processes':>14}{'ratio':>8}")
    for name, seconds in one.items():
        ratio = several[name] / seconds if seconds else float("nan")
        print(f"{name:28}{seconds:10.2f} s{several[name]:12.2f} s{ratio:8.2f}")


if __name__ == "__main__":
    main()

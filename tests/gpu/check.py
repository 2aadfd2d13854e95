"""Check a GPU: python tests/gpu/check.py -o gpu_check (or: make gpu-check).

Runs the tests that are marked `cuda`, compares maps with those of the CPU, reconstructs a scan of
220^3 voxels and 12 coils that is simulated on the GPU, from raw data to DICOM, with and without a
bound of its memory, and times the steps of an iteration. Nothing is downloaded. Each part is a
process of its own with a time limit; the others run whatever becomes of it. Writes check.json and
check.md.

It lies beside the tests because it runs them; a reconstruction needs none of it.

Exit status: 0, all parts ran and nothing failed; 1, a part failed; 3, nothing was run, because a
GPU or a package is missing, which is said.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from importlib import metadata
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
for folder in (TESTS.parent / "gadgets", TESTS):
    sys.path.insert(0, str(folder))

ALL_RAN, FAILED, LACKING = 0, 1, 3
NEEDED = ("torch", "numpy", "scipy", "finufft", "ismrmrd", "h5py", "numba", "nibabel", "pydicom")
NEEDED += ("highdicom", "safetensors", "xsdata", "rich")
OPTIONAL = ("cufinufft", "cupy", "pytest")


def main(words: list[str] | None = None) -> int:
    """Run the check, or one part of it."""
    args = _arguments(words)
    if args.run:
        return _run_part(args)
    args.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    lacking = lacks(args.pretend)
    found: dict[str, Any] = {
        "card": None if lacking else card(args.pretend),
        "versions": _versions(),
        "lacking": lacking,
        "parts": {},
    }
    for name in args.parts:
        if lacking:
            found["parts"][name] = {"status": "not run"}
            continue
        print(f"{name} ...", flush=True)
        found["parts"][name] = part = _supervise(name, args)
        print(f"  {part['status']} after {part['seconds']:.0f} s", flush=True)
        if part.get("error"):
            print(f"  {part['error']}", flush=True)
        _write(args, found, start)
    _write(args, found, start)
    for line in lacking:
        print(f"missing: {line}")
    print(f"{args.out / 'check.md'}, {args.out / 'check.json'}")
    if lacking:
        return LACKING
    good = all(part["status"] == "ok" for part in found["parts"].values())
    return ALL_RAN if good else FAILED


def lacks(pretend: bool = False) -> list[str]:
    """Say what this machine lacks for the check."""
    missing = []
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except Exception as error:  # a package may fail in any way
            missing.append(f"{name} ({type(error).__name__}: {error})")
    if pretend or any(line.startswith("torch ") for line in missing):
        return missing
    import torch

    if not torch.cuda.is_available():
        build = torch.version.cuda
        made = f"is made for CUDA {build}" if build else "is made for CPUs"
        missing.append(f"a CUDA device: PyTorch {torch.__version__} {made} and finds none")
    return missing


def card(pretend: bool) -> dict[str, Any]:
    """Name and memory of the GPU."""
    import torch

    with _gpu(pretend):
        properties = torch.cuda.get_device_properties(0)
        return {
            "name": properties.name,
            "memory_bytes": properties.total_memory,
            "cuda": torch.version.cuda,
        }


def _arguments(words: list[str] | None) -> argparse.Namespace:
    from gpu.check_parts import PARTS, Sizes

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("-o", "--out", type=Path, default=Path("gpu_check"), help="folder (default: gpu_check)")
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="(default: all)")
    add("--limit", type=float, default=1.0, help="factor of all time limits (default: 1)")
    for field in dataclasses.fields(Sizes):
        kind = type(field.default)
        add(f"--{field.name.replace('_', '-')}", type=kind, default=field.default, metavar="X",
            help=f"(default: {'all tests' if kind is str else field.default})")  # fmt: skip
    add("--pretend", action="store_true", help="rehearse on the pretend GPU of the tests")
    add("--run", choices=PARTS, help=argparse.SUPPRESS)
    return parser.parse_args(words)


def _supervise(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Run a part as a process of its own; return its status and what it did."""
    from gpu.check_parts import PARTS, Sizes

    limit = PARTS[name][1] * args.limit
    words = [
        f"--{f.name.replace('_', '-')}={getattr(args, f.name)}" for f in dataclasses.fields(Sizes)
    ]
    words += ["--pretend"] if args.pretend else []
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "-o", folder, "--run", name, *words]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        error, status = "", "failed"
        try:
            _, messages = process.communicate(timeout=limit)
            error = messages[-1000:]
            if process.returncode == 0:
                status, error = "ok", ""
            elif process.returncode < 0:
                error = f"ended by signal {-process.returncode}: {error}"
        except subprocess.TimeoutExpired:
            status, error = "timed out", f"not done within {limit:.0f} s"
        finally:
            if process.poll() is None:  # with all that it has started
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        report = Path(folder) / f"{name}.json"
        part = json.loads(report.read_text()) if report.is_file() else {"steps": {}}
    part["status"], part["seconds"] = status, time.perf_counter() - start
    part["error"] = part.get("error") or error
    return part


def _run_part(args: argparse.Namespace) -> int:
    """Run one part; its file has every step that was done."""
    from gpu.check_parts import PARTS, Sizes

    sizes = Sizes(**{f.name: getattr(args, f.name) for f in dataclasses.fields(Sizes)})
    part: dict[str, Any] = {"steps": {}}
    report = args.out / f"{args.run}.json"
    status = 0
    with _gpu(args.pretend):
        try:
            for name, numbers in PARTS[args.run][0](sizes):
                part["steps"][name] = numbers
                report.write_text(json.dumps(part))
                if isinstance(numbers, dict) and "error" in numbers:
                    status, part["error"] = 1, f"{name}: {numbers['error']}"
        except Exception as error:
            traceback.print_exc()
            status, part["error"] = 1, f"{type(error).__name__}: {error}"
    report.write_text(json.dumps(part))
    return status


@contextlib.contextmanager
def _gpu(pretend: bool) -> Any:
    if not pretend:
        yield
        return
    from helpers.pretend_gpu import pretend_gpu

    with pretend_gpu():
        yield


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in (*NEEDED, *OPTIONAL):
        names = (name, f"{name}-cuda13x", f"{name}-cuda12x")
        found[name] = None
        for distribution in names:
            with contextlib.suppress(metadata.PackageNotFoundError):
                found[name] = metadata.version(distribution)
                break
    return found


def _write(args: argparse.Namespace, found: dict[str, Any], start: float) -> None:
    from gpu.check_page import page

    found["seconds"] = time.perf_counter() - start
    (args.out / "check.json").write_text(json.dumps(found, indent=1) + "\n")
    (args.out / "check.md").write_text(page(found))


if __name__ == "__main__":
    sys.exit(main())

"""The parts of the check of a GPU; each returns numbers for the page, step by step."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from gpu.check_steps import timed_steps

from mri2qmap.errors import Mri2QmapError

TESTS = Path(__file__).parents[1]
DEVICE = "cuda:0"
_MARKED = re.compile(r"mark\.cuda|def test_\w+\([^)]*\bgpu\b")
_FIELD_OF_VIEW = 0.22  # m
_PARITY_ACCELERATION = 1.0


@dataclass(frozen=True)
class Sizes:
    """Sizes of the parts.

    Attributes
    ----------
    parity, parity_coils, parity_iterations
        Matrix, coils and ADMM iterations of the comparison with the CPU.
    matrix, coils, acceleration, frames
        The large scan.
    iterations
        ADMM iterations of it; 0: those of the pipeline.
    bound
        Memory that the second run of it may use [bytes].
    tests
        File or folder of tests.
    """

    parity: int = 64
    parity_coils: int = 4
    parity_iterations: int = 4
    matrix: int = 220
    coils: int = 12
    acceleration: float = 8.0
    frames: int = 500
    iterations: int = 0
    bound: int = 11 * 10**9
    tests: str = str(TESTS)


Steps = Iterator[tuple[str, Any]]
"""Name and numbers of each step of a part, as it is done."""


def tests(sizes: Sizes) -> Steps:
    """Run the tests that are marked `cuda`."""
    if find_spec("pytest") is None:
        yield "left out", "pytest is not installed"
        return
    place = Path(sizes.tests)
    files = [place] if place.is_file() else sorted(place.rglob("test_*.py"))
    files = [file for file in files if _MARKED.search(file.read_text(encoding="utf-8"))]
    if not files:
        raise RuntimeError(f"{place}: no test is marked cuda")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        # Without the settings of the project, which ask for plugins.
        words = ["-q", "-m", "cuda", "-c", os.devnull, "--rootdir", str(TESTS.parent)]
        words += ["--import-mode=importlib", "-p", "no:cacheprovider", f"--junitxml={report}"]
        command = [sys.executable, "-m", "pytest", *words, "--continue-on-collection-errors"]
        done = subprocess.run(
            [*command, *map(str, files)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
        )
        suite = None
        if report.is_file():
            suite = next(ElementTree.parse(report).getroot().iter("testsuite"), None)
        if suite is None:
            raise RuntimeError(f"pytest: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        counts = {n: int(suite.get(n, "0")) for n in ("tests", "failures", "errors", "skipped")}
        yield "counts", counts
        failed = [
            f"{case.get('classname')}.{case.get('name')}"
            for case in suite.iter("testcase")
            if case.find("failure") is not None or case.find("error") is not None
        ]
    yield "failed", failed
    if failed or counts["tests"] == counts["skipped"]:
        what = f"failed: {', '.join(failed)}" if failed else "no test was run"
        raise RuntimeError(f"tests marked cuda: {what}")


def parity(sizes: Sizes) -> Steps:
    """Compare the maps of the GPU with those of the CPU, with networks in float32 on both."""
    import mri2qmap
    from mri2qmap.denoiser import volume
    from mri2qmap.mrsignal.matching_settings import MatchingSettings

    volume.preferred_precision = lambda device: torch.float32
    n = sizes.parity
    simulated = _simulated(n, sizes.parity_coils, _PARITY_ACCELERATION, sizes.frames)
    step = np.log1p(MatchingSettings.atom_step)
    failed = []
    for pipeline in ("mri2qmap", "lrtv"):
        gadget = "pnp_admm.iterations" if pipeline == "mri2qmap" else "toeplitz_cg.prior_iterations"
        maps = [
            mri2qmap.reconstruct(
                simulated, pipeline, device, {gadget: sizes.parity_iterations}, progress=False
            )
            for device in (DEVICE, "cpu")
        ]
        there, here = maps
        inside = (there.t1 > 0) & (here.t1 > 0)
        result: dict[str, Any] = {
            "matrix": n,
            "coils": sizes.parity_coils,
            "voxels": int(inside.sum()),
            "same_mask": float(((there.t1 > 0) == (here.t1 > 0)).mean()),
        }
        for name in ("t1", "t2"):
            apart = np.abs(np.log(getattr(there, name)[inside] / getattr(here, name)[inside]))
            result[f"{name}_within_a_step"] = float((apart <= step).mean())
            result[f"{name}_median_steps"] = float(np.median(apart) / step)
        yield pipeline, result
        if not min(result["t1_within_a_step"], result["t2_within_a_step"]) >= 0.999:
            failed.append(pipeline)
    if failed:
        raise RuntimeError(f"{', '.join(failed)}: more than 0.1 % of voxels are a step apart")


def whole(sizes: Sizes) -> Steps:
    """Simulate a large scan on the GPU and reconstruct it to DICOM, with and without a bound."""
    from mri2qmap.api.reconstruction import reconstruct_to_folder

    start = time.perf_counter()
    simulated = _simulated(sizes.matrix, sizes.coils, sizes.acceleration, sizes.frames, DEVICE)
    simulation = {"seconds": time.perf_counter() - start, "scan": simulated.size}
    yield "simulation", simulation
    settings: dict[str, Any] = {"coil_sensitivity.virtual_coils": sizes.coils}
    if sizes.iterations:
        settings["pnp_admm.iterations"] = sizes.iterations
    for name, memory in (("without a bound", None), ("with a bound", sizes.bound)):
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "maps"
            try:
                record = reconstruct_to_folder(
                    simulated,
                    output,
                    "mri2qmap",
                    DEVICE,
                    settings,
                    progress=False,
                    memory=memory,
                )
            except Mri2QmapError as error:
                if memory is None:
                    raise
                yield name, {"bound_bytes": memory, "refused": str(error)}
                continue
            dicom = sum(1 for file in (output / "dicom").rglob("*") if file.is_file())
        yield name, _run_numbers(record, memory) | {"dicom_files": dicom}


def steps(sizes: Sizes) -> Steps:
    """Time the steps of an iteration."""
    yield from timed_steps(sizes.matrix, sizes.coils, sizes.acceleration, sizes.frames, DEVICE)


PARTS: dict[str, tuple[Callable[[Sizes], Steps], int]] = {
    "tests": (tests, 90),
    "parity": (parity, 70),
    "whole": (whole, 240),
    "steps": (steps, 60),
}
"""Parts, and how long each may take [s]: less than eight minutes together."""


def _simulated(
    matrix: int, coils: int, acceleration: float, frames: int, device: str = "cpu"
) -> Any:
    """A scan of a ball of white and grey matter, at 1 mm where the matrix is 220."""
    from helpers.phantoms import write_ball

    from mri2qmap.anatomy.voxel_model import Region
    from mri2qmap.api.simulation import SimulatedScan
    from mri2qmap.mrsignal.sequence import default_sequence
    from mri2qmap.simulation.simulator import SimulationSettings, simulate

    with tempfile.TemporaryDirectory() as folder:
        settings = SimulationSettings(
            anatomy=str(write_ball(Path(folder) / "ball.nii.gz", 1000 * _FIELD_OF_VIEW)),
            region=Region.BRAIN,
            matrix=(matrix,) * 3,
            field_of_view=(_FIELD_OF_VIEW,) * 3,
            coils=coils,
            acceleration=acceleration,
            noise=0.05,
        )
        return SimulatedScan(settings, simulate(settings, default_sequence(frames), device=device))


def _run_numbers(record: dict[str, Any], memory: int | None) -> dict[str, Any]:
    """What the page shows of a record."""
    kept = ("ready_s", "total_s", "last_acquisition_s", "last_acquisition_to_last_map_s")
    peaks = [gadget["gpu_peak_bytes"] or 0 for gadget in record["gadgets"]]
    return {
        "bound_bytes": memory,
        **{name: record[name] for name in kept},
        "peak_bytes": max(peaks),
        "gadgets": {
            gadget["name"]: {
                "busy_s": gadget["busy_s"],
                "peak_bytes": peak,
                "iterations": len(gadget["iterations"]),
            }
            for gadget, peak in zip(record["gadgets"], peaks, strict=True)
        },
    }

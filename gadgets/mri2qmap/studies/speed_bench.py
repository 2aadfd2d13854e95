"""Comparison of the speed of libraries that solve the same least-squares problem."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.devices import processor
from mri2qmap.machine.process_setup import PASSIVE_WAITING, THREAD_VARIABLES
from mri2qmap.machine.words import counted
from mri2qmap.pipeline.progress import Reporter
from mri2qmap.studies.speed_peers import PEERS
from mri2qmap.studies.speed_problem import make_problem

REFERENCE = "reference"
_THREADS = (*THREAD_VARIABLES, "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class SpeedSettings:
    """What is solved, by whom, and how often.

    Attributes
    ----------
    matrix, coils, coefficients, frames, acceleration, seed
        Of the problem, see `make_problem`.
    iterations
        Steps of conjugate gradients.
    rounds
        How often all libraries are run in turn.
    threads
        CPU threads of each.
    peers
        Names of libraries, of `PEERS`.
    """

    matrix: int = 64
    coils: int = 8
    coefficients: int = 5
    frames: int = 500
    acceleration: float = 4.0
    iterations: int = 10
    rounds: int = 3
    threads: int = 1
    seed: int = 0
    peers: tuple[str, ...] = tuple(PEERS)


@dataclass
class Timing:
    """Measurements of one library, one number for each round, steps for all rounds together."""

    name: str
    set_up: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    total: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peak: list[float] = field(default_factory=list)
    error: float | None = None


def measure_speed(settings: SpeedSettings, report: Reporter) -> tuple[list[Timing], list[str]]:
    """Run the libraries in turn, each in a process of its own; report the progress.

    Returns
    -------
    timings
        Of those that could be run.
    left_out
        A line for each that could not.

    Raises
    ------
    Mri2QmapError
        If this package itself fails.
    """
    left_out = [
        f"{PEERS[name].label}: {PEERS[name].module} is not installed"
        for name in settings.peers
        if not PEERS[name].installed
    ]
    timings = {name: Timing(name) for name in settings.peers if PEERS[name].installed}
    solutions: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as place:
        problem = Path(place) / "problem.npz"
        make_problem(
            settings.matrix,
            settings.coils,
            settings.coefficients,
            settings.frames,
            settings.acceleration,
            settings.seed,
        ).save(problem)
        turns = [
            name
            for turn in range(settings.rounds)
            for name in timings
            if not (turn and name == REFERENCE)
        ]
        for name in report.progress(turns, "libraries"):
            if name not in timings:  # failed before
                continue
            out = Path(place) / f"{name}.npz"
            failure = _run(name, problem, out, settings)
            if failure and name == "mri2qmap":
                raise Mri2QmapError(f"bench speed: {failure}")
            if failure:
                left_out.append(f"{PEERS[name].label}: {failure}")
                del timings[name]
                continue
            with np.load(out) as found:
                solutions[name] = found["solution"]
                _add(timings[name], found)
    if REFERENCE in solutions:
        for name, timing in timings.items():
            timing.error = _distance(solutions[name], solutions[REFERENCE])
    return [timing for name, timing in timings.items() if name != REFERENCE], left_out


def _run(name: str, problem: Path, out: Path, settings: SpeedSettings) -> str:
    """Run one library; return why it failed, or nothing."""
    environment = {**os.environ, **dict.fromkeys(_THREADS, str(settings.threads))}
    if name != "mri2qmap":
        # Other libraries wait as they do without this package: it has changed the environment of
        # this process, and would do so again in theirs if none of the variables were set.
        for variable, value in PASSIVE_WAITING.items():
            if environment.get(variable) == value:
                del environment[variable]
        environment["KMP_BLOCKTIME"] = "200"  # the default of its library
    command = [sys.executable, "-m", "mri2qmap.studies.speed_peers", name, str(problem), str(out)]
    command.append(str(settings.iterations))
    # A session of its own: BART is a child of the process, and must end with it.
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            _, errors = process.communicate()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    return "" if process.returncode == 0 else (errors.strip().splitlines() or ["failed"])[-1]


def _add(timing: Timing, found: np.lib.npyio.NpzFile) -> None:
    for name in ("set_up", "total", "cpu", "peak"):
        getattr(timing, name).append(float(found[name]))
    timing.steps += found["steps"].tolist()


def _distance(solution: np.ndarray, reference: np.ndarray) -> float:
    """Relative distance, apart from a factor: some libraries scale the transform otherwise."""
    factor = np.vdot(solution, reference) / np.vdot(solution, solution)
    return float(np.linalg.norm(factor * solution - reference) / np.linalg.norm(reference))


def speed_report(
    settings: SpeedSettings, timings: Sequence[Timing], left_out: Sequence[str]
) -> str:
    """Return the table in Markdown."""
    n = settings.matrix
    lines = [
        "# Normal equations of a subspace",
        "",
        f"{n} x {n} x {n} voxels, {counted(settings.coefficients, 'coefficient')}, "
        f"{counted(settings.coils, 'coil')}, {settings.frames} frames, "
        f"R = {settings.acceleration:g}, seed {settings.seed}; "
        f"{processor(settings.threads)}. Median, and least and largest in "
        f"brackets, of {counted(settings.rounds, 'round')}, in which all were run in turn. Set-up "
        "includes A^H Y. A step is one of conjugate gradients.",
        "",
        f"| | set-up [s] | step [s] | set-up and {settings.iterations} steps [s] | CPU time [s] | "
        "peak [GiB] | distance from the solution |",
        "|---|---|---|---|---|---|---|",
    ]
    for timing in timings:
        distance = "-" if timing.error is None else f"{timing.error:.1e}"
        lines.append(
            f"| {PEERS[timing.name].label} {_version(timing.name)} | {_spread(timing.set_up)} | "
            f"{_spread(timing.steps)} | {_spread(timing.total)} | "
            f"{statistics.median(timing.cpu):.1f} | "
            f"{statistics.median(timing.peak) / 2**30:.2f} | {distance} |"
        )
    ours = next((timing for timing in timings if timing.name == "mri2qmap"), None)
    others = [timing for timing in timings if timing is not ours]
    if ours is not None and others:
        lines += [
            "",
            "Time of mri2qmap over that of:",
            "",
            "| | step | all | peak |",
            "|---|---|---|---|",
        ]
        for other in others:
            ratios = (
                statistics.median(getattr(ours, name)) / statistics.median(getattr(other, name))
                for name in ("steps", "total", "peak")
            )
            cells = " | ".join(f"{ratio:.2f}" for ratio in ratios)
            lines.append(f"| {PEERS[other.name].label} | {cells} |")
    if left_out:
        lines += ["", "Left out:", "", *(f"* {line}" for line in left_out)]
    return "\n".join(lines) + "\n"


def _spread(values: Sequence[float]) -> str:
    middle = f"{statistics.median(values):.2f}"
    return middle if len(values) < 2 else f"{middle} ({min(values):.2f} to {max(values):.2f})"


def _version(name: str) -> str:
    peer = PEERS[name]
    if peer.prepare is None:
        try:
            done = subprocess.run([peer.module, "version"], capture_output=True, text=True)
        except OSError:  # measured elsewhere
            return ""
        return done.stdout.strip().lstrip("v")
    try:
        return version({"mrinufft": "mri-nufft"}.get(peer.module, peer.module or "mri2qmap"))
    except PackageNotFoundError:
        return ""

"""Times of the steps of a reconstruction, against the limits of the machine, and their growth."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from mri2qmap.machine.devices import processor
from mri2qmap.machine.words import counted
from mri2qmap.mrsignal.dictionary import DictionarySettings, lookup_table
from mri2qmap.pipeline.progress import Reporter
from mri2qmap.studies import reconstruction_steps as steps
from mri2qmap.studies.reconstruction_steps import Step

SEARCHES = ("exact", "groups")
_SIMULATED = 512
"""Atoms whose signals are simulated."""
_SHORTEST = 0.05
"""A step is repeated until a measurement takes so long [s]."""


@dataclass(frozen=True)
class StepSettings:
    """Sizes at which the steps are timed.

    Attributes
    ----------
    matrices
        Voxels along an axis.
    coils
        Receive coils of the gram, at the median matrix.
    frames
        Time frames of the samples and of the simulated signals.
    atom_steps
        Ratio minus one of neighbouring T1 and T2 in the dictionaries.
    patches
        Sides of the patches of the denoiser [voxels].
    rounds
        How often each is timed.
    threads
        CPU threads.
    seed
        Of the random data.
    """

    matrices: tuple[int, ...] = (32, 48, 64, 96)
    coils: tuple[int, ...] = (1, 2, 4, 8)
    frames: tuple[int, ...] = (125, 250, 500, 1000)
    atom_steps: tuple[float, ...] = (0.16, 0.08, 0.04, 0.02)
    patches: tuple[int, ...] = (32, 48, 64)
    rounds: int = 3
    threads: int = 1
    seed: int = 0

    @property
    def matrix(self) -> int:
        """The matrix at which the other sizes are varied."""
        return sorted(self.matrices)[len(self.matrices) // 2]


@dataclass(frozen=True)
class Limits:
    """What the machine does at best with so many threads.

    Attributes
    ----------
    flops
        Operations per second of a matrix product in single precision.
    bandwidth
        Bytes per second read and written by a sum of two arrays larger than the caches.
    """

    flops: float
    bandwidth: float

    def seconds(self, flops: float, traffic: float) -> float:
        """Least time of so many operations and bytes, if one hides behind the other."""
        return max(flops / self.flops, traffic / self.bandwidth)


@dataclass
class StepTime:
    """Measurements of a step at one size.

    Attributes
    ----------
    name
        The step.
    axis, size
        What is varied, and its value.
    seconds
        One number for each round.
    flops, traffic
        See `Step`.
    """

    name: str
    axis: str
    size: float
    flops: float | None
    traffic: float
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Median of the rounds [s]."""
        return statistics.median(self.seconds)


def measure_limits(threads: int, rounds: int = 5, elements: int = 2**25) -> Limits:
    """Measure the limits of the machine, the best of some rounds."""
    torch.set_num_threads(threads)
    a, b = torch.ones(elements), torch.ones(elements)
    out = torch.empty(elements)
    bandwidth = 12 * elements / min(_timed(lambda: torch.add(a, b, out=out), rounds))
    n = min(2048, int(elements**0.5))
    matrix = torch.ones(n, n)
    flops = 2 * n**3 / min(_timed(lambda: matrix @ matrix, rounds))
    return Limits(flops, bandwidth)


def measure_steps(settings: StepSettings, report: Reporter) -> list[StepTime]:
    """Time all steps at all sizes; report the progress."""
    torch.set_num_threads(settings.threads)
    found = []
    total = sum(1 for _ in _cases(settings))
    for name, axis, size, make in report.progress(_cases(settings), "steps", total=total):
        step = make()
        timing = StepTime(name, axis, size, step.flops, step.traffic)
        timing.seconds = _timed(step.run, settings.rounds)
        found.append(timing)
        del step
    return found


Case = tuple[str, str, float, Callable[[], Step]]


def _cases(settings: StepSettings) -> Iterator[Case]:
    n, frames = settings.matrix, 500
    generator = torch.Generator().manual_seed(settings.seed)
    for m in settings.matrices:
        yield "gram, one coil", "matrix", m, partial(steps.gram, m, 1, generator)
        yield "adjoint", "matrix", m, partial(steps.adjoint, m, frames)
        for kind in SEARCHES:
            make = partial(steps.search, kind, m, DictionarySettings.step, generator)
            yield f"search, {kind}", "matrix", m, make
    for c in settings.coils:
        yield "gram", "coils", c, partial(steps.gram, n, c, generator)
    for length in settings.frames:
        yield "adjoint", "frames", length, partial(steps.adjoint, n, length)
        yield "simulation", "frames", length, partial(steps.simulation, length, _SIMULATED)
    for atom_step in settings.atom_steps:
        atoms = len(lookup_table(DictionarySettings(step=atom_step)))
        for kind in SEARCHES:
            make = partial(steps.search, kind, n, atom_step, generator)
            yield f"search, {kind}", "atoms", atoms, make
    for side in settings.patches:
        yield "denoising", "patch", side, partial(steps.denoising, side, generator)


def _timed(run: Callable[[], object], rounds: int) -> list[float]:
    """Time of each round, after one that compiles and plans [s]."""
    run()
    start = time.perf_counter()
    run()
    once = time.perf_counter() - start
    repeats = max(1, round(_SHORTEST / max(once, 1e-6)))
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        seconds.append((time.perf_counter() - start) / repeats)
    return seconds


def growth_exponents(timings: Sequence[StepTime]) -> dict[tuple[str, str], float]:
    """Exponent of the growth from the second largest size to the largest, by step and axis."""
    found: dict[tuple[str, str], list[StepTime]] = {}
    for timing in timings:
        found.setdefault((timing.name, timing.axis), []).append(timing)
    exponents = {}
    for key, series in found.items():
        if len(series) > 1:
            small, large = sorted(series, key=lambda t: t.size)[-2:]
            ratio = torch.tensor([large.median / small.median, large.size / small.size]).log()
            exponents[key] = float(ratio[0] / ratio[1])
    return exponents


def steps_report(settings: StepSettings, limits: Limits, timings: Sequence[StepTime]) -> str:
    """Return the tables in Markdown."""
    lines = [
        "# Steps of a reconstruction",
        "",
        f"{processor(settings.threads)}; at best {limits.flops / 1e9:.0f} GFLOP/s in a matrix "
        f"product and {limits.bandwidth / 1e9:.1f} GB/s in a sum of two arrays. Median of "
        f"{counted(settings.rounds, 'round')}, {steps.COEFFICIENTS} coefficients, seed "
        f"{settings.seed}. The limit is the longer of the times of the operations and of the least "
        "memory traffic. Where it is empty, the work depends on the data. A network may be faster, "
        "since it can multiply in bfloat16.",
        "",
        "| step | | ms | GFLOP | least MB | FLOP/byte | GFLOP/s | limit [ms] | limit / time |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for timing in timings:
        cells = [timing.name, f"{timing.axis} {timing.size:g}", f"{1e3 * timing.median:.3g}"]
        if timing.flops is None:
            cells += ["", f"{timing.traffic / 1e6:.3g}", "", "", "", ""]
        else:
            least = limits.seconds(timing.flops, timing.traffic)
            cells += [
                f"{timing.flops / 1e9:.3g}",
                f"{timing.traffic / 1e6:.3g}",
                f"{timing.flops / timing.traffic:.2g}",
                f"{timing.flops / timing.median / 1e9:.3g}",
                f"{1e3 * least:.3g}",
                f"{least / timing.median:.2f}",
            ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "Growth between the two largest sizes:", "", "| step | with | exponent |"]
    lines.append("|---|---|---|")
    lines += [
        f"| {name} | {axis} | {exponent:.2f} |"
        for (name, axis), exponent in growth_exponents(timings).items()
    ]
    return "\n".join(lines) + "\n"

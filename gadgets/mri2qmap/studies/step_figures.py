"""Figures of the times of the steps: growth, and the limits of the machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from mri2qmap.studies.step_bench import Limits, StepTime

_MARKERS = "osD^vP*X"


def growth_figure(path: Path, timings: Sequence[StepTime], dpi: int = 110) -> None:
    """Save the time of each step over each size that was varied, in double logarithmic axes.

    Parameters
    ----------
    path
        PNG file to write.
    timings
        Results.
    dpi
        Resolution [dots per inch].
    """
    varied = list(dict.fromkeys(timing.axis for timing in timings))
    figure = Figure(figsize=(3.3 * len(varied), 3.4), dpi=dpi, layout="constrained")
    for axes, axis in zip(figure.subplots(1, len(varied), squeeze=False)[0], varied, strict=True):
        own = [timing for timing in timings if timing.axis == axis]
        for number, name in enumerate(dict.fromkeys(timing.name for timing in own)):
            series = sorted((t.size, 1e3 * t.median) for t in own if t.name == name)
            marker = f"{_MARKERS[number % len(_MARKERS)]}-"
            axes.loglog(*zip(*series, strict=True), marker, markersize=4, label=name)
        sizes = sorted({timing.size for timing in own})
        axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
        axes.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
        axes.set_xlabel(axis)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
        axes.set_ylabel("time [ms]")
    figure.savefig(path, format="png")


def roofline_figure(
    path: Path, limits: Limits, timings: Sequence[StepTime], dpi: int = 110
) -> None:
    """Save the rate of each step over its operations per byte, below the limits of the machine.

    Of each step, the largest size of the first axis is shown.

    Parameters
    ----------
    path
        PNG file to write.
    limits
        Limits of the machine.
    timings
        Results; those without a number of operations are left out.
    dpi
        Resolution [dots per inch].
    """
    figure = Figure(figsize=(6.2, 4.2), dpi=dpi, layout="constrained")
    axes = figure.subplots()
    shown: dict[str, StepTime] = {}
    for timing in timings:
        if timing.flops is not None:
            other = shown.setdefault(timing.name, timing)
            if (timing.axis, timing.size) >= (other.axis, other.size) and timing.axis == other.axis:
                shown[timing.name] = timing
    for number, timing in enumerate(shown.values()):
        assert timing.flops is not None
        axes.loglog(
            timing.flops / timing.traffic,
            timing.flops / timing.median / 1e9,
            _MARKERS[number % len(_MARKERS)],
            label=f"{timing.name} ({timing.axis} {timing.size:g})",
        )
    intensities = [t.flops / t.traffic for t in shown.values() if t.flops is not None]
    turn = limits.flops / limits.bandwidth
    x = np.geomspace(0.5 * min([*intensities, turn]), 2 * max([*intensities, turn]), 200)
    axes.loglog(x, np.minimum(limits.flops, limits.bandwidth * x) / 1e9, "k-", linewidth=1)
    axes.set_xlabel("operations per byte of the least memory traffic")
    axes.set_ylabel("GFLOP/s")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    figure.savefig(path, format="png")

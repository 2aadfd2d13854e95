"""Tables and Bland-Altman plots of T1 and T2 in the spheres of the system phantom."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mri2qmap.anatomy.system_phantom import SPHERES
from mri2qmap.studies.experiment_report import markdown
from mri2qmap.studies.system_phantom import SPHERE_VALUES, SphereResult

_FLAGGED = 0.5
"""Fraction of voxels at an end of the table above which a sphere has no value."""


def sphere_table(results: Sequence[SphereResult]) -> str:
    """Markdown: errors of each method in each sphere, then the linearity of each method."""
    methods = list(dict.fromkeys(result.method for result in results))
    heads = ["sphere", "T1 [ms]", "T2 [ms]", *(f"{m}: T1, T2 [%]" for m in methods)]
    rows = []
    for sphere in SPHERES:
        of_sphere = [r for r in results if r.sphere == sphere]
        cells = [f"{1e3 * time:.3g}" for time in (sphere.t1, sphere.t2)]
        mark = "" if of_sphere[0].in_range else " (outside the table)"
        rows.append([sphere.name + mark, *cells, *map(_errors_cell, of_sphere)])
    summary = []
    for method in methods:
        inside = [r for r in results if r.method == method and r.in_range]
        largest = np.abs([r.errors for r in inside]).max(0)
        fits = [linear_fit(inside, name) for name in ("t1", "t2")]
        summary.append(
            [
                method,
                ", ".join(f"{value:.1f}" for value in largest),
                ", ".join(f"{slope:.3f}" for slope, _ in fits),
                ", ".join(f"{square:.5f}" for _, square in fits),
            ]
        )
    below = markdown(["method", "largest error T1, T2 [%]", "slope T1, T2", "R^2 T1, T2"], summary)
    return f"{markdown(heads, rows)}\n\nWithin the table:\n\n{below}"


def _errors_cell(result: SphereResult) -> str:
    """Errors of T1 and T2 as text, unless the maps are at an end of the table."""
    if result.at_end > _FLAGGED:
        return "at the table's end"
    return "{:+.1f}, {:+.1f}".format(*result.errors)


def linear_fit(results: Sequence[SphereResult], name: str) -> tuple[float, float]:
    """Slope and R^2 of a linear fit of measured to true times, over spheres.

    `name` is "t1" or "t2".
    """
    true = np.array([getattr(result.sphere, name) for result in results])
    measured = np.array([getattr(result, name) for result in results])
    slope = np.polyfit(true, measured, 1)[0]
    return float(slope), float(np.corrcoef(true, measured)[0, 1] ** 2)


def sphere_rows(results: Sequence[SphereResult]) -> list[list[str]]:
    """Header, and one row for each method and sphere; times in seconds."""
    rows = [["method", "sphere", "t1_true", "t2_true", *SPHERE_VALUES, "in_range"]]
    for r in results:
        numbers = (r.sphere.t1, r.sphere.t2, r.t1, r.t1_sd, r.t2, r.t2_sd)
        cells = [f"{number:.6g}" for number in (*numbers, r.at_end)]
        rows.append([r.method, r.sphere.name, *cells, str(r.voxels), str(r.in_range).lower()])
    return rows


def write_sphere_figure(path: Path, results: Sequence[SphereResult]) -> None:
    """Save Bland-Altman plots: differences over means, with bias and limits of agreement."""
    methods = list(dict.fromkeys(result.method for result in results))
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(8, 2.4 * len(methods)), layout="constrained")
        axes = figure.subplots(len(methods), 2, squeeze=False)
        for row, method in zip(axes, methods, strict=True):
            for plot, name in zip(row, ("t1", "t2"), strict=True):
                for inside, marker in ((True, "o"), (False, "x")):
                    chosen = [r for r in results if r.method == method and r.in_range == inside]
                    means, differences = _bland_altman(chosen, name)
                    label = "within the table" if inside else "outside of it"
                    plot.plot(1e3 * means, differences, marker, label=label, markersize=4)
                    if inside:
                        bias, spread = differences.mean(), 1.96 * differences.std(ddof=1)
                        for level, style in (
                            (bias, "-"),
                            (bias - spread, ":"),
                            (bias + spread, ":"),
                        ):
                            plot.axhline(level, color="grey", linestyle=style, linewidth=0.8)
                        room = max(3.0, 3 * (abs(bias) + spread))
                        plot.set_ylim(-room, room)
                plot.set_xscale("log")
                plot.set_xlabel(f"mean of true and measured {name.upper()} [ms]")
                plot.set_ylabel("difference [%]")
                plot.set_title(f"{method}, {name.upper()}")
        axes[0, 0].legend(frameon=False)
        figure.savefig(path, format="png", dpi=150)


def _bland_altman(
    results: Sequence[SphereResult], name: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means [s] and differences [% of the mean] of measured and true times."""
    true = np.array([getattr(result.sphere, name) for result in results])
    measured = np.array([getattr(result, name) for result in results])
    means = (true + measured) / 2
    return means, 100 * (measured - true) / np.where(means > 0, means, math.nan)

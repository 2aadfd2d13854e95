"""Tables and figure of the errors after each ADMM iteration (paper, Fig. 7)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mri2qmap.studies.cases import Case, Experiment
from mri2qmap.studies.experiment_report import (
    cases_of,
    hide_upper_right,
    markdown,
    mean_and_spread,
    values_of,
)
from mri2qmap.studies.experiment_runner import Result
from mri2qmap.studies.iterations import ITERATIONS

_SPHERE = "lower_bound_sphere_t1_t2"
_CAPTION = (
    "T1+T2 [%] of the match in each iteration. The maps are from another match, after the last one:"
)


def iteration_table(results: Sequence[Result]) -> str:
    """Markdown: mean T1+T2 errors [%] after iterations 1, 2, 4, 8 ..., and the smallest one."""
    curves = {case.label: curve(results, case)[1] for case in cases_of(results)}
    longest = max(len(errors) for errors in curves.values())
    shown = [2**n for n in range(longest.bit_length())]
    heads = ["after iteration", *map(str, shown), "smallest, after"]
    rows = []
    for label, errors in curves.items():
        means = errors.mean(1)
        cells = [f"{means[n - 1]:.2f}" if n <= len(means) else "" for n in shown]
        best = int(means.argmin())
        rows.append([label, *cells, f"{means[best]:.2f}, {best + 1}"])
    return f"{_CAPTION}\n\n{markdown(heads, rows)}"


def iteration_rows(results: Sequence[Result]) -> list[list[str]]:
    """Header, and one row for each iteration of each scan of each case; errors [%]."""
    rows = [["case", "subject", "seed", *ITERATIONS.key, *ITERATIONS.values, "mape_t1_t2"]]
    for result in results:
        for error in result.extra_rows:
            numbers = (error.sigma, error.mape_t1, error.mape_t2, error.mape_t1_t2)
            cells = [f"{number:.6g}" for number in numbers]
            scan = [result.case.label, result.subject, str(result.seed), str(error.number)]
            rows.append([*scan, *cells])
    return rows


def write_iteration_figure(path: Path, experiment: Experiment, results: Sequence[Result]) -> None:
    """Save noise levels, and mean T1+T2 errors with standard deviations, over iterations.

    The crosses are the errors of the maps. These are not those of the last iteration: they are from
    another match, to the TSMI and the restored images without multipliers.
    """
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(7, 5), layout="constrained")
        levels, errors = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
        ends: set[float] = set()
        for case in cases_of(results):
            sigmas, found = curve(results, case)
            numbers = np.arange(1, len(sigmas) + 1)
            (line,) = levels.plot(numbers, sigmas, ".-")
            ends |= {float(sigmas[0].round(6)), float(sigmas[-1].round(6))}
            means = found.mean(1)
            errors.plot(numbers, means, ".-", color=line.get_color(), label=case.label)
            maps, _ = mean_and_spread(values_of(results, case, "mape_t1_t2"))
            errors.plot(numbers[-1], maps, "x", color=line.get_color())
            if found.shape[1] > 1:
                spread = found.std(1, ddof=1)
                errors.fill_between(
                    numbers, means - spread, means + spread, color=line.get_color(), alpha=0.15
                )
        lower_bound, _ = mean_and_spread(values_of(results, cases_of(results)[0], _SPHERE))
        if not math.isnan(lower_bound):
            errors.axhline(
                lower_bound, color="grey", linestyle=":", linewidth=0.8, label="lower bound: sphere"
            )
        levels.set_yscale("log")
        levels.minorticks_off()
        levels.set_yticks(sorted(ends), [f"{end:g}" for end in sorted(ends)])
        levels.set_ylabel("noise level")
        levels.set_title(experiment.title)
        errors.set_ylabel("T1+T2 MAPE [%]")
        errors.set_xlabel("iteration")
        errors.plot([], [], "kx", label="maps")
        figure.legend(loc="outside right upper", frameon=False)
        for axes in (levels, errors):
            hide_upper_right(axes)
        figure.savefig(path, format="png", dpi=150)


def curve(results: Sequence[Result], case: Case) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Noise levels (iterations,) of a case, and its T1+T2 errors [%] (iterations, scans)."""
    scans = [result.extra_rows for result in results if result.case is case]
    sigmas = np.array([error.sigma for error in scans[0]])
    return sigmas, np.array([[error.mape_t1_t2 for error in scan] for scan in scans]).T

"""Tables of the experiments as Markdown and CSV, and figures of the errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mri2qmap.studies.cases import Case, Experiment
from mri2qmap.studies.experiment_runner import Result

_HEADINGS = {
    "mape_t1_t2": "T1+T2 [%]",
    "mape_t1": "T1 [%]",
    "mape_t2": "T2 [%]",
    "cosine_distance": "TSMI distance [%]",
    "psnr_t1w": "PSNR T1w [dB]",
    "psnr_t2w": "T2w",
    "psnr_pdw": "PDw",
    "ssim_t1w": "SSIM T1w [%]",
    "ssim_t2w": "T2w",
    "ssim_pdw": "PDw",
    "texture_t1": "texture of T1",
    "texture_t2": "of T2",
    "seconds": "time [s]",
    "peak_gib": "peak memory [GiB]",
    "seconds_cg": "CG, LLR, LRTV [s]",
    "seconds_admm": "ADMM [s]",
    "seconds_matching": "last matching [s]",
}
_PAPER = "T1+T2 in the paper [%]"


def cases_of(results: Sequence[Result]) -> list[Case]:
    """Cases of the results, in the order of the experiment."""
    return list({id(result.case): result.case for result in results}.values())


def values_of(results: Sequence[Result], case: Case, metric: str) -> list[float]:
    """Values of a metric for all scans of a case, without NaN."""
    values = [r.metrics[metric] for r in results if r.case is case]
    return [value for value in values if not math.isnan(value)]


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation; NaN if there are too few values."""
    if not values:
        return math.nan, math.nan
    return fmean(values), stdev(values) if len(values) > 1 else math.nan


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def markdown_table(experiment: Experiment, results: Sequence[Result]) -> str:
    """Markdown: means over scans, with standard deviations if there are several scans."""
    cases = cases_of(results)
    reported = any(case.paper is not None for case in cases)
    heads = ["", *(_HEADINGS[name] for name in experiment.columns), *([_PAPER] if reported else [])]
    rows = []
    for case in cases:
        cells = [cell(values_of(results, case, name)) for name in experiment.columns]
        paper = [] if not reported else ["" if case.paper is None else f"{case.paper:g}"]
        rows.append([case.label, *cells, *paper])
    if "mape_t1_t2" in experiment.columns:
        rows += _lower_bounds(experiment, results, len(heads))
    return markdown(heads, rows)


def _lower_bounds(experiment: Experiment, results: Sequence[Result], width: int) -> list[list[str]]:
    """Errors of matching the truth itself, and the truth within the sampled sphere of k-space."""
    rows = []
    first = cases_of(results)[0]
    for label, prefix in (
        ("*lower bound: truth in the sampled sphere*", "lower_bound_sphere"),
        ("*lower bound: matching the truth*", "lower_bound_matching"),
    ):
        cells = [
            cell(values_of(results, first, name.replace("mape", prefix)))
            if name.startswith("mape")
            else ""
            for name in experiment.columns
        ]
        rows.append([label, *cells, *([""] * (width - 1 - len(cells)))])
    return rows


def cell(values: Sequence[float]) -> str:
    """Mean and standard deviation as text; a dash if there are no values."""
    mean, spread = mean_and_spread(values)
    if math.isnan(mean):
        return "-"
    return f"{mean:.2f}" if math.isnan(spread) else f"{mean:.2f} ({spread:.2f})"


def csv_rows(experiment: Experiment, results: Sequence[Result]) -> list[list[str]]:
    """Header, and one row for each scan of each case."""
    rows = [["case", "subject", "seed", *experiment.columns]]
    for result in results:
        numbers = (result.metrics[name] for name in experiment.columns)
        cells = ["" if math.isnan(number) else f"{number:.6g}" for number in numbers]
        rows.append([result.case.label, result.subject, str(result.seed), *cells])
    return rows


def write_figure(path: Path, experiment: Experiment, results: Sequence[Result]) -> None:
    """Save curves of the errors if the experiment has them, else bars of errors or times."""
    if experiment.x_label:
        _write_curves(path, experiment, results)
    else:
        _write_bars(path, experiment, results)


def _write_curves(path: Path, experiment: Experiment, results: Sequence[Result]) -> None:
    """Mean T1+T2 errors with standard deviations; markers outside of the usual range are hollow."""
    points = [(case.point, *_error(results, case)) for case in cases_of(results) if case.point]
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(5, 3.4), layout="constrained")
        axes = figure.subplots()
        for name in dict.fromkeys(point.curve for point, _, _ in points):
            curve = sorted(
                (point.x, mean, 0.0 if math.isnan(spread) else spread, point.usual)
                for point, mean, spread in points
                if point.curve == name
            )
            positions, means, spreads, _ = zip(*curve, strict=True)
            bars = axes.errorbar(positions, means, spreads, fmt="-", elinewidth=0.8, label=name)
            colour = bars.lines[0].get_color()
            for x, mean, _, usual in curve:
                face = colour if usual else "white"
                axes.plot(x, mean, "o", color=colour, markerfacecolor=face)
        axes.set_xlabel(experiment.x_label)
        axes.set_ylabel("T1+T2 MAPE, white and grey matter [%]")
        axes.set_title(experiment.title)
        axes.legend(frameon=False)
        hide_upper_right(axes)
        figure.savefig(path, format="png", dpi=150)


def _error(results: Sequence[Result], case: Case) -> tuple[float, float]:
    return mean_and_spread(values_of(results, case, "mape_t1_t2"))


def hide_upper_right(axes: Axes) -> None:
    """Hide the upper and the right border of a plot."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _write_bars(path: Path, experiment: Experiment, results: Sequence[Result]) -> None:
    """Bars of the T1 and T2 errors, with a dot for the sum of each scan, or bars of the times."""
    stacked: list[str] = [name for name in ("mape_t1", "mape_t2") if name in experiment.columns]
    metrics = stacked or [n for n in experiment.columns if n.startswith("seconds_")]
    cases = cases_of(results)
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(7, 0.6 + 0.3 * len(cases)), layout="constrained")
        axes = figure.subplots()
        left = [0.0] * len(cases)
        for metric in metrics:
            means = [mean_and_spread(values_of(results, case, metric))[0] for case in cases]
            means = [0.0 if math.isnan(mean) else mean for mean in means]
            axes.barh(range(len(cases)), means, left=left, label=_HEADINGS[metric])
            left = [a + b for a, b in zip(left, means, strict=True)]
        if stacked:
            for row, case in enumerate(cases):
                totals = values_of(results, case, "mape_t1_t2")
                axes.plot(totals, [row] * len(totals), "k.", markersize=4)
        axes.set_yticks(range(len(cases)), [case.label for case in cases])
        axes.invert_yaxis()
        axes.set_xlabel("MAPE, white and grey matter [%]" if stacked else "time [s]")
        axes.set_title(experiment.title)
        axes.legend(frameon=False)
        hide_upper_right(axes)
        figure.savefig(path, format="png", dpi=150)

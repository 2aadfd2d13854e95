"""The tables of the experiments: Markdown for people, CSV for programs, a figure of the errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mri2qmap.studies.catalogue import Case, Experiment
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
    "seconds": "time [s]",
    "peak_gib": "peak memory [GiB]",
    "seconds_cg": "CG, LLR, LRTV [s]",
    "seconds_admm": "ADMM [s]",
    "seconds_matching": "last matching [s]",
}
_PAPER = "T1+T2 in the paper [%]"


def cases_of(results: Sequence[Result]) -> list[Case]:
    """The cases, in the order of the experiment."""
    return list({id(result.case): result.case for result in results}.values())


def values_of(results: Sequence[Result], case: Case, metric: str) -> list[float]:
    """A metric of all scans of a case; NaN is left out."""
    values = [r.metrics[metric] for r in results if r.case is case]
    return [value for value in values if not math.isnan(value)]


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation; NaN where there are too few values."""
    if not values:
        return math.nan, math.nan
    return fmean(values), stdev(values) if len(values) > 1 else math.nan


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def markdown_table(experiment: Experiment, results: Sequence[Result]) -> str:
    """Rows of means, with standard deviations over scans where there are several."""
    cases = cases_of(results)
    told = any(case.paper is not None for case in cases)
    heads = ["", *(_HEADINGS[name] for name in experiment.columns), *([_PAPER] if told else [])]
    rows = []
    for case in cases:
        cells = [cell(values_of(results, case, name)) for name in experiment.columns]
        paper = [] if not told else ["" if case.paper is None else f"{case.paper:g}"]
        rows.append([case.label, *cells, *paper])
    if "mape_t1_t2" in experiment.columns:
        rows += _lower_bounds(experiment, results, len(heads))
    return markdown(heads, rows)


def _lower_bounds(experiment: Experiment, results: Sequence[Result], width: int) -> list[list[str]]:
    """Errors of matching the truth: whole, and as far as it was sampled; priors add to that."""
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
    """Mean and standard deviation of a row of a table; a dash for nothing."""
    mean, spread = mean_and_spread(values)
    if math.isnan(mean):
        return "-"
    return f"{mean:.2f}" if math.isnan(spread) else f"{mean:.2f} ({spread:.2f})"


def csv_rows(experiment: Experiment, results: Sequence[Result]) -> list[list[str]]:
    """A heading, and one row for each scan of each case."""
    rows = [["case", "subject", "seed", *experiment.columns]]
    for result in results:
        numbers = (result.metrics[name] for name in experiment.columns)
        cells = ["" if math.isnan(number) else f"{number:.6g}" for number in numbers]
        rows.append([result.case.label, result.subject, str(result.seed), *cells])
    return rows


def write_figure(path: Path, experiment: Experiment, results: Sequence[Result]) -> None:
    """Curves of the error where cases have a place along one; bars of errors or times else."""
    if experiment.along:
        _write_curves(path, experiment, results)
    else:
        _write_bars(path, experiment, results)


def _write_curves(path: Path, experiment: Experiment, results: Sequence[Result]) -> None:
    """Mean T1+T2 errors with standard deviations, hollow where what varies is out of its range."""
    points = [(case.place, *_error(results, case)) for case in cases_of(results) if case.place]
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(5, 3.4), layout="constrained")
        axes = figure.subplots()
        for name in dict.fromkeys(place.curve for place, _, _ in points):
            along = sorted(
                (place.at, mean, 0.0 if math.isnan(spread) else spread, place.usual)
                for place, mean, spread in points
                if place.curve == name
            )
            at, means, spreads, _ = zip(*along, strict=True)
            bars = axes.errorbar(at, means, spreads, fmt="-", elinewidth=0.8, label=name)
            colour = bars.lines[0].get_color()
            for x, mean, _, usual in along:
                face = colour if usual else "white"
                axes.plot(x, mean, "o", color=colour, markerfacecolor=face)
        axes.set_xlabel(experiment.along)
        axes.set_ylabel("T1+T2 MAPE, white and grey matter [%]")
        axes.set_title(experiment.title)
        axes.legend(frameon=False)
        plain(axes)
        figure.savefig(path, format="png", dpi=150)


def _error(results: Sequence[Result], case: Case) -> tuple[float, float]:
    return mean_and_spread(values_of(results, case, "mape_t1_t2"))


def plain(axes: Axes) -> None:
    """Leave only the two axes that are read."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _write_bars(path: Path, experiment: Experiment, results: Sequence[Result]) -> None:
    """Bars of the T1 and T2 errors, or of the times, with a dot for each scan."""
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
        plain(axes)
        figure.savefig(path, format="png", dpi=150)

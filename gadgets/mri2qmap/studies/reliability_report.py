"""Tables and figure that compare standard deviations of T1 and T2 with errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from mri2qmap.studies.cases import Case, Experiment
from mri2qmap.studies.experiment_report import cases_of, cell, hide_upper_right, markdown
from mri2qmap.studies.experiment_runner import Result
from mri2qmap.studies.reliability import ALL, BORDERS, DECILES, LESIONS, RELIABILITY, TIMES

_COLUMNS = {
    "truth within 1 sd [%] (68)": (ALL, "coverage_68"),
    "within 1.96 sd [%] (95)": (ALL, "coverage_95"),
    "at borders, within 1 sd [%]": (BORDERS, "coverage_68"),
    "in lesions": (LESIONS, "coverage_68"),
    "rank correlation": (ALL, "rank_correlation"),
    "RMS sd [%]": (ALL, "deviation"),
    "RMS error [%]": (ALL, "error"),
}
"""Group and value of each column."""


def reliability_table(results: Sequence[Result]) -> str:
    """Markdown: values of `Reliability` for T1 and T2 of each case."""
    rows = []
    for case in cases_of(results):
        for time in TIMES:
            cells = [cell(_values(results, case, time, *of)) for of in _COLUMNS.values()]
            rows.append([f"{case.label}, {time}", *cells])
    return markdown(["", *_COLUMNS], rows)


def reliability_rows(results: Sequence[Result]) -> list[list[str]]:
    """Header, and the rows of all scans."""
    rows = [["case", "subject", "seed", *RELIABILITY.key, *RELIABILITY.values]]
    for result in results:
        for row in result.extra_rows:
            time, group, *numbers = astuple(row)
            cells = ["" if math.isnan(number) else f"{number:.6g}" for number in numbers]
            rows.append([result.case.label, result.subject, str(result.seed), time, group, *cells])
    return rows


def write_reliability_figure(path: Path, experiment: Experiment, results: Sequence[Result]) -> None:
    """Save errors over standard deviations of the deciles, for T1 and T2; means over scans."""
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(7, 3.6), layout="constrained")
        for axes, time in zip(figure.subplots(1, 2), TIMES, strict=True):
            largest = 0.0
            for case in cases_of(results):
                deviations, errors = (
                    [
                        float(np.mean(_values(results, case, time, decile, name)))
                        for decile in DECILES
                    ]
                    for name in ("deviation", "error")
                )
                axes.plot(deviations, errors, ".-", label=case.label)
                largest = max(largest, *deviations, *errors)
            axes.plot([0, largest], [0, largest], color="grey", linestyle=":", linewidth=0.8)
            axes.set_title(time)
            axes.set_xlabel("standard deviation, RMS of a decile [%]")
            axes.set_ylabel("error, RMS of the decile [%]")
            hide_upper_right(axes)
        axes.legend(frameon=False)
        figure.suptitle(experiment.title)
        figure.savefig(path, format="png", dpi=150)


def _values(results: Sequence[Result], case: Case, time: str, group: str, name: str) -> list[float]:
    """One value of all scans of a case, without NaN."""
    values = [
        getattr(row, name)
        for result in results
        if result.case is case
        for row in result.extra_rows
        if (row.time, row.group) == (time, group)
    ]
    return [value for value in values if not math.isnan(value)]

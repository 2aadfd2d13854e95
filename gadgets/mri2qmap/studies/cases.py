"""Reconstructions of an experiment, and what it shows of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from mri2qmap.studies.extra_tables import ExtraTable

OURS = "mri2qmap"
"""Pipeline of MRI2Qmap."""
_NEGLIGIBLE = "1e-6"
"""Weight of a contrast that is excluded."""

Overrides = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class CurvePoint:
    """Position of a case in a figure of curves.

    Attributes
    ----------
    curve
        Name of the curve.
    x
        Position on the horizontal axis.
    usual
        Whether the varied setting is in its usual range there.
    """

    curve: str
    x: float
    usual: bool = True


@dataclass(frozen=True)
class Case:
    """One reconstruction of an experiment.

    Attributes
    ----------
    label
        Name of its row.
    pipeline
        Name of a pipeline.
    overrides
        Properties that differ from those of the pipeline, by gadget.
    acceleration, noise, b1_spread
        Settings of the scan that differ from those of the experiment; None if they do not.
    paper
        T1+T2 MAPE [%] in the paper, if it reports one.
    point
        Its position, if the figure of the experiment has curves.
    """

    label: str
    pipeline: str
    overrides: Overrides = field(default_factory=dict)
    acceleration: float | None = None
    noise: float | None = None
    b1_spread: float | None = None
    paper: float | None = None
    point: CurvePoint | None = None


@dataclass(frozen=True)
class Experiment:
    """A table or a figure of the paper.

    Attributes
    ----------
    title
        Its subject.
    cases
        Returns its rows: for scans with one coil (True), as the paper's BrainWeb experiments, or
        with several (False), as its experiments in vivo.
    columns
        Metrics that it shows, see `experiment_runner.METRICS`.
    x_label
        Label of the horizontal axis of its curves; empty if its figure has bars.
    extra_table
        Table that it shows in addition to the metrics, if any.
    """

    title: str
    cases: Callable[[bool], Sequence[Case]]
    columns: tuple[str, ...]
    x_label: str = ""
    extra_table: ExtraTable | None = None


def excluding(*contrasts: str) -> dict[str, str]:
    """Settings of `pnp_admm` that exclude contrasts (t1w, t2w, pdw) from the matching."""
    return {f"weight_{contrast}": _NEGLIGIBLE for contrast in contrasts}

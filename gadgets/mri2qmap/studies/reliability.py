"""Comparison of the standard deviations of T1 and T2 with the errors of a reconstruction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from mri2qmap.export.quantity import Quantity
from mri2qmap.pipeline.pipeline_file import Pipeline
from mri2qmap.simulation.truth import Truth
from mri2qmap.studies.extra_tables import ExtraTable

DECILES = 10
ALL = 0
"""Value of `decile` in the row of all voxels."""
TIMES = ("T1", "T2")
_TWO_SIDED_95 = 1.96


@dataclass(frozen=True)
class Reliability:
    """Standard deviations and errors over a group of voxels of white matter, grey matter, lesions.

    Attributes
    ----------
    time
        "T1" or "T2".
    decile
        Group of voxels, by relative standard deviation: 1 (smallest) to `DECILES` (largest), or
        `ALL`.
    deviation
        Root mean square of the standard deviations relative to T1 or T2 [%].
    error
        Root mean square of the errors relative to the truth [%].
    coverage_68, coverage_95
        Fraction of the voxels whose truth is within 1 and 1.96 standard deviations [%].
    rank_correlation
        Spearman's correlation of relative standard deviation and magnitude of the relative error;
        NaN if one of them is the same in all voxels.
    """

    time: str
    decile: int
    deviation: float
    error: float
    coverage_68: float
    coverage_95: float
    rank_correlation: float


def _keys(pipeline: Pipeline) -> list[tuple[str, int]]:
    if not any(getattr(node.settings, "uncertainty", False) for node in pipeline.nodes):
        return []
    return [(time, decile) for time in TIMES for decile in range(1 + DECILES)]


RELIABILITY = ExtraTable(
    "reliability",
    ("time", "decile"),
    ("deviation", "error", "coverage_68", "coverage_95", "rank_correlation"),
    keys=_keys,
    row=Reliability,
)


def reliability(volumes: Mapping[Quantity, NDArray[np.float32]], truth: Truth) -> list[Reliability]:
    """Compare standard deviations with errors, over white and grey matter and lesions.

    Parameters
    ----------
    volumes
        Exported maps (z, y, x) [s].
    truth
        Truth of the scan, on the same grid.

    Returns
    -------
        Rows of T1 and T2, each for all voxels and for the deciles; empty if there are no standard
        deviations.
    """
    if Quantity.T1_STD not in volumes:
        return []
    mask = truth.white_matter | truth.grey_matter
    if truth.lesions is not None:
        mask = mask | (truth.lesions > 0)
    rows = []
    for time, quantity, deviations, true in (
        ("T1", Quantity.T1, Quantity.T1_STD, truth.t1),
        ("T2", Quantity.T2, Quantity.T2_STD, truth.t2),
    ):
        found, deviation, expected = (
            volume[mask].astype(np.float64)
            for volume in (volumes[quantity], volumes[deviations], true)
        )
        relative = np.divide(deviation, found, out=np.zeros_like(found), where=found > 0)
        order = np.argsort(relative, kind="stable")
        for decile, voxels in enumerate([order, *np.array_split(order, DECILES)]):
            difference = np.abs(found - expected)[voxels]
            error = difference / expected[voxels]
            rows.append(
                Reliability(
                    time,
                    decile,
                    100 * _root_mean_square(relative[voxels]),
                    100 * _root_mean_square(error),
                    100 * float(np.mean(difference <= deviation[voxels])),
                    100 * float(np.mean(difference <= _TWO_SIDED_95 * deviation[voxels])),
                    _rank_correlation(relative[voxels], error),
                )
            )
    return rows


def _root_mean_square(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _rank_correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])

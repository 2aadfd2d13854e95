"""Comparison of the standard deviations of T1 and T2 with the errors of a reconstruction."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from mri2qmap.export.quantity import Quantity
from mri2qmap.pipeline.pipeline_file import Pipeline
from mri2qmap.simulation.truth import Truth
from mri2qmap.studies.extra_tables import ExtraTable

ALL, BORDERS, LESIONS = "all", "borders", "lesions"
"""Groups of voxels: all, those with a gradient of the true time, at most about a fifth of all and
with the strongest gradients, and lesions."""
DECILES = tuple(str(number) for number in range(1, 11))
"""Groups of voxels by relative standard deviation, from the smallest to the largest."""
_AT_BORDERS = 0.8
TIMES = ("T1", "T2")
_TWO_SIDED_95 = 1.96


@dataclass(frozen=True)
class Reliability:
    """Standard deviations and errors over voxels of white matter, grey matter and lesions.

    Attributes
    ----------
    time
        "T1" or "T2".
    group
        Which of these voxels: `ALL`, `BORDERS`, `LESIONS` or one of `DECILES`.
    deviation
        Root mean square of the standard deviations relative to T1 or T2 [%].
    error
        Root mean square of the errors relative to the truth [%].
    coverage_68, coverage_95
        Fraction of the voxels whose truth is within 1 and 1.96 standard deviations [%].
    rank_correlation
        Spearman's correlation of relative standard deviation and magnitude of the relative error;
        NaN if one of them is the same in all voxels.

    All of them are NaN if there are no such voxels.
    """

    time: str
    group: str
    deviation: float
    error: float
    coverage_68: float
    coverage_95: float
    rank_correlation: float


def _keys(pipeline: Pipeline) -> list[tuple[str, str]]:
    if not any(getattr(node.settings, "uncertainty", False) for node in pipeline.nodes):
        return []
    groups = (ALL, BORDERS, LESIONS, *DECILES)
    return [(time, group) for time in TIMES for group in groups]


RELIABILITY = ExtraTable(
    "reliability",
    ("time", "group"),
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
        Rows of T1 and T2, each for all groups; empty if there are no standard deviations.
    """
    if Quantity.T1_STD not in volumes:
        return []
    mask = truth.white_matter | truth.grey_matter
    lesions = np.zeros_like(mask) if truth.lesions is None else truth.lesions > 0
    mask = mask | lesions
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
        steepness = _gradient(true)[mask]
        order = np.argsort(relative, kind="stable")
        groups = {
            ALL: order,
            BORDERS: (steepness > 0) & (steepness >= np.quantile(steepness, _AT_BORDERS)),
            LESIONS: lesions[mask],
            **dict(zip(DECILES, np.array_split(order, len(DECILES)), strict=True)),
        }
        for group, voxels in groups.items():
            rows.append(_compared(time, group, *(v[voxels] for v in (found, expected, deviation))))
    return rows


def _compared(
    time: str,
    group: str,
    found: NDArray[np.float64],
    true: NDArray[np.float64],
    deviation: NDArray[np.float64],
) -> Reliability:
    """Row of a group, from the times and standard deviations (voxels,) [s]."""
    if not found.size:
        return Reliability(time, group, *[math.nan] * len(RELIABILITY.values))
    difference = np.abs(found - true)
    relative = np.divide(deviation, found, out=np.zeros_like(found), where=found > 0)
    return Reliability(
        time,
        group,
        100 * _root_mean_square(relative),
        100 * _root_mean_square(difference / true),
        100 * float(np.mean(difference <= deviation)),
        100 * float(np.mean(difference <= _TWO_SIDED_95 * deviation)),
        _rank_correlation(relative, difference / true),
    )


def _gradient(times: NDArray[np.float32]) -> NDArray[np.float64]:
    """Gradient of log T (z, y, x), from the differences between voxels that have a T."""
    exists = times > 0
    logarithm = np.log(np.where(exists, times, 1), dtype=np.float64)
    squares = np.zeros_like(logarithm)
    for axis in range(times.ndim):
        first, second = (np.moveaxis(exists, axis, 0)[part] for part in (slice(-1), slice(1, None)))
        change = np.diff(np.moveaxis(logarithm, axis, 0), axis=0) * (first & second)
        moved = np.moveaxis(squares, axis, 0)
        moved[:-1] += change**2
        moved[1:] += change**2
    return np.sqrt(squares)


def _root_mean_square(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _rank_correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])

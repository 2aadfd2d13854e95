"""White and grey matter in the histograms of T1 and T2."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mri2qmap.report.tissue_ranges import Tissue

T1_LIMIT, T2_LIMIT = 3000.0, 200.0
"""Upper ends of the histograms [ms]."""
T1_BIN, T2_BIN = 20.0, 2.0
"""Widths of their bins [ms]."""
_T1_SMOOTHING, _T2_SMOOTHING = 30.0, 4.0
"""Standard deviations of the Gaussian by which peaks are found [ms]."""
_SEARCHED = (400.0, 2600.0)
"""T1 in which peaks are looked for [ms]: fat is below, and fluid above."""
_PROMINENCE = 0.04
"""Least prominence of a peak, relative to the highest one."""
_NEIGHBOURS = 0.12
"""Relative distance from the peak of T1 within which voxels are counted to a tissue."""
_ENOUGH = 50
"""Least number of voxels of a tissue."""


@dataclass(frozen=True)
class TissuePeak:
    """Peak of one tissue.

    Attributes
    ----------
    tissue
        What it is taken for.
    t1
        Position in the histogram of T1 [ms].
    t2
        Peak of T2 of the voxels with about this T1 [ms]; None: none was found.
    voxels
        Number of these voxels.
    """

    tissue: Tissue
    t1: float
    t2: float | None
    voxels: int


@dataclass(frozen=True)
class Histogram:
    """Numbers of voxels in bins of one width, and what is beyond them.

    Attributes
    ----------
    counts
        Voxels of each bin.
    width
        Width of a bin; the first begins at 0 [ms].
    beyond
        Voxels above the last bin.
    """

    counts: NDArray[np.int64]
    width: float
    beyond: int


def histogram(values: NDArray[np.floating], limit: float, width: float) -> Histogram:
    """Count positive values [ms] up to a limit."""
    positive = values[values > 0]
    bins = round(limit / width)
    counts, _ = np.histogram(positive, bins=bins, range=(0.0, limit))
    return Histogram(counts, width, int((positive > limit).sum()))


def tissue_peaks(t1: NDArray[np.floating], t2: NDArray[np.floating]) -> list[TissuePeak]:
    """Find white and grey matter.

    The two most prominent peaks of the smoothed histogram of T1 are taken for white and grey
    matter, in this order of T1; the peaks of T2 are those of the voxels around them. White and grey
    matter overlap in T2.

    Parameters
    ----------
    t1, t2
        Relaxation times of all voxels, in any shape [ms]; 0 outside of the object.

    Returns
    -------
        Both peaks. Empty where there are not two: one peak alone does not tell what it is of.
    """
    from scipy.signal import find_peaks

    low, high = _SEARCHED
    smooth = _smoothed(t1, T1_LIMIT, T1_BIN, _T1_SMOOTHING)
    if not smooth.max():
        return []
    found, facts = find_peaks(smooth, prominence=_PROMINENCE * smooth.max())
    where = (found + 0.5) * T1_BIN
    inside = (where >= low) & (where <= high)
    order = np.argsort(facts["prominences"][inside])[::-1][:2]
    if len(order) < 2:
        return []
    white, grey = sorted(_vertex(smooth, index) * T1_BIN for index in found[inside][order])
    peaks = [
        _peak("white matter", white, (white + grey) / 2, t1, t2, below=True),
        _peak("grey matter", grey, (white + grey) / 2, t1, t2, below=False),
    ]
    return peaks if all(peak.voxels >= _ENOUGH for peak in peaks) else []


def _peak(
    tissue: Tissue,
    centre: float,
    border: float,
    t1: NDArray[np.floating],
    t2: NDArray[np.floating],
    below: bool,
) -> TissuePeak:
    near = np.abs(t1 - centre) <= _NEIGHBOURS * centre
    near &= (t1 < border) if below else (t1 > border)
    smooth = _smoothed(t2[near], T2_LIMIT, T2_BIN, _T2_SMOOTHING)
    highest = int(smooth.argmax())
    known = smooth.max() > 0 and 0 < highest < len(smooth) - 1
    return TissuePeak(
        tissue, centre, _vertex(smooth, highest) * T2_BIN if known else None, int(near.sum())
    )


def _smoothed(
    values: NDArray[np.floating], limit: float, width: float, deviation: float
) -> NDArray[np.float64]:
    from scipy.ndimage import gaussian_filter1d

    counts = histogram(values, limit, width).counts.astype(np.float64)
    smooth: NDArray[np.float64] = gaussian_filter1d(counts, deviation / width, mode="constant")
    return smooth


def _vertex(smooth: NDArray[np.float64], index: int) -> float:
    """Return the position [bins] of a maximum, from a parabola through it and its neighbours."""
    before, peak, after = (float(smooth[index + shift]) for shift in (-1, 0, 1))
    bend = before - 2 * peak + after
    return index + 0.5 + (0.0 if bend == 0 else 0.5 * (before - after) / bend)

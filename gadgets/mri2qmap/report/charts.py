"""The charts of a report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mri2qmap.report.drawing import Drawing, Point
from mri2qmap.report.run_facts import Busy
from mri2qmap.report.tissue_peaks import Histogram, TissuePeak
from mri2qmap.report.tissue_ranges import Time, published_range

WIDTH = 420.0
"""Width of every chart."""
LEFT, RIGHT, TOP, BOTTOM = 46.0, 18.0, 26.0, 38.0
"""Margins around what is plotted."""
_LABEL = 40.0
"""Width of the label of a bar."""
TICKS = 5
"""Parts of an axis, about."""
_TISSUE_COLOURS = {"white matter": "first", "grey matter": "second"}


def histogram_chart(
    time: Time, counts: Histogram, peaks: Sequence[TissuePeak], field: float | None
) -> Drawing:
    """Draw a histogram with the peaks of white and grey matter and their published ranges.

    Parameters
    ----------
    time
        What it is of.
    counts
        The histogram.
    peaks
        White and grey matter, as far as found.
    field
        Field strength of the published ranges [T]; None: no ranges.
    """
    limit = len(counts.counts) * counts.width
    drawing = Drawing(WIDTH, 230, f"Histogram of {time}")
    bottom, top = drawing.height - BOTTOM, TOP + 26
    across = (WIDTH - LEFT - RIGHT) / limit
    highest = max(1, int(counts.counts[1:].max(initial=0)))

    def x(value: float) -> float:
        return LEFT + across * min(value, limit)

    def y(count: float) -> float:
        return bottom - (bottom - top) * min(count / highest, 1.0)

    for row, (tissue, colour) in enumerate(_TISSUE_COLOURS.items()):
        if field is not None:
            expected = published_range(field, time, tissue)  # type: ignore[arg-type]
            low, high = x(expected.low), x(expected.high)
            drawing.rectangle(low, top, high - low, bottom - top, colour, 0.13)
            drawing.rectangle(low, top - 5 + 2.5 * row, high - low, 2, colour)
    steps: list[Point] = [(LEFT, bottom)]
    for index, count in enumerate(counts.counts):
        steps += [(x(index * counts.width), y(count)), (x((index + 1) * counts.width), y(count))]
    drawing.area([*steps, (x(limit), bottom)], "faint", 0.45)
    axis(drawing, bottom, [(x(v), f"{v:g}") for v in np.linspace(0, limit, TICKS + 1)])
    drawing.words(WIDTH / 2, drawing.height - 6, f"{time} [ms]", anchor="middle")
    drawing.words(LEFT - 6, top + 8, f"{highest}", "faint", "end")
    drawing.words(LEFT - 6, bottom, "0", "faint", "end")
    drawing.words(4, 12, "voxels", "faint")
    for row, peak in enumerate(peaks):
        value = peak.t1 if time == "T1" else peak.t2
        if value is None:
            continue
        colour = _TISSUE_COLOURS[peak.tissue]
        drawing.line([(x(value), top), (x(value), bottom)], colour, 2)
        left = row == 0
        place = x(value) - 5 if left and x(value) > 150 else x(value) + 5
        anchor = "end" if left and x(value) > 150 else "start"
        text = f"{peak.tissue} {value:.0f}"
        drawing.words(place, 12 + 14 * row, text, colour, anchor)  # type: ignore[arg-type]
        drawing.line([(x(value), 4 + 14 * row), (x(value), top)], colour)
    return drawing


def waterfall_chart(busy: Sequence[Busy], last_acquisition: float | None) -> Drawing | None:
    """Draw the computing time of the gadgets, during the scan and after the last readout.

    Parameters
    ----------
    busy
        The gadgets in their order. After the scan they work one after the other; while it runs they
        take turns, and their times are only added up.
    last_acquisition
        Duration of the scan as it was read [s]; None: not known.
    """
    rows = [entry for entry in busy if entry.total > 0]
    if not rows:
        return None
    split = last_acquisition is not None and all(entry.during is not None for entry in rows)
    during = [(entry.during or 0.0) if split else 0.0 for entry in rows]
    after = [max(0.0, entry.total - d) for entry, d in zip(rows, during, strict=True)]
    begin = max(last_acquisition or 0.0, sum(during)) if split else 0.0
    total = max(begin + sum(after), 1e-6)
    height, left = 24.0, 132.0
    drawing = Drawing(WIDTH, TOP + height * len(rows) + 34, "Computing time of each gadget")
    bottom = TOP + height * len(rows)
    right = WIDTH - 44

    def x(seconds: float) -> float:
        return left + (right - left) * seconds / total

    if split:
        drawing.rectangle(left, TOP - 4, x(begin) - left, bottom - TOP + 4, "grid", 0.45)
        drawing.line([(x(begin), TOP - 8), (x(begin), bottom)], "ink", 1, dashed=True)
        place, anchor = (x(begin) - 4, "end") if x(begin) > 270 else (x(begin) + 4, "start")
        drawing.words(place, 14, "last readout", "faint", anchor)  # type: ignore[arg-type]
    scanned, computed = 0.0, begin
    for row, entry in enumerate(rows):
        top = TOP + height * row
        drawing.words(0, top + 15, entry.name)
        drawing.rectangle(x(scanned), top + 5, x(during[row]) - left, height - 10, "first")
        drawing.rectangle(x(computed), top + 5, x(after[row]) - left, height - 10, "second")
        end = x(computed + after[row]) if after[row] > 0.005 * total else x(scanned + during[row])
        if split and end < x(begin) < end + _LABEL:  # the line would run through the label
            end = x(begin)
        drawing.words(end + 4, top + 15, _seconds(entry.total), "faint")
        scanned += during[row]
        computed += after[row]
    ticks = [step * total / 4 for step in range(5)]
    axis(drawing, bottom, [(x(tick), _seconds(tick)) for tick in ticks], left, right)
    return drawing


def memory_chart(peak: float, planned: float | None) -> Drawing:
    """Draw the peak memory against the plan [bytes]."""
    drawing = Drawing(WIDTH, 62 if planned else 34, "Peak memory against the plan")
    largest = max(peak, planned or 0.0)
    rows = [("peak", peak, "first")] + ([("plan", planned, "faint")] if planned else [])
    for row, (label, value, colour) in enumerate(rows):
        top = 6 + 28.0 * row
        drawing.words(0, top + 14, label)
        drawing.rectangle(50, top + 3, 270 * value / largest, 14, colour)
        drawing.words(56 + 270 * value / largest, top + 14, f"{value / 2**30:.2f} GiB", "faint")
    return drawing


def axis(
    drawing: Drawing,
    bottom: float,
    ticks: Sequence[tuple[float, str]],
    left: float = LEFT,
    right: float = WIDTH - RIGHT,
) -> None:
    """Draw a horizontal axis with labels at places along it."""
    drawing.line([(left, bottom), (right, bottom)], "faint")
    for place, label in ticks:
        drawing.line([(place, bottom), (place, bottom + 4)], "faint")
        drawing.words(place, bottom + 16, label, "faint", "middle")


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"

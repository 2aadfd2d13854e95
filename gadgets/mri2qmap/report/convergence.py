"""Charts of the iterations of ADMM."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mri2qmap.report.charts import BOTTOM, LEFT, RIGHT, TICKS, TOP, WIDTH, axis
from mri2qmap.report.drawing import Drawing


@dataclass(frozen=True)
class Curve:
    """Values of the iterations from 1 on; what is not positive and finite is left out."""

    label: str
    values: Sequence[float | None]
    colour: str


def convergence_drawings(steps: Sequence[Mapping[str, Any]]) -> list[Drawing]:
    """Draw residuals, conjugate gradients and schedule, as far as they were recorded.

    Parameters
    ----------
    steps
        ``iterations`` of a gadget in run.json; empty: there is nothing to draw.
    """

    def curve(label: str, name: str, colour: str) -> Curve:
        return Curve(label, [step.get(name) for step in steps], colour)

    drawings = (
        convergence_chart(
            "Residuals of ADMM",
            [curve("primal", "primal", "first"), curve("dual", "dual", "second")],
        ),
        convergence_chart(
            "Conjugate gradients in ADMM", [curve("relative residual", "cg_residual", "third")]
        ),
        convergence_chart(
            "Schedule of ADMM",
            [curve("noise level sigma", "sigma", "fourth"), curve("penalty", "penalty", "faint")],
        ),
    )
    return [drawing for drawing in drawings if drawing is not None]


def convergence_chart(title: str, curves: Sequence[Curve]) -> Drawing | None:
    """Draw values of iterations on a logarithmic axis; None if there is nothing to draw."""
    drawing = Drawing(WIDTH, 210, title)
    points = {
        curve.label: [
            (number, value)
            for number, value in enumerate(curve.values, start=1)
            if value is not None and math.isfinite(value) and value > 0
        ]
        for curve in curves
    }
    every = [value for found in points.values() for _, value in found]
    if not every:
        return None
    low, high = math.floor(math.log10(min(every))), math.ceil(math.log10(max(every)))
    high = max(high, low + 1)
    count = max(2, *(len(curve.values) for curve in curves))
    bottom = drawing.height - BOTTOM

    def x(number: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (number - 1) / (count - 1)

    def y(value: float) -> float:
        return bottom - (bottom - TOP) * (math.log10(value) - low) / (high - low)

    every_nth = max(1, math.ceil((high - low) / TICKS))
    for power in range(low, high + 1, every_nth):
        height = y(10.0**power)
        drawing.line([(LEFT, height), (WIDTH - RIGHT, height)], "grid")
        drawing.words(LEFT - 6, height + 4, _power(power), "faint", "end")
    ticks = sorted({round(v) for v in np.linspace(1, count, min(count, TICKS + 1))})
    axis(drawing, bottom, [(x(tick), f"{tick}") for tick in ticks])
    drawing.words(WIDTH / 2, drawing.height - 6, "iteration", anchor="middle")
    place = LEFT
    for curve in curves:
        if not points[curve.label]:
            continue
        drawing.line([(x(n), y(v)) for n, v in points[curve.label]], curve.colour, 2)
        drawing.rectangle(place, 8, 14, 3, curve.colour)
        drawing.words(place + 18, 13, curve.label)
        place += 34 + 6.2 * len(curve.label)
    return drawing


def _power(power: int) -> str:
    return f"{10.0**power:g}" if -3 < power < 4 else f"1e{power}"

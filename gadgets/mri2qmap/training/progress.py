"""Progress of a training: a table and a figure, updated at each validation."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from matplotlib.figure import Figure

from mri2qmap.errors import Mri2QmapError
from mri2qmap.storage.atomic import atomic_write
from mri2qmap.training.validation import Scores

_COLOURS = {"T1w": "tab:blue", "T2w": "tab:orange", "PDw": "tab:green", "TSMI": "black"}
_COLUMNS = 3
_INCHES = (4.0, 3.0)
_PREFIX = "psnr"


class Progress:
    """Loss and validation PSNR by step, in ``progress.csv`` and ``progress.png`` of a folder.

    Parameters
    ----------
    folder : Path
        Folder of the files; an existing table is continued.
    step : int
        Step of the last checkpoint; later rows of an existing table are dropped.

    Raises
    ------
    Mri2QmapError
        If an existing table cannot be read.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._folder = folder
        self._rows: list[dict[str, str]] = []
        table = folder / "progress.csv"
        if not table.is_file():
            return
        try:
            with table.open(newline="", encoding="utf-8") as file:
                self._rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise Mri2QmapError(
                f"training progress {table}: cannot be read ({error}); move it elsewhere"
            ) from error

    def add(self, step: int, seconds: float, loss: float, scores: Scores) -> None:
        """Append a row to the table and redraw the figure."""
        row = {"step": str(step), "seconds": f"{seconds:.0f}", "loss": f"{loss:.5f}"}
        for (contrast, sigma), score in scores.items():
            row[f"{_PREFIX}_{contrast}_{sigma:g}"] = f"{score:.3f}"
        self._rows.append(row)
        with (
            atomic_write(self._folder / "progress.csv") as part,
            part.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, fieldnames=list(row), extrasaction="ignore")
            writer.writeheader()
            writer.writerows(self._rows)
        with atomic_write(self._folder / "progress.png") as part:
            _draw(self._rows).savefig(part, format="png", dpi=110)


def _draw(rows: list[dict[str, str]]) -> Figure:
    """Plot the loss, and the PSNR of each contrast with one panel per noise level, by step."""
    steps = [int(row["step"]) for row in rows]
    names = [name.split("_") for name in rows[-1] if name.startswith(_PREFIX)]
    sigmas = sorted({float(sigma) for _, _, sigma in names})
    height = math.ceil((1 + len(sigmas)) / _COLUMNS)
    figure = Figure(figsize=(_COLUMNS * _INCHES[0], height * _INCHES[1]), layout="constrained")
    loss_axes, *axes = figure.subplots(height, _COLUMNS, squeeze=False).flat
    loss_axes.plot(steps, [float(row["loss"]) for row in rows], "k.-", markersize=4)
    loss_axes.set_title("training loss")
    for panel, sigma in zip(axes, sigmas, strict=False):
        for _, contrast, level in names:
            if float(level) == sigma:
                scores = [float(row[f"{_PREFIX}_{contrast}_{level}"]) for row in rows]
                panel.plot(
                    steps, scores, ".-", markersize=4, color=_COLOURS[contrast], label=contrast
                )
        panel.axhline(-20 * math.log10(sigma), color="gray", linestyle=":", label="input")
        panel.set(title=f"validation PSNR [dB], input error {sigma:g}")
    for panel in axes[len(sigmas) :]:
        panel.set_axis_off()
    axes[-1].legend(*axes[0].get_legend_handles_labels(), loc="center")
    for panel in (loss_axes, *axes[: len(sigmas)]):
        panel.set_xlabel("step")
        panel.grid(alpha=0.3)
    return figure

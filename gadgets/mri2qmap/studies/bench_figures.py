"""Figures of the denoiser benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from mri2qmap.evaluation.metrics import OBJECT, masked_psnr
from mri2qmap.mrsignal.synthesis import Contrast
from mri2qmap.studies.bench_volumes import BenchVolume
from mri2qmap.studies.candidates import Candidate
from mri2qmap.studies.denoiser_bench import NOISY, Score, add_noise

_INCH = 1.7
_MOST_GROUPS = 12
"""Groups in the figure of the PSNR; with hundreds of subjects it would be too large for a file."""


def slices_figure(
    path: Path,
    volume: BenchVolume,
    candidates: Sequence[Candidate],
    scores: Sequence[Score],
    sigma: float,
    seed: int,
    dpi: int = 130,
) -> None:
    """Save one slice of the reference and of the images that each denoiser restores.

    Rows are the contrasts of the volume. The slice is the one with the largest object. The number
    above an image is the PSNR of the whole volume. All images of a row have the same window.

    Parameters
    ----------
    path
        PNG file to write.
    volume
        The volume that is denoised.
    candidates
        Denoisers, in order, each used with the settings of its score.
    scores
        Results, which must include those of these candidates for the group of the volume and this
        noise level.
    sigma, seed
        Noise level, and seed of the noise.
    dpi
        Resolution [dots per inch].
    """
    reference = volume.images
    noisy = add_noise(volume, sigma, seed)
    columns = [("reference", reference)]
    for candidate in candidates:
        score = next(
            s
            for s in scores
            if (s.group, s.sigma, s.denoiser) == (volume.group, sigma, candidate.name)
        )
        restored = reference.clone()
        # Contrasts with the same setting are denoised together, as networks need all of them.
        for setting in dict.fromkeys(score.settings.values()):
            wanted = [i for i, c in enumerate(volume.contrasts) if score.settings[c] == setting]
            restored[wanted] = candidate.restore(noisy, volume.contrasts, sigma, setting)[wanted]
        columns.append((candidate.name, restored))

    rows = len(volume.contrasts)
    level = int((reference[0] > OBJECT).sum(dim=(1, 2)).argmax())
    figure = Figure(
        figsize=(_INCH * len(columns), rows * (_INCH + 0.22) + 0.4),
        facecolor="black",
        dpi=dpi,
    )
    grid = figure.subplots(
        rows,
        len(columns),
        squeeze=False,
        gridspec_kw={
            "left": 0.005, "right": 0.995, "bottom": 0.01, "top": 0.9, "wspace": 0.03,
            "hspace": 0.13
        },
    )  # fmt: skip
    for column, (name, images) in enumerate(columns):
        for row, contrast in enumerate(volume.contrasts):
            axes = grid[row, column]
            top = 1.1 * float(np.percentile(reference[row, level].numpy(), 99.5))
            axes.imshow(
                images[row, level].numpy(),
                cmap="gray",
                vmin=0,
                vmax=top if top > 0 else 1,
                interpolation="nearest",
                origin="lower",
            )
            axes.set_axis_off()
            quality = "" if column == 0 else f"{masked_psnr(images[row], reference[row]):.1f} dB"
            title = quality if row or column == 0 else f"{name}\n{quality}"
            title = f"{name}\n{contrast}" if (row, column) == (0, 0) else title or str(contrast)
            axes.set_title(title, color="white", fontsize=8, pad=3)
    figure.suptitle(f"{volume.group}, sigma {sigma:g}", color="white", fontsize=9, y=0.995)
    figure.savefig(path, format="png", facecolor="black")


def psnr_figure(path: Path, scores: Sequence[Score], dpi: int = 130) -> None:
    """Save PSNR over noise level, with a row for each group and a column for each contrast.

    Of many groups, only the first are shown.

    Parameters
    ----------
    path
        PNG file to write.
    scores
        Results.
    dpi
        Resolution [dots per inch].
    """
    found = list(dict.fromkeys(score.group for score in scores))
    groups = found[:_MOST_GROUPS]
    names = list(dict.fromkeys(score.denoiser for score in scores))
    figure = Figure(figsize=(10.5, 3.3 * len(groups) + 0.3), dpi=dpi, layout="constrained")
    grid = figure.subplots(len(groups), len(Contrast), squeeze=False, sharex=True)
    for row, group in enumerate(groups):
        for column, contrast in enumerate(Contrast):
            axes = grid[row, column]
            for number, name in enumerate(names):
                curve = sorted(
                    (s.sigma, s.psnr[contrast])
                    for s in scores
                    if (s.group, s.denoiser) == (group, name) and contrast in s.psnr
                )
                axes.plot(
                    [sigma for sigma, _ in curve],
                    [psnr for _, psnr in curve],
                    "o:" if name == NOISY else "o-",
                    color="grey" if name == NOISY else f"C{number}",
                    markersize=4,
                    label=name,
                )
            if not any(s.group == group and contrast in s.psnr for s in scores):
                axes.text(0.5, 0.5, "no image", transform=axes.transAxes, ha="center")
                axes.set_yticks([])
            levels = sorted({s.sigma for s in scores})
            axes.set_xscale("log")
            axes.set_xticks(levels, [f"{sigma:g}" for sigma in levels])
            axes.minorticks_off()
            axes.grid(alpha=0.3)
            axes.set_title(f"{contrast}, {group}", fontsize=9)
            if column == 0:
                axes.set_ylabel("PSNR [dB]")
            if row == len(groups) - 1:
                axes.set_xlabel("noise level sigma")
    grid[0, 0].legend(fontsize=8)
    if len(groups) < len(found):
        figure.suptitle(f"the first {len(groups)} of {len(found)} groups", fontsize=9)
    figure.savefig(path, format="png")

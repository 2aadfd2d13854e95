import math

import numpy as np
import pytest
import torch
from skimage.io import imread

from mri2qmap.mrsignal.synthesis import Contrast
from mri2qmap.studies.bench_figures import psnr_figure, slices_figure
from mri2qmap.studies.bench_report import denoising_report, reconstruction_report
from mri2qmap.studies.bench_volumes import BenchVolume
from mri2qmap.studies.candidates import Candidate
from mri2qmap.studies.denoiser_bench import Score, Timing, noisy_images
from mri2qmap.studies.prior_bench import NO_PRIOR, MapErrors, PriorBenchSettings

T1W, T2W, PDW = Contrast


def candidate(name, trained=False, parameter="", restore=None):
    return Candidate(
        name, "1", "a processor", restore, lambda _: None, parameter=parameter, trained=trained
    )


def cells(text, start):
    """Cells of the table row that begins with a name."""
    (line,) = (x for x in text.splitlines() if x.startswith(f"| {start} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_denoising_tables():
    scores = [
        Score(
            group,
            sigma,
            name,
            {contrast: base + add + i for i, contrast in enumerate(Contrast)},
            {T1W: 0.5, T2W: 0.6, PDW: 0.7},
        )
        for group, base in (("heads", 20), ("brain", 30))
        for name, add in (("noisy", 0), ("gaussian", 4), ("bm4d", 5), ("net", 7.25))
        for sigma in (0.05, 0.1)
    ]
    candidates = [
        candidate("gaussian", parameter="width"),
        candidate("bm4d"),
        candidate("net", trained=True),
    ]
    times = {
        name: [Timing(one, one / 2), Timing(3 * one, one)]
        for name, one in (("gaussian", 0.001), ("bm4d", 45.67), ("net", 0.2))
    }
    text = denoising_report(scores, candidates, times, 64, ["a note"])
    heads, brain = text.split("### ")[1:]
    assert cells(heads, "net ") == ["net", *["27.25 / 28.25 / 29.25"] * 2]
    assert cells(brain.split("##")[0], "noisy")[1] == "30.00 / 31.00 / 32.00"
    assert cells(heads, "net - best")[1] == "+2.25 / +2.25 / +2.25 (bm4d)"
    assert "gaussian: width" in text
    assert "0.5 / 0.6 / 0.7" in text
    assert cells(text.split("## Time")[1], "bm4d") == [
        "bm4d", "45.7 (22.8)", "137 (45.7)", "a processor"
    ]  # fmt: skip
    assert "- a note." in text
    assert "Maggioni" in text  # required by the licence of BM4D
    assert "Maggioni" not in denoising_report(
        [s for s in scores if s.denoiser != "bm4d"], candidates[::2], times, 64, []
    )


def test_a_contrast_without_images_is_a_dash():
    psnrs = {
        "gaussian": {T2W: 24, PDW: 25},
        "nlm": {T2W: 23, PDW: 26},
        "net": {T2W: 27, PDW: 28.5},
    }
    scores = [
        Score("a subject", 0.1, name, psnr, {T2W: 0.5, PDW: 0.7}) for name, psnr in psnrs.items()
    ]
    candidates = [
        candidate("gaussian", parameter="width"), candidate("nlm"), candidate("net", trained=True)
    ]  # fmt: skip
    text = denoising_report(scores, candidates, {}, 64, [])
    assert cells(text, "net ") == ["net", "- / 27.00 / 28.50"]
    assert cells(text, "net - best")[1] == "- / +3.00 / +2.50 (-, gaussian, nlm)"
    assert cells(text, "a subject")[3] == "- / 0.5 / 0.7"
    text = denoising_report(scores[::2], candidates[::2], {}, 64, [])
    assert cells(text, "net - best")[1] == "- / +3.00 / +3.50 (gaussian)"


def test_reconstruction_table():
    errors = [
        MapErrors(subject, method, t1, t2, 10)
        for subject, factor in (("a", 1), ("b", 2))
        for method, t1, t2 in (
            (NO_PRIOR, 10 * factor, 20 * factor),
            ("net", 4 * factor, 8 * factor),
            ("nlm", math.nan if subject == "b" else 1, 1),
        )
    ]
    text = reconstruction_report(errors, PriorBenchSettings(matrix=32))
    assert "32 x 32 x 32 voxels, ball of 0.11 m, R = 2" in text
    assert cells(text, "net") == [
        "net", "4.0 + 8.0 = 12.0", "8.0 + 16.0 = 24.0", "18.0", "0.40", "10"
    ]  # fmt: skip
    assert cells(text, "nlm")[2:4] == ["diverged", "-"]


def test_figures_show_every_denoiser(tmp_path):
    images = torch.zeros(3, 12, 16, 16)
    images[:, 3:9, 4:12, 4:12] = 0.8
    volume = BenchVolume("heads", 0, images)
    restored = candidate("perfect", restore=lambda noisy, contrasts, sigma, setting: images)
    shown = [noisy_images(), restored]
    scores = [
        Score("heads", sigma, c.name, {T1W: 20.0, T2W: 21.0, PDW: 22.0}, dict.fromkeys(Contrast, 0))
        for c in shown
        for sigma in (0.05, 0.1)
    ]
    slices_figure(tmp_path / "slices.png", volume, shown, scores, 0.1, seed=0, dpi=60)
    picture = imread(tmp_path / "slices.png")[..., 0].astype(float)
    third = picture.shape[1] // 3
    truth, noisy, perfect = (picture[50:, i * third : (i + 1) * third] for i in range(3))
    assert np.abs(truth - perfect).mean() < 0.2 * np.abs(truth - noisy).mean()
    psnr_figure(tmp_path / "psnr.png", scores, dpi=60)
    assert imread(tmp_path / "psnr.png").std() > 10


@pytest.mark.parametrize("contrasts", [(T2W, PDW), (PDW,)])
def test_figures_of_a_volume_that_lacks_contrasts(tmp_path, contrasts):
    images = torch.zeros(len(contrasts), 12, 16, 16)
    images[:, 3:9, 4:12, 4:12] = 0.8
    volume = BenchVolume("a subject", 0, images, contrasts)
    values = dict.fromkeys(contrasts, 20.0)
    scores = [Score("a subject", sigma, "noisy", values, values) for sigma in (0.05, 0.1)]
    slices_figure(tmp_path / "slices.png", volume, [noisy_images()], scores, 0.1, seed=0, dpi=60)
    height, width = imread(tmp_path / "slices.png").shape[:2]
    assert height / width == pytest.approx((1.92 * len(contrasts) + 0.4) / 3.4, rel=0.03)
    psnr_figure(tmp_path / "psnr.png", scores, dpi=60)
    assert imread(tmp_path / "psnr.png").std() > 10


def test_figure_of_many_groups_has_a_limited_height(tmp_path):
    values = dict.fromkeys(Contrast, 20.0)
    for count in (12, 14):
        scores = [Score(str(i), 0.1, "noisy", values, values) for i in range(count)]
        psnr_figure(tmp_path / f"{count}.png", scores, dpi=10)
    assert imread(tmp_path / "12.png").shape == imread(tmp_path / "14.png").shape

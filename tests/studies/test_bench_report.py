import math

import numpy as np
import torch
from skimage.io import imread

from mri2qmap.studies.bench_figures import psnr_figure, slices_figure
from mri2qmap.studies.bench_report import denoising_report, reconstruction_report
from mri2qmap.studies.bench_volumes import BenchVolume
from mri2qmap.studies.candidates import Candidate
from mri2qmap.studies.denoiser_bench import Score, Timing, noisy_images
from mri2qmap.studies.prior_bench import NO_PRIOR, MapErrors, PriorBenchSettings


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
        Score(group, sigma, name, tuple(base + add + x for x in (0, 1, 2)), (0.5, 0.6, 0.7))
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
    restored = candidate("perfect", restore=lambda noisy, sigma, setting: images)
    shown = [noisy_images(), restored]
    scores = [
        Score("heads", sigma, c.name, (20.0, 21.0, 22.0), (0.0, 0.0, 0.0))
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

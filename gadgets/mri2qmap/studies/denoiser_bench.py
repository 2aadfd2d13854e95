"""PSNR and computing times of denoisers of weighted images."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from mri2qmap.evaluation.metrics import masked_psnr
from mri2qmap.mrsignal.synthesis import Contrast
from mri2qmap.pipeline.progress import Reporter
from mri2qmap.studies.bench_volumes import BenchVolume
from mri2qmap.studies.candidates import Candidate, SettingAt
from mri2qmap.studies.result_table import Cell, ResultTable

NOISY = "noisy"
"""Name of the images without denoising in tables."""

PSNR_KEY = ("group", "volume", "content", "seed", "sigma", "denoiser", "version", "setting")
PSNR_VALUES = tuple(f"psnr_{contrast.lower()}" for contrast in Contrast)
TIME_KEY = ("denoiser", "version", "where", "side", "images")
TIME_VALUES = ("seconds", "cpu_seconds")

_TIMED_SIGMA = 0.1
_LONG_RUN = 2.0
"""Time [s] above which a run is not repeated."""
_RUNS = 3


@dataclass(frozen=True)
class Score:
    """PSNR of one denoiser at one noise level, mean over a group of volumes.

    Attributes
    ----------
    group
        Name of the group of volumes.
    sigma
        Noise level.
    denoiser
        Name of the denoiser.
    psnr
        PSNR of each contrast of the volumes [dB]; contrasts without images are not in it.
    settings
        Setting of each of these contrasts, the one with the highest mean PSNR.
    """

    group: str
    sigma: float
    denoiser: str
    psnr: Mapping[Contrast, float]
    settings: Mapping[Contrast, float]


@dataclass(frozen=True)
class Timing:
    """Computing time.

    Attributes
    ----------
    seconds
        Wall-clock time.
    cpu_seconds
        CPU time of all threads of this process. It depends little on other load of the machine, but
        does not include the work of a GPU.
    """

    seconds: float
    cpu_seconds: float


def noisy_images() -> Candidate:
    """Candidate that returns the images without denoising."""

    def keep(images: Tensor, contrasts: Sequence[Contrast], sigma: float, setting: float) -> Tensor:
        del contrasts, sigma, setting
        return images

    return Candidate(NOISY, "", "", keep, lambda _: lambda images, sigma: images)


def in_columns(values: Mapping[Contrast, float], form: str) -> str:
    """Values of all contrasts, separated by slashes; "-" for a contrast without images."""
    return " / ".join(form.format(values[c]) if c in values else "-" for c in Contrast)


def add_noise(volume: BenchVolume, sigma: float, seed: int) -> Tensor:
    """Add white Gaussian noise to the images of a volume; all levels have the same pattern."""
    rng = np.random.default_rng([seed, volume.index])
    noise = rng.standard_normal(tuple(volume.images.shape), np.float32)
    return volume.images + sigma * torch.from_numpy(noise)


def measure_psnr(
    volumes: Sequence[BenchVolume],
    candidates: Sequence[Candidate],
    sigmas: Sequence[float],
    seed: int,
    table: ResultTable,
    report: Reporter | None = None,
) -> list[Score]:
    """Denoise each volume at each noise level, with each setting of each candidate.

    Parameters
    ----------
    volumes, candidates, sigmas
        The volumes, the denoisers and the noise levels. All volumes of a group have the same
        contrasts.
    seed
        Seed of the noise.
    table
        Table with the columns `PSNR_KEY` and `PSNR_VALUES`. Results that it contains are not
        measured again; new results are added.
    report
        Receives progress and log lines.

    Returns
    -------
        A score for each group of volumes, candidate and noise level.
    """
    report = report or Reporter()
    jobs = [(v, c, s) for v in volumes for c in candidates for s in sigmas]
    for volume, candidate, sigma in report.progress(jobs, "denoising"):
        new: dict[tuple[Cell, ...], tuple[Cell, ...]] = {}
        why = table.outdated(_key(volume, candidate, sigma, seed, candidate.settings[0]))
        noisy = add_noise(volume, sigma, seed)
        for setting in candidate.settings:
            key = _key(volume, candidate, sigma, seed, setting)
            if table.get(key) is None:
                restored = candidate.restore(noisy, volume.contrasts, sigma, setting)
                psnr = dict(
                    zip(volume.contrasts, map(masked_psnr, restored, volume.images), strict=True)
                )
                new[key] = tuple(psnr.get(contrast) for contrast in Contrast)
        if new:
            table.put(new)
            text = in_columns(_score([volume], candidate, sigma, seed, table).psnr, "{:.2f}")
            what = f"{candidate.name} on {volume.group} {volume.index}, sigma {sigma:g}"
            report.log(f"{what}: {text} dB{why}")
    return [
        _score([v for v in volumes if v.group == group], candidate, sigma, seed, table)
        for group in dict.fromkeys(volume.group for volume in volumes)
        for candidate in candidates
        for sigma in sigmas
    ]


def margins(
    scores: Sequence[Score], classical: Sequence[str]
) -> list[tuple[Score, dict[Contrast, float], dict[Contrast, str]]]:
    """Compare networks with the best classical denoiser of each contrast.

    Returns
    -------
        For each score of a network: the score, the difference of its PSNR to that of the best
        classical denoiser [dB] for each contrast, and the names of these denoisers. Empty if no
        classical denoiser was measured.
    """
    result = []
    for score in scores:
        rivals = [
            other
            for other in scores
            if other.denoiser in classical
            and (other.group, other.sigma) == (score.group, score.sigma)
        ]
        if score.denoiser in (*classical, NOISY) or not rivals:
            continue
        best = {c: max(rivals, key=lambda r, c=c: r.psnr[c]) for c in score.psnr}  # type: ignore[misc]
        gain = {c: score.psnr[c] - rival.psnr[c] for c, rival in best.items()}
        result.append((score, gain, {c: rival.denoiser for c, rival in best.items()}))
    return result


def setting_curve(scores: Sequence[Score], group: str, denoiser: str) -> SettingAt:
    """Interpolate the best settings over the logarithm of the noise level.

    Raises
    ------
    ValueError
        If there is no score of the denoiser on the group.
    """
    known = sorted(
        (s for s in scores if (s.group, s.denoiser) == (group, denoiser)), key=lambda s: s.sigma
    )
    if not known:
        raise ValueError(f"no score of {denoiser} on {group}")
    levels = np.log([score.sigma for score in known])

    def setting_at(contrast: Contrast, sigma: float) -> float:
        settings = [score.settings[contrast] for score in known]
        return float(np.interp(np.log(sigma), levels, settings))

    return setting_at


def measure_times(
    candidates: Sequence[Candidate],
    side: int,
    table: ResultTable,
    report: Reporter | None = None,
    clock: Callable[[], tuple[float, float]] = lambda: (time.perf_counter(), time.process_time()),
) -> dict[str, tuple[Timing, ...]]:
    """Measure the time for one contrast, and for all contrasts, of one patch.

    Parameters
    ----------
    candidates
        The denoisers.
    side
        Voxels along each side of the patch.
    table
        Table with the columns `TIME_KEY` and `TIME_VALUES`, see `measure_psnr`.
    report
        Receives progress.
    clock
        Returns wall-clock time and CPU time [s].

    Returns
    -------
        Times for one image and for all contrasts, by name: the smallest of a first run and three
        repetitions. A first run of more than two seconds is not repeated.
    """
    report = report or Reporter()
    noise = np.random.default_rng(0).standard_normal((len(Contrast), side, side, side), np.float32)
    images = 0.5 + _TIMED_SIGMA * torch.from_numpy(noise)
    times: dict[str, tuple[Timing, ...]] = {}
    jobs = [(c, count) for c in candidates for count in (1, len(Contrast))]
    for candidate, count in report.progress(jobs, "timing"):
        key = (candidate.name, candidate.version, candidate.where, side, count)
        if table.get(key) is None:
            table.put({key: _best_time(candidate, images[:count], clock)})
        timing = Timing(*map(float, table.get(key) or ()))
        times[candidate.name] = (*times.get(candidate.name, ()), timing)
    return times


def _best_time(
    candidate: Candidate, images: Tensor, clock: Callable[[], tuple[float, float]]
) -> tuple[float, float]:
    setting = candidate.settings[len(candidate.settings) // 2]
    runs: list[tuple[float, float]] = []
    while len(runs) < 1 + _RUNS:
        begin, begin_cpu = clock()
        candidate.restore(images, list(Contrast)[: len(images)], _TIMED_SIGMA, setting)
        end, end_cpu = clock()
        runs.append((end - begin, end_cpu - begin_cpu))
        if runs[0][0] > _LONG_RUN:
            break
    return min(runs)


def _key(
    volume: BenchVolume, candidate: Candidate, sigma: float, seed: int, setting: float
) -> tuple[Cell, ...]:
    name, version = candidate.name, candidate.version
    shown = setting if candidate.parameter else None
    return (volume.group, volume.index, volume.content, seed, sigma, name, version, shown)


def _score(
    volumes: Sequence[BenchVolume],
    candidate: Candidate,
    sigma: float,
    seed: int,
    table: ResultTable,
) -> Score:
    """Choose the setting of each contrast with the highest mean over volumes."""
    contrasts = volumes[0].contrasts
    means: dict[float, dict[Contrast, float]] = {}
    for setting in candidate.settings:
        keys = [_key(volume, candidate, sigma, seed, setting) for volume in volumes]
        rows = [dict(zip(Contrast, table.get(key) or (), strict=True)) for key in keys]
        means[setting] = {c: fmean(float(row[c]) for row in rows) for c in contrasts}
    chosen = {c: max(means, key=lambda s, c=c: means[s][c]) for c in contrasts}  # type: ignore[misc]
    psnr = {c: means[setting][c] for c, setting in chosen.items()}
    return Score(volumes[0].group, sigma, candidate.name, psnr, chosen)

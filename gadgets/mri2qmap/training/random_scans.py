"""Simulated scans of random heads, for training on reconstructions.

Position, tissue parameters, texture, field of view, sampling and noise of every scan are drawn at
random, so that a network learns the errors of reconstructions in general, not those of one scan.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mri2qmap.anatomy.label_maps import LabelMap, average_table
from mri2qmap.anatomy.label_tissues import draw_tissue_table
from mri2qmap.errors import Mri2QmapError
from mri2qmap.mrsignal.dictionary import Dictionary
from mri2qmap.mrsignal.epg import fisp_signal
from mri2qmap.mrsignal.sequence import Sequence
from mri2qmap.operators.subspace_sampling import SubspaceSampling
from mri2qmap.recon.least_squares import LeastSquares
from mri2qmap.simulation.simulator import OBJECT_DENSITY
from mri2qmap.simulation.trajectory import plan_sampling, spiral_projections
from mri2qmap.training.random_texture import draw_texture
from mri2qmap.training.training_images import random_grid, smooth_field, tapered_ball

_TEXTURE_STEP = 0.05  # relative change of T1 and T2 in the finite differences
_MAX_DRAWS = 20  # fields of view drawn before giving up
_MIN_OBJECT = 0.1  # fraction of object voxels in a field of view


@dataclass(frozen=True)
class ScanRanges:
    """Ranges of the parameters of a random scan, drawn log-uniformly.

    Attributes
    ----------
    matrix
        Voxels along each side.
    voxel_mm
        Voxel size [mm].
    acceleration
        Acceleration R: 3.8 / R samples per voxel.
    noise
        Standard deviation of the noise of each coefficient image, relative to the mean signal
        amplitude.
    ball_share
        Fraction of scans restricted to a tapered ball; the others show a brain or a head.
    """

    matrix: int = 32
    voxel_mm: tuple[float, float] = (1.0, 2.2)
    acceleration: tuple[float, float] = (1.4, 5.0)
    noise: tuple[float, float] = (0.08, 0.5)
    ball_share: float = 0.6


@dataclass(frozen=True)
class RandomScan:
    """A scan and its true TSMI.

    Attributes
    ----------
    truth
        Noiseless TSMI (s, z, y, x), complex64.
    problem
        Normal equations of the samples, for one uniform coil.
    """

    truth: torch.Tensor
    problem: LeastSquares


def draw_scan(
    anatomy: LabelMap,
    sequence: Sequence,
    dictionary: Dictionary,
    ranges: ScanRanges,
    rng: np.random.Generator,
) -> RandomScan:
    """Simulate a random scan of a head.

    Parameters
    ----------
    anatomy
        Label map of the head.
    sequence, dictionary
        Sequence, and dictionary with its subspace.
    ranges
        Ranges of the parameters.
    rng
        Random number generator.

    Raises
    ------
    Mri2QmapError
        If all fields of view drawn are almost empty.
    """
    for _ in range(_MAX_DRAWS):
        truth, density = _draw_tsmi(anatomy, sequence, dictionary, ranges, rng)
        inside = density > OBJECT_DENSITY
        if inside.mean() > _MIN_OBJECT:
            break
    else:
        raise Mri2QmapError(
            f"random scans: {_MAX_DRAWS} random fields of view of this head are almost empty;"
            " check that the label map contains a brain"
        )
    amplitude = float(truth[:, inside].abs().mean())
    noise = rng.standard_normal((*truth.shape, 2), np.float32)
    level = log_uniform(ranges.noise, rng) * amplitude / np.sqrt(2)
    noisy = truth + level * torch.view_as_complex(torch.from_numpy(noise))
    return RandomScan(truth, _sample(noisy, dictionary, ranges, rng))


def _draw_tsmi(
    anatomy: LabelMap,
    sequence: Sequence,
    dictionary: Dictionary,
    ranges: ScanRanges,
    rng: np.random.Generator,
) -> tuple[torch.Tensor, NDArray[np.float32]]:
    """Return TSMI (s, z, y, x) and proton density (z, y, x) of a random, noiseless scan."""
    n = ranges.matrix
    ball = rng.random() < ranges.ball_share
    brain_only = bool(ball or rng.random() < 0.5)
    tissues = torch.from_numpy(draw_tissue_table(anatomy.labels, brain_only, rng)).float()
    t1, t2, pd = tissues.T

    def fingerprints(t1: torch.Tensor, t2: torch.Tensor) -> torch.Tensor:
        signals = fisp_signal(t1, torch.minimum(t1, t2), sequence)
        weighted: torch.Tensor = pd[:, None] * (signals @ dictionary.basis)
        return weighted

    def fingerprint(t1: float, t2: float, density: float) -> NDArray[np.float32]:
        signal = fisp_signal(torch.tensor([t1]), torch.tensor([t2]), sequence)
        found: NDArray[np.float32] = (density * (signal @ dictionary.basis))[0].numpy()
        return found

    plain = fingerprints(t1, t2)
    # Texture changes T1 and T2 within tissues; the fingerprint follows to first order.
    columns = [
        plain,
        (fingerprints(t1 * (1 + _TEXTURE_STEP), t2) - plain) / _TEXTURE_STEP,
        (fingerprints(t1, t2 * (1 + _TEXTURE_STEP)) - plain) / _TEXTURE_STEP,
        pd[:, None],
    ]
    voxel = log_uniform(ranges.voxel_mm, rng)
    matrix, offset = random_grid(anatomy, np.full(3, voxel), n, rng)
    samples = int(np.clip(np.ceil(voxel - 0.25), 2, 4))
    table = torch.cat(columns, 1).numpy()
    mean = average_table(anatomy.indices, table, matrix, offset, n, samples)
    count = plain.shape[1]
    image, along_t1, along_t2, density = np.split(
        mean.transpose(3, 0, 1, 2), [count, 2 * count, 3 * count]
    )
    texture = draw_texture(n, voxel, rng)
    tsmi = image + texture.log_t1 * along_t1 + texture.log_t2 * along_t2
    tsmi = tsmi * np.exp(texture.log_density)
    for inclusion in texture.inclusions:
        share = inclusion.share * (density[0] > OBJECT_DENSITY)
        inner = fingerprint(inclusion.t1, inclusion.t2, inclusion.proton_density)
        tsmi = (1 - share) * tsmi + share * inner[:, None, None, None]
    if ball:
        tsmi = tsmi * tapered_ball(n, rng)
    phase = rng.uniform(0, 1.5) * smooth_field(n, 3, rng)
    return torch.from_numpy((tsmi * np.exp(1j * phase)).astype(np.complex64)), density[0]


def _sample(
    tsmi: torch.Tensor,
    dictionary: Dictionary,
    ranges: ScanRanges,
    rng: np.random.Generator,
) -> LeastSquares:
    """Return the normal equations of an undersampled scan of a TSMI (s, z, y, x), uniform coil."""
    shape = (ranges.matrix,) * 3
    n_frames = len(dictionary.basis)
    plan = plan_sampling(shape, n_frames, log_uniform(ranges.acceleration, rng))
    trajectory = torch.from_numpy(spiral_projections(plan, shape)).reshape(-1, 3)
    frames = torch.arange(n_frames).repeat_interleave(plan.samples).repeat(plan.groups)
    kspace = SubspaceSampling(trajectory, frames, dictionary.basis, shape).forward(tsmi)
    return LeastSquares.of_samples(kspace, trajectory, frames, dictionary.basis, shape)


def log_uniform(bounds: tuple[float, float], rng: np.random.Generator) -> float:
    """Draw a number whose logarithm is uniformly distributed between those of the bounds."""
    return float(np.exp(rng.uniform(*np.log(bounds))))

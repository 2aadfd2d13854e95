"""Synthetic weighted images for training, generated from whole-head label maps.

For each volume, the anatomy, the field of view, the voxel size, the tissue parameters of each
structure and the spin-echo protocol of each contrast are drawn at random.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mri2qmap.anatomy.label_maps import LabelMap, average_table
from mri2qmap.anatomy.label_tissues import draw_tissue_table
from mri2qmap.denoiser.volume import intensity_scale
from mri2qmap.mrsignal.synthesis import Contrast, SpinEcho, spin_echo
from mri2qmap.training.image_settings import ImageSettings
from mri2qmap.training.random_texture import draw_texture

Array = NDArray[np.float32]

#: Ranges of TR and TE [s] of the contrasts, around clinical protocols.
_PROTOCOLS = {
    Contrast.T1W: ((0.3, 0.8), (0.005, 0.015)),
    Contrast.T2W: ((3.0, 6.0), (0.080, 0.120)),
    Contrast.PDW: ((3.0, 6.0), (0.005, 0.020)),
}
#: Limits of T1 and T2 [s].
_T1_RANGE, _T2_RANGE = (0.1, 4.5), (0.01, 2.2)


@dataclass(frozen=True)
class TrainingVolume:
    """Weighted images of one volume, scaled up to a random gain, and synthesis errors.

    Attributes
    ----------
    images : Tensor
        (3, z, y, x) float32 in the order T1w, T2w, PDw; zero for missing contrasts.
    present : Tensor
        (3,) bool: contrasts present.
    map_errors : Tensor or None
        (3, z, y, x) float32: images synthesised from erroneous maps minus ``images``; None if the
        maps are unknown.
    """

    images: Tensor
    present: Tensor
    map_errors: Tensor | None = None


class Head(Protocol):
    """Position of a head on its grid; see :class:`LabelMap`."""

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """Voxel size (z, y, x) [mm]."""

    @property
    def brain_centre(self) -> tuple[float, float, float]:
        """Centre of the brain (z, y, x) [voxels]."""

    @property
    def brain_extent(self) -> tuple[float, float, float]:
        """Extent of the brain (z, y, x) [voxels]."""


def synthesise_volume(
    anatomy: LabelMap, settings: ImageSettings, rng: np.random.Generator
) -> TrainingVolume:
    """Draw a synthetic volume of an anatomy.

    Parameters
    ----------
    anatomy : LabelMap
        Label map of the head.
    settings : ImageSettings
        Distribution of the volumes.
    rng : numpy.random.Generator
        Random number generator.

    Returns
    -------
    TrainingVolume
        Volume with ``settings.size`` voxels along each side and all contrasts.

    Notes
    -----
    Partial volume: the label map is sampled at several points of each voxel. In half of the volumes
    the signals at these points are averaged, as in a scan. In the other half the tissue parameters
    are averaged and the image is synthesised from the means, as from quantitative maps.
    """
    n = settings.size
    echoes = [
        SpinEcho(rng.uniform(*tr), rng.uniform(*te))
        for tr, te in (_PROTOCOLS[contrast] for contrast in Contrast)
    ]
    region = rng.choice(
        ["ball", "brain", "head"],
        p=[
            settings.ball_fraction,
            settings.brain_fraction,
            1 - settings.ball_fraction - settings.brain_fraction,
        ],
    )
    brain_only = region == "brain" or (region == "ball" and rng.random() < 0.5)
    t1, t2, pd = draw_tissue_table(anatomy.labels, brain_only, rng).astype(np.float32).T
    signals = _synthesise(t1, t2, pd, echoes).T
    table = np.concatenate([np.stack([t1 * pd, t2 * pd, pd], axis=1), signals], axis=1)

    size_mm, sizes = draw_voxels(settings, rng)
    matrix, offset = random_grid(anatomy, sizes, n, rng)
    samples = int(np.clip(np.ceil(size_mm - 0.25), 2, 4))
    mean = average_table(anatomy.indices, table, matrix, offset, n, samples).transpose(3, 0, 1, 2)
    smooth = rng.random() < settings.smooth_fraction
    blurred = blur(
        np.ascontiguousarray(mean), rng.uniform(0.6, 1.3) if smooth else rng.uniform(0, 0.6)
    )
    pd = blurred[2]
    weight = np.maximum(pd, 1e-3)
    t1 = np.clip(blurred[0] / weight, *_T1_RANGE)
    t2 = np.clip(blurred[1] / weight, *_T2_RANGE)

    plain = _synthesise(t1, t2, pd, echoes)
    t1, t2, pd = draw_texture(n, size_mm, rng).apply(t1, t2, pd)
    t1, t2 = np.clip(t1, *_T1_RANGE), np.clip(t2, *_T2_RANGE)
    if region == "ball":
        pd = pd * tapered_ball(n, rng)
    images = _synthesise(t1, t2, pd, echoes)
    errors = _synthesise(*_perturbed_maps(t1, t2, pd, rng), echoes) - images
    if rng.random() < 0.5:
        images = images * (np.maximum(blurred[3:], 0) / np.maximum(plain, 1e-4)).astype(np.float32)
    unscaled, factor = apply_bias_and_gain(images, settings, rng)
    map_errors = torch.from_numpy(errors.astype(np.float32)) * factor
    return TrainingVolume(unscaled * factor, torch.ones(3, dtype=torch.bool), map_errors)


def draw_voxels(
    settings: ImageSettings, rng: np.random.Generator
) -> tuple[float, NDArray[np.float64]]:
    """Draw a voxel size [mm], and slightly different sides (3,) [mm]."""
    fine = rng.random() < settings.fine_fraction
    size = float(rng.uniform(*(settings.fine_voxels if fine else settings.coarse_voxels)))
    return size, size * np.exp(rng.normal(0, 0.04, 3))


def apply_bias_and_gain(
    images: Array, settings: ImageSettings, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Apply bias fields to images (3, z, y, x); return them and scale factors (3, 1, 1, 1)."""
    if rng.random() < settings.bias_fraction:
        images = _with_bias_field(images, settings.bias_strength, rng)
    unscaled = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))
    gain = torch.from_numpy(np.exp(rng.uniform(-0.2, 0.2, 3)).astype(np.float32))
    return unscaled, (gain / intensity_scale(unscaled))[:, None, None, None]


def _synthesise(t1: Array, t2: Array, pd: Array, echoes: list[SpinEcho]) -> Array:
    """Return spin-echo images of tissue parameters [s], stacked along a new first axis."""
    proton_density, t1_map, t2_map = (torch.from_numpy(values) for values in (pd, t1, t2))
    images: Array = torch.stack(
        [spin_echo(proton_density, t1_map, t2_map, echo) for echo in echoes]
    ).numpy()
    return images


def random_grid(
    anatomy: Head, sizes: NDArray[np.float64], n: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw the grid of a volume: axis permutation, flips, rotation and position.

    Parameters
    ----------
    anatomy : Head
        Head in which the volume is placed.
    sizes : ndarray
        (3,) voxel sides of the volume [mm].
    n : int
        Voxels along each side of the volume.
    rng : numpy.random.Generator
        Random number generator.

    Returns
    -------
    matrix, offset : ndarray
        (3, 3) and (3,): affine from voxel coordinates of the volume to those of the anatomy (z, y,
        x).
    """
    permutation = np.eye(3)[rng.permutation(3)] * rng.choice([-1.0, 1.0], 3)
    angles = rng.normal(0, 0.12, 3)
    rotation = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        about_axis = np.eye(3)
        about_axis[a, a] = about_axis[b, b] = np.cos(angle)
        about_axis[a, b], about_axis[b, a] = -np.sin(angle), np.sin(angle)
        rotation = rotation @ about_axis
    matrix = np.diag(1 / np.array(anatomy.voxel_size)) @ rotation @ permutation @ np.diag(sizes)
    # The centre is near that of the brain; smaller fields of view may deviate more.
    extent = np.array(anatomy.brain_extent)
    slack = np.clip(extent - n * sizes.mean() / max(anatomy.voxel_size), 8, 0.6 * extent) / 2
    centre = np.array(anatomy.brain_centre) + rng.uniform(-1, 1, 3) * slack
    return matrix, centre - matrix @ np.full(3, (n - 1) / 2)


def blur(images: Array, sigma: float) -> Array:
    """Blur images (c, z, y, x) with a Gaussian of width sigma [voxels], in passes of three taps."""
    passes = max(1, int(np.ceil((sigma / 0.7) ** 2)))
    side = sigma**2 / passes / 2  # the variance of the taps (side, 1 - 2 side, side) is 2 side
    for _ in range(passes):
        for axis in (1, 2, 3):
            padded = np.pad(images, [(int(a == axis),) * 2 for a in range(4)], mode="edge")
            n = images.shape[axis]
            before, after = (np.take(padded, range(i, i + n), axis) for i in (0, 2))
            images = (1 - 2 * side) * images + side * (before + after)
    return images


def smooth_field(n: int, cells: int, rng: np.random.Generator) -> Array:
    """Draw a field (n, n, n), interpolated between about ``cells`` unit-variance nodes per side."""
    coarse = torch.from_numpy(rng.standard_normal((1, 1, cells, cells, cells), np.float32))
    if cells >= n:
        coarse = coarse[:, :, :n, :n, :n]
    field: Array = functional.interpolate(
        coarse, size=(n, n, n), mode="trilinear", align_corners=True
    )[0, 0].numpy()
    return field


def tapered_ball(n: int, rng: np.random.Generator) -> Array:
    """Draw a smooth mask (n, n, n): 1 inside a central ball, falling to 0 near its border."""
    outer = rng.uniform(0.40, 0.5) * n
    taper = rng.uniform(0.05, 0.35) * outer
    axis = np.arange(n, dtype=np.float32) - (n - 1) / 2
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    inside = np.clip((outer - radius) / taper, 0, 1)
    mask: Array = (0.5 - 0.5 * np.cos(np.pi * inside)).astype(np.float32)
    return mask


def _perturbed_maps(
    t1: Array, t2: Array, pd: Array, rng: np.random.Generator
) -> tuple[Array, Array, Array]:
    """Perturb T1, T2 and PD as in matching of a noisy, undersampled reconstruction."""
    n = t1.shape[0]
    cells = int(n / rng.uniform(1.0, 3.0))
    common = smooth_field(n, cells, rng) + rng.standard_normal(t1.shape, np.float32)
    # With little signal the match is arbitrary.
    uncertain = rng.uniform(0.05, 0.3) * (1 + 3 * np.exp(-pd / 0.1)).astype(np.float32)
    tails = np.exp(rng.uniform(0, 0.6) * rng.standard_normal(t1.shape, np.float32))
    spread = uncertain * tails
    own1, own2 = (smooth_field(n, cells, rng) for _ in range(2))
    t1 = np.clip(t1 * np.exp(spread * (0.7 * common + own1)), *_T1_RANGE)
    t2 = np.clip(t2 * np.exp(1.5 * spread * (0.5 * common + own2)), *_T2_RANGE)
    t2 = np.minimum(t1, t2)
    noise = rng.uniform(0.02, 0.15) * rng.standard_normal((2, *pd.shape), np.float32)
    return t1, t2, np.hypot(pd * np.exp(0.4 * spread * common) + noise[0], noise[1])


def _with_bias_field(images: Array, strength: float, rng: np.random.Generator) -> Array:
    """Multiply each image by its own smooth field (exponential of a polynomial)."""
    from monai.transforms.intensity.array import RandBiasField  # an optional dependency

    transform = RandBiasField(degree=3, coeff_range=(-strength, strength), prob=1.0)
    transform.set_random_state(seed=int(rng.integers(2**31)))
    fields = [np.asarray(transform(np.ones((1, *images.shape[1:]), np.float32))) for _ in images]
    biased: Array = images * np.concatenate(fields)
    return biased

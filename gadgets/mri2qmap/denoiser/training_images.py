"""Weighted images for training, drawn on the fly from whole-head label maps.

Each synthetic volume has one anatomy, one field of view and voxel size, one set of tissue
parameters per structure, and one spin-echo protocol for each contrast, all random. A rolling pool
of volumes feeds the patches; what a training step sees depends only on the seed and on the number
of the step, so an interrupted training continues as if it had never stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numba
import numpy as np
import torch
from monai.transforms import RandBiasField
from nibabel.filebasedimages import ImageFileError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mri2qmap.denoiser.tissues import FIRST_OUTSIDE, draw_tissue_table
from mri2qmap.denoiser.volume import intensity_scale
from mri2qmap.errors import Mri2QmapError

Array = NDArray[np.float32]

#: Ranges of (TR, TE) [s] of the three contrasts, around clinical protocols.
_PROTOCOLS = {
    "T1w": ((0.3, 0.8), (0.005, 0.015)),
    "T2w": ((3.0, 6.0), (0.080, 0.120)),
    "PDw": ((3.0, 6.0), (0.005, 0.020)),
}
_T1_RANGE, _T2_RANGE = (0.1, 4.5), (0.01, 2.2)


@dataclass(frozen=True)
class ImageSettings:
    """What the synthetic volumes look like; lengths in millimetres.

    Parameters
    ----------
    size : int
        Voxels along each side of a synthetic volume.
    pool : int
        Volumes held at a time.
    refresh : int
        Training steps between two new volumes.
    fine_voxels, coarse_voxels : (float, float)
        The two ranges of voxel size, and ``fine_fraction`` the share of the first.
    ball_fraction, brain_fraction : float
        Share of volumes inside a tapered ball, and of skull-stripped volumes; the rest show the
        whole head.
    smooth_fraction : float
        Share of volumes with edges as soft as those of an average brain.
    bias_fraction, bias_strength : float
        Share of images with a bias field, and the largest polynomial coefficient of its logarithm.
    coloured_fraction, scaled_fraction, map_error_fraction : float
        Share of patches whose errors are band-limited noise, noise of locally varying strength,
        or the skewed errors of images synthesised from wrong T1, T2 and PD; the rest get white
        Gaussian noise.
    """

    size: int = 64
    pool: int = 32
    refresh: int = 24
    fine_voxels: tuple[float, float] = (1.0, 2.5)
    coarse_voxels: tuple[float, float] = (2.5, 4.0)
    fine_fraction: float = 0.6
    ball_fraction: float = 0.35
    brain_fraction: float = 0.25
    smooth_fraction: float = 0.25
    bias_fraction: float = 0.5
    bias_strength: float = 0.15
    coloured_fraction: float = 0.1
    scaled_fraction: float = 0.1
    map_error_fraction: float = 0.15

    def __post_init__(self) -> None:
        """Refuse shares and sizes that cannot be."""
        shares = self.coloured_fraction, self.scaled_fraction, self.map_error_fraction
        regions = self.ball_fraction, self.brain_fraction
        singles = self.fine_fraction, self.bias_fraction, self.smooth_fraction
        if min(*shares, *regions, *singles) < 0 or max(sum(shares), sum(regions), *singles) > 1:
            raise Mri2QmapError("training config, images: fractions must add up to 0...1")
        if min(self.size, self.pool, self.refresh) < 1 or self.bias_strength < 0:
            raise Mri2QmapError("training config, images: size, pool and refresh must be positive")
        for low, high in (self.fine_voxels, self.coarse_voxels):
            if not 0.5 <= low <= high <= 8:
                raise Mri2QmapError(
                    f"training config, images: voxel sizes {low} to {high} mm, expected an"
                    " ascending pair between 0.5 and 8 mm"
                )


@dataclass(frozen=True)
class LabelMap:
    """One anatomy: (z, y, x) uint8 structure indices, cropped to the head, and what they mean.

    Attributes
    ----------
    indices : (z, y, x) uint8
        Index into ``labels`` of each voxel.
    labels : tuple of int
        FreeSurfer label of each index; index 0 is the background.
    voxel_size : (float, float, float)
        Of z, y, x [mm].
    brain_centre, brain_extent : (float, float, float)
        Middle and size of the box around all labels below 500 [voxels, z, y, x].
    """

    indices: NDArray[np.uint8]
    labels: tuple[int, ...]
    voxel_size: tuple[float, float, float]
    brain_centre: tuple[float, float, float]
    brain_extent: tuple[float, float, float]


@dataclass(frozen=True)
class SyntheticVolume:
    """The three contrasts of one volume, scaled to 1, and errors that wrong maps would give.

    Attributes
    ----------
    images : Tensor
        (3, z, y, x) float32 in the order T1w, T2w, PDw.
    map_errors : Tensor
        (3, z, y, x) float32: images synthesised from erroneous maps, less ``images``.
    """

    images: Tensor
    map_errors: Tensor


def load_label_map(path: Path) -> LabelMap:
    """Read a NIfTI label map, crop it to what is not background and compact its labels.

    Raises
    ------
    Mri2QmapError
        If the file is no 3-D NIfTI volume of whole numbers with at least one non-zero label.
    """
    try:
        image = nib.Nifti1Image.from_filename(path)
        values = np.asarray(image.dataobj)
    except (OSError, ValueError, EOFError, ImageFileError, WrapStructError) as error:
        raise Mri2QmapError(f"label map {path}: cannot be read as NIfTI ({error})") from error
    if values.ndim != 3 or not np.array_equal(values, np.rint(values)) or not values.any():
        raise Mri2QmapError(
            f"label map {path}: expected a 3-D volume of whole numbers with some labels, got shape"
            f" {values.shape}, type {values.dtype}"
        )
    values = values.astype(np.int32)
    for axis in range(3):
        first, last = _used(values, axis)
        values = np.take(values, np.arange(first, last + 1), axis=axis)
    labels = np.union1d([0], values)
    if len(labels) > 255:
        raise Mri2QmapError(f"label map {path}: {len(labels)} labels, at most 255 are allowed")
    indices = np.searchsorted(labels, values).astype(np.uint8).transpose(2, 1, 0)
    sizes = tuple(float(size) for size in image.header.get_zooms()[:3])
    inside = (labels[indices] > 0) & (labels[indices] < FIRST_OUTSIDE)
    if not inside.any():
        raise Mri2QmapError(f"label map {path}: no label of the brain (1 to {FIRST_OUTSIDE - 1})")
    (z0, z1), (y0, y1), (x0, x1) = (_used(inside, axis) for axis in range(3))
    return LabelMap(
        np.ascontiguousarray(indices),
        tuple(int(label) for label in labels),
        (sizes[2], sizes[1], sizes[0]),
        ((z0 + z1) / 2, (y0 + y1) / 2, (x0 + x1) / 2),
        (z1 - z0 + 1.0, y1 - y0 + 1.0, x1 - x0 + 1.0),
    )


def _used(values: NDArray[np.generic], axis: int) -> tuple[int, int]:
    """First and last index along an axis with anything but zeros."""
    used = np.flatnonzero(values.any(axis=tuple(a for a in range(3) if a != axis)))
    return int(used[0]), int(used[-1])


@numba.njit(cache=True, boundscheck=False)
def _average_table(
    indices: NDArray[np.uint8],
    table: Array,
    matrix: NDArray[np.float64],
    offset: NDArray[np.float64],
    size: int,
    samples: int,
) -> Array:
    """Mean of the table's rows over samples^3 points in each voxel of a rotated grid."""
    columns = table.shape[1]
    out = np.zeros((size, size, size, columns), np.float32)
    nz, ny, nx = indices.shape
    step = 1.0 / samples
    for z in range(size):
        for y in range(size):
            for x in range(size):
                for a in range(samples):
                    gz = z + (a + 0.5) * step - 0.5
                    for b in range(samples):
                        gy = y + (b + 0.5) * step - 0.5
                        for c in range(samples):
                            gx = x + (c + 0.5) * step - 0.5
                            lz = matrix[0, 0] * gz + matrix[0, 1] * gy + matrix[0, 2] * gx
                            ly = matrix[1, 0] * gz + matrix[1, 1] * gy + matrix[1, 2] * gx
                            lx = matrix[2, 0] * gz + matrix[2, 1] * gy + matrix[2, 2] * gx
                            iz = int(np.floor(lz + offset[0] + 0.5))
                            iy = int(np.floor(ly + offset[1] + 0.5))
                            ix = int(np.floor(lx + offset[2] + 0.5))
                            if 0 <= iz < nz and 0 <= iy < ny and 0 <= ix < nx:
                                row = indices[iz, iy, ix]
                                for q in range(columns):
                                    out[z, y, x, q] += table[row, q]
    return out / np.float32(samples**3)


def synthesise_volume(
    anatomy: LabelMap, settings: ImageSettings, rng: np.random.Generator
) -> SyntheticVolume:
    """Draw one synthetic volume of an anatomy.

    Parameters
    ----------
    anatomy : LabelMap
        The head.
    settings : ImageSettings
        Ranges and shares.
    rng : numpy.random.Generator
        Source of everything random.

    Returns
    -------
    SyntheticVolume
        Of ``settings.size`` voxels a side.

    Notes
    -----
    Partial volume: several points of each voxel are looked up in the label map. In half of the
    volumes their signals are averaged, as in a scan; in the other half their tissue parameters
    are, and the image is synthesised from the mean, as it is from quantitative maps.
    """
    n = settings.size
    echoes = {name: (rng.uniform(*tr), rng.uniform(*te)) for name, (tr, te) in _PROTOCOLS.items()}
    region = rng.choice(
        ["ball", "brain", "head"],
        p=[
            settings.ball_fraction,
            settings.brain_fraction,
            1 - settings.ball_fraction - settings.brain_fraction,
        ],
    )
    brain_only = region == "brain" or (region == "ball" and rng.random() < 0.5)
    tissues = draw_tissue_table(anatomy.labels, brain_only, rng)
    t1, t2, pd = tissues.T
    signals = np.stack([_spin_echo(t1, t2, pd, *echo) for echo in echoes.values()], axis=1)
    table = np.concatenate([np.stack([t1 * pd, t2 * pd, pd], axis=1), signals], axis=1)

    fine = rng.random() < settings.fine_fraction
    size_mm = rng.uniform(*(settings.fine_voxels if fine else settings.coarse_voxels))
    sizes = size_mm * np.exp(rng.normal(0, 0.04, 3))
    matrix, offset = _random_grid(anatomy, sizes, n, rng)
    samples = int(np.clip(np.ceil(size_mm - 0.25), 2, 4))
    mean = _average_table(
        anatomy.indices, table.astype(np.float32), matrix, offset, n, samples
    ).transpose(3, 0, 1, 2)
    smooth = rng.random() < settings.smooth_fraction
    blurred = _blur(
        np.ascontiguousarray(mean), rng.uniform(0.6, 1.3) if smooth else rng.uniform(0, 0.6)
    )
    pd = blurred[2]
    weight = np.maximum(pd, 1e-3)
    t1 = np.clip(blurred[0] / weight, *_T1_RANGE)
    t2 = np.clip(blurred[1] / weight, *_T2_RANGE)

    plain = np.stack([_spin_echo(t1, t2, pd, *echo) for echo in echoes.values()])
    t1, t2, pd = _textured(t1, t2, pd, size_mm, rng)
    if region == "ball":
        pd = pd * _tapered_ball(n, rng)
    images = np.stack([_spin_echo(t1, t2, pd, *echo) for echo in echoes.values()])
    wrong = _wrong_maps(t1, t2, pd, rng)
    errors = np.stack([_spin_echo(*wrong, *echo) for echo in echoes.values()]) - images
    if rng.random() < 0.5:
        images = images / np.maximum(plain, 1e-4) * np.maximum(blurred[3:], 0)
    if rng.random() < settings.bias_fraction:
        images = _with_bias_field(images, settings.bias_strength, rng)

    unscaled = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))
    gain = torch.from_numpy(np.exp(rng.uniform(-0.2, 0.2, 3)).astype(np.float32))
    factor = (gain / intensity_scale(unscaled))[:, None, None, None]
    return SyntheticVolume(unscaled * factor, torch.from_numpy(errors.astype(np.float32)) * factor)


def _spin_echo(t1: Array, t2: Array, pd: Array, tr: float, te: float) -> Array:
    """Spin-echo signal of tissue parameters [s]."""
    signal: Array = pd * (1 - np.exp(-tr / t1)) * np.exp(-te / t2)
    return signal


def _random_grid(
    anatomy: LabelMap, sizes: NDArray[np.float64], n: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Affine from the voxels of a volume to those of the label map: flips, turns, position."""
    permutation = np.eye(3)[rng.permutation(3)] * rng.choice([-1.0, 1.0], 3)
    angles = rng.normal(0, 0.12, 3)
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        rotation = np.eye(3)
        rotation[a, a] = rotation[b, b] = np.cos(angle)
        rotation[a, b], rotation[b, a] = -np.sin(angle), np.sin(angle)
        turn = turn @ rotation
    matrix = np.diag(1 / np.array(anatomy.voxel_size)) @ turn @ permutation @ np.diag(sizes)
    # Near the brain; the smaller the field of view, the farther off its middle it may lie.
    extent = np.array(anatomy.brain_extent)
    slack = np.clip(extent - n * sizes.mean() / max(anatomy.voxel_size), 8, 0.6 * extent) / 2
    centre = np.array(anatomy.brain_centre) + rng.uniform(-1, 1, 3) * slack
    return matrix, centre - matrix @ np.full(3, (n - 1) / 2)


def _blur(images: Array, sigma: float) -> Array:
    """Gaussian blur of (c, z, y, x) by a width in voxels, in passes of three taps."""
    passes = max(1, int(np.ceil((sigma / 0.7) ** 2)))
    side = sigma**2 / passes / 2  # the variance of the taps (side, 1 - 2 side, side) is 2 side
    for _ in range(passes):
        for axis in (1, 2, 3):
            padded = np.pad(images, [(int(a == axis),) * 2 for a in range(4)], mode="edge")
            n = images.shape[axis]
            before, after = (np.take(padded, range(i, i + n), axis) for i in (0, 2))
            images = (1 - 2 * side) * images + side * (before + after)
    return images


def _smooth_field(n: int, cells: int, rng: np.random.Generator) -> Array:
    """Random field of unit variance at its nodes, with about ``cells`` nodes along each side."""
    coarse = torch.from_numpy(rng.standard_normal((1, 1, cells, cells, cells), np.float32))
    if cells >= n:
        coarse = coarse[:, :, :n, :n, :n]
    field: Array = functional.interpolate(
        coarse, size=(n, n, n), mode="trilinear", align_corners=True
    )[0, 0].numpy()
    return field


def _textured(
    t1: Array, t2: Array, pd: Array, voxel: float, rng: np.random.Generator
) -> tuple[Array, Array, Array]:
    """Vary the tissue parameters within tissues, and add a few small lesions to white matter."""
    n = t1.shape[0]
    extent = n * voxel
    smooth = _smooth_field(n, max(2, round(extent / rng.uniform(25, 60))), rng)
    medium = _smooth_field(n, max(3, round(extent / rng.uniform(4, 10))), rng)
    fine = rng.standard_normal(t1.shape, np.float32)
    strength = rng.uniform(0.0, [0.06, 0.05, 0.02]).astype(np.float32)
    water = strength[0] * smooth + strength[1] * medium + strength[2] * fine
    other = strength[0] * np.roll(smooth, n // 3, 0) + strength[1] * np.roll(medium, n // 3, 1)
    lesion = np.zeros_like(t1)
    for _ in range(rng.integers(0, 6) if rng.random() < 0.5 else 0):
        centre, radius = rng.uniform(0.2, 0.8, 3) * n, rng.uniform(1.5, 6.0) / voxel
        grid, axes = np.ogrid[:n, :n, :n], rng.uniform(0.7, 1.4, 3)
        distance = np.sqrt(
            sum(((g - c) / s) ** 2 for g, c, s in zip(grid, centre, axes, strict=True))
        )
        lesion = np.maximum(lesion, np.clip(radius + 0.5 - distance, 0, 1).astype(np.float32))
    lesion = lesion * (t1 < 2.0)
    t1 = np.clip(t1 * np.exp(water) * (1 + rng.uniform(0.1, 0.8) * lesion), *_T1_RANGE)
    t2 = np.clip(t2 * np.exp(water + other) * (1 + rng.uniform(0.1, 1.5) * lesion), *_T2_RANGE)
    pd = pd * np.exp(0.4 * water) * (1 + 0.1 * lesion)
    return t1, t2, pd


def _tapered_ball(n: int, rng: np.random.Generator) -> Array:
    """Smooth mask: 1 inside a ball around the middle, falling to 0 before the border."""
    outer = rng.uniform(0.40, 0.5) * n
    taper = rng.uniform(0.05, 0.35) * outer
    axis = np.arange(n, dtype=np.float32) - (n - 1) / 2
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    inside = np.clip((outer - radius) / taper, 0, 1)
    mask: Array = (0.5 - 0.5 * np.cos(np.pi * inside)).astype(np.float32)
    return mask


def _wrong_maps(
    t1: Array, t2: Array, pd: Array, rng: np.random.Generator
) -> tuple[Array, Array, Array]:
    """T1, T2 and PD with errors like those of matching a noisy, undersampled reconstruction."""
    n = t1.shape[0]
    cells = int(n / rng.uniform(1.0, 3.0))
    common = _smooth_field(n, cells, rng) + rng.standard_normal(t1.shape, np.float32)
    # Where there is little signal the match is arbitrary.
    uncertain = rng.uniform(0.05, 0.3) * (1 + 3 * np.exp(-pd / 0.1)).astype(np.float32)
    tails = np.exp(rng.uniform(0, 0.6) * rng.standard_normal(t1.shape, np.float32))
    spread = uncertain * tails
    own1, own2 = (_smooth_field(n, cells, rng) for _ in range(2))
    t1 = np.clip(t1 * np.exp(spread * (0.7 * common + own1)), *_T1_RANGE)
    t2 = np.clip(t2 * np.exp(1.5 * spread * (0.5 * common + own2)), *_T2_RANGE)
    t2 = np.minimum(t1, t2)
    noise = rng.uniform(0.02, 0.15) * rng.standard_normal((2, *pd.shape), np.float32)
    return t1, t2, np.hypot(pd * np.exp(0.4 * spread * common) + noise[0], noise[1])


def _with_bias_field(images: Array, strength: float, rng: np.random.Generator) -> Array:
    """Multiply each image by its own smooth field (exponential of a polynomial)."""
    transform = RandBiasField(degree=3, coeff_range=(-strength, strength), prob=1.0)
    transform.set_random_state(seed=int(rng.integers(2**31)))
    fields = [np.asarray(transform(np.ones((1, *images.shape[1:]), np.float32))) for _ in images]
    return images * np.concatenate(fields)

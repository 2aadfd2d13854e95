"""Training volumes drawn from acquired weighted images (NIfTI)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from nibabel.affines import apply_affine, voxel_sizes
from nibabel.processing import resample_from_to, smooth_image
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mri2qmap.anatomy.nifti_files import NIFTI_ERRORS
from mri2qmap.denoiser.network import CONTRASTS
from mri2qmap.denoiser.volume import intensity_scale
from mri2qmap.errors import Mri2QmapError
from mri2qmap.training.image_settings import ImageSettings
from mri2qmap.training.training_images import (
    Array,
    TrainingVolume,
    apply_bias_and_gain,
    blur,
    draw_voxels,
    random_grid,
    tapered_ball,
)

#: Smallest and largest side [mm] of the region that the images of a subject share.
_SIDES_MM = (16, 600)
#: Voxels finer than this [mm] are smoothed to 1 mm before they are resampled.
_FINE_MM = 0.8
#: Voxels [mm] from which volumes are drawn from averages over two voxels along each axis.
_COARSE_MM = 2.25
#: Points along each side of a voxel at which images are interpolated.
_SAMPLES = 2
#: Brightness, relative to the bright end, from which a voxel belongs to the head.
_HEAD = 0.1
#: Share of a volume that the head fills at least.
_LEAST_HEAD = 1e-3


@dataclass(frozen=True)
class WeightedHead:
    """The images of one subject on a common 1 mm grid.

    Attributes
    ----------
    images : Tensor
        (3, z, y, x) float16 in the order T1w, T2w, PDw, bright ends near 1, zero where a contrast
        is missing; x runs to the right, y to the front, z to the top of the head.
    present : Tensor
        (3,) bool: which contrasts there are.
    brain_centre, brain_extent : (float, float, float)
        Middle and size of what is bright [voxels, z, y, x].
    voxel_size : (float, float, float)
        [mm].
    """

    images: Tensor
    present: Tensor
    brain_centre: tuple[float, float, float]
    brain_extent: tuple[float, float, float]
    voxel_size: tuple[float, float, float] = (1.0, 1.0, 1.0)


class WeightedSubject:
    """The files of one subject, whose headers have been looked at.

    Parameters
    ----------
    name : str
        Of the subject, for messages.
    files : mapping
        Contrast -> NIfTI file.

    Attributes
    ----------
    grid : tuple
        Sides (x, y, z) and affine (to scanner coordinates [mm]) of the common 1 mm grid.

    Raises
    ------
    Mri2QmapError
        If a file is no 3-D NIfTI volume of real numbers with a sound affine, or the files do not
        overlap in space.
    """

    def __init__(self, name: str, files: Mapping[str, Path]) -> None:
        self.name = name
        self._files = files
        corners = [_world_box(path) for path in files.values()]
        lower = np.max([low for low, _ in corners], axis=0)
        upper = np.min([high for _, high in corners], axis=0)
        smallest, largest = _SIDES_MM
        if np.any(upper - lower < smallest):
            what = "its images share" if len(files) > 1 else "its image has"
            advice = "; register them to each other first" if len(files) > 1 else ""
            raise Mri2QmapError(
                f"subject {name}: {what} less than {smallest} mm along an axis"
                f" ({', '.join(map(str, files.values()))}){advice}"
            )
        if np.any(upper - lower > largest):
            raise Mri2QmapError(
                f"subject {name}: {next(iter(files.values()))} is larger than {largest} mm; are its"
                " voxel sizes in millimetres?"
            )
        affine = np.eye(4)
        affine[:3, 3] = lower + 0.5
        self.grid = tuple(int(side) for side in np.floor(upper - lower)), affine

    def load(self) -> WeightedHead:
        """Read the files and resample them to a common grid of 1 mm along the axes of the scanner.

        It spans what all contrasts cover. The images of a subject are not registered: their
        affines must say where they lie.

        Raises
        ------
        Mri2QmapError
            If a file cannot be read, holds values that are not finite, or nothing positive.
        """
        present = torch.tensor([contrast in self._files for contrast in CONTRASTS])
        x, y, z = self.grid[0]
        images = torch.zeros(len(CONTRASTS), z, y, x)
        for contrast, path in self._files.items():
            image = torch.from_numpy(_resample(path, self.grid).transpose(2, 1, 0).copy())
            # Volumes that are drawn are scaled by themselves: here it only has to suit float16.
            image /= intensity_scale(image[None, ::2, ::2, ::2])
            if (image > _HEAD).float().mean() < _LEAST_HEAD:
                raise Mri2QmapError(
                    f"weighted image {path}: it shows next to nothing where the images of subject"
                    f" {self.name} overlap; look at the files, and remove the bad one"
                )
            images[CONTRASTS.index(contrast)] = image
        centre, extent = _bright_region(images)
        return WeightedHead(images.clamp(max=100).half(), present, centre, extent)


class WeightedVolumes:
    """Draws volumes of subjects, of whom as many as memory allows are kept at hand.

    Parameters
    ----------
    subjects : sequence of WeightedSubject
        Whom to draw from.
    settings : ImageSettings
        What the volumes look like, and how much memory there is.
    """

    def __init__(self, subjects: Sequence[WeightedSubject], settings: ImageSettings) -> None:
        self._subjects = subjects
        self._settings = settings
        self._heads: OrderedDict[int, WeightedHead] = OrderedDict()

    def __len__(self) -> int:
        """Number of subjects."""
        return len(self._subjects)

    def draw(self, index: int, rng: np.random.Generator) -> TrainingVolume:
        """Draw a volume of the subject of a number.

        Raises
        ------
        Mri2QmapError
            As :meth:`WeightedSubject.load`.
        """
        return draw_weighted_volume(self._head(index), self._settings, rng)

    def _head(self, index: int) -> WeightedHead:
        """Images of a subject; those that were not used for longest make room for others."""
        head = self._heads.pop(index, None) or self._subjects[index].load()
        self._heads[index] = head
        budget = self._settings.cache_gib * 2**30
        while self._heads and sum(h.images.nbytes for h in self._heads.values()) > budget:
            self._heads.popitem(last=False)
        return head


def draw_weighted_volume(
    head: WeightedHead, settings: ImageSettings, rng: np.random.Generator
) -> TrainingVolume:
    """Draw one training volume of a head: voxel size, turn, position, softness, bias and gain.

    Parameters
    ----------
    head : WeightedHead
        The images.
    settings : ImageSettings
        Ranges and shares.
    rng : numpy.random.Generator
        Source of everything random.

    Returns
    -------
    TrainingVolume
        Of ``settings.size`` voxels a side, without errors of maps.
    """
    n = settings.size
    size_mm, sizes = draw_voxels(settings, rng)
    matrix, offset = random_grid(head, sizes, n, rng)
    images: Array = np.zeros((len(CONTRASTS), n, n, n), np.float32)
    acquired = head.images[head.present].float()
    if size_mm > _COARSE_MM:  # voxels of 2 mm then do, and are eight times fewer
        acquired = functional.avg_pool3d(acquired[None], 2)[0]
        matrix, offset = matrix / 2, (offset - 0.5) / 2
    images[head.present.numpy()] = _sample(acquired, matrix, offset, n)
    if rng.random() < settings.smooth_fraction:
        images = blur(images, rng.uniform(0.6, 1.3))
    if rng.random() < settings.ball_fraction:
        images = images * tapered_ball(n, rng)
    unscaled, factor = apply_bias_and_gain(images, settings, rng)
    return TrainingVolume(unscaled * factor, head.present)


def _open(path: Path) -> nib.Nifti1Image:
    """Open a NIfTI file, whose values are read later, and check its header."""
    try:
        image = nib.load(path)
        if not isinstance(image, nib.Nifti1Image):
            raise TypeError(f"it is a {type(image).__name__}")
        shape, affine = image.shape, image.affine
        kind = image.get_data_dtype().kind
    except NIFTI_ERRORS as error:
        raise Mri2QmapError(f"weighted image {path}: cannot be read as NIfTI ({error})") from error
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or min(shape) < 2 or kind not in "iuf":
        raise Mri2QmapError(
            f"weighted image {path}: expected a 3-D volume of real numbers, got shape"
            f" {image.shape}, type {image.get_data_dtype()}"
        )
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise Mri2QmapError(f"weighted image {path}: its affine does not place it in space")
    return image


def _world_box(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper corner [mm] of the box around a volume, along the axes of the scanner."""
    image = _open(path)
    ends = np.array(np.meshgrid(*[(-0.5, side - 0.5) for side in image.shape[:3]]))
    corners = apply_affine(image.affine, ends.reshape(3, -1).T)
    return corners.min(axis=0), corners.max(axis=0)


def _resample(path: Path, grid: tuple[tuple[int, ...], NDArray[np.float64]]) -> Array:
    """Values of a file at the points of a grid (shape, affine), with axes as the grid's."""
    image = _open(path)
    try:
        values = np.asarray(image.dataobj, np.float32).reshape(image.shape[:3])
    except NIFTI_ERRORS as error:
        raise Mri2QmapError(
            f"weighted image {path}: its values cannot be read ({error})"
        ) from error
    if not np.isfinite(values).all():
        raise Mri2QmapError(
            f"weighted image {path}: it holds values that are not finite; set them to zero, or"
            " leave the file out"
        )
    sizes = voxel_sizes(image.affine)
    image = nib.Nifti1Image(np.maximum(values, 0), image.affine)
    if sizes.min() < _FINE_MM:
        image = smooth_image(image, np.sqrt(np.maximum(1 - sizes**2, 0)), mode="constant")
    resampled: Array = resample_from_to(image, grid, order=1).get_fdata(dtype=np.float32)
    return resampled


def _bright_region(
    images: Tensor,
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Middle and size [voxels, z, y, x] of an ellipsoid as bright as the images (3, z, y, x)."""
    bright = (images.amax(0) > _HEAD).float()
    middle, extent = [], []
    for axis in range(3):
        profile = bright.sum([a for a in range(3) if a != axis]).double()
        place = torch.arange(len(profile), dtype=torch.float64)
        mean = (profile * place).sum() / profile.sum()
        variance = (profile * (place - mean) ** 2).sum() / profile.sum()
        middle.append(float(mean))
        extent.append(2 * float(5 * variance) ** 0.5)
    return (middle[0], middle[1], middle[2]), (extent[0], extent[1], extent[2])


def _sample(
    images: Tensor, matrix: NDArray[np.float64], offset: NDArray[np.float64], n: int
) -> Array:
    """Average images (c, z, y, x) over the voxels of a turned grid (c, n, n, n).

    Points within each voxel are interpolated linearly; there is nothing outside the images.
    """
    turn = torch.from_numpy(matrix).float()
    start = torch.from_numpy(offset).float()
    fine = (torch.arange(n * _SAMPLES) + 0.5) / _SAMPLES - 0.5
    last = torch.tensor(images.shape[1:]) - 1
    slabs = []
    for part in fine.split(8 * _SAMPLES):
        axes = torch.meshgrid(part, fine, fine, indexing="ij")
        points = torch.stack(axes, dim=-1) @ turn.T + start
        places = (2 * points / last - 1).flip(-1)  # x, y, z from -1 to 1
        values = functional.grid_sample(images[None], places[None], align_corners=True)
        slabs.append(functional.avg_pool3d(values, _SAMPLES))
    sampled: Array = torch.cat(slabs, dim=2)[0].numpy()
    return sampled

"""Training volumes drawn from acquired weighted images (NIfTI)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from nibabel import affines, processing
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

_Float64 = NDArray[np.float64]
# Functions of nibabel without type annotations.
_apply_affine: Callable[[_Float64, _Float64], _Float64] = affines.apply_affine
_voxel_sizes: Callable[[_Float64], _Float64] = affines.voxel_sizes
_new_image: Callable[[Array, _Float64], nib.Nifti1Image] = nib.Nifti1Image
_smooth: Callable[..., nib.Nifti1Image] = processing.smooth_image
_resample_from_to: Callable[..., nib.Nifti1Image] = processing.resample_from_to

#: Smallest and largest side of the region common to the images of a subject [mm].
_SIDES_MM = (16, 600)
#: Images with voxels smaller than this [mm] are smoothed to 1 mm before resampling.
_FINE_MM = 0.8
#: Voxel size [mm] above which volumes are drawn from images downsampled by 2.
_COARSE_MM = 2.25
#: Interpolation points along each side of a voxel.
_SAMPLES = 2
#: Intensity, relative to the intensity scale, above which a voxel belongs to the head.
_HEAD = 0.1
#: Smallest fraction of the volume that the head must fill.
_MIN_HEAD = 1e-3


@dataclass(frozen=True)
class WeightedHead:
    """Images of one subject on a common 1 mm grid.

    Attributes
    ----------
    images : Tensor
        (3, z, y, x) float16 in the order T1w, T2w, PDw, of intensity scale near 1, zero for missing
        contrasts; x to the right, y anterior, z superior.
    present : Tensor
        (3,) bool: contrasts present.
    brain_centre, brain_extent : (float, float, float)
        Centre and extent of the bright region (z, y, x) [voxels].
    voxel_size : (float, float, float)
        Voxel size (z, y, x) [mm].
    """

    images: Tensor
    present: Tensor
    brain_centre: tuple[float, float, float]
    brain_extent: tuple[float, float, float]
    voxel_size: tuple[float, float, float] = (1.0, 1.0, 1.0)


class WeightedSubject:
    """Files of one subject, with validated headers.

    Parameters
    ----------
    name : str
        Name of the subject, for messages.
    files : mapping
        Contrast -> NIfTI file.

    Attributes
    ----------
    grid : tuple
        Shape (x, y, z) and affine (to scanner coordinates [mm]) of the common 1 mm grid.

    Raises
    ------
    Mri2QmapError
        If a file is not a 3-D NIfTI volume of real numbers with a regular affine, or the files do
        not overlap in space.
    """

    def __init__(self, name: str, files: Mapping[str, Path]) -> None:
        self.name = name
        self._files = files
        corners = [_world_box(path) for path in files.values()]
        lower = np.max([low for low, _ in corners], axis=0)
        upper = np.min([high for _, high in corners], axis=0)
        smallest, largest = _SIDES_MM
        if np.any(upper - lower < smallest):
            what = "the overlap of its images" if len(files) > 1 else "the extent of its image"
            advice = "; register them to each other first" if len(files) > 1 else ""
            raise Mri2QmapError(
                f"subject {name}: {what} is less than {smallest} mm along an axis"
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
        """Read the files and resample them to a common 1 mm grid along the scanner axes.

        The grid covers the region common to all contrasts. The images are not registered; their
        affines must be consistent.

        Raises
        ------
        Mri2QmapError
            If a file cannot be read, holds values that are not finite, or is almost empty.
        """
        present = torch.tensor([contrast in self._files for contrast in CONTRASTS])
        x, y, z = self.grid[0]
        images = torch.zeros(len(CONTRASTS), z, y, x)
        for contrast, path in self._files.items():
            image = torch.from_numpy(_resample(path, self.grid).transpose(2, 1, 0).copy())
            # An approximate scale for float16 is sufficient; drawn volumes are scaled again.
            image /= intensity_scale(image[None, ::2, ::2, ::2])
            if (image > _HEAD).float().mean() < _MIN_HEAD:
                raise Mri2QmapError(
                    f"weighted image {path}: it is almost empty where the images of subject"
                    f" {self.name} overlap; inspect the files and remove the faulty one"
                )
            images[CONTRASTS.index(contrast)] = image
        centre, extent = _bright_region(images)
        return WeightedHead(images.clamp(max=100).half(), present, centre, extent)


class WeightedVolumes:
    """Source of volumes of subjects, with a cache of their images.

    Parameters
    ----------
    subjects : sequence of WeightedSubject
        Subjects.
    settings : ImageSettings
        Distribution of the volumes and size of the cache.
    """

    def __init__(self, subjects: Sequence[WeightedSubject], settings: ImageSettings) -> None:
        self._subjects = subjects
        self._settings = settings
        self._heads: OrderedDict[int, WeightedHead] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of subjects."""
        return len(self._subjects)

    def draw(self, index: int, rng: np.random.Generator) -> TrainingVolume:
        """Draw a volume of a subject, given by its number.

        Raises
        ------
        Mri2QmapError
            See :meth:`WeightedSubject.load`.
        """
        return draw_weighted_volume(self._head(index), self._settings, rng)

    def _head(self, index: int) -> WeightedHead:
        """Return the images of a subject; the least recently used are dropped from the cache."""
        head = self._heads.pop(index, None) or self._subjects[index].load()
        self._heads[index] = head
        budget = self._settings.cache_gib * 2**30
        while self._heads and sum(h.images.nbytes for h in self._heads.values()) > budget:
            self._heads.popitem(last=False)
        return head


def draw_weighted_volume(
    head: WeightedHead, settings: ImageSettings, rng: np.random.Generator
) -> TrainingVolume:
    """Draw a training volume of a head: voxel size, rotation, position, blur, bias field and gain.

    Parameters
    ----------
    head : WeightedHead
        Images of the head.
    settings : ImageSettings
        Distribution of the volumes.
    rng : numpy.random.Generator
        Random number generator.

    Returns
    -------
    TrainingVolume
        Volume with ``settings.size`` voxels along each side, without ``map_errors``.
    """
    n = settings.size
    size_mm, sizes = draw_voxels(settings, rng)
    matrix, offset = random_grid(head, sizes, n, rng)
    images: Array = np.zeros((len(CONTRASTS), n, n, n), np.float32)
    acquired = head.images[head.present].float()
    if size_mm > _COARSE_MM:  # 2 mm is then fine enough, with an eighth of the voxels
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
    """Open a NIfTI file without reading its values, and check its header."""
    try:
        image = nib.load(path)
        if not isinstance(image, nib.Nifti1Image):
            raise TypeError(f"it is a {type(image).__name__}")
        shape, affine = image.shape, image.affine
        header: Any = image.header
        dtype = header.get_data_dtype()
    except NIFTI_ERRORS as error:
        raise Mri2QmapError(f"weighted image {path}: cannot be read as NIfTI ({error})") from error
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or min(shape) < 2 or dtype.kind not in "iuf":
        raise Mri2QmapError(
            f"weighted image {path}: expected a 3-D volume of real numbers, got shape"
            f" {image.shape}, type {dtype}"
        )
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise Mri2QmapError(f"weighted image {path}: its affine is singular or not finite")
    return image


def _world_box(path: Path) -> tuple[_Float64, _Float64]:
    """Return lower and upper corner [mm] of the bounding box of a volume in scanner coordinates."""
    image = _open(path)
    ends = np.array(np.meshgrid(*[(-0.5, side - 0.5) for side in image.shape[:3]]))
    corners = _apply_affine(image.affine, ends.reshape(3, -1).T)
    return corners.min(axis=0), corners.max(axis=0)


def _resample(path: Path, grid: tuple[tuple[int, ...], _Float64]) -> Array:
    """Return the values of a file, resampled to a grid (shape, affine)."""
    image = _open(path)
    try:
        values = np.asarray(image.dataobj, np.float32).reshape(image.shape[:3])
    except NIFTI_ERRORS as error:
        raise Mri2QmapError(
            f"weighted image {path}: its values cannot be read ({error})"
        ) from error
    if not np.isfinite(values).all():
        raise Mri2QmapError(
            f"weighted image {path}: it contains values that are not finite; set them to"
            " zero, or exclude the file"
        )
    sizes = _voxel_sizes(image.affine)
    image = _new_image(np.maximum(values, 0), image.affine)
    if sizes.min() < _FINE_MM:
        image = _smooth(image, np.sqrt(np.maximum(1 - sizes**2, 0)), mode="constant")
    resampled: Array = _resample_from_to(image, grid, order=1).get_fdata(dtype=np.float32)
    return resampled


def _bright_region(
    images: Tensor,
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return centre and extent (z, y, x) [voxels] of the bright region of images (3, z, y, x).

    The extent is that of the ellipsoid with the same second moments.
    """
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


def _sample(images: Tensor, matrix: _Float64, offset: _Float64, n: int) -> Array:
    """Average images (c, z, y, x) over the voxels of a rotated grid (c, n, n, n).

    Several points of each voxel are interpolated linearly; values outside the images are zero.
    """
    rotation = torch.from_numpy(matrix).float()
    start = torch.from_numpy(offset).float()
    fine = (torch.arange(n * _SAMPLES) + 0.5) / _SAMPLES - 0.5
    last = torch.tensor(images.shape[1:]) - 1
    slabs = []
    for part in torch.split(fine, 8 * _SAMPLES):
        axes = torch.meshgrid(part, fine, fine, indexing="ij")
        points = torch.stack(axes, dim=-1) @ rotation.T + start
        coordinates = (2 * points / last - 1).flip(-1)  # x, y, z from -1 to 1
        values = functional.grid_sample(images[None], coordinates[None], align_corners=True)
        slabs.append(functional.avg_pool3d(values, _SAMPLES))
    sampled: Array = torch.cat(slabs, dim=2)[0].numpy()
    return sampled

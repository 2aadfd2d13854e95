"""Images on which denoisers are compared: synthetic heads, whole anatomies, acquired images."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mri2qmap.anatomy.label_maps import load_label_map
from mri2qmap.anatomy.nifti_files import nifti_stem
from mri2qmap.anatomy.quantitative_maps import QuantitativeMaps
from mri2qmap.anatomy.sources import load_anatomy
from mri2qmap.anatomy.voxel_model import Region, tissue_fractions
from mri2qmap.denoiser.volume import intensity_scale
from mri2qmap.errors import Mri2QmapError
from mri2qmap.evaluation.metrics import OBJECT
from mri2qmap.mrsignal.synthesis import Contrast, synthesise
from mri2qmap.simulation.components import Grid
from mri2qmap.simulation.quantitative_scan import scan_quantitative_maps
from mri2qmap.training.image_settings import ImageSettings
from mri2qmap.training.training_images import synthesise_volume
from mri2qmap.training.weighted_files import find_weighted_files
from mri2qmap.training.weighted_volumes import WeightedSubject

ANATOMY_VOXEL = 2e-3
"""Voxel edge [m] of whole anatomies."""


@dataclass(frozen=True)
class BenchVolume:
    """The images of one object.

    Attributes
    ----------
    group
        Name of the group of volumes over which results are averaged.
    index
        Number within the group.
    images
        One image for each contrast (n, z, y, x) float32, scaled to an intensity of about 1, see
        `mri2qmap.denoiser.volume.intensity_scale`.
    contrasts
        Contrast of each image, in the order of `Contrast`. Acquired images may lack some.
    """

    group: str
    index: int
    images: Tensor
    contrasts: tuple[Contrast, ...] = tuple(Contrast)

    @property
    def content(self) -> str:
        """Short hash of the images and their contrasts."""
        digest = hashlib.sha256(" ".join(self.contrasts).encode())
        digest.update(self.images.numpy().tobytes())
        return digest.hexdigest()[:12]


def synthetic_heads(
    label_maps: list[Path], count: int, size: int, voxels: tuple[float, float], seed: int
) -> list[BenchVolume]:
    """Synthesise random weighted images like those of the training, without a bias field.

    Parameters
    ----------
    label_maps
        The subjects, used in turn.
    count
        Number of volumes.
    size
        Voxels along each side.
    voxels
        Range of the voxel size [mm].
    seed
        Seed of the random numbers.

    Raises
    ------
    Mri2QmapError
        If a label map cannot be read.
    """
    settings = dataclasses.replace(
        ImageSettings(), size=size, fine_voxels=voxels, fine_fraction=1.0, bias_fraction=0.0
    )
    used = label_maps[:count]
    maps = [load_label_map(path) for path in used]
    group = ", ".join(nifti_stem(path) for path in used)
    return [
        BenchVolume(
            group,
            index,
            synthesise_volume(
                maps[index % len(maps)], settings, np.random.default_rng([seed, index])
            ).images,
        )
        for index in range(count)
    ]


def whole_anatomy(source: str, size: int) -> BenchVolume:
    """Synthesise the centre of a brain with the tissue values of the simulation, at 2 mm.

    Parameters
    ----------
    source
        See `load_anatomy`. "icbm" was not used for training.
    size
        Voxels along each side.
    """
    anatomy = load_anatomy(source, head=False)
    side = size * ANATOMY_VOXEL
    grid = Grid(Region.BRAIN, (size,) * 3, (side,) * 3, np.eye(3))
    if isinstance(anatomy, QuantitativeMaps):
        _, maps, _ = scan_quantitative_maps(anatomy, *grid)
        name = maps.name
        filled = maps.density > 0
        times = (torch.from_numpy(np.where(filled, t, 1)) for t in (maps.t1_map, maps.t2_map))
        images = synthesise(torch.from_numpy(maps.density), *times)
    else:
        truth = tissue_fractions(anatomy, *grid)
        name = truth.name
        values = (
            torch.tensor([getattr(tissue, value) for tissue in truth.tissues])
            for value in ("proton_density", "t1", "t2")
        )
        images = torch.tensordot(synthesise(*values), torch.from_numpy(truth.fractions), 1)
    images = images / intensity_scale(images)[:, None, None, None]
    return BenchVolume(f"{name}, 2 mm", 0, images)


def acquired_heads(folders: Mapping[str, Path], size: int) -> list[BenchVolume]:
    """Cut a cube out of the centre of each subject's acquired images, at 1 mm.

    The cube is centred on the bright region of the images, and moved as little as necessary to lie
    within them.

    Parameters
    ----------
    folders
        Contrast -> folder of images, see `find_weighted_files`.
    size
        Voxels along each side.

    Returns
    -------
        One volume for each subject, with the contrasts that the subject has; the group is the name
        of the subject.

    Raises
    ------
    Mri2QmapError
        If files cannot be used (see `find_weighted_files` and `WeightedSubject`), the images of a
        subject are smaller than the cube, or an image is empty in it.
    """
    subjects = [WeightedSubject(*found) for found in find_weighted_files(folders).items()]
    for subject in subjects:
        sides = subject.grid[0]
        if min(sides) < size:
            raise Mri2QmapError(
                f"--size {size}: the images of subject {subject.name} have only "
                f"{' x '.join(map(str, sides))} voxels of 1 mm (x, y, z) in common; give --size "
                f"{min(sides)} or less, or a folder without this subject"
            )
    return [_acquired_head(subject, size) for subject in subjects]


def _acquired_head(subject: WeightedSubject, size: int) -> BenchVolume:
    head = subject.load()
    starts = (
        min(max(round(centre - (size - 1) / 2), 0), side - size)
        for centre, side in zip(head.brain_centre, head.images.shape[1:], strict=True)
    )
    z, y, x = (slice(start, start + size) for start in starts)
    images = head.images[head.present][:, z, y, x].float()
    images = images / intensity_scale(images)[:, None, None, None]
    contrasts = tuple(c for c, there in zip(Contrast, head.present.tolist(), strict=True) if there)
    for image, contrast in zip(images, contrasts, strict=True):
        if not bool((image > OBJECT).any()):
            raise Mri2QmapError(
                f"subject {subject.name}: its {contrast} image is empty in the central {size} x "
                f"{size} x {size} voxels; give a larger --size, or a folder without this subject"
            )
    return BenchVolume(subject.name, 0, images, contrasts)

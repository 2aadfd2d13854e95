"""Textured brains: quantitative maps that vary within tissues, made from a label map.

Real tissue is not uniform. What is drawn, and where its size is from:

* White matter differs between fibre bundles (Li et al., Magn Reson Med 62:1652, 2009). T1 at 3 T is
  864 +- 23 to 871 +- 38 ms at one place and 780 ms in the sagittal stratum beside it (table of a
  study of this bundle in Am J Neuroradiol): some percent within a region, 10 % between regions.
* Cortex: T1 rises from the white matter to the pial surface (Sereno et al., Cereb Cortex 23:2261,
  2013), and is lower by some percent in sensory and motor areas (Choi et al., Cereb Cortex 33:3562,
  2023, T1 and T2 of 34 regions by fingerprinting at 3 T).
* Deep grey matter: T2 is short where iron is stored (Hallgren and Sourander, J Neurochem 3:41,
  1958: 21 mg per 100 g in the pallidum, 13 in the putamen, 9 in the caudate nucleus), and the
  borders of the thalamus and the pallidum are gradual.
* Vessels and perivascular spaces: lines thinner than a voxel or about as wide.
* Lesions, see `mri2qmap.anatomy.lesions`.

T1 and T2 of a voxel vary together (water content) and apart, PD varies with water content.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mri2qmap.anatomy.fraction_maps import load_nifti
from mri2qmap.anatomy.label_tissues import GREY_SHARE, PAIRED
from mri2qmap.anatomy.lesions import LESIONS, Lesion, draw_lesions, place_lesions
from mri2qmap.anatomy.nifti_files import nifti_stem
from mri2qmap.anatomy.quantitative_maps import QuantitativeMaps
from mri2qmap.anatomy.random_fields import (
    Array,
    ball_coverage,
    power_law_field,
    random_path,
    squared_distance,
)
from mri2qmap.anatomy.sources import label_anatomy
from mri2qmap.anatomy.tissues import GREY_MATTER, LABEL_TISSUES, VESSELS, WHITE_MATTER, Tissue
from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.value_checks import refuse_unless_not_negative

DEEP = (10, 11, 12, 13, 16, 17, 18, 26, 28, 85)
"""Deep structures, whose T1 and PD lie between those of white and grey matter, by the label of the
left side."""

IRON = {10: 5.0, 11: 9.0, 12: 13.0, 13: 21.0, 26: 7.0, 28: 12.0}
"""Iron [mg per 100 g] of deep structures, by the label of the left side."""

IRON_RELAXIVITY = 0.4
"""Rise of 1/T2 at 3 T with iron [1/s per mg in 100 g]: T2 of the pallidum becomes about 50 ms."""

_CORTEX = (3, 42)
_CEREBRAL_WHITE = (2, 41)


@dataclass(frozen=True)
class TextureSettings:
    """Strength of the variation within tissues.

    Attributes
    ----------
    strength
        Factor of all variations; 1 is as published, 0 leaves the tissues uniform.
    white_t1, white_t2
        Standard deviation of log T1 and log T2 in white matter.
    grey_t1, grey_t2
        The same in grey matter, apart from depth.
    exponent
        Of the power spectrum, see `power_law_field`; 3 has equal power in every octave.
    wavelengths_mm
        Shortest and longest wavelength.
    depth
        Difference of log T1 between the pial surface and the white matter, within cortex; the same
        of log T2 is 0.6 of it.
    superficial
        Rise of log T1 of white matter next to cortex.
    vessels
        Number of vessels and perivascular spaces in 100 ml of brain.
    lesions
        Lesions to draw in white matter.
    lesion_radius_mm
        Largest distance of their centres from the centre of the brain [mm]; infinite: anywhere.

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    strength: float = 1.0
    white_t1: float = 0.035
    white_t2: float = 0.045
    grey_t1: float = 0.035
    grey_t2: float = 0.05
    exponent: float = 3.0
    wavelengths_mm: tuple[float, float] = (2.0, 60.0)
    depth: float = 0.12
    superficial: float = 0.05
    vessels: float = 12.0
    lesions: tuple[Lesion, ...] = LESIONS
    lesion_radius_mm: float = float("inf")

    def __post_init__(self) -> None:
        strengths = ("white_t1", "white_t2", "grey_t1", "grey_t2", "depth", "superficial")
        refuse_unless_not_negative(self, "strength", *strengths, "exponent", "vessels")
        shortest, longest = self.wavelengths_mm
        if not (0 < shortest < longest and self.lesion_radius_mm > 0):
            raise ValueError(
                "wavelengths_mm must ascend from above 0, lesion_radius_mm must be positive; got "
                f"{self.wavelengths_mm} and {self.lesion_radius_mm}"
            )


def textured_maps(
    labels: NDArray[np.generic],
    affine: NDArray[np.float64],
    name: str,
    settings: TextureSettings | None = None,
    seed: int = 0,
) -> QuantitativeMaps:
    """Draw quantitative maps with texture and lesions from a label map.

    Parameters
    ----------
    labels
        (i, j, k) whole numbers, labels of FreeSurfer inside the brain, see `LABEL_TISSUES`.
    affine
        Homogeneous voxel indices (i, j, k, 1) to right-anterior-superior [mm].
    name
        Name in headers and records.
    settings
        Strengths; None: `TextureSettings`.
    seed
        Seed of all random numbers.

    Raises
    ------
    Mri2QmapError
        If there are unknown labels, or no brain.
    """
    settings = settings or TextureSettings()
    anatomy = label_anatomy(labels, affine, name)
    rng = np.random.default_rng(seed)
    edges = anatomy.voxel_size_mm
    voxel = (float(edges[0]), float(edges[1]), float(edges[2]))
    whole = labels.astype(np.int32)
    box = _box(anatomy.brain, margin=4)
    t1, t2, density = _label_values(whole)
    inner = whole[box]
    parts = (t1[box], t2[box], density[box])
    _texture(inner, parts, voxel, settings, rng)
    brain = anatomy.brain
    white = np.isin(whole, _labels_of(WHITE_MATTER)) & brain
    grey = np.isin(whole, _labels_of(GREY_MATTER)) & brain
    maps = QuantitativeMaps(name, t1, t2, density, brain, white, grey, anatomy.affine)
    if not settings.lesions:
        return maps
    cerebral = np.isin(whole, _CEREBRAL_WHITE)
    return with_lesions(maps, settings.lesions, cerebral, settings.lesion_radius_mm, rng)


def with_lesions(
    maps: QuantitativeMaps,
    lesions: tuple[Lesion, ...],
    where: NDArray[np.bool_],
    radius_mm: float,
    rng: np.random.Generator,
) -> QuantitativeMaps:
    """Return maps with lesions, where there is room for them.

    Parameters
    ----------
    maps
        Maps without lesions; not changed.
    lesions
        Lesions to draw, the largest first.
    where
        White matter in which they may lie (i, j, k), bool.
    radius_mm
        Largest distance of their centres from the centre of mass of the brain [mm].
    rng
        Random number generator.
    """
    edges = maps.voxel_size_mm
    voxel = (float(edges[0]), float(edges[1]), float(edges[2]))
    box = _box(maps.brain, margin=4)
    region = _within(maps.brain[box], voxel, radius_mm)
    placed = place_lesions(lesions, where[box], voxel, rng, region)
    t1, t2, density = (v.copy() for v in (maps.t1, maps.t2, maps.proton_density))
    labels = np.zeros(t1.shape, dtype=np.int16)
    labels[box] = draw_lesions(placed, (t1[box], t2[box], density[box]), voxel)
    corner = np.array([edge.start for edge in box])
    found = tuple(
        replace(lesion, centre=tuple(map(float, corner + lesion.centre))) for lesion in placed
    )
    return replace(
        maps,
        t1=t1,
        t2=t2,
        proton_density=density,
        white_matter=maps.white_matter & (labels == 0),
        grey_matter=maps.grey_matter & (labels == 0),
        lesion_labels=labels,
        lesions=found,
    )


def _box(mask: NDArray[np.bool_], margin: int) -> tuple[slice, slice, slice]:
    """Bounding box of a mask, with a margin inside the volume."""
    found = []
    for axis in range(3):
        used = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        found.append(slice(max(0, used[0] - margin), min(mask.shape[axis], used[-1] + 1 + margin)))
    return found[0], found[1], found[2]


def _labels_of(tissue: Tissue) -> list[int]:
    return [label for label, found in LABEL_TISSUES.items() if found == tissue]


def _within(
    brain: NDArray[np.bool_], voxel: tuple[float, float, float], radius: float
) -> NDArray[np.bool_] | None:
    """Voxels up to a distance from the centre of mass of the brain."""
    if not np.isfinite(radius):
        return None
    middle = ndimage.center_of_mass(brain)
    return squared_distance(brain.shape, voxel, middle) <= radius**2


def _label_values(labels: NDArray[np.int32]) -> tuple[Array, Array, Array]:
    """T1, T2 [s] and proton density of the structures (i, j, k)."""
    table = np.ones((3, int(labels.max()) + 1), dtype=np.float32)
    table[2] = 0
    for label, tissue in LABEL_TISSUES.items():
        if tissue is None or label >= table.shape[1]:
            continue
        values = np.array([tissue.t1, tissue.t2, tissue.proton_density])
        left = PAIRED.get(label, label)
        if left in DEEP:
            share = GREY_SHARE[left]
            white, grey = (
                np.array([t.t1, t.t2, t.proton_density]) for t in (WHITE_MATTER, GREY_MATTER)
            )
            values = white ** (1 - share) * grey**share
        if left in IRON:
            values[1] = 1 / (1 / values[1] + IRON_RELAXIVITY * IRON[left])
        table[:, label] = values
    t1, t2, density = (np.asarray(row[labels], dtype=np.float32) for row in table)
    return t1, t2, density


def _texture(
    labels: NDArray[np.int32],
    maps: tuple[Array, Array, Array],
    voxel: tuple[float, float, float],
    settings: TextureSettings,
    rng: np.random.Generator,
) -> None:
    """Vary T1, T2 and proton density (i, j, k) in place."""
    t1, t2, density = maps
    shape = (labels.shape[0], labels.shape[1], labels.shape[2])
    white = np.isin(labels, _labels_of(WHITE_MATTER))
    grey = np.isin(labels, _labels_of(GREY_MATTER))
    deep = np.isin(labels, [n for n in range(61) if PAIRED.get(n, n) in DEEP])
    matter = white | grey
    log1, log2 = np.log(t1), np.log(t2)
    _soften(log1, log2, deep, matter, voxel)
    water, other, regions = (
        power_law_field(shape, voxel, wavelengths, settings.exponent, rng)
        for wavelengths in (settings.wavelengths_mm,) * 2 + ((25.0, 90.0),)
    )
    mixed = 0.6 * water + 0.8 * other
    scale = np.float32(settings.strength)
    spread1 = settings.white_t1 * white + settings.grey_t1 * grey
    spread2 = settings.white_t2 * white + settings.grey_t2 * grey
    change = scale * spread1.astype(np.float32) * water
    depth = _cortical_depth(labels, white, voxel)
    cortex = np.isin(labels, _CORTEX)
    change += scale * np.float32(settings.depth) * (depth - 0.5) * cortex
    change += scale * np.float32(0.03) * regions * cortex
    near = np.exp(-ndimage.distance_transform_edt(~cortex, sampling=voxel) / 3.0)
    change += scale * np.float32(settings.superficial) * near.astype(np.float32) * white
    log1 += change
    log2 += scale * spread2.astype(np.float32) * mixed
    log2 += scale * np.float32(0.6 * settings.depth) * (depth - 0.5) * cortex
    t1[:], t2[:] = np.exp(log1), np.exp(log2)
    density *= np.exp(0.4 * change)
    if settings.vessels and settings.strength:
        _draw_vessels(maps, matter, voxel, settings.vessels, rng)


def _soften(
    log1: Array,
    log2: Array,
    deep: NDArray[np.bool_],
    matter: NDArray[np.bool_],
    voxel: tuple[float, float, float],
) -> None:
    """Make the borders of deep structures gradual, over about 3 mm."""
    widths = [1.2 / d for d in voxel]
    inside = ndimage.gaussian_filter(matter.astype(np.float32), widths)
    around = ndimage.binary_dilation(deep, iterations=2) & matter & (inside > 0.1)
    for volume in (log1, log2):
        mean = ndimage.gaussian_filter(volume * matter, widths)
        volume[around] = mean[around] / inside[around]


def _cortical_depth(
    labels: NDArray[np.int32], white: NDArray[np.bool_], voxel: tuple[float, float, float]
) -> Array:
    """Depth (i, j, k) within cortex: 0 at the white matter, 1 at the pial surface."""
    cortex = np.isin(labels, _CORTEX)
    to_white = ndimage.distance_transform_edt(~white, sampling=voxel)
    outside = ~(cortex | white | (labels > 0) & (labels < 25) & (labels != 24))
    to_pial = ndimage.distance_transform_edt(~outside, sampling=voxel)
    return np.asarray(to_white / np.maximum(to_white + to_pial, 1e-6), dtype=np.float32)


def _draw_vessels(
    maps: tuple[Array, Array, Array],
    matter: NDArray[np.bool_],
    voxel: tuple[float, float, float],
    per_100_ml: float,
    rng: np.random.Generator,
) -> None:
    """Draw vessels as chains of small balls; voxels are mixtures of vessel and tissue."""
    volume_ml = float(matter.sum() * np.prod(voxel)) * 1e-3
    count = rng.poisson(per_100_ml * volume_ml / 100)
    places = np.argwhere(matter)
    shape = (matter.shape[0], matter.shape[1], matter.shape[2])
    share = np.zeros(shape, dtype=np.float32)
    for _ in range(count):
        start = places[rng.integers(len(places))] * np.asarray(voxel)
        radius = rng.uniform(0.4, 0.9)
        for point in random_path(start, rng.uniform(8, 40), 0.7, rng):
            box, coverage = ball_coverage(shape, voxel, point / np.asarray(voxel), radius, 4)
            if coverage.size:
                np.maximum(share[box], coverage, out=share[box])
    share *= matter
    values = (VESSELS.t1, VESSELS.t2, 1.0)
    for volume, value in zip(maps, values, strict=True):
        volume[:] = volume ** (1 - share) * np.float32(value) ** share


def textured_anatomy(
    path: Path, settings: TextureSettings | None = None, seed: int = 0
) -> QuantitativeMaps:
    """Read a label map and draw maps from it, see `textured_maps`.

    Raises
    ------
    Mri2QmapError
        If the file is no label map of a brain.
    """
    image = load_nifti(path)
    labels = np.asarray(image.dataobj)
    if labels.ndim != 3:
        raise Mri2QmapError(f"anatomy {path}: it has {labels.ndim} dimensions; expected 3")
    return textured_maps(labels, image.affine, nifti_stem(path), settings, seed)

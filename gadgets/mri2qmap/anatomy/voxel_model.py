"""Tissue fractions on the grid of the simulated scan."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.signal import fftconvolve

from mri2qmap.anatomy.anatomy import Anatomy
from mri2qmap.anatomy.tissues import Tissue
from mri2qmap.errors import Mri2QmapError
from mri2qmap.pipeline.geometry import Geometry, Vector

PURE = 0.9
"""Fraction above which a voxel counts as a single tissue (paper, supplement S.II)."""

BALL_RADIUS = 0.99
"""Radius of the ball in units of half the field of view."""

ALIGNED = 1e-4
"""Tolerance for parallel grids, which are averaged exactly; 256 voxels then deviate by 0.03."""

BALL_TAPER = 0.12
"""Outer fraction of the radius over which the ball is tapered."""


class Region(StrEnum):
    """Part of the anatomy that is scanned."""

    HEAD = "head"
    BRAIN = "brain"
    BALL = "ball"


class Head(Protocol):
    """What places a scan in an anatomy."""

    @property
    def brain(self) -> NDArray[np.bool_]:
        """Voxels inside the skull (i, j, k)."""

    @property
    def affine(self) -> NDArray[np.float64]:
        """Homogeneous voxel indices (i, j, k, 1) to right-anterior-superior [mm]."""

    @property
    def voxel_size_mm(self) -> NDArray[np.float64]:
        """Voxel edge lengths along (i, j, k) [mm]."""

    def parenchyma(self) -> NDArray[np.bool_]:
        """Voxels of white and grey matter inside the skull (i, j, k)."""


@dataclass(frozen=True)
class TissueFractions:
    """Tissue fractions of the voxels of the scan.

    Attributes
    ----------
    tissues
        Tissues with T1 [s], T2 [s] and proton density.
    fractions
        Fraction of each tissue (tissue, z, y, x) float32. The sum is 1 inside the object, and less
        in partly empty voxels and in the taper of a ball.
    brain
        Voxels that are mostly inside the skull (z, y, x), bool.
    geometry
        Position of the grid in the patient.
    name
        Name of the anatomy.
    """

    tissues: tuple[Tissue, ...]
    fractions: NDArray[np.float32]
    brain: NDArray[np.bool_]
    geometry: Geometry
    name: str

    @property
    def composition(self) -> str:
        """Names of the tissues."""
        return ", ".join(tissue.name for tissue in self.tissues)

    def proton_density(self) -> NDArray[np.float32]:
        """Return the proton density (z, y, x): sum over tissues of fraction times density."""
        density: NDArray[np.float32] = np.tensordot(self._densities(), self.fractions, 1)
        return density

    def t1(self) -> NDArray[np.float32]:
        """Return T1 [s] (z, y, x), see `_mean_time`."""
        return self._mean_time([tissue.t1 for tissue in self.tissues])

    def t2(self) -> NDArray[np.float32]:
        """Return T2 [s] (z, y, x), see `_mean_time`."""
        return self._mean_time([tissue.t2 for tissue in self.tissues])

    def pure(self, tissue: Tissue) -> NDArray[np.bool_]:
        """Return the voxels (z, y, x) filled to more than `PURE` by a tissue."""
        return self.filled(tissue, PURE)

    def filled(self, tissue: Tissue, share: float) -> NDArray[np.bool_]:
        """Return the voxels (z, y, x) filled to more than a share by a tissue."""
        if tissue not in self.tissues:
            return np.zeros(self.brain.shape, dtype=bool)
        filled: NDArray[np.bool_] = self.fractions[self.tissues.index(tissue)] > share
        return filled

    def _densities(self) -> NDArray[np.float32]:
        return np.array([tissue.proton_density for tissue in self.tissues], dtype=np.float32)

    def _mean_time(self, times: list[float]) -> NDArray[np.float32]:
        """Return the inverse of the proton-weighted mean relaxation rate; 0 without protons.

        Rates are averaged instead of times: with 5 % CSF in grey matter, the mean T2 would more
        than double, although the signal, and a one-compartment fit to it, hardly changes.
        """
        weights = self._densities() / np.array(times, dtype=np.float32)
        rates = np.tensordot(weights, self.fractions, 1)
        return np.asarray(self.proton_density() / np.where(rates > 0, rates, 1), dtype=np.float32)


def tissue_fractions(
    anatomy: Anatomy,
    region: Region,
    matrix: tuple[int, int, int],
    field_of_view: Vector,
    directions: NDArray[np.float64] | None = None,
) -> TissueFractions:
    """Average an anatomy over the voxels of the scan.

    The mean over the box of each voxel (anti-aliasing) gives physical partial volume. The field of
    view is centred on the brain, a ball is placed where it contains most of the brain.

    Parameters
    ----------
    anatomy
        Anatomy.
    region
        Part of the anatomy to keep.
    matrix
        Number of voxels (z, y, x).
    field_of_view
        Extent of the grid (z, y, x) [m].
    directions
        (3, 3) rows read_dir, phase_dir, slice_dir (LPS), orthonormal; default are the patient's
        axes (left, posterior, head).

    Raises
    ------
    Mri2QmapError
        If the field of view contains nothing of the anatomy.
    """
    if region is not Region.HEAD:
        anatomy = anatomy.brain_only()
    geometry, weights = scan_grid(anatomy, region, matrix, field_of_view, directions)
    volumes = itertools.chain(anatomy.volumes(), [anatomy.brain])  # one at a time in memory
    *averages, brain = box_averages(volumes, anatomy.affine, geometry)
    fractions = np.stack(averages) * weights
    present = [i for i in range(len(anatomy.tissues)) if fractions[i].max() > 1e-3]
    if not present:
        raise Mri2QmapError(f"anatomy {anatomy.name}: the field of view contains nothing of it")
    return TissueFractions(
        tuple(anatomy.tissues[i] for i in present),
        np.ascontiguousarray(fractions[present]),
        brain > 0.5,
        geometry,
        anatomy.name,
    )


def scan_grid(
    anatomy: Head,
    region: Region,
    matrix: tuple[int, int, int],
    field_of_view: Vector,
    directions: NDArray[np.float64] | None = None,
) -> tuple[Geometry, NDArray[np.float32]]:
    """Place the grid of the scan in an anatomy, see `tissue_fractions`.

    Returns
    -------
    geometry
        Position of the grid in the patient.
    weights
        Factor of the signal (z, y, x) or a number: the taper of a ball, else 1.
    """
    axes = np.eye(3) if directions is None else np.asarray(directions, dtype=np.float64)
    radius = BALL_RADIUS * min(field_of_view) / 2
    centre = ball_centre(anatomy, radius) if region is Region.BALL else brain_centre(anatomy)
    spacing: list[float] = [f / n for f, n in zip(field_of_view, matrix, strict=True)]
    position, read, phase, slice_ = (_vector(v) for v in (centre * (-1e-3, -1e-3, 1e-3), *axes))
    geometry = Geometry(matrix, _vector(np.array(spacing)), position, read, phase, slice_)
    if region is Region.BALL:
        return geometry, ball_taper(geometry, radius)
    return geometry, np.ones((), dtype=np.float32)


def brain_centre(anatomy: Head) -> NDArray[np.float64]:
    """Return the centre of the bounding box of grey and white matter (RAS) [mm]."""
    matter = anatomy.parenchyma()
    matter = matter if matter.any() else anatomy.brain
    corners = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        used = np.flatnonzero(matter.any(axis=others))
        corners.append((used[0] + used[-1]) / 2)
    centre: NDArray[np.float64] = anatomy.affine[:3, :3] @ corners + anatomy.affine[:3, 3]
    return centre


def ball_centre(anatomy: Head, radius: float) -> NDArray[np.float64]:
    """Return the centre (RAS) [mm] of the ball of `radius` [m] that contains most of the brain.

    Among nearly equal positions, the one nearest to the centre of the brain is chosen.
    """
    step = 4.0
    edges = anatomy.voxel_size_mm
    # Block means of the brain mask, about `step` mm wide.
    block = np.maximum(1, np.rint(step / edges)).astype(int)
    shape = [math.ceil(n / b) * b for n, b in zip(anatomy.brain.shape, block, strict=True)]
    padded = np.zeros(shape, dtype=np.float32)
    padded[tuple(slice(n) for n in anatomy.brain.shape)] = anatomy.brain
    split = [v for n, b in zip(shape, block, strict=True) for v in (n // b, b)]
    coarse = padded.reshape(split).mean(axis=(1, 3, 5))
    half = np.ceil(radius * 1e3 / (edges * block)).astype(int)
    offsets = np.meshgrid(*(np.arange(-h, h + 1) for h in half), indexing="ij")
    distance = np.sqrt(sum((o * e * b) ** 2 for o, e, b in zip(offsets, edges, block, strict=True)))
    ball = (distance <= radius * 1e3).astype(np.float32)
    held = fftconvolve(coarse, ball, mode="same")
    candidates = np.argwhere(held >= held.max() - 0.005 * ball.sum())
    middle = np.array(ndimage.center_of_mass(coarse))
    best = candidates[np.argmin(np.linalg.norm((candidates - middle) * edges * block, axis=1))]
    index = best * block + (block - 1) / 2
    centre: NDArray[np.float64] = anatomy.affine[:3, :3] @ index + anatomy.affine[:3, 3]
    return centre


def ball_taper(geometry: Geometry, radius: float) -> NDArray[np.float32]:
    """Return weights (z, y, x): 1 in the ball, a raised cosine to 0 at `radius` [m], 0 outside."""
    z, y, x = (
        (np.arange(n) - n // 2) * d
        for n, d in zip(geometry.matrix, geometry.voxel_size, strict=True)
    )
    distance = np.sqrt(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2)
    faded = np.clip((distance / radius - (1 - BALL_TAPER)) / BALL_TAPER, 0, 1)
    return np.asarray(0.5 * (1 + np.cos(np.pi * faded)), dtype=np.float32)


def box_averages(
    volumes: Iterable[NDArray[Any]], affine: NDArray[np.float64], geometry: Geometry
) -> Iterator[NDArray[np.float32]]:
    """Average volumes over the box of each voxel of the scan.

    Parameters
    ----------
    volumes
        Volumes (i, j, k) of one shape.
    affine
        Homogeneous voxel indices (i, j, k, 1) of these volumes to right-anterior-superior [mm].
    geometry
        Grid of the scan.

    Yields
    ------
        Averages (z, y, x) float32, one for each volume; outside the volumes everything is zero.
    """
    to_mm = np.diag([-1e3, -1e3, 1e3, 1.0]) @ geometry.affine_lps
    # From voxel indices of the scan (x, y, z) to voxel indices of the source (i, j, k).
    to_source = np.linalg.inv(affine) @ to_mm
    size = np.abs(to_source[:3, :3])
    driver = size.argmax(axis=1)
    others = size.sum(axis=1) - size.max(axis=1)
    if sorted(driver) == [0, 1, 2] and np.all(others < ALIGNED * size.max()):
        yield from _overlap_averages(volumes, to_source, driver, geometry.matrix)
    else:
        yield from _point_averages(volumes, to_source, geometry.matrix)


def _overlap_averages(
    volumes: Iterable[NDArray[Any]],
    to_source: NDArray[np.float64],
    driver: NDArray[np.intp],
    shape: tuple[int, int, int],
) -> Iterator[NDArray[np.float32]]:
    """Average exactly, one axis after the other, for grids with parallel axes.

    `driver` is the scan axis (x, y, z) parallel to each axis of the source.
    """
    order = np.argsort([2 - int(d) for d in driver])  # array axes (z, y, x) of the source's axes
    overlaps: list[NDArray[np.float32]] = []
    used: list[slice] = []
    for volume in volumes:
        if not used:
            for axis in range(3):
                step = abs(to_source[axis, driver[axis]])
                count = shape[::-1][driver[axis]]
                middles = to_source[axis, driver[axis]] * np.arange(count) + to_source[axis, 3]
                low, high = middles[:, None] - step / 2, middles[:, None] + step / 2
                cells = np.arange(volume.shape[axis])
                shared = np.minimum(high, cells + 0.5) - np.maximum(low, cells - 0.5)
                overlap = np.maximum(shared, 0) / step
                columns = np.flatnonzero(overlap.any(axis=0))
                found = slice(columns[0], columns[-1] + 1) if len(columns) else slice(0, 1)
                used.append(found)
                overlaps.append(overlap[:, found].astype(np.float32))
        mean = volume[tuple(used)].astype(np.float32)
        for axis, overlap in enumerate(overlaps):
            mean = np.moveaxis(np.tensordot(overlap, mean, (1, axis)), 0, axis)
        yield np.ascontiguousarray(mean.transpose(order))


def _point_averages(
    volumes: Iterable[NDArray[Any]],
    to_source: NDArray[np.float64],
    shape: tuple[int, int, int],
) -> Iterator[NDArray[np.float32]]:
    """Average over points distributed evenly in the box of each voxel, for oblique grids."""
    steps = np.linalg.norm(to_source[:3, :3], axis=0)  # in source voxels
    per_axis = int(np.clip(math.ceil(1.5 * steps.max()), 2, 5))
    offsets = (np.arange(per_axis) + 0.5) / per_axis - 0.5
    points: list[tuple[NDArray[np.intp], NDArray[np.int64]]] = []
    for volume in volumes:
        if not points:
            for shift in itertools.product(offsets, repeat=3):
                source, inside = _nearest(to_source, shift, shape, volume.shape)
                voxels = np.flatnonzero(inside)
                points.append((voxels, source[voxels]))
        flat = volume.ravel()
        mean = np.zeros(math.prod(shape), dtype=np.float32)
        for voxels, source in points:
            mean[voxels] += flat[source]
        yield (mean / np.float32(per_axis**3)).reshape(shape)


def _nearest(
    to_source: NDArray[np.float64],
    shift: tuple[float, ...],
    shape: tuple[int, int, int],
    source_shape: tuple[int, ...],
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the flat source index of each voxel, displaced by `shift` (x, y, z), and validity."""
    z, y, x = (np.arange(n) + s for n, s in zip(shape, reversed(shift), strict=True))
    flat = np.zeros(shape, dtype=np.int64)
    inside = np.ones(shape, dtype=bool)
    for axis in range(3):
        row = to_source[axis]
        position = row[2] * z[:, None, None] + (row[1] * y + row[3])[:, None] + row[0] * x
        index = np.rint(position).astype(np.int64)
        inside &= (index >= 0) & (index < source_shape[axis])
        flat = flat * source_shape[axis] + index
    return flat.ravel(), inside.ravel()


def _vector(values: NDArray[np.float64]) -> Vector:
    x, y, z = (float(v) for v in values)
    return (x, y, z)

"""Signals of quantitative maps: every voxel of the source has its own T1 and T2.

The signal of a voxel is expanded in a few components that span the signals of all T1 and T2 that
occur, interpolated in a table. As for tissues, k-space is the sum over components of the transform
of an image, weighted in each frame by the signal evolution of the component. Voxels of the source
that fall into one voxel of the scan add up as signals, so partial volume is physical.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mri2qmap.anatomy.lesions import Lesion
from mri2qmap.anatomy.quantitative_maps import QuantitativeMaps
from mri2qmap.anatomy.tissues import GREY_MATTER, WHITE_MATTER, Tissue
from mri2qmap.anatomy.voxel_model import PURE, Region, box_averages, scan_grid
from mri2qmap.errors import Mri2QmapError
from mri2qmap.mrsignal.epg import fisp_signal
from mri2qmap.mrsignal.sequence import Sequence
from mri2qmap.pipeline.geometry import Geometry, Vector
from mri2qmap.simulation.transmit_field import compressed_signals

TABLE_STEP = 0.06
"""Step of log T1 and log T2 of the table. Linear interpolation between its entries has an error of
up to 3e-4 of the signal."""
TOLERANCE = 1e-3
"""Largest residual of a signal outside the space of the components, relative to the signal."""
SHORTEST_T1, SHORTEST_T2 = 0.05, 0.005
LONGEST_T1, LONGEST_T2 = 6.0, 3.0
"""Limits of T1 and T2 [s]; voxels beyond them are simulated with the limit."""
_FIELD_STEP = 0.0025  # see `transmit_field`
_TIME_STEP = 0.02
_FILLED = 1e-3


@dataclass(frozen=True)
class QuantitativeTruth:
    """Quantitative maps on the grid of the scan; see `TissueFractions` for the same of tissues.

    Attributes
    ----------
    t1_map, t2_map
        Relaxation times [s] (z, y, x): inverse of the proton-weighted mean rate of each voxel.
    density
        Mean proton density (z, y, x).
    masks
        Voxels filled to more than 90 % by white and by grey matter (z, y, x), bool.
    brain
        Voxels that are mostly inside the skull (z, y, x), bool.
    geometry
        Position of the grid in the patient.
    name
        Name of the anatomy.
    lesion_labels
        Number of the lesion that fills more than half of the voxel (z, y, x), int16, 0 for none;
        None without lesions.
    lesions
        The lesions, in the order of their numbers, from 1.
    """

    t1_map: NDArray[np.float32]
    t2_map: NDArray[np.float32]
    density: NDArray[np.float32]
    masks: dict[Tissue, NDArray[np.bool_]]
    brain: NDArray[np.bool_]
    geometry: Geometry
    name: str
    lesion_labels: NDArray[np.int16] | None = None
    lesions: tuple[Lesion, ...] = ()

    @property
    def composition(self) -> str:
        """What the anatomy consists of."""
        lesions = "".join(f", {lesion.name}" for lesion in self.lesions)
        return f"quantitative maps{lesions}"

    def t1(self) -> NDArray[np.float32]:
        """Return T1 [s] (z, y, x)."""
        return self.t1_map

    def t2(self) -> NDArray[np.float32]:
        """Return T2 [s] (z, y, x)."""
        return self.t2_map

    def proton_density(self) -> NDArray[np.float32]:
        """Return the proton density (z, y, x)."""
        return self.density

    def pure(self, tissue: Tissue) -> NDArray[np.bool_]:
        """Return the voxels (z, y, x) filled to more than 90 % by white or grey matter."""
        return self.masks[tissue]


@dataclass(frozen=True)
class SignalTable:
    """Components of the signals between limits of T1 and T2.

    Attributes
    ----------
    coefficients
        (T1, T2, component) float32.
    evolutions
        (component, frame) float32.
    first
        log T1 and log T2 of the first entry.
    """

    coefficients: NDArray[np.float32]
    evolutions: NDArray[np.float32]
    first: tuple[float, float]

    def images(
        self, t1: NDArray[np.float32], t2: NDArray[np.float32], density: NDArray[np.float32]
    ) -> Iterator[NDArray[np.float32]]:
        """Yield the image of each component for maps of any shape, times [s]."""
        filled = density > 0
        position = np.stack(
            [
                np.log(np.clip(times[filled], *limits)) - first
                for times, limits, first in zip((t1, t2), _LIMITS, self.first, strict=True)
            ]
        )
        position /= TABLE_STEP
        most = np.array(self.coefficients.shape[:2])[:, None] - 2
        before = np.clip(position.astype(np.int64), 0, most)
        a, b = np.clip(position - before, 0, 1).astype(np.float32)
        columns = self.coefficients.shape[1]
        corner = before[0] * columns + before[1]
        for component in range(len(self.evolutions)):
            values = self.coefficients[..., component].ravel()
            low = (1 - b) * values[corner] + b * values[corner + 1]
            high = (1 - b) * values[corner + columns] + b * values[corner + columns + 1]
            image = np.zeros(density.shape, dtype=np.float32)
            image[filled] = density[filled] * ((1 - a) * low + a * high)
            yield image


_LIMITS = ((SHORTEST_T1, LONGEST_T1), (SHORTEST_T2, LONGEST_T2))


def signal_table(
    t1_range: tuple[float, float], t2_range: tuple[float, float], sequence: Sequence
) -> SignalTable:
    """Simulate the signals of T1 and T2 [s] in these ranges and reduce them to components."""
    axes = []
    for values, limits in zip((t1_range, t2_range), _LIMITS, strict=True):
        low, high = np.log(np.clip(values, *limits))
        axes.append(low + TABLE_STEP * np.arange(math.ceil((high - low) / TABLE_STEP) + 2))
    first, second = (
        torch.from_numpy(np.exp(grid.ravel()).astype(np.float32))
        for grid in np.meshgrid(*axes, indexing="ij")
    )
    signals = fisp_signal(first, second, sequence).double().numpy()
    coefficients, evolutions = compressed_signals(signals, TOLERANCE)
    shape = (len(axes[0]), len(axes[1]), len(evolutions))
    return SignalTable(
        coefficients.reshape(shape).astype(np.float32),
        evolutions.astype(np.float32),
        (float(axes[0][0]), float(axes[1][0])),
    )


def scan_quantitative_maps(
    maps: QuantitativeMaps,
    region: Region,
    matrix: tuple[int, int, int],
    field_of_view: Vector,
    directions: NDArray[np.float64],
) -> tuple[QuantitativeMaps, QuantitativeTruth, NDArray[np.float32]]:
    """Place the scan in the anatomy and average the maps over its voxels.

    Parameters
    ----------
    maps
        The anatomy.
    region, matrix, field_of_view, directions
        See `mri2qmap.anatomy.voxel_model.tissue_fractions`.

    Returns
    -------
    maps
        The part of the anatomy around the scan.
    truth
        Maps on the grid of the scan.
    weights
        Factor of the signal (z, y, x) or a number.

    Raises
    ------
    Mri2QmapError
        If the field of view contains nothing of the anatomy.
    """
    if region is not Region.HEAD:
        maps = maps.brain_only()
    geometry, weights = scan_grid(maps, region, matrix, field_of_view, directions)
    maps = _around(maps, geometry)
    density = maps.proton_density
    labels = maps.lesion_labels
    volumes: list[NDArray[Any]] = [density, density / maps.t1, density / maps.t2]
    volumes += [maps.brain, maps.white_matter, maps.grey_matter]
    if labels is not None:
        volumes += [labels == number for number in range(1, 1 + len(maps.lesions))]
    mean, rate1, rate2, brain, white, grey, *shares = box_averages(volumes, maps.affine, geometry)
    if mean.max() < _FILLED:
        raise Mri2QmapError(f"anatomy {maps.name}: the field of view contains nothing of it")
    t1, t2 = (mean / np.where(rate > 0, rate, 1) for rate in (rate1, rate2))
    found = None
    if labels is not None:
        found = np.zeros(matrix, dtype=np.int16)
        for number, share in enumerate(shares, start=1):
            found[(share > 0.5) & (weights > 0.5)] = number
    masks = {
        WHITE_MATTER: (white * weights > PURE) & (found is None or found == 0),
        GREY_MATTER: (grey * weights > PURE) & (found is None or found == 0),
    }
    truth = QuantitativeTruth(
        t1.astype(np.float32),
        t2.astype(np.float32),
        mean * weights,
        masks,
        brain > 0.5,
        geometry,
        maps.name,
        found,
        maps.lesions,
    )
    return maps, truth, weights


def component_images(
    maps: QuantitativeMaps,
    geometry: Geometry,
    weights: NDArray[np.float32],
    sequence: Sequence,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Images (component, z, y, x) on the grid of the scan, and evolutions (component, frame)."""
    filled = maps.proton_density > 0
    ranges = [(float(t[filled].min()), float(t[filled].max())) for t in (maps.t1, maps.t2)]
    table = signal_table(ranges[0], ranges[1], sequence)
    images = table.images(maps.t1, maps.t2, maps.proton_density)
    averages = box_averages(images, maps.affine, geometry)
    return np.stack(list(averages)) * weights, table.evolutions


def component_images_in_field(
    truth: QuantitativeTruth, b1: NDArray[np.float32], sequence: Sequence
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """As `component_images`, at the relative transmit field of each voxel (z, y, x).

    Voxels of the scan are simulated one by one, with the truth's T1 and T2 in steps of 2 %: partial
    volume is that of the maps. A scan of 64 x 64 x 64 voxels takes minutes.
    """
    filled = truth.density > 0
    steps = np.stack(
        [
            np.rint(np.log(np.clip(truth.t1_map[filled], *_LIMITS[0])) / _TIME_STEP),
            np.rint(np.log(np.clip(truth.t2_map[filled], *_LIMITS[1])) / _TIME_STEP),
            np.rint(b1[filled] / _FIELD_STEP),
        ]
    ).astype(np.int64)
    kinds, which = np.unique(steps, axis=1, return_inverse=True)
    t1, t2 = (torch.from_numpy(np.exp(kind * _TIME_STEP).astype(np.float32)) for kind in kinds[:2])
    field = torch.from_numpy((kinds[2] * _FIELD_STEP).astype(np.float32))
    signals = fisp_signal(t1, t2, sequence, field).double().numpy()
    coefficients, evolutions = compressed_signals(signals, TOLERANCE)
    images = np.zeros((len(evolutions), *truth.density.shape), dtype=np.float32)
    images[:, filled] = coefficients[which.ravel()].T * truth.density[filled]
    return images, evolutions.astype(np.float32)


def _around(maps: QuantitativeMaps, geometry: Geometry) -> QuantitativeMaps:
    """Crop an anatomy to the grid of the scan, with a margin."""
    to_source = np.linalg.inv(maps.affine) @ np.diag([-1e3, -1e3, 1e3, 1.0]) @ geometry.affine_lps
    ends = [(-1, n) for n in reversed(geometry.matrix)]
    corners = np.array([[x, y, z, 1] for x in ends[0] for y in ends[1] for z in ends[2]])
    positions = (corners @ to_source.T)[:, :3]
    shape = np.array(maps.t1.shape)
    low = np.clip(np.floor(positions.min(0)) - 1, 0, shape - 1).astype(int)
    high = np.clip(np.ceil(positions.max(0)) + 2, low + 1, shape).astype(int)
    box = (slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2]))
    affine = maps.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ low

    def part(volume: NDArray[np.generic] | None) -> NDArray[np.generic] | None:
        return None if volume is None else volume[box]

    names = ("t1", "t2", "proton_density", "brain", "white_matter", "grey_matter", "b1")
    volumes = {name: part(getattr(maps, name)) for name in (*names, "lesion_labels")}
    return replace(maps, affine=affine, **volumes)  # type: ignore[arg-type]

"""An anatomy as a sum of components: images, each with one signal evolution."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mri2qmap.anatomy.anatomy import Anatomy
from mri2qmap.anatomy.quantitative_maps import QuantitativeMaps
from mri2qmap.anatomy.tissues import Tissue
from mri2qmap.anatomy.voxel_model import Region, TissueFractions, box_averages, tissue_fractions
from mri2qmap.mrsignal.epg import fisp_signal
from mri2qmap.mrsignal.sequence import Sequence
from mri2qmap.pipeline.geometry import Vector
from mri2qmap.simulation.quantitative_scan import (
    QuantitativeTruth,
    component_images,
    component_images_in_field,
    scan_quantitative_maps,
)
from mri2qmap.simulation.transmit_field import tissues_in_field, transmit_field

Array = NDArray[np.float32]


class Grid(NamedTuple):
    """Where the scan lies in the anatomy, see `mri2qmap.anatomy.voxel_model.tissue_fractions`."""

    region: Region
    matrix: tuple[int, int, int]
    field_of_view: Vector
    directions: NDArray[np.float64]


class ScannedAnatomy(NamedTuple):
    """What is measured.

    Attributes
    ----------
    truth
        Tissue fractions or quantitative maps on the grid of the scan.
    images
        (component, z, y, x) float32.
    signals
        Signal evolution of each component (component, frame) float32.
    b1
        Relative transmit field (z, y, x); None if it is uniform.
    """

    truth: TissueFractions | QuantitativeTruth
    images: Array
    signals: Array
    b1: Array | None


def scan_anatomy(
    anatomy: Anatomy | QuantitativeMaps, grid: Grid, b1_spread: float, sequence: Sequence
) -> ScannedAnatomy:
    """Place a scan in an anatomy and expand its signals in components.

    Parameters
    ----------
    anatomy
        Tissues or quantitative maps.
    grid
        Where it is scanned.
    b1_spread
        Deviation of the transmit field from 1, see `transmit_field`; 0: the field of the anatomy,
        which is uniform if it has none.
    sequence
        Flip angles and timing.

    Raises
    ------
    Mri2QmapError
        If the field of view contains nothing of the anatomy.
    """
    if isinstance(anatomy, QuantitativeMaps):
        maps, measured, weights = scan_quantitative_maps(anatomy, *grid)
        b1 = _field_of_maps(maps, measured, b1_spread)
        if b1 is None:
            parts = component_images(maps, measured.geometry, weights, sequence)
        else:
            parts = component_images_in_field(measured, b1, sequence)
        return ScannedAnatomy(measured, *parts, b1)
    truth = tissue_fractions(anatomy, *grid)
    if b1_spread:
        b1 = transmit_field(truth.fractions.sum(0) > 0, b1_spread)
        parts = tissues_in_field(truth.tissues, truth.fractions, b1, sequence)
        return ScannedAnatomy(truth, *parts, b1)
    return ScannedAnatomy(truth, truth.fractions, tissue_signals(truth.tissues, sequence), None)


def _field_of_maps(maps: QuantitativeMaps, truth: QuantitativeTruth, spread: float) -> Array | None:
    """The requested field, or else that of the anatomy, on the grid of the scan."""
    if spread:
        return transmit_field(truth.density > 0, spread)
    if maps.b1 is None:
        return None
    filled = maps.proton_density > 0
    volumes = [np.where(filled, maps.b1, np.float32(0)), filled]
    field, share = box_averages(volumes, maps.affine, truth.geometry)
    return np.where(share > 0, field / np.maximum(share, 1e-6), 1).astype(np.float32)


def tissue_signals(tissues: tuple[Tissue, ...], sequence: Sequence) -> Array:
    """Return the signal evolution of each tissue (tissue, frame), including proton density."""
    t1, t2, density = (
        torch.tensor([getattr(tissue, name) for tissue in tissues], dtype=torch.float32)
        for name in ("t1", "t2", "proton_density")
    )
    evolutions: Array = (density[:, None] * fisp_signal(t1, t2, sequence)).numpy()
    return evolutions

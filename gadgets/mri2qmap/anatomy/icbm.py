"""The ICBM152 brain, with synthetic head tissues around it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mri2qmap.anatomy.anatomy import Anatomy
from mri2qmap.anatomy.tissues import (
    CSF,
    DURA,
    FAT,
    GREY_MATTER,
    MARROW,
    MUSCLE,
    TISSUES,
    WHITE_MATTER,
    Tissue,
)
from mri2qmap.machine.optional_packages import load_optional

HEAD_LAYERS_MM: tuple[tuple[Tissue | None, float], ...] = (
    (CSF, 2.0),
    (DURA, 1.0),
    (None, 2.0),
    (MARROW, 2.0),
    (None, 2.0),
    (FAT, 4.0),
    (MUSCLE, 3.0),
)
"""Thickness of the layers around the ICBM brain, from the inside out; None is compact bone."""


def icbm_anatomy(head: bool = True) -> Anatomy:
    """Return the average brain ICBM152 (2009, symmetric) at 1 mm, from the files of nilearn.

    The template is an average over 152 people, and its T1 image is skull-stripped. The tissue
    probabilities are squared and normalised again, which reverses part of the blur due to
    averaging. The remainder of the skull-stripped mask is CSF. With `head`, layers of CSF, dura,
    bone with marrow, fat and skin (`HEAD_LAYERS_MM`) surround the smooth hull of the brain. They
    are not anatomically correct, but provide signal outside the brain.

    Raises
    ------
    Mri2QmapError
        If nilearn is not installed.
    """
    datasets: Any = load_optional("nilearn.datasets", "the ICBM brain")
    images = [
        getattr(datasets, f"load_mni152_{kind}template")(resolution=1)
        for kind in ("", "gm_", "wm_")
    ]
    template, grey, white = (np.asarray(i.dataobj, dtype=np.float32) for i in images)
    affine = images[0].affine
    brain = ndimage.binary_fill_holes(template > 0)
    probabilities = np.stack([np.clip(1 - grey - white, 0, 1), grey, white]) * brain
    probabilities = np.maximum(probabilities, 0) ** 2
    probabilities /= np.maximum(probabilities.sum(0), 1e-6)
    fractions = dict(zip((CSF, GREY_MATTER, WHITE_MATTER), probabilities, strict=True))
    if head:
        fractions, brain, affine = _with_head(fractions, brain, affine)
    tissues = tuple(tissue for tissue in TISSUES if tissue in fractions)
    stack = np.stack([fractions[tissue] for tissue in tissues])
    return Anatomy("ICBM152", tissues, None, stack, brain, affine)


def _with_head(
    fractions: dict[Tissue, NDArray[np.float32]],
    brain: NDArray[np.bool_],
    affine: NDArray[np.float64],
) -> tuple[dict[Tissue, NDArray[np.float32]], NDArray[np.bool_], NDArray[np.float64]]:
    """Pad the volume and add `HEAD_LAYERS_MM` around the hull of the brain."""
    margin = 24
    fractions = {tissue: np.pad(f, margin) for tissue, f in fractions.items()}
    brain = np.pad(brain, margin)
    affine = affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ np.full(3, margin)
    # Distances on a 2 mm grid, with an eighth of the voxels, are sufficient for the smooth hull.
    coarse = brain[::2, ::2, ::2]
    closing = 8.0
    away = 2 * ndimage.distance_transform_edt(~coarse)
    hull = 2 * ndimage.distance_transform_edt(away < closing) >= closing
    signed = 2 * (ndimage.distance_transform_edt(~hull) - ndimage.distance_transform_edt(hull))
    signed = ndimage.gaussian_filter(signed, 1.0)
    axes = [np.arange(n) / 2 for n in brain.shape]
    distance = _interpolate(signed.astype(np.float32), axes)
    inner = -np.inf
    outer = 0.0
    for tissue, thickness in HEAD_LAYERS_MM:
        outer += thickness
        layer = ((distance > inner) & (distance <= outer) & ~brain).astype(np.float32)
        if tissue is not None:
            fractions[tissue] = np.maximum(fractions.get(tissue, np.float32(0)), layer)
        inner = outer
    return fractions, brain, affine


def _interpolate(
    volume: NDArray[np.float32], axes: list[NDArray[np.float64]]
) -> NDArray[np.float32]:
    """Interpolate linearly on the grid of positions `axes`, one axis after the other."""
    for axis, positions in enumerate(axes):
        low = np.minimum(positions.astype(int), volume.shape[axis] - 2)
        weight = np.minimum(positions - low, 1).astype(np.float32)
        weight = weight.reshape([-1 if i == axis else 1 for i in range(3)])
        volume = volume.take(low, axis) * (1 - weight) + volume.take(low + 1, axis) * weight
    return volume

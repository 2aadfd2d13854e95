"""Simulation of a non-uniform transmit field (B1+).

The reconstruction matches at discrete levels of B1; the simulation uses the field of each voxel.
The signals of all tissues over the range of the field lie close to a space of about 50 dimensions
(most of them for fluid, whose echoes interfere; grey matter needs 4). K-space is the sum over these
components of the transform of an image, as it is the sum over tissues for a uniform field.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from mri2qmap.anatomy.tissues import Tissue
from mri2qmap.mrsignal.epg import fisp_signal
from mri2qmap.mrsignal.sequence import Sequence

LARGEST_SPREAD = 0.6
"""Largest deviation of the relative field from 1."""

_STEP = 0.0025
"""Step of the field values at which tissues are simulated. The echoes of fluid with a long T2 vary
on a scale of 0.02; linear interpolation then has an error below 1e-3 of the signal."""
_TOLERANCE = 3e-3
"""Largest relative residual of any signal outside the space of components."""


def transmit_field(inside: NDArray[np.bool_], spread: float) -> NDArray[np.float32]:
    """Return a relative transmit field (z, y, x), highest near the centre, as in a head at 3 T.

    Parameters
    ----------
    inside
        Object (z, y, x), bool; there the field varies from 1 - `spread` to 1 + `spread`. Outside it
        stays within this range.
    spread
        Largest deviation from the nominal field.
    """
    z, y, x = np.meshgrid(*((np.arange(n) - n // 2) / (n / 2) for n in inside.shape), indexing="ij")
    # Weakest at the temples and inferior, and weaker in two opposite corners than in the others.
    distance = 1.1 * (x - 0.05) ** 2 + 0.8 * (y + 0.1) ** 2 + 0.9 * (z - 0.15) ** 2 + 0.3 * x * y
    strength = np.exp(-distance)
    low, high = strength[inside].min(), strength[inside].max()
    relative = np.clip((strength - low) / max(high - low, np.finfo(float).tiny), 0, 1)
    return np.asarray(1 - spread + 2 * spread * relative, dtype=np.float32)


def tissues_in_field(
    tissues: tuple[Tissue, ...],
    fractions: NDArray[np.float32],
    field: NDArray[np.float32],
    sequence: Sequence,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Decompose the signal of each voxel, at its own field, into images and signal evolutions.

    The signal is the sum over components of image times evolution.

    Parameters
    ----------
    tissues
        Tissues with T1, T2 [s] and proton density.
    fractions
        Fraction of each tissue (tissue, z, y, x).
    field
        Relative transmit field (z, y, x).
    sequence
        Flip angles and timing.

    Returns
    -------
    images
        (component, z, y, x) float32.
    signals
        Evolution of each component (component, frame) float32, including proton density.
    """
    low, high = float(field.min()), float(field.max())
    count = math.ceil((high - low) / _STEP) + 2
    fields = torch.linspace(low, high, count)
    t1, t2, density = (
        torch.tensor([getattr(t, name) for t in tissues], dtype=torch.float32)
        for name in ("t1", "t2", "proton_density")
    )
    evolutions = fisp_signal(
        t1.repeat_interleave(count),
        t2.repeat_interleave(count),
        sequence,
        fields.repeat(len(tissues)),
    )
    evolutions *= density.repeat_interleave(count)[:, None]
    coefficients, signals = compressed_signals(evolutions.double().numpy(), _TOLERANCE)
    coefficients = coefficients.reshape(len(tissues), count, -1)

    position = (field - low) * ((count - 1) / max(high - low, _STEP))
    before = np.clip(position.astype(np.int64), 0, count - 2)
    share = position - before
    images = np.zeros((len(signals), *field.shape), dtype=np.float32)
    for image, values in zip(images, coefficients.transpose(2, 0, 1), strict=True):
        for fraction, at in zip(fractions, values, strict=True):
            image += fraction * ((1 - share) * at[before] + share * at[before + 1])
    return images, signals.astype(np.float32)


def compressed_signals(
    evolutions: NDArray[np.float64], tolerance: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Expand signals in as few components as a tolerance allows.

    Parameters
    ----------
    evolutions
        Signals (evolution, frame).
    tolerance
        Largest residual of a signal, relative to its norm.

    Returns
    -------
    coefficients
        (evolution, component).
    components
        Orthonormal (component, frame).
    """
    norms = np.linalg.norm(evolutions, axis=1, keepdims=True)
    left, values, right = np.linalg.svd(evolutions / norms, full_matrices=False)
    coefficients = left * values
    missed = np.sqrt(np.cumsum(coefficients[:, ::-1] ** 2, axis=1))[:, ::-1].max(0)
    count = max(1, int(np.count_nonzero(missed > tolerance)))
    return norms * coefficients[:, :count], right[:count]

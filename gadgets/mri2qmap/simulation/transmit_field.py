"""A transmit field that varies over the head, and tissues whose signals follow it.

The reconstruction matches at levels of B1; here there are none. The signals of all tissues at all
fields of the range lie close to a space of some 50 dimensions (most of them for fluid, whose echoes
interfere; 4 do for grey matter): k-space is the sum over these of the transform of an image, as
without a field it is the sum over tissues.
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

_STEP = 0.0025
"""Between the fields at which tissues are simulated. The echoes of fluid with a long T2 come and go
over 0.02 of the field; linear interpolation then errs by less than 1e-3 of the signal."""
_TOLERANCE = 3e-3
"""Largest part of any tissue's signal that the small space may miss."""


def transmit_field(inside: NDArray[np.bool_], spread: float) -> NDArray[np.float32]:
    """Relative transmit field (z, y, x), brighter in the middle, as of a head at 3 T.

    Parameters
    ----------
    inside
        The object (z, y, x): there the field goes from 1 - `spread` to 1 + `spread`. Around it
        it stays within.
    spread
        Largest deviation from the nominal field.
    """
    z, y, x = np.meshgrid(*((np.arange(n) - n // 2) / (n / 2) for n in inside.shape), indexing="ij")
    # Weakest at the temples and below, with two opposite corners darker than the others.
    distance = 1.1 * (x - 0.05) ** 2 + 0.8 * (y + 0.1) ** 2 + 0.9 * (z - 0.15) ** 2 + 0.3 * x * y
    strength = np.exp(-distance)
    low, high = strength[inside].min(), strength[inside].max()
    relative = np.clip((strength - low) / max(high - low, np.finfo(float).tiny), 0, 1)
    return (1 - spread + 2 * spread * relative).astype(np.float32)


def tissues_in_field(
    tissues: tuple[Tissue, ...],
    fractions: NDArray[np.float32],
    field: NDArray[np.float32],
    sequence: Sequence,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Images and evolutions whose sum of products is the signal of each voxel at its own field.

    Parameters
    ----------
    tissues
        With T1, T2 [s] and proton density.
    fractions
        Share of each voxel (tissue, z, y, x).
    field
        Relative transmit field (z, y, x).
    sequence
        Flip angles and timing.

    Returns
    -------
    images
        (component, z, y, x).
    signals
        Evolution of each component (component, frame), proton density included.
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
    coefficients, signals = _small_space(evolutions.double().numpy())
    coefficients = coefficients.reshape(len(tissues), count, -1)

    position = (field - low) * ((count - 1) / max(high - low, _STEP))
    before = np.clip(position.astype(np.int64), 0, count - 2)
    share = position - before
    images = np.zeros((len(signals), *field.shape), dtype=np.float32)
    for image, values in zip(images, coefficients.transpose(2, 0, 1), strict=True):
        for fraction, at in zip(fractions, values, strict=True):
            image += fraction * ((1 - share) * at[before] + share * at[before + 1])
    return images, signals.astype(np.float32)


def _small_space(
    evolutions: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coefficients (evolution, component) and the fewest components (component, frame) that do."""
    norms = np.linalg.norm(evolutions, axis=1, keepdims=True)
    left, values, right = np.linalg.svd(evolutions / norms, full_matrices=False)
    coefficients = left * values
    missed = np.sqrt(np.cumsum(coefficients[:, ::-1] ** 2, axis=1))[:, ::-1].max(0)
    count = max(1, int(np.count_nonzero(missed > _TOLERANCE)))
    return norms * coefficients[:, :count], right[:count]

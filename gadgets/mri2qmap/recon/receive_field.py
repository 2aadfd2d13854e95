"""Receive field, estimated from proton density and T1."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mri2qmap.recon.object_mask import SIGNAL, object_mask

_SHORTEST_WAVE = 0.08
"""Shortest wavelength of the field [m]: coils are further away from the tissue than this."""
_STIFFNESS = 1e-3
"""Weight of the squared curvature of log field, in units of (0.1 m / 2 pi)^4 for a mean voxel."""
_KNOTS = 8
"""Values of T1 between which the logarithm of the proton density is interpolated."""
_T1_RANGE = (0.02, 0.98)
"""Quantiles of T1 at the first and the last of them."""
_MOST_VOXELS = 20_000
_VOXELS_PER_UNKNOWN = 10
_BORDER = 0.003
"""Distance from the border of the object to the voxels that are used [m]: those at the border hold
air, too, which lowers their proton density but not their T1."""
_OUTLIER = 4.0
"""Residual, in robust standard deviations, from which on a voxel has no weight."""
_LEAST_SPREAD = 0.02
_MOST_FITS = 20
_CONVERGED = 1e-4


def receive_field(
    density: NDArray[np.floating], t1: NDArray[np.floating], voxel_size: Sequence[float]
) -> NDArray[np.float32] | None:
    """Estimate the receive field that a map of the proton density contains.

    The logarithm of the measured density is taken as the sum of that of a smooth field and of a
    function of T1: tissue with less water has a shorter T1. Both are found in one least-squares
    fit, so neither segmentation nor constants of the tissue are needed. Voxels that do not
    follow, such as lesions and vessels, lose their weight (Tukey's biweight).

    The field is a sum of cosines with wavelengths of 8 cm and more, of which strongly curved ones
    are penalised.

    Parameters
    ----------
    density
        Magnitude of the proton density (z, y, x), arbitrary units.
    t1
        T1 (z, y, x) [s].
    voxel_size
        Size of a voxel along z, y and x [m].

    Returns
    -------
    NDArray
        (z, y, x) float32; its geometric mean over the object is 1. Outside of the object, the
        values are continued, from 1 to the largest one inside: a division does not amplify noise
        there. None if the object has too few voxels.

    Notes
    -----
    Volz et al., "Quantitative proton density mapping: correcting the receiver sensitivity bias via
    pseudo proton densities", NeuroImage 63 (2012) 540-552, use the relation of PD and T1 with
    constants of healthy brain; the cosines with penalised curvature are those of Ashburner and
    Friston, "Unified segmentation", NeuroImage 26 (2005) 839-851.
    """
    density = np.where(np.isfinite(density) & (t1 > 0), density, 0)
    inside = object_mask(density, SIGNAL)
    if not inside.any():
        return None
    waves = [_waves(n, size) for n, size in zip(density.shape, voxel_size, strict=True)]
    squared = sum(
        np.meshgrid(*(number**2 for _, number in waves), indexing="ij"),
        start=np.zeros(()),
    )
    kept = squared <= (2 * math.pi / _SHORTEST_WAVE) ** 2 * (1 + 1e-9)
    kept[0, 0, 0] = False  # a constant is a part of the function of T1
    places = _places(_without_border(inside, voxel_size), int(kept.sum()) + _KNOTS)
    if places is None or not kept.any():
        return None
    of_field = _products(waves, places)[:, kept.ravel()]
    of_t1 = _hats(np.log(t1[places].astype(np.float64)))
    penalty = np.zeros(of_field.shape[1] + of_t1.shape[1])
    penalty[: of_field.shape[1]] = _STIFFNESS * squared[kept] ** 2 * (0.1 / (2 * math.pi)) ** 4
    fitted = _robust_fit(
        np.concatenate([of_field, of_t1], axis=1),
        np.log(density[places].astype(np.float64)),
        penalty,
    )
    coefficients = np.zeros(kept.shape)
    coefficients[kept] = fitted[: of_field.shape[1]]
    logarithm: NDArray[np.float32] = coefficients.astype(np.float32)
    for basis, _ in waves:  # the first axis becomes the last: after three, the order is as before
        logarithm = np.tensordot(logarithm, basis.astype(np.float32), axes=(0, 1))
    logarithm -= logarithm[inside].mean(dtype=np.float64)
    logarithm[~inside] = np.clip(logarithm[~inside], 0, logarithm[inside].max())
    field: NDArray[np.float32] = np.exp(logarithm)
    return field


def _waves(n: int, size: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cosines along one axis (n, waves), and their wave numbers [rad/m]."""
    numbers = np.arange(1 + int(2 * n * size / _SHORTEST_WAVE), dtype=np.float64)
    centres = (np.arange(n, dtype=np.float64) + 0.5) / n
    return np.cos(np.pi * numbers * centres[:, None]), np.pi * numbers / (n * size)


def _without_border(inside: NDArray[np.bool_], voxel_size: Sequence[float]) -> NDArray[np.bool_]:
    from scipy.ndimage import minimum_filter  # takes time to load, and gadgets start without it

    sides = [1 + 2 * max(1, round(_BORDER / size)) for size in voxel_size]
    eroded: NDArray[np.bool_] = minimum_filter(inside, sides, mode="nearest")
    return eroded


def _places(inside: NDArray[np.bool_], unknowns: int) -> tuple[NDArray[np.intp], ...] | None:
    """Indices of evenly chosen voxels; None if there are too few for so many unknowns."""
    indices = np.flatnonzero(inside)
    if len(indices) < _VOXELS_PER_UNKNOWN * unknowns:
        return None
    count = min(len(indices), _MOST_VOXELS)
    chosen = indices[np.linspace(0, len(indices) - 1, count).astype(np.intp)]
    return np.unravel_index(chosen, inside.shape)


def _products(
    waves: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]],
    places: tuple[NDArray[np.intp], ...],
) -> NDArray[np.float64]:
    """All products of a cosine along each axis (voxels, products)."""
    z, y, x = (basis[index] for (basis, _), index in zip(waves, places, strict=True))
    products: NDArray[np.float64] = np.einsum("va,vb,vc->vabc", z, y, x, optimize=True)
    return products.reshape(len(z), -1)


def _hats(log_t1: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights (voxels, knots) of linear interpolation between knots, constant beyond them."""
    knots = np.unique(np.quantile(log_t1, np.linspace(*_T1_RANGE, _KNOTS)).round(4))
    return np.stack([np.interp(log_t1, knots, unit) for unit in np.eye(len(knots))], axis=1)


def _robust_fit(
    design: NDArray[np.float64], values: NDArray[np.float64], penalty: NDArray[np.float64]
) -> NDArray[np.floating]:
    """Coefficients of a penalised fit, with weights that are fitted again to its residuals."""
    weights = np.ones(len(values))
    coefficients: NDArray[np.floating] = np.zeros(design.shape[1])
    for _ in range(_MOST_FITS):
        weighted = design * weights[:, None]
        normal = weighted.T @ design
        normal[np.diag_indices_from(normal)] += weights.sum() * (penalty + 1e-9)
        before, coefficients = coefficients, np.linalg.solve(normal, weighted.T @ values)
        if np.abs(coefficients - before).max() < _CONVERGED:
            break
        residual = values - design @ coefficients
        spread = 1.4826 * float(np.median(np.abs(residual - np.median(residual))))
        distance = residual / (_OUTLIER * max(spread, _LEAST_SPREAD))
        weights = np.where(np.abs(distance) < 1, (1 - distance**2) ** 2, 0.0)
    return coefficients

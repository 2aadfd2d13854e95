"""Random fields and shapes: the variation of tissue parameters within a tissue."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft

Array = NDArray[np.float32]


def power_law_field(
    shape: tuple[int, int, int],
    voxel_mm: tuple[float, float, float],
    wavelengths_mm: tuple[float, float],
    exponent: float,
    rng: np.random.Generator,
) -> Array:
    """Draw a Gaussian random field with a power-law spectrum.

    Parameters
    ----------
    shape
        Number of voxels along the three axes.
    voxel_mm
        Voxel edge lengths along the same axes [mm].
    wavelengths_mm
        Shortest and longest wavelength [mm]; longer ones have the power of the longest.
    exponent
        b of the power k^-b per mode at spatial frequency k; 0 is white noise, 3 has the same
        power in every octave.
    rng
        Random number generator.

    Returns
    -------
        Field of the given shape, float32, mean 0, expected variance 1. It is periodic.
    """
    shortest, longest = wavelengths_mm
    frequencies = [
        fft.fftfreq(n, d).astype(np.float32) if axis < 2 else fft.rfftfreq(n, d).astype(np.float32)
        for axis, (n, d) in enumerate(zip(shape, voxel_mm, strict=True))
    ]
    a, b, c = frequencies
    k = np.sqrt(a[:, None, None] ** 2 + b[:, None] ** 2 + c**2)
    amplitude = np.maximum(k, 1 / longest) ** np.float32(-exponent / 2)
    amplitude[k > 1 / shortest] = 0
    amplitude[0, 0, 0] = 0
    # Columns of the half spectrum stand for two modes each, except for the first and, if the
    # number of voxels is even, the last.
    copies = np.full(len(c), 2.0)
    copies[0] = 1
    if shape[2] % 2 == 0:
        copies[-1] = 1
    power = float((amplitude.astype(np.float64) ** 2 * copies).sum())
    if power == 0:
        return np.zeros(shape, dtype=np.float32)
    spectrum = fft.rfftn(rng.standard_normal(shape, np.float32), workers=-1)
    field: Array = fft.irfftn(spectrum * amplitude, s=shape, workers=-1)
    return field * np.float32(np.sqrt(np.prod(shape) / power))


def ball_coverage(
    shape: tuple[int, ...],
    voxel_mm: tuple[float, float, float],
    centre: NDArray[np.float64],
    radius_mm: float,
    samples: int = 5,
) -> tuple[tuple[slice, slice, slice], Array]:
    """Return the fraction of each voxel inside a ball, in the box that contains the ball.

    Parameters
    ----------
    shape
        Number of voxels of the volume.
    voxel_mm
        Voxel edge lengths [mm].
    centre
        Centre (3,) [voxels].
    radius_mm
        Radius [mm].
    samples
        Points along each edge of a voxel.

    Returns
    -------
    box
        Slices of the volume, empty if the ball lies outside of it.
    coverage
        Fractions from 0 to 1 in this box, float32.
    """
    edges = np.asarray(voxel_mm)
    reach = radius_mm / edges + 1
    low = np.maximum(np.floor(centre - reach), 0).astype(int)
    high = np.minimum(np.ceil(centre + reach) + 1, shape).astype(int)
    box = (slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2]))
    offsets = (np.arange(samples) + 0.5) / samples - 0.5
    squares = []
    for axis in range(3):
        points = np.arange(low[axis], max(high[axis], low[axis]))[:, None] + offsets
        squares.append((((points - centre[axis]) * edges[axis]) ** 2).ravel())
    inside = (squares[0][:, None, None] + squares[1][:, None] + squares[2] <= radius_mm**2).astype(
        np.float32
    )
    split = [v for n in inside.shape for v in (n // samples, samples)]
    return box, np.asarray(inside.reshape(split).mean(axis=(1, 3, 5)), dtype=np.float32)


def squared_distance(
    shape: tuple[int, ...], voxel_mm: tuple[float, float, float], centre: ArrayLike
) -> NDArray[np.float64]:
    """Return the squared distance [mm^2] of each voxel from a centre (3,) [voxels]."""
    offsets = np.ogrid[tuple(slice(n) for n in shape)]
    parts = zip(offsets, np.asarray(centre), voxel_mm, strict=True)
    return np.asarray(sum(((offset - c) * d) ** 2 for offset, c, d in parts))


def random_path(
    start: NDArray[np.float64], length_mm: float, step_mm: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draw a smoothly bent path (points, 3) [mm] that starts at `start` [mm]."""
    steps = max(2, round(length_mm / step_mm))
    direction = rng.standard_normal(3)
    points = [np.asarray(start, dtype=np.float64)]
    for _ in range(steps):
        direction = direction / np.linalg.norm(direction) + 0.25 * rng.standard_normal(3)
        points.append(points[-1] + step_mm * direction / np.linalg.norm(direction))
    return np.stack(points)

"""Receive coils: current loops on a cylinder around the head."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mri2qmap.pipeline.geometry import Geometry

MIN_RADIUS = 0.15
"""Radius of the cylinder [m], enlarged if the field of view requires it."""

LOOP_SEGMENTS = 24
"""Straight segments by which a loop is approximated."""

COARSE_POINTS = 25
"""Points along each axis at which fields are computed before interpolation."""


def coil_sensitivities(geometry: Geometry, coils: int) -> NDArray[np.complex64]:
    """Return the sensitivities of an array of loops, by the Biot-Savart law.

    The loops lie in rings on a cylinder along the head-foot axis, facing the axis. Their
    sensitivity is B_x - i B_y, the field component rotating against the precession. It is
    normalised to a root-sum-of-squares of 1 at the centre and varies elsewhere, as on a scanner. A
    single coil is uniform.

    Parameters
    ----------
    geometry
        Grid of the scan.
    coils
        Number of coils.

    Returns
    -------
        (coil, z, y, x) complex64.

    Raises
    ------
    ValueError
        If the number of coils is not positive.
    """
    if coils < 1:
        raise ValueError(f"coils must be at least 1, got {coils}")
    if coils == 1:
        return np.ones((1, *geometry.matrix), dtype=np.complex64)
    # The fields are smooth, so they are computed at few points and interpolated with splines.
    extent = np.array(geometry.field_of_view[::-1])
    grid = [np.linspace(-0.5, 0.5, COARSE_POINTS) * e for e in extent]
    x, y, z = np.meshgrid(*grid, indexing="ij")
    turn = np.array([geometry.read_dir, geometry.phase_dir, geometry.slice_dir]).T
    points = np.stack([x, y, z], axis=-1).transpose(2, 1, 0, 3) @ turn.T
    radius = max(MIN_RADIUS, 0.75 * float(extent.max()))
    positions = [
        (np.arange(n) - n // 2) / n * (COARSE_POINTS - 1) + (COARSE_POINTS - 1) / 2
        for n in geometry.matrix
    ]
    along_z, along_y, along_x = (_spline_weights(at) for at in positions)
    fields = np.stack([_loop_field(points, *loop) for loop in _loops(coils, radius)])
    centre = (COARSE_POINTS // 2,) * 3
    fields /= np.linalg.norm(fields[:, *centre])
    maps = np.empty((coils, *geometry.matrix), dtype=np.complex64)
    for sensitivity, field in zip(maps, fields, strict=True):
        rows = np.einsum("yj,xk,ijk->iyx", along_y, along_x, field, optimize=True)
        sensitivity[:] = np.tensordot(along_z, rows.astype(np.complex64), 1)
    return maps


def _spline_weights(positions: NDArray[np.float64]) -> NDArray[np.float32]:
    """Weights (positions, COARSE_POINTS) of cubic splines through values at 0, 1, 2, ...

    In three dimensions, they are applied to one axis after another.
    """
    units = np.eye(COARSE_POINTS)
    columns = [
        ndimage.map_coordinates(unit, positions[None], order=3, mode="nearest") for unit in units
    ]
    return np.stack(columns, 1).astype(np.float32)


def receive_field(
    maps: NDArray[np.complex64], covariance: NDArray[np.complex128] | None = None
) -> NDArray[np.float32]:
    """Return the sensitivity of the prewhitened array (z, y, x): sqrt(s^H C^-1 s) in every voxel.

    Without a noise covariance C it is the root-sum-of-squares of the maps. Images combined with
    maps of unit root-sum-of-squares are shaded by it.

    Parameters
    ----------
    maps
        Coil sensitivities (coil, z, y, x).
    covariance
        Noise covariance (coil, coil), or None.
    """
    if covariance is None:
        return np.asarray(np.linalg.norm(maps, axis=0), dtype=np.float32)
    whitening = np.linalg.inv(np.linalg.cholesky(covariance))
    return np.asarray(np.linalg.norm(np.tensordot(whitening, maps, 1), axis=0), dtype=np.float32)


def noise_covariance(coils: int, rng: np.random.Generator) -> NDArray[np.complex128]:
    """Return a random noise covariance (coil, coil) with unequal gains and correlated neighbours.

    It is Hermitian and positive definite, with a mean variance of 1.
    """
    order = np.arange(coils)
    apart = np.abs(order[:, None] - order)
    apart = np.minimum(apart, coils - apart)
    phases = np.exp(1j * rng.uniform(0, 2 * np.pi, coils))
    covariance = 0.45 ** apart.astype(float) * phases[:, None] * phases.conj()
    # Distances around the ring can make the matrix indefinite; clipped eigenvalues correct this.
    values, vectors = np.linalg.eigh(covariance)
    covariance = (vectors * np.maximum(values, 0.05)) @ vectors.conj().T
    gains = np.exp(rng.uniform(math.log(0.7), math.log(1.4), coils))
    covariance = covariance * gains[:, None] * gains
    return np.asarray(covariance * coils / np.trace(covariance).real)


def _loops(coils: int, radius: float) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return centre [m] and outward normal (LPS) of each loop, in staggered rings."""
    rings = 1 if coils <= 6 else 2 if coils <= 20 else 3
    counts = [coils // rings + (1 if ring < coils % rings else 0) for ring in range(rings)]
    heights = (np.arange(rings) - (rings - 1) / 2) * 0.8 * radius
    loops = []
    for ring, (count, height) in enumerate(zip(counts, heights, strict=True)):
        for angle in 2 * np.pi * (np.arange(count) + 0.5 * (ring % 2)) / count:
            outward = np.array([math.cos(angle), math.sin(angle), 0.0])
            loops.append((radius * outward + np.array([0.0, 0.0, height]), outward))
    return loops


def _loop_field(
    points: NDArray[np.float64], centre: NDArray[np.float64], normal: NDArray[np.float64]
) -> NDArray[np.complex128]:
    """Return B_x - i B_y (arbitrary units) at points (..., 3) [m] of a loop around `normal`."""
    axial = np.array([0.0, 0.0, 1.0])
    across = np.cross(axial, normal)
    size = 0.4 * float(np.linalg.norm(centre[:2]))
    angles = 2 * np.pi * np.arange(LOOP_SEGMENTS) / LOOP_SEGMENTS
    field = np.zeros(points.shape)
    for angle in angles:
        wire = centre + size * (math.cos(angle) * across + math.sin(angle) * axial)
        current = -math.sin(angle) * across + math.cos(angle) * axial
        away = points - wire
        field += np.cross(current, away) / np.linalg.norm(away, axis=-1, keepdims=True) ** 3
    return np.asarray(field[..., 0] - 1j * field[..., 1])

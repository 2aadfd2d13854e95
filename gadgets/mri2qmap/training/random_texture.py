"""Random variation of tissue parameters: texture, lesions and vessels of any strength.

The brains of `mri2qmap.anatomy.texture` follow published values. A network must also know what is
rarer: uniform tissue and tissue as rough as noise, many lesions and none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mri2qmap.anatomy.random_fields import ball_coverage, power_law_field, random_path

Array = NDArray[np.float32]

_UNIFORM_SHARE = 0.15
"""Share of volumes without texture."""
_LARGEST = 0.15
"""Largest standard deviation of log T1."""
_FLUID_T1 = 2.0
"""T1 [s] from which on a voxel is fluid, which does not vary."""


@dataclass(frozen=True)
class Inclusion:
    """Something else within the tissue.

    Attributes
    ----------
    share
        Fraction of each voxel that it fills (z, y, x).
    t1, t2
        Relaxation times [s].
    proton_density
        Proton density.
    """

    share: Array
    t1: float
    t2: float
    proton_density: float


@dataclass(frozen=True)
class RandomTexture:
    """Variation of the parameters of a volume.

    Attributes
    ----------
    log_t1, log_t2, log_density
        Change of the logarithm of T1, T2 and proton density (z, y, x).
    inclusions
        Lesions and vessels.
    """

    log_t1: Array
    log_t2: Array
    log_density: Array
    inclusions: tuple[Inclusion, ...]

    def apply(self, t1: Array, t2: Array, density: Array) -> tuple[Array, Array, Array]:
        """Return T1, T2 [s] and proton density (z, y, x) with the variation, except in fluid."""
        tissue = t1 < _FLUID_T1
        changes = (self.log_t1, self.log_t2, self.log_density)
        varied = [v * np.exp(c * tissue) for v, c in zip((t1, t2, density), changes, strict=True)]
        for inclusion in self.inclusions:
            filled = (inclusion.share > 0) & tissue & (density > 0)
            share = inclusion.share[filled]
            values = (inclusion.t1, inclusion.t2, inclusion.proton_density)
            for volume, value in zip(varied, values, strict=True):
                volume[filled] = volume[filled] ** (1 - share) * np.float32(value) ** share
        t1, t2, density = (v.astype(np.float32) for v in varied)
        return t1, t2, density


def draw_texture(n: int, voxel_mm: float, rng: np.random.Generator) -> RandomTexture:
    """Draw the variation of a volume.

    Parameters
    ----------
    n
        Voxels along each side.
    voxel_mm
        Voxel size [mm].
    rng
        Random number generator.
    """
    shape, voxel = (n, n, n), (voxel_mm,) * 3
    strength = 0.0 if rng.random() < _UNIFORM_SHARE else _LARGEST * rng.random() ** 1.5
    wavelengths = (2 * voxel_mm, float(rng.uniform(15, 60)))
    exponent = float(rng.uniform(0.5, 4.0))
    first, second, place = (
        power_law_field(shape, voxel, wavelengths, slope, rng) for slope in (exponent,) * 2 + (3,)
    )
    common = float(rng.uniform(-0.2, 1))
    second = common * first + np.float32(np.sqrt(1 - common**2)) * second
    # Some regions are rougher than others.
    local = np.float32(strength) * np.exp(np.float32(rng.uniform(0, 0.6)) * place)
    log_t1 = local * first
    log_t2 = local * second * np.float32(rng.uniform(0.6, 2.0))
    log_density = np.float32(rng.uniform(0.0, 0.5)) * log_t1
    faint, inclusions = _lesions(shape, voxel_mm, rng)
    log_t1 = log_t1 + faint * np.float32(rng.uniform(-0.15, 0.25))
    log_t2 = log_t2 + faint * np.float32(rng.uniform(-0.15, 0.25))
    vessels = _vessels(shape, voxel_mm, rng)
    clipped = (np.clip(change, -0.7, 0.7) for change in (log_t1, log_t2, log_density))
    a, b, c = (change.astype(np.float32) for change in clipped)
    return RandomTexture(a, b, c, (*inclusions, *vessels))


def _lesions(
    shape: tuple[int, int, int], voxel_mm: float, rng: np.random.Generator
) -> tuple[Array, list[Inclusion]]:
    """Coverage of faint lesions (z, y, x), and the others."""
    faint = np.zeros(shape, dtype=np.float32)
    shares = [np.zeros(shape, dtype=np.float32) for _ in range(3)]
    count = int(rng.integers(1, 12)) if rng.random() < 0.6 else 0
    for _ in range(count):
        kind = int(rng.integers(4))
        volume = faint if kind == 3 else shares[kind]
        centre = rng.uniform(0.1, 0.9, 3) * shape[0]
        radius = float(np.exp(rng.uniform(np.log(1.0), np.log(6.0))))
        edges = voxel_mm * np.exp(rng.normal(0, 0.2, 3))  # an ellipsoid is a ball of other voxels
        box, share = ball_coverage(shape, tuple(edges), centre, radius)
        if share.size:
            np.maximum(volume[box], share, out=volume[box])
            if kind == 2 and radius > 3:  # a rim
                box, core = ball_coverage(shape, tuple(edges), centre, 0.6 * radius)
                volume[box] = np.minimum(volume[box], 1 - core)
                np.maximum(shares[0][box], core, out=shares[0][box])
    values = (
        (rng.uniform(1.0, 2.2), rng.uniform(0.1, 0.35), rng.uniform(0.75, 1.0)),  # hyperintense
        (rng.uniform(0.6, 1.3), rng.uniform(0.015, 0.045), rng.uniform(0.6, 0.9)),  # bleed
        (rng.uniform(0.25, 0.6), rng.uniform(0.05, 0.1), rng.uniform(0.7, 0.9)),  # contrast agent
    )
    found = [
        Inclusion(share, *(float(v) for v in value))
        for share, value in zip(shares, values, strict=True)
        if share.any()
    ]
    return faint, found


def _vessels(
    shape: tuple[int, int, int], voxel_mm: float, rng: np.random.Generator
) -> list[Inclusion]:
    if rng.random() < 0.5:
        return []
    share = np.zeros(shape, dtype=np.float32)
    extent = shape[0] * voxel_mm
    for _ in range(int(rng.integers(1, 25))):
        radius = float(rng.uniform(0.3, 1.2))
        path = random_path(rng.uniform(0, extent, 3), rng.uniform(8, 40), max(0.7, radius), rng)
        for point in path:
            box, coverage = ball_coverage(shape, (voxel_mm,) * 3, point / voxel_mm, radius, 3)
            if coverage.size:
                np.maximum(share[box], coverage, out=share[box])
    t1, t2 = rng.uniform(1.3, 3.5), float(np.exp(rng.uniform(np.log(0.04), np.log(1.0))))
    return [Inclusion(share, float(t1), t2, float(rng.uniform(0.8, 1.1)))]

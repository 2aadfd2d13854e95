"""Multi-axis spiral-projection trajectory with one spiral arm per frame (after Cao et al. 2022).

Each arm is a planar spiral through the centre of k-space. The arms are rotated about three axes by
steps of a generalised golden ratio, so that all runs of consecutive frames cover the directions
evenly and no two arms coincide.

All planes intersect at the centre, so the sampling density decreases with the distance k from it:
as k^(1/p - 3) if the radius of an arm grows as time^p. The gradient system determines p: 2/3 in the
slew-rate-limited regime (default, k^-1.5), 1/2 in the amplitude-limited regime (k^-1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.words import counted

FULL_DENSITY = 3.8
"""Samples per voxel and coil of the fully sampled (R = 1) scan (48 groups in the paper)."""

SAMPLES_PER_MATRIX = 4
"""Target length of an arm, in samples per voxel of the longest side of the matrix."""

DEFAULT_EXPONENT = 2 / 3
"""Spiral of constant acceleration, limited by the slew rate."""

MAX_SAMPLES = 65535
"""Largest number of samples of an ISMRMRD acquisition."""


@dataclass(frozen=True)
class SamplingPlan:
    """Number and length of the arms.

    Attributes
    ----------
    groups, frames
        Readout groups (inversions) and time frames in each; one arm per group and frame.
    samples
        Samples of an arm.
    """

    groups: int
    frames: int
    samples: int

    def __str__(self) -> str:
        """Return the three numbers in words."""
        numbers = ((self.groups, "group"), (self.frames, "frame"), (self.samples, "sample"))
        return " x ".join(counted(number, noun) for number, noun in numbers)

    @property
    def total(self) -> int:
        """Number of samples of one coil."""
        return self.groups * self.frames * self.samples


def plan_sampling(
    matrix: tuple[int, int, int], frames: int, acceleration: float, groups: int | None = None
) -> SamplingPlan:
    """Choose groups and samples such that there are 3.8 / R complex samples per voxel and coil.

    Parameters
    ----------
    matrix
        Number of voxels (z, y, x).
    frames
        Time frames L.
    acceleration
        Acceleration R.
    groups
        Number of readout groups; if None, chosen such that arms have about four samples per voxel
        of the longest side of the matrix.

    Raises
    ------
    Mri2QmapError
        If arms would need fewer than 2 or more than 65535 samples.
    """
    total = FULL_DENSITY / acceleration * math.prod(matrix)
    if groups is None:
        groups = max(1, round(total / (frames * SAMPLES_PER_MATRIX * max(matrix))))
    samples = round(total / (frames * groups))
    if not 2 <= samples <= MAX_SAMPLES:
        raise Mri2QmapError(
            f"acceleration {acceleration:g} with {frames} frames and "
            f"{counted(groups, 'group')} requires arms of {samples} samples; 2 to "
            f"{MAX_SAMPLES} are possible; change the number of "
            "groups or frames, or the acceleration"
        )
    return SamplingPlan(groups, frames, samples)


def spiral_arm(
    samples: int, turns: float, density_exponent: float = DEFAULT_EXPONENT
) -> NDArray[np.float64]:
    """Return a planar Archimedean spiral from the centre to 0.5 cycles/voxel.

    Parameters
    ----------
    samples
        Number of samples.
    turns
        Revolutions from the centre to the edge.
    density_exponent
        p in radius = 0.5 t^p, with time t from 0 to 1: 1/2 is constant speed along the arm, 2/3
        constant acceleration, 1 constant angular speed. Below 1/2 the second sample would be far
        from the centre and leave a gap around it.

    Returns
    -------
        (samples, 2) float64 [cycles/voxel].
    """
    radius = np.linspace(0, 1, samples) ** density_exponent
    angle = 2 * np.pi * turns * radius
    arm: NDArray[np.float64] = 0.5 * radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    return arm


def golden_rotations(count: int) -> NDArray[np.float64]:
    """Return rotation matrices (count, 3, 3) that cover SO(3) evenly for any count.

    The normal of the plane and the angle in the plane advance by powers of the generalised golden
    ratio g of three dimensions, g^4 = g + 1 (golden means after Chan et al. 2009).
    """
    ratio = float(np.roots([1, 0, 0, -1, -1]).real.max())
    steps = 1 / ratio ** np.arange(1, 4)
    u, v, w = np.modf(np.arange(count)[:, None] * steps)[0].T
    cosine, azimuth, twist = 2 * u - 1, 2 * np.pi * v, 2 * np.pi * w
    return np.asarray(_about_z(azimuth) @ _about_y(np.arccos(cosine)) @ _about_z(twist))


def spiral_projections(
    plan: SamplingPlan,
    matrix: tuple[int, int, int],
    density_exponent: float = DEFAULT_EXPONENT,
    turns: float | None = None,
) -> NDArray[np.float32]:
    """Return the trajectory of a whole scan.

    Parameters
    ----------
    plan
        Numbers of groups, frames and samples.
    matrix
        Number of voxels (z, y, x).
    density_exponent
        See `spiral_arm`.
    turns
        Revolutions of an arm; if None, chosen such that neighbouring samples are one Nyquist step
        apart on average.

    Returns
    -------
        (groups, frames, samples, 3) float32, columns kx, ky, kz [cycles/voxel], within a sphere of
        radius 0.5.
    """
    if turns is None:
        # The length of an Archimedean spiral of T turns to radius 0.5 is about pi T / 2.
        turns = max(1.0, 2 * plan.samples / (math.pi * max(matrix)))
    arm = spiral_arm(plan.samples, turns, density_exponent)
    # Arms of one frame are consecutive in the golden order, which spreads frames and groups evenly.
    rotations = golden_rotations(plan.groups * plan.frames)
    rotations = rotations.reshape(plan.frames, plan.groups, 3, 3).swapaxes(0, 1)
    trajectory: NDArray[np.float32] = np.einsum(
        "gfij,nj->gfni", rotations[..., :2], arm, optimize=True
    ).astype(np.float32)
    return trajectory


def _about_z(angle: NDArray[np.float64]) -> NDArray[np.float64]:
    c, s, o, e = np.cos(angle), np.sin(angle), np.zeros_like(angle), np.ones_like(angle)
    return np.stack([c, -s, o, s, c, o, o, o, e], axis=-1).reshape(-1, 3, 3)


def _about_y(angle: NDArray[np.float64]) -> NDArray[np.float64]:
    c, s, o, e = np.cos(angle), np.sin(angle), np.zeros_like(angle), np.ones_like(angle)
    return np.stack([c, o, s, o, e, o, -s, o, c], axis=-1).reshape(-1, 3, 3)

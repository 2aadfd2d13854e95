"""Position and orientation of the image grid in patient coordinates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Geometry:
    """Position and orientation of a volume with axes (z, y, x).

    Array axis x is the readout direction, y the phase-encoding direction and z the slice direction
    of the acquisition headers. `position` is the centre of voxel ``n // 2`` of each axis, the
    origin of the Fourier transform.

    Attributes
    ----------
    matrix
        Number of voxels (z, y, x).
    voxel_size
        Voxel edge lengths (z, y, x) [m].
    position
        Patient coordinates (LPS) of the centre voxel [m].
    read_dir, phase_dir, slice_dir
        Unit vectors (LPS) along array axes x, y and z. They are orthonormal, but may form a
        left-handed system, which ISMRMRD allows.
    """

    matrix: tuple[int, int, int]
    voxel_size: Vector
    position: Vector = (0.0, 0.0, 0.0)
    read_dir: Vector = (1.0, 0.0, 0.0)
    phase_dir: Vector = (0.0, 1.0, 0.0)
    slice_dir: Vector = (0.0, 0.0, 1.0)

    def __post_init__(self) -> None:
        axes = np.array([self.read_dir, self.phase_dir, self.slice_dir])
        if not np.allclose(axes @ axes.T, np.eye(3), atol=1e-3):
            raise ValueError(
                "Geometry: read_dir, phase_dir and slice_dir must be orthonormal, got "
                f"{self.read_dir}, {self.phase_dir}, {self.slice_dir}"
            )

    @property
    def field_of_view(self) -> Vector:
        """Extent of the grid (z, y, x) [m]."""
        z, y, x = (n * d for n, d in zip(self.matrix, self.voxel_size, strict=True))
        return (z, y, x)

    @property
    def affine_lps(self) -> NDArray[np.float64]:
        """Map from homogeneous voxel indices (x, y, z, 1) to patient coordinates (LPS) [m]."""
        directions = np.array([self.read_dir, self.phase_dir, self.slice_dir]).T
        scaled = directions * np.array(self.voxel_size[::-1])
        centre = np.array([n // 2 for n in self.matrix[::-1]])
        affine = np.eye(4)
        affine[:3, :3] = scaled
        affine[:3, 3] = np.array(self.position) - scaled @ centre
        return affine

    @property
    def affine_ras_mm(self) -> NDArray[np.float64]:
        """The same map to right-anterior-superior coordinates (RAS) [mm], as used in NIfTI."""
        affine: NDArray[np.float64] = np.diag([-1e3, -1e3, 1e3, 1.0]) @ self.affine_lps
        return affine

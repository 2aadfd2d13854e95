"""The relaxation arrays of the NIST/ISMRM system phantom at 3 T.

The fill between the spheres gives no signal here. In the real phantom it is water, whose Gibbs
ringing affects the spheres if voxels are larger than 1 mm: at 2.25 mm by up to 7 % of T1 and T2,
and far more in the spheres of lowest signal.
"""

from __future__ import annotations

import numpy as np

from mri2qmap.anatomy.anatomy import Anatomy
from mri2qmap.anatomy.tissues import Tissue

RADIUS_MM = 68.0
"""Radius of the ball that contains the spheres; that of the real phantom is 100 mm."""
SPHERE_RADIUS_MM = 7.5
_OUTER, _INNER = (10, 50.0), (4, 20.0)
"""Number of spheres on the outer and inner circle of a plate, and radius of the circle [mm]."""
_PLATE_MM = 20.0
"""Distance of each plate from the centre."""
_VOXEL_MM = 0.75

#: T1 and T2 [s] of spheres 1 to 14 at 3 T (Stupic et al., Magn Reson Med 86:1194, 2021).
_TIMES: dict[str, tuple[tuple[float, float], ...]] = {
    "NiCl2": (
        (0.021719, 0.01583),
        (0.03084, 0.02238),
        (0.04453, 0.03186),
        (0.06270, 0.04570),
        (0.08900, 0.06430),
        (0.1259, 0.09030),
        (0.1753, 0.1273),
        (0.24713, 0.1808),
        (0.3515, 0.2555),
        (0.4967, 0.3596),
        (0.7060, 0.5101),
        (0.9841, 0.7179),
        (1.454, 1.077),
        (1.989, 1.465),
    ),
    "MnCl2": (
        (0.09090, 0.00559),
        (0.1269, 0.00791),
        (0.1769, 0.01124),
        (0.2442, 0.01581),
        (0.3365, 0.02256),
        (0.4584, 0.03197),
        (0.6086, 0.04642),
        (0.8017, 0.06407),
        (1.044, 0.09689),
        (1.332, 0.13327),
        (1.604, 0.19094),
        (1.907, 0.2781),
        (2.173, 0.4035),
        (2.480, 0.5813),
    ),
}

SPHERES = tuple(
    Tissue(f"{array} {number}", t1, t2, 1.0)
    for array, times in _TIMES.items()
    for number, (t1, t2) in enumerate(times, start=1)
)


def system_phantom() -> Anatomy:
    """Return the spheres on two plates as an anatomy; the whole ball counts as inside the skull.

    Each plate has ten spheres on the outer and four on the inner circle. The plate with NiCl2 (T1
    array) is inferior to the plate with MnCl2 (T2 array). The proton density of all spheres is 1.
    """
    half = int(np.ceil(RADIUS_MM / _VOXEL_MM)) + 1
    line = (np.arange(-half, half + 1) * _VOXEL_MM).astype(np.float32)
    x, y, z = line[:, None, None], line[None, :, None], line[None, None, :]
    inside = x**2 + y**2 + z**2 <= RADIUS_MM**2
    classes = np.zeros(inside.shape, dtype=np.uint8)
    for number, (centre_x, centre_y, centre_z) in enumerate(sphere_centres_mm(), start=1):
        distance = (x - centre_x) ** 2 + (y - centre_y) ** 2 + (z - centre_z) ** 2
        classes[distance <= SPHERE_RADIUS_MM**2] = number
    affine = np.diag([_VOXEL_MM] * 3 + [1.0])
    affine[:3, 3] = -half * _VOXEL_MM
    return Anatomy("NIST system phantom", SPHERES, classes, None, inside, affine)


def sphere_centres_mm() -> list[tuple[float, float, float]]:
    """Return the centres (x, y, z) of `SPHERES` in the patient [mm]."""
    centres = []
    for plate in (-_PLATE_MM, _PLATE_MM):
        for count, radius in (_OUTER, _INNER):
            for angle in 2 * np.pi * np.arange(count) / count:
                centres.append((radius * np.cos(angle), radius * np.sin(angle), plate))
    return centres

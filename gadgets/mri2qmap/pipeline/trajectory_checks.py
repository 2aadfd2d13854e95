"""Check that trajectories are in cycles per voxel and sample three dimensions."""

from __future__ import annotations

import ismrmrd
import numpy as np

from mri2qmap.errors import Mri2QmapError
from mri2qmap.pipeline.findings import scan_error
from mri2qmap.pipeline.scan_header import ScanInfo
from mri2qmap.pipeline.trajectory_units import (
    LARGEST_COMPONENT,
    SMALLEST_AXIS_EXTENT,
    SMALLEST_EXTENT,
    possible_units,
)

CONVENTION = "kx, ky, kz in cycles per voxel, from -0.5 to 0.5, are expected"
SLIGHT_EXCESS = 0.55
"""A trajectory that exceeds 0.5 by less than this is probably in the right unit."""


class TrajectoryChecks:
    """Checks the trajectories of a scan.

    Parameters
    ----------
    scan
        Scan header.

    Attributes
    ----------
    extent
        Largest absolute kx, ky and kz [cycles/voxel] of the trajectories that were accepted.
    """

    def __init__(self, scan: ScanInfo) -> None:
        self._scan = scan
        self.extent = np.zeros(3)
        self._count = 0
        self._refused = False

    def check(self, acquisition: ismrmrd.Acquisition, name: str) -> None:
        """Check the trajectory of an imaging acquisition and, after one group, their extent.

        Raises
        ------
        Mri2QmapError
            If the trajectory is missing, not three-dimensional or in another unit.
        """
        self._count += 1
        try:
            self._check_trajectory(acquisition, name)
            if self._count == self._scan.sequence.n_frames:
                self._check_extent()
        except Mri2QmapError:
            self._refused = True
            raise

    def finish(self) -> None:
        """Check the extent of all trajectories of the scan, unless one was refused.

        Raises
        ------
        Mri2QmapError
            If an axis is not sampled, or only the centre of k-space is.
        """
        if self._refused:
            return
        self._check_extent()
        flat = np.flatnonzero(self.extent < SMALLEST_AXIS_EXTENT)
        if flat.size:
            raise scan_error(
                "trajectory-flat",
                "",
                f"the trajectory never exceeds {self.extent[flat[0]]:.3g} along "
                f"k{'xyz'[flat[0]]}: it does not sample three dimensions",
                CONVENTION,
                "reconstruct only 3D scans, or correct this axis of the trajectory",
            )

    def _check_trajectory(self, acquisition: ismrmrd.Acquisition, name: str) -> None:
        dimensions = acquisition.trajectory_dimensions
        if dimensions != 3:
            found = "no trajectory" if dimensions == 0 else f"a {dimensions}D trajectory"
            raise scan_error(
                "trajectory-dimensions",
                name,
                f"it has {found}",
                f"a 3D trajectory is expected in every imaging acquisition ({CONVENTION})",
                "write the trajectory into each imaging acquisition",
            )
        trajectory = acquisition.traj
        if not np.all(np.isfinite(trajectory)):
            sample = np.argwhere(~np.isfinite(trajectory))[0][0]
            raise scan_error(
                "trajectory-not-finite",
                name,
                f"sample {sample} of the trajectory is not finite",
                "finite numbers are expected",
                "correct the trajectory, or mark these samples as discarded",
            )
        extent = np.abs(trajectory).max(axis=0)
        if extent.max() > LARGEST_COMPONENT:
            if extent.max() < SLIGHT_EXCESS:
                code, hint = (
                    "trajectory-excess",
                    "the excess is too small for another unit: mark these samples as discarded "
                    "(discard_pre, discard_post) or correct the trajectory",
                )
            else:
                code = "trajectory-unit"
                hint = possible_units(extent.astype(np.float64), self._scan)
            raise scan_error(
                code,
                name,
                f"its trajectory reaches {extent.max():.4g}, more than 0.5",
                CONVENTION,
                hint,
            )
        self.extent = np.maximum(self.extent, extent)

    def _check_extent(self) -> None:
        if self.extent.max() < SMALLEST_EXTENT:
            raise scan_error(
                "trajectory-small",
                "",
                f"the trajectories of {self._count} acquisitions reach only "
                f"{self.extent.max():.4g}",
                CONVENTION,
                possible_units(self.extent, self._scan),
            )

"""Settings of the training volumes."""

from __future__ import annotations

from dataclasses import dataclass

from mri2qmap.errors import Mri2QmapError


@dataclass(frozen=True)
class ImageSettings:
    """Distribution of the training volumes; lengths in millimetres.

    Parameters
    ----------
    size : int
        Voxels along each side of a volume.
    pool : int
        Number of volumes in memory, over all processes; at least one for each patch of a batch.
    refresh : int
        Mean number of training steps between two new volumes.
    fine_voxels, coarse_voxels : (float, float)
        Two ranges of the voxel size [mm].
    fine_fraction : float
        Fraction of volumes with a voxel size in ``fine_voxels``.
    ball_fraction, brain_fraction : float
        Fraction of volumes restricted to a tapered ball, and of skull-stripped volumes (from label
        maps only); the others show the whole head.
    smooth_fraction : float
        Fraction of volumes with soft edges, as in an average brain.
    bias_fraction : float
        Fraction of images with a bias field.
    bias_strength : float
        Largest polynomial coefficient of the logarithm of the bias field.
    coloured_fraction, scaled_fraction, map_error_fraction : float
        Fractions of patches with band-limited noise, with noise of spatially varying strength, and
        with the skewed errors of images synthesised from erroneous T1, T2 and PD maps. The others
        get white Gaussian noise, as do acquired images, whose T1, T2 and PD are unknown.
    loop_fraction : float
        Fraction of patches that are taken from ADMM recordings.
    acquired_fraction : float
        Fraction of volumes from acquired images, if label maps are given too.
    cache_gib : float
        Memory for acquired images after resampling [GiB]; images that do not fit are read again
        when needed.

    Raises
    ------
    Mri2QmapError
        If a value is out of range.
    """

    size: int = 64
    pool: int = 32
    refresh: int = 24
    fine_voxels: tuple[float, float] = (1.0, 2.5)
    coarse_voxels: tuple[float, float] = (2.5, 4.0)
    fine_fraction: float = 0.6
    ball_fraction: float = 0.35
    brain_fraction: float = 0.25
    smooth_fraction: float = 0.25
    bias_fraction: float = 0.5
    bias_strength: float = 0.15
    coloured_fraction: float = 0.1
    scaled_fraction: float = 0.1
    map_error_fraction: float = 0.15
    loop_fraction: float = 0.0
    acquired_fraction: float = 0.5
    cache_gib: float = 4.0

    def __post_init__(self) -> None:
        """Validate the values."""
        shares = self.coloured_fraction, self.scaled_fraction, self.map_error_fraction
        regions = self.ball_fraction, self.brain_fraction
        singles = (
            self.fine_fraction,
            self.bias_fraction,
            self.smooth_fraction,
            self.loop_fraction,
            self.acquired_fraction,
        )
        if min(*shares, *regions, *singles) < 0 or max(sum(shares), sum(regions), *singles) > 1:
            raise Mri2QmapError(
                "training config, images: fractions, and sums of those that exclude each other,"
                " must lie between 0 and 1"
            )
        if min(self.size, self.pool, self.refresh) < 1 or self.bias_strength < 0:
            raise Mri2QmapError(
                "training config, images: size, pool and refresh must be positive,"
                " bias_strength not negative"
            )
        if self.cache_gib < 0:
            raise Mri2QmapError("training config, images: cache_gib must not be negative")
        for low, high in (self.fine_voxels, self.coarse_voxels):
            if not 0.5 <= low <= high <= 8:
                raise Mri2QmapError(
                    f"training config, images: voxel sizes {low} to {high} mm, expected an"
                    " ascending pair between 0.5 and 8 mm"
                )

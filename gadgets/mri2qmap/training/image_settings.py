"""What training volumes look like."""

from __future__ import annotations

from dataclasses import dataclass

from mri2qmap.errors import Mri2QmapError


@dataclass(frozen=True)
class ImageSettings:
    """What the training volumes look like; lengths in millimetres.

    Parameters
    ----------
    size : int
        Voxels along each side of a volume.
    pool : int
        Volumes held at a time, by all processes together; at least one for each patch of a batch.
    refresh : int
        Training steps between two new volumes, on average.
    fine_voxels, coarse_voxels : (float, float)
        The two ranges of voxel size, and ``fine_fraction`` the share of the first.
    ball_fraction, brain_fraction : float
        Share of volumes inside a tapered ball, and of skull-stripped ones among those from label
        maps; the rest show all there is.
    smooth_fraction : float
        Share of volumes with edges as soft as those of an average brain.
    bias_fraction, bias_strength : float
        Share of images with a bias field, and the largest polynomial coefficient of its logarithm.
    coloured_fraction, scaled_fraction, map_error_fraction : float
        Share of patches whose errors are band-limited noise, noise of locally varying strength,
        or the skewed errors of images synthesised from wrong T1, T2 and PD; the rest get white
        Gaussian noise, and so do weighted images that were acquired, whose T1, T2 and PD nobody
        knows.
    loop_fraction : float
        Share of all patches that are taken from recorded reconstructions instead.
    acquired_fraction : float
        Share of volumes taken from acquired weighted images where label maps are given too.
    cache_gib : float
        Memory for acquired images that have been read and resampled [GiB]; those that no longer
        fit are read again when they are drawn again.
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
        """Refuse shares and sizes that cannot be."""
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
            raise Mri2QmapError("training config, images: fractions must add up to 0...1")
        if min(self.size, self.pool, self.refresh) < 1 or self.bias_strength < 0:
            raise Mri2QmapError("training config, images: size, pool and refresh must be positive")
        if self.cache_gib < 0:
            raise Mri2QmapError("training config, images: cache_gib must not be negative")
        for low, high in (self.fine_voxels, self.coarse_voxels):
            if not 0.5 <= low <= high <= 8:
                raise Mri2QmapError(
                    f"training config, images: voxel sizes {low} to {high} mm, expected an"
                    " ascending pair between 0.5 and 8 mm"
                )

"""Restoration of TSMIs without training: the non-local Wiener filter with a guide."""

from __future__ import annotations

import math

from torch import Tensor

from mri2qmap.denoiser.nonlocal_wiener import MIN_SIDE, GuidedWiener
from mri2qmap.denoiser.tsmi_images import TsmiUnits
from mri2qmap.denoiser.volume import reflect_pad
from mri2qmap.machine.eigenvectors import hermitian_eigenvectors
from mri2qmap.machine.process_group import SINGLE_PROCESS, ProcessGroup

#: Edge of the cubes, and distance between reference cubes [voxels].
_EDGE = 3
#: Share of the noisy images in the means of groups. Means of the guide alone keep its bias, means
#: of the noisy images alone let more noise in.
_MEAN_SHARE = 0.5
#: Share of what the filter removes from the guide itself that is put back. Few cubes of a group
#: contain a small lesion, so that the filter takes much of its contrast away; with all of it put
#: back, the noise of the guide would stay.
_PUT_BACK = 0.5
#: Smallest noise level relative to the largest value, in single precision.
_LEAST_SIGMA = 1e-6
#: Combinations of images that are filtered: those with a root mean square in the guide of at least
#: this many standard deviations of the noise.
_LEAST_CONTENT = 0.1
#: Voxels in which it is measured: a magnitude of at least this, relative to the intensity scale.
_OBJECT = 0.1


class TsmiWiener(GuidedWiener):
    """Filter that removes white noise from TSMIs, see :class:`GuidedWiener`.

    The images of a TSMI are the real and imaginary parts of all coefficients after removal of the
    smooth phase of the guide. Filtered are their principal components that are not far below the
    noise in the guide, about half of them. In all others, and so in the imaginary parts
    unless the phase is not smooth, the result is that of the guide. Half of what the filter F
    removes from the guide G is put back: the result is F(X) + (G - F(G)) / 2.

    Parameters
    ----------
    guide : Tensor
        (s, z, y, x) complex64 estimate of the TSMI. Sides below 8 are extended by reflection.
    sigma : float
        Standard deviation of the noise in real and in imaginary parts, in units of the TSMI.
    processes : ProcessGroup, optional
        Each of several processes filters a part, and all get the whole TSMI.

    Raises
    ------
    ValueError
        If the guide has another shape or type, or a value is not finite.
    """

    def __init__(
        self, guide: Tensor, sigma: float, processes: ProcessGroup = SINGLE_PROCESS
    ) -> None:
        self._units = TsmiUnits.of(guide)
        self._shape = guide.shape
        images = self._units.images(guide)
        level = max(sigma / self._units.scale, _LEAST_SIGMA * (float(images.abs().max()) or 1.0))
        self._axes = _principal_axes(images, _LEAST_CONTENT * level)
        components = _mixed(self._axes.T, images)
        self._rest = images - _mixed(self._axes, components)
        self._sides = [max(side, MIN_SIDE) for side in guide.shape[1:]]
        super().__init__(
            reflect_pad(components, self._sides),
            level,
            _EDGE,
            mean_share=_MEAN_SHARE,
            processes=processes,
        )
        self._rest += _PUT_BACK * (images - self._rest - self._filtered(images))

    def __call__(self, tsmi: Tensor) -> Tensor:
        """Remove the noise of a TSMI (s, z, y, x); an affine function over the real numbers.

        Raises
        ------
        ValueError
            If the shape is not that of the guide.
        """
        if tsmi.shape != self._shape:
            raise ValueError(
                f"TSMI of shape {tuple(tsmi.shape)}: expected that of the guide,"
                f" {tuple(self._shape)}"
            )
        return self._units.tsmi(self._filtered(self._units.images(tsmi)) + self._rest)

    def _filtered(self, images: Tensor) -> Tensor:
        """Filter the principal components of images (2 s, z, y, x), and leave out all others."""
        components = reflect_pad(_mixed(self._axes.T, images), self._sides)
        _, nz, ny, nx = self._shape
        return _mixed(self._axes, super().__call__(components)[:, :nz, :ny, :nx])


def _principal_axes(images: Tensor, least: float) -> Tensor:
    """Return the orthonormal axes (images, axes) along which the root mean square is large.

    At least one.
    """
    values = images.flatten(1).double()
    inside = values.square().sum(0) >= _OBJECT**2
    if bool(inside.any()):
        values = values[:, inside]
    energies, axes = hermitian_eigenvectors(values @ values.T / values.shape[1])
    energies[-1] = math.inf
    return axes[:, energies >= least**2].float()


def _mixed(weights: Tensor, images: Tensor) -> Tensor:
    """Return weighted sums (n, z, y, x) of images by weights (n, images)."""
    return (weights @ images.flatten(1)).view(-1, *images.shape[1:])

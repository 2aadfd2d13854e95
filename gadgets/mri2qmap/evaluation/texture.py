"""Texture: what a mean absolute error does not see.

A map that is smoothed until no texture is left can have a smaller mean absolute percentage error
than one that keeps it. These metrics tell lost texture and added noise apart. Volumes are
(z, y, x), in any unit; a value without meaning is NaN.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

Volume: TypeAlias = NDArray[np.floating]
Mask: TypeAlias = NDArray[np.bool_]

WINDOW = 5
"""Side of the cube of local statistics [voxels]."""
NO_TEXTURE = 3e-3
"""Local standard deviation of the truth, relative to its mean, below which it has no texture."""
WAVELENGTHS_MM = (2.0, 4.0, 8.0, 16.0, 32.0)
"""Limits of the octaves of `spectrum_ratio`."""
_TAPER = 3
_NO_POWER = 1e-4
_MIN_FREQUENCIES = 12


class TextureGain(NamedTuple):
    """How the estimate follows the texture of the truth.

    Attributes
    ----------
    gain
        Regression slope of the estimated on the true texture: 1 all of it, 0 nothing of it; NaN if
        the truth has no texture.
    noise
        Root mean square of what the regression leaves, in percent of the mean of the truth.
    """

    gain: float
    noise: float


class Band(NamedTuple):
    """Spectra in one octave of wavelength.

    Attributes
    ----------
    wavelength_mm
        Shortest and longest wavelength [mm].
    power_ratio
        Power of the estimate over that of the truth: 1 as in the truth, below 1 flattened, above 1
        noise. White noise scaled by 0.5 gives 0.25.
    coherence
        Squared magnitude of the normalised cross-spectrum, 0 to 1: the share of the estimate's
        power that follows the truth.
    """

    wavelength_mm: tuple[float, float]
    power_ratio: float
    coherence: float


def local_deviation(volume: Volume, mask: Mask, window: int = WINDOW) -> float:
    """Local standard deviation: root of the mean over voxels of the local variance.

    The variance is the sample variance of the mask's voxels in a cube around each voxel of the
    mask. Voxels count whose cube is filled by the mask to at least half.

    Parameters
    ----------
    volume
        (z, y, x).
    mask
        (z, y, x).
    window
        Side of the cube, an odd number of voxels, at least 3.

    Returns
    -------
        In the unit of the volume; NaN without such voxels.

    Raises
    ------
    ValueError
        If the window is even or too small.
    """
    if not (local := _Local.of(mask, window)):
        return float("nan")
    values = local.centred(volume)
    mean, square = local.sums(values) / local.count, local.sums(values**2) / local.count
    variance = np.maximum(square - mean**2, 0) * local.count / (local.count - 1)
    return float(np.sqrt(variance.mean()))


def local_deviation_ratio(
    estimate: Volume, reference: Volume, mask: Mask, window: int = WINDOW
) -> float:
    """Local standard deviation of the estimate over that of the truth.

    1: as much texture as in the truth; below 1: flattened; above 1: noise. `texture_gain` shows
    whether it is the same texture.

    Parameters
    ----------
    estimate, reference, mask
        (z, y, x).
    window
        See `local_deviation`.

    Returns
    -------
        NaN if the truth has no texture (less than `NO_TEXTURE` of its mean), or if no voxel counts.

    Raises
    ------
    ValueError
        If the window is even or too small.
    """
    if not has_texture(reference, mask, window):
        return float("nan")
    return local_deviation(estimate, mask, window) / local_deviation(reference, mask, window)


def has_texture(reference: Volume, mask: Mask, window: int = WINDOW) -> bool:
    """Whether the local standard deviation is at least `NO_TEXTURE` of the mean over the mask."""
    if not mask.any():
        return False
    deviation = local_deviation(reference, mask, window)
    return bool(deviation >= NO_TEXTURE * abs(float(reference[mask].mean(dtype=np.float64))))


def texture_gain(
    estimate: Volume, reference: Volume, mask: Mask, window: int = WINDOW
) -> TextureGain:
    """Regress the texture of the estimate on that of the truth.

    Texture is a volume minus its local mean over the mask's voxels in a cube (a high-pass filter);
    voxels count as in `local_deviation`. The truth has no noise, so noise of the estimate does not
    change the slope on average. It is in the residual, with texture that the truth does not have.

    Parameters
    ----------
    estimate, reference, mask
        (z, y, x).
    window
        See `local_deviation`.

    Raises
    ------
    ValueError
        If the window is even or too small.
    """
    if not (local := _Local.of(mask, window)):
        return TextureGain(float("nan"), float("nan"))
    found, true = (
        local.at_centres(values) - local.sums(values) / local.count
        for values in (local.centred(estimate), local.centred(reference))
    )
    level = abs(float(reference[mask].mean(dtype=np.float64)))
    if has_texture(reference, mask, window):
        gain = float((found @ true) / (true @ true))
        found = found - gain * true
    else:
        gain = float("nan")
    return TextureGain(gain, float(100 * np.sqrt(np.mean(found**2)) / level))


def spectrum_ratio(
    estimate: Volume, reference: Volume, mask: Mask, voxel_size: Sequence[float]
) -> list[Band]:
    """Compare power spectra within a mask, in octaves of wavelength.

    The mean is subtracted and the mask is tapered: its weight rises over three voxels from its
    border (sine squared). Powers are means over the frequencies of an octave, over all directions,
    up to the Nyquist frequency of the largest voxel edge.

    Parameters
    ----------
    estimate, reference, mask
        (z, y, x).
    voxel_size
        (z, y, x) [mm].

    Returns
    -------
        The octaves of `WAVELENGTHS_MM`. NaN if the truth has no texture (see `has_texture`), and in
        octaves that the grid does not hold, or in which the truth has no power.
    """
    octaves = list(itertools.pairwise(WAVELENGTHS_MM))
    nothing = [Band(octave, float("nan"), float("nan")) for octave in octaves]
    if not has_texture(reference, mask):
        return nothing
    box = _bounding_box(mask)
    distance = ndimage.distance_transform_edt(np.pad(mask[box], 1))[1:-1, 1:-1, 1:-1]
    weight = np.sin(0.5 * np.pi * np.minimum(distance / (_TAPER + 1), 1)) ** 2
    shape = [fft.next_fast_len(n) for n in weight.shape]
    level = float(np.average(reference[box], weights=weight))

    def transform(volume: Volume) -> NDArray[np.complex128]:
        values = volume[box].astype(np.float64)
        tapered = weight * (values - np.average(values, weights=weight))
        return np.asarray(fft.fftn(tapered, shape))

    found, true = transform(estimate), transform(reference)
    z, y, x = (fft.fftfreq(n, d) for n, d in zip(shape, voxel_size, strict=True))
    frequency = np.sqrt(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2)
    frequency[frequency > 0.5 / max(voxel_size) * (1 + 1e-6)] = 0
    least = (_NO_POWER * level) ** 2 * np.prod(shape) * np.sum(weight**2)
    bands = []
    for octave, empty in zip(octaves, nothing, strict=True):
        chosen = (frequency > 1 / octave[1]) & (frequency <= 1 / octave[0])
        a, b = found[chosen], true[chosen]
        power = float(np.sum(np.abs(b) ** 2))
        if a.size < _MIN_FREQUENCIES or power < least:
            bands.append(empty)
            continue
        own = float(np.sum(np.abs(a) ** 2))
        cross = float(np.abs(np.sum(a * b.conj())) ** 2)
        bands.append(Band(octave, own / power, cross / (own * power) if own else float("nan")))
    return bands


@dataclass(frozen=True)
class _Local:
    """Local sums over a mask, at the voxels whose cube it fills to at least half."""

    box: tuple[slice, ...]
    mask: Mask
    window: int
    centres: Mask
    count: NDArray[np.float64]

    @classmethod
    def of(cls, mask: Mask, window: int) -> _Local | None:
        if window < 3 or window % 2 == 0:
            raise ValueError(f"window {window}: an odd number of voxels, at least 3, is expected")
        if not mask.any():
            return None
        box = _bounding_box(mask)
        inside = mask[box]
        count = np.rint(_cube_sum(inside.astype(np.float64), window))
        centres = inside & (2 * count >= window**3)
        return cls(box, inside, window, centres, count[centres]) if centres.any() else None

    def centred(self, volume: Volume) -> NDArray[np.float64]:
        """Volume minus its mean over the mask, 0 outside: differences of squares stay exact."""
        values = volume[self.box].astype(np.float64)
        return np.where(self.mask, values - values[self.mask].mean(), 0)

    def sums(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.at_centres(_cube_sum(values, self.window))

    def at_centres(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return values[self.centres]


def _cube_sum(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    mean = ndimage.uniform_filter(values, size=window, mode="constant")
    return np.asarray(mean * window**3)


def _bounding_box(mask: Mask) -> tuple[slice, ...]:
    """Bounding box of a mask that is not empty."""
    box: tuple[slice, ...] = ndimage.find_objects(mask.astype(np.uint8))[0]
    return box

"""Denoisers without training.

Gaussian smoothing, non-local means and BM4D denoise each image independently. The classical
pre-filter of our networks denoises all contrasts together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from importlib import metadata

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.restoration import denoise_nl_means
from torch import Tensor

from mri2qmap.denoiser.classical_prefilter import classical_prefilter
from mri2qmap.denoiser.dct_wiener import LARGEST_CUBE
from mri2qmap.denoiser.volume import intensity_scale, reflect_pad
from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.devices import processor
from mri2qmap.mrsignal.synthesis import Contrast
from mri2qmap.recon.plug_and_play import Denoise
from mri2qmap.studies.candidates import Candidate, SettingAt

Filter = Callable[[NDArray[np.float32], float, float], NDArray[np.floating]]

CLASSICAL = ("gaussian", "nlm", "bm4d")
"""Published denoisers, with which networks are compared."""

PREFILTER = "prefilter"
"""The pre-filter of our networks; what they improve on it is the effect of the training."""

UNTRAINED = (*CLASSICAL, PREFILTER)

GAUSSIAN_WIDTHS = tuple(round(0.3 * 1.15**i, 3) for i in range(15))
"""Standard deviations [voxels], 0.3 to 2.1."""

NLM_STRENGTHS = (0.4, 0.5, 0.6, 0.8, 1.0)
"""Decay parameter h in units of the noise level."""

NLM_PATCH = 3
NLM_DISTANCE = 2
"""Edge of the compared patches and radius of the search [voxels]. On synthetic heads with noise
levels of 0.02, 0.1 and 0.2, larger patches and wider searches gained at most 0.1 dB; with 0.2 wider
searches lost up to 1 dB."""

BM4D_MISSING = (
    "not compared, as the package bm4d is not installed: pip install 'mri2qmap[bm4d]' (its "
    "licence allows non-commercial use only)"
)


def load_classical(names: Sequence[str]) -> tuple[list[Candidate], list[str]]:
    """Load classical denoisers by name.

    Returns
    -------
    denoisers
        Those whose packages are installed, in the order of the names.
    left_out
        A line for each of the others.

    Raises
    ------
    Mri2QmapError
        If a name is not in `UNTRAINED`.
    """
    denoisers, left_out = [], []
    for name in dict.fromkeys(names):
        if name not in UNTRAINED:
            raise Mri2QmapError(
                f"classical denoiser {name!r}: there is none of this name; expected "
                f"{', '.join(UNTRAINED)}"
            )
        found = _LOADERS[name]()
        if found is None:
            left_out.append(f"{name}: {BM4D_MISSING}")
        else:
            denoisers.append(found)
    return denoisers, left_out


def of_filter(
    name: str,
    version: str,
    filter_image: Filter,
    settings: tuple[float, ...] = (0.0,),
    parameter: str = "",
    threads: int = 1,
) -> Candidate:
    """Make a candidate from a filter of single images.

    As a prior it receives images scaled by `intensity_scale`, as networks do.

    Parameters
    ----------
    name, version, settings, parameter
        See `Candidate`.
    filter_image
        (image (z, y, x) scaled to an intensity of about 1, noise level, setting) -> restored image.
    threads
        Number of CPU threads that it uses.
    """

    def filtered(images: Tensor, sigma: float, chosen: Sequence[float]) -> Tensor:
        arrays = images.detach().cpu().float().numpy()
        restored = [
            np.asarray(filter_image(image, sigma, setting), np.float32)
            for image, setting in zip(arrays, chosen, strict=True)
        ]
        return torch.from_numpy(np.stack(restored)).to(images.device)

    def restore(
        images: Tensor, contrasts: Sequence[Contrast], sigma: float, setting: float
    ) -> Tensor:
        del contrasts  # the filter is the same for all
        return filtered(images, sigma, [setting] * len(images))

    def prior(setting_at: SettingAt) -> Denoise:
        def denoise(images: Tensor, sigma: float) -> Tensor:
            scale = intensity_scale(images)[:, None, None, None]
            chosen = [setting_at(contrast, sigma) for contrast in Contrast]
            return filtered(images / scale, sigma, chosen) * scale

        return denoise

    return Candidate(name, version, processor(threads), restore, prior, settings, parameter)


def _gaussian() -> Candidate:
    def smooth(image: NDArray[np.float32], sigma: float, width: float) -> NDArray[np.floating]:
        del sigma  # the width is chosen for it
        return np.asarray(gaussian_filter(image, width))

    version = f"scipy {metadata.version('scipy')}"
    return of_filter("gaussian", version, smooth, GAUSSIAN_WIDTHS, "width [voxels]")


def _nlm() -> Candidate:
    def average(image: NDArray[np.float32], sigma: float, strength: float) -> NDArray[np.floating]:
        restored = denoise_nl_means(
            image,
            patch_size=NLM_PATCH,
            patch_distance=NLM_DISTANCE,
            h=strength * sigma,
            sigma=sigma,
            fast_mode=True,
        )
        return np.asarray(restored)

    return of_filter(
        "nlm",
        f"scikit-image {metadata.version('scikit-image')}",
        average,
        NLM_STRENGTHS,
        "h / sigma",
    )


def _bm4d() -> Candidate | None:
    try:
        import bm4d
    except ImportError:
        return None
    profile = bm4d.BM4DProfile()
    profile.num_threads = torch.get_num_threads()

    def collaborate(
        image: NDArray[np.float32], sigma: float, setting: float
    ) -> NDArray[np.floating]:
        del setting
        return np.asarray(bm4d.bm4d(image, sigma, profile))

    version = f"bm4d {metadata.version('bm4d')}"
    return of_filter("bm4d", version, collaborate, threads=profile.num_threads)


def _prefilter() -> Candidate:
    def restore(
        images: Tensor, contrasts: Sequence[Contrast], sigma: float, setting: float = 0.0
    ) -> Tensor:
        del setting
        nz, ny, nx = images.shape[1:]
        sides = [LARGEST_CUBE * math.ceil(side / LARGEST_CUBE) for side in (nz, ny, nx)]
        channels = [list(Contrast).index(contrast) for contrast in contrasts]
        # Absent contrasts are zero, as a joint network receives them.
        padded = images.new_zeros(1, len(Contrast), *sides)
        padded[0, channels] = reflect_pad(images, sides)
        _, grouped = classical_prefilter(padded, torch.tensor([sigma], device=images.device))
        return grouped[0, channels, :nz, :ny, :nx]

    def prior(setting_at: SettingAt) -> Denoise:
        del setting_at

        def denoise(images: Tensor, sigma: float) -> Tensor:
            scale = intensity_scale(images)[:, None, None, None]
            return restore(images / scale, list(Contrast), sigma) * scale

        return denoise

    where = processor(torch.get_num_threads())
    return Candidate(PREFILTER, f"torch {torch.__version__}", where, restore, prior)


_LOADERS: dict[str, Callable[[], Candidate | None]] = {
    "gaussian": _gaussian,
    "nlm": _nlm,
    "bm4d": _bm4d,
    PREFILTER: _prefilter,
}

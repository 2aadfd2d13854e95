"""Training batches: noisy patches cut from a rolling pool of synthetic volumes."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mri2qmap.denoiser.label_maps import LabelMap
from mri2qmap.denoiser.training_images import ImageSettings, SyntheticVolume, synthesise_volume

#: Streams of random numbers derived from one seed.
_VOLUMES, _BATCHES = 0, 1
_CROPS_TRIED = 4
_WRAPPED_SHARE = 0.25


@dataclass(frozen=True)
class Batch:
    """Patches for one training step.

    Attributes
    ----------
    clean : Tensor
        (batch, z, y, x) float32 the images.
    noise : Tensor
        (batch, z, y, x) float32 what to add, divided by sigma: standard deviation 1 or, for
        errors of maps, root mean square 1.
    sigma : Tensor
        (batch,) float32 noise levels.
    contrast : Tensor
        (batch,) int64 classes.
    """

    clean: Tensor
    noise: Tensor
    sigma: Tensor
    contrast: Tensor

    @property
    def noisy(self) -> Tensor:
        """The images with their noise, (batch, z, y, x)."""
        return self.clean + self.sigma[:, None, None, None] * self.noise


class PatchSource:
    """Batches by the number of the training step.

    Parameters
    ----------
    anatomies : sequence of LabelMap
        Heads to draw volumes from, in turn.
    settings : ImageSettings
        What the volumes look like.
    seed : int
        Everything random follows from it and from the number of the step.
    """

    def __init__(self, anatomies: list[LabelMap], settings: ImageSettings, seed: int) -> None:
        self._anatomies = anatomies
        self._settings = settings
        self._seed = seed
        self._pool: deque[SyntheticVolume] = deque(maxlen=settings.pool)
        self._next = 0

    def batch(self, step: int, patch: int, contrasts: Tensor, sigmas: Tensor) -> Batch:
        """Draw the batch of a step.

        Parameters
        ----------
        step : int
            Number of the step, 0 or more.
        patch : int
            Side of the patches, at most the side of the volumes.
        contrasts : Tensor
            (batch,) int64 contrast class of each patch.
        sigmas : Tensor
            (batch,) noise level of each patch.
        """
        self._fill(step)
        rng = np.random.default_rng([self._seed, _BATCHES, step])
        pairs = [self._patch(int(contrast), patch, rng) for contrast in contrasts]
        clean, noise = (torch.stack(part) for part in zip(*pairs, strict=True))
        return Batch(clean, noise, sigmas, contrasts)

    def _fill(self, step: int) -> None:
        """Bring the pool to the volumes that belong to a step: a window that moves with it."""
        first = step // self._settings.refresh
        if first < self._next - len(self._pool):
            self._pool.clear()
        self._next = max(self._next, first) if self._pool else first
        while self._next < first + self._settings.pool:
            rng = np.random.default_rng([self._seed, _VOLUMES, self._next])
            anatomy = self._anatomies[int(rng.integers(len(self._anatomies)))]
            self._pool.append(synthesise_volume(anatomy, self._settings, rng))
            self._next += 1

    def _patch(self, contrast: int, patch: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """One clean patch (z, y, x) and its unit noise, turned and flipped at random."""
        for _ in range(_CROPS_TRIED):
            volume = self._pool[int(rng.integers(len(self._pool)))]
            size = volume.images.shape[-1]
            # In use a volume is shifted round before it is cut: some patches wrap around here too.
            wrapped = rng.random() < _WRAPPED_SHARE
            corner = rng.integers(0, size if wrapped else size - patch + 1, 3)
            clean = _crop(volume.images[contrast], corner, patch)
            if (clean > 0.02).float().mean() > 0.1:
                break
        settings = self._settings
        bounds = np.cumsum(
            [settings.map_error_fraction, settings.coloured_fraction, settings.scaled_fraction]
        )
        kind = int(np.searchsorted(bounds, rng.random(), side="right"))
        white = torch.from_numpy(rng.standard_normal((patch,) * 3, np.float32))
        if kind == 0:
            noise = _mixed(_crop(volume.map_errors[contrast], corner, patch), white, rng)
        elif kind == 1:
            noise = _band_limited(white, rng)
        elif kind == 2:
            noise = _locally_scaled(white, clean, rng)
        else:
            noise = white
        axes = [int(axis) for axis in rng.permutation(3)]
        flips = [axis for axis in range(3) if rng.random() < 0.5]
        return clean.permute(axes).flip(flips), noise.permute(axes).flip(flips)


def _crop(image: Tensor, corner: NDArray[np.int64], patch: int) -> Tensor:
    """Cube of an image (z, y, x) from a corner on, wrapping around."""
    for axis, start in enumerate(corner):
        where = torch.arange(int(start), int(start) + patch) % image.shape[axis]
        image = image.index_select(axis, where)
    return image


def _mixed(errors: Tensor, white: Tensor, rng: np.random.Generator) -> Tensor:
    """Errors of maps at unit root mean square, with some white noise on top."""
    size = errors.square().mean().sqrt()
    if size < 1e-4:
        return white
    share = float(rng.uniform(0, 0.7))
    return (errors / size * (1 - share**2) ** 0.5 + share * white).clamp(-8, 8)


def _band_limited(white: Tensor, rng: np.random.Generator) -> Tensor:
    """Gaussian noise without its lowest or highest frequencies, at unit standard deviation."""
    n = white.shape[0]
    spectrum = torch.fft.rfftn(white)
    full, half = torch.fft.fftfreq(n), torch.fft.rfftfreq(n)
    radius = (full[:, None, None] ** 2 + full[:, None] ** 2 + half**2).sqrt()
    middle, width = float(rng.uniform(0.0, 0.5)), float(rng.uniform(0.15, 0.4))
    band = torch.exp(-(((radius - middle) / width) ** 2))
    noise = torch.fft.irfftn(spectrum * band, s=white.shape)
    return noise / noise.std()


def _locally_scaled(white: Tensor, clean: Tensor, rng: np.random.Generator) -> Tensor:
    """Gaussian noise whose strength varies with place and with the image."""
    n = white.shape[0]
    grid = torch.linspace(-1, 1, n)
    slope = torch.from_numpy(rng.uniform(-0.7, 0.7, 3).astype(np.float32))
    place = slope[0] * grid[:, None, None] + slope[1] * grid[:, None] + slope[2] * grid
    strength = torch.exp(place) * (1 + float(rng.uniform(0, 3)) * clean)
    noise = white * strength
    return noise / noise.std()

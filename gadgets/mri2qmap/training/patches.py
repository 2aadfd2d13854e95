"""Training batches: noisy patches cut from a rolling pool of volumes.

A batch depends only on the seed and on the number of the step, so an interrupted training can be
continued without a change of its result. Each patch is independent of the others of its batch, so
several processes can share a batch.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mri2qmap.denoiser.classical_prefilter import classical_prefilter
from mri2qmap.training.admm_recordings import AdmmRecordings
from mri2qmap.training.image_settings import ImageSettings
from mri2qmap.training.training_images import TrainingVolume

#: Random streams derived from the seed.
_VOLUMES, BATCHES = 0, 1
#: Crops drawn to find one with enough of the object.
_CROPS_TRIED = 4
#: Fraction of patches that may wrap around the border of the volume.
_WRAPPED_SHARE = 0.25

#: Function that draws contrasts (1, contrasts) and noise level (1,) of a volume.
Conditions = Callable[[np.random.Generator], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Batch:
    """Patches of one training step.

    Attributes
    ----------
    clean : Tensor
        (batch, images, z, y, x) float32 true images: one image, or all contrasts of a joint
        network, with zeros for missing contrasts.
    noise : Tensor
        (batch, images, z, y, x) float32 errors of the input, divided by sigma. Their standard
        deviation is 1 for noise, their root mean square 1 for errors of parameter maps; recorded
        errors are not normalised.
    sigma : Tensor
        (batch,) float32 noise levels.
    present : Tensor
        (batch, contrasts) float32: 1 for each contrast present.
    synthesised : Tensor
        (batch,) float32: 1 for images synthesised from erroneous maps.
    estimates : Tensor
        (batch, 2, images, z, y, x) float32 pre-filtered estimates; (batch, 0, ...) if not used.
    """

    clean: Tensor
    noise: Tensor
    sigma: Tensor
    present: Tensor
    synthesised: Tensor
    estimates: Tensor

    @property
    def noisy(self) -> Tensor:
        """Noisy images (batch, images, z, y, x)."""
        return self.clean + self.sigma[:, None, None, None, None] * self.noise

    def to(self, device: torch.device) -> Batch:
        """Return a copy on another device."""
        return Batch(*(getattr(self, field.name).to(device) for field in fields(self)))


@dataclass(frozen=True)
class _PreparedVolume:
    """A volume with noise and pre-filtered estimates.

    Attributes
    ----------
    images : Tensor
        (4, images, z, y, x) truth, unit noise and the two pre-filtered estimates.
    sigma : Tensor
        () noise level.
    held : Tensor
        (contrasts,) bool: contrasts present.
    synthesised : bool
        Whether the noise is that of images synthesised from erroneous maps.
    """

    images: Tensor
    sigma: Tensor
    held: Tensor
    synthesised: bool


class _PoolEntry(NamedTuple):
    """A volume of a pool with its number; prepared with noise if a pre-filter is used."""

    number: int
    volume: TrainingVolume
    prepared: _PreparedVolume | None


_Pool = deque[_PoolEntry]


class PatchSource:
    """Source of batches.

    Parameters
    ----------
    draw_volume : callable
        Draws a volume with a random generator.
    settings : ImageSettings
        Size of the pool and distribution of the errors.
    joint : bool
        Whether a patch holds all contrasts.
    seed : int
        Seed; with the number of the step it determines a batch.
    admm_recordings : AdmmRecordings, optional
        ADMM recordings, for a fraction ``settings.loop_fraction`` of the patches.
    conditions : callable, optional
        Draws contrasts (1, contrasts) and noise level (1,) of a volume; given for networks with a
        pre-filter. Pre-filtered estimates are computed for whole volumes, as in inference, because
        those of single patches are less accurate. Each volume of the pool therefore gets its noise
        and estimates when it is drawn, and its patches share them.
    device : torch.device
        Device of the pre-filter.
    lanes : int
        Number of sub-pools: patch n of a batch is cut from sub-pool n modulo ``lanes``, so that
        each process draws only the volumes of its own patches.
    """

    def __init__(
        self,
        draw_volume: Callable[[np.random.Generator], TrainingVolume],
        settings: ImageSettings,
        joint: bool,
        seed: int,
        admm_recordings: AdmmRecordings | None = None,
        conditions: Conditions | None = None,
        device: torch.device | None = None,
        lanes: int = 1,
    ) -> None:
        self._conditions = conditions
        self._device = device
        self._draw_volume = draw_volume
        self._settings = settings
        self._joint = joint
        self._seed = seed
        self._admm_recordings = admm_recordings
        self._lanes = [_Pool(maxlen=math.ceil(settings.pool / lanes)) for _ in range(lanes)]

    def batch(
        self, step: int, patch: int, present: Tensor, sigmas: Tensor, first: int = 0
    ) -> Batch:
        """Draw the batch of a step, or a part of it.

        Parameters
        ----------
        step : int
            Number of the step, 0 or more.
        patch : int
            Side of the patches [voxels], at most the side of the volumes.
        present : Tensor
            (patches, contrasts) float32: 1 for each requested contrast of a patch; exactly one
            unless ``joint``. If a volume has none of them, other contrasts are used.
        sigmas : Tensor
            (patches,) noise level of each patch. Recorded errors, and volumes with ``conditions``,
            have their own noise levels instead.
        first : int
            Number within the batch of the first of these patches.
        """
        examples = [
            self._example(
                row > 0,
                patch,
                sigma,
                self._pool(step, number % len(self._lanes)),
                np.random.default_rng([self._seed, BATCHES, step, number]),
            )
            for number, (row, sigma) in enumerate(zip(present, sigmas, strict=True), start=first)
        ]
        images, levels, held, synthesised = (
            torch.stack(part) for part in zip(*examples, strict=True)
        )
        clean, noise, estimates = images[:, 0], images[:, 1], images[:, 2:]
        return Batch(clean, noise, levels, held.float(), synthesised.float(), estimates)

    def _pool(self, step: int, lane: int) -> _Pool:
        """Return the volumes of a sub-pool for a step: a window that moves with the step."""
        pool, lanes = self._lanes[lane], len(self._lanes)
        first = step // (self._settings.refresh * lanes)
        if pool and first < pool[0].number:
            pool.clear()
        following = pool[-1].number + 1 if pool else 0
        for number in range(max(first, following), first + (pool.maxlen or 0)):
            rng = np.random.default_rng([self._seed, _VOLUMES, number * lanes + lane])
            volume = self._draw_volume(rng)
            prepared = None
            if self._conditions is not None:
                prepared = self._noisy(volume, *self._conditions(rng), rng)
            pool.append(_PoolEntry(number, volume, prepared))
        return pool

    def _noisy(
        self, volume: TrainingVolume, wanted: Tensor, sigma: Tensor, rng: np.random.Generator
    ) -> _PreparedVolume:
        """Add noise of level sigma (1,) to the requested contrasts (1, contrasts) of a volume."""
        noise, synthesised = self._errors(volume.images, volume.map_errors, rng)
        held = self._held(wanted[0] > 0, volume.present, rng)
        images = self._selected(torch.stack([volume.images, noise]), held)
        noisy = images[:1] + sigma * images[1:]
        estimates = [noisy, noisy]
        if not synthesised:
            found = classical_prefilter(noisy.to(self._device), sigma.to(self._device))
            estimates = [estimate.to(noisy.device) for estimate in found]
        return _PreparedVolume(torch.cat([images, *estimates]), sigma[0], held, synthesised)

    def _example(
        self,
        wanted: Tensor,
        patch: int,
        sigma: Tensor,
        pool: _Pool,
        rng: np.random.Generator,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return truth, unit noise and estimates (stacked), and the rest of a row of `Batch`."""
        if self._admm_recordings is not None and rng.random() < self._settings.loop_fraction:
            clean, noisy, sigma = self._recorded(self._admm_recordings, patch, rng)
            estimates = [noisy, noisy] if self._conditions else []
            held, synthesised = wanted, True
            images = torch.stack([clean, (noisy - clean) / sigma, *estimates])
            images = self._selected(images, held)
        else:
            volume, prepared, corner = _place(pool, patch, rng)
            if prepared is not None:
                images = crop(prepared.images, corner, patch)
                sigma, held, synthesised = prepared.sigma, prepared.held, prepared.synthesised
            else:
                clean = crop(volume.images, corner, patch)
                errors = None
                if volume.map_errors is not None:
                    errors = crop(volume.map_errors, corner, patch)
                noise, synthesised = self._errors(clean, errors, rng)
                held = self._held(wanted, volume.present, rng)
                images = self._selected(torch.stack([clean, noise]), held)
        axes = [0, 1, *(2 + int(axis) for axis in rng.permutation(3))]
        flips = [axis for axis in (2, 3, 4) if rng.random() < 0.5]
        return images.permute(axes).flip(flips), sigma, held, torch.tensor(synthesised)

    def _selected(self, images: Tensor, held: Tensor) -> Tensor:
        """Select the contrasts held from (n, contrasts, z, y, x); if joint, zero the others."""
        return images * held[:, None, None, None] if self._joint else images[:, held]

    def _held(self, wanted: Tensor, available: Tensor, rng: np.random.Generator) -> Tensor:
        """Return the contrasts that a patch holds (contrasts,), given those of its volume."""
        both = wanted & available
        if both.any():
            return both
        if self._joint:
            return available
        other = torch.zeros_like(available)
        other[int(rng.choice(available.nonzero()[:, 0].numpy()))] = True
        return other

    def _recorded(
        self, admm_recordings: AdmmRecordings, patch: int, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw truth and input (contrasts, z, y, x) of the denoiser from a recording, and sigma."""
        for _ in range(_CROPS_TRIED):
            clean, noisy, sigma = admm_recordings.draw(rng)
            corner = draw_corner(clean.shape[-1], patch, rng)
            clean, noisy = crop(clean, corner, patch), crop(noisy, corner, patch)
            if _shows_object(clean):
                break
        return clean, noisy, sigma

    def _errors(
        self, clean: Tensor, map_errors: Tensor | None, rng: np.random.Generator
    ) -> tuple[Tensor, bool]:
        """Draw unit noise (contrasts, z, y, x), and whether it stems from erroneous maps."""
        settings = self._settings
        bounds = np.cumsum(
            [settings.map_error_fraction, settings.coloured_fraction, settings.scaled_fraction]
        )
        kind = int(np.searchsorted(bounds, rng.random(), side="right"))
        noise = torch.from_numpy(rng.standard_normal(clean.shape, np.float32))
        if kind == 0 and map_errors is not None:
            return _mixed(map_errors, noise, rng), True
        if kind == 1:
            noise = _band_limited(noise, rng)
        elif kind == 2:
            noise = _locally_scaled(noise, clean, rng)
        return noise, False


def _place(
    pool: _Pool, patch: int, rng: np.random.Generator
) -> tuple[TrainingVolume, _PreparedVolume | None, NDArray[np.int64]]:
    """Draw a volume of the pool, and the corner of a patch with enough of the object."""
    for _ in range(_CROPS_TRIED):
        _, volume, prepared = pool[int(rng.integers(len(pool)))]
        corner = draw_corner(volume.images.shape[-1], patch, rng)
        if _shows_object(crop(volume.images, corner, patch)[volume.present]):
            break
    return volume, prepared, corner


def draw_corner(size: int, patch: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw the corner of a patch; some patches wrap around, as in inference."""
    wrapped = rng.random() < _WRAPPED_SHARE
    return rng.integers(0, size if wrapped else size - patch + 1, 3)


def _shows_object(clean: Tensor) -> bool:
    return bool((clean > 0.02).float().mean() > 0.1)


def crop(images: Tensor, corner: NDArray[np.int64], patch: int) -> Tensor:
    """Cut a cube from images (..., z, y, x), starting at a corner and wrapping around."""
    for axis, start in enumerate(corner, start=-3):
        where = torch.arange(int(start), int(start) + patch) % images.shape[axis]
        images = images.index_select(axis, where)
    return images


def _root_mean_square(images: Tensor) -> Tensor:
    """Return the root mean square of each image (c, z, y, x) as (c, 1, 1, 1)."""
    return images.square().mean((1, 2, 3), keepdim=True).sqrt()


def _mixed(errors: Tensor, white: Tensor, rng: np.random.Generator) -> Tensor:
    """Normalise errors of maps to unit root mean square and mix them with white noise."""
    size = _root_mean_square(errors)
    share = float(rng.uniform(0, 0.7))
    mixed = (errors / size.clamp_min(1e-4) * (1 - share**2) ** 0.5 + share * white).clamp(-8, 8)
    return torch.where(size < 1e-4, white, mixed)


def _band_limited(white: Tensor, rng: np.random.Generator) -> Tensor:
    """Return band-limited Gaussian noise of unit standard deviation."""
    n = white.shape[-1]
    spectrum = torch.fft.rfftn(white, dim=(1, 2, 3))
    full, half = torch.fft.fftfreq(n), torch.fft.rfftfreq(n)
    radius = (full[:, None, None] ** 2 + full[:, None] ** 2 + half**2).sqrt()
    middle, width = float(rng.uniform(0.0, 0.5)), float(rng.uniform(0.15, 0.4))
    band = torch.exp(-(((radius - middle) / width) ** 2))
    noise: Tensor = torch.fft.irfftn(spectrum * band, s=white.shape[1:], dim=(1, 2, 3))
    return noise / _root_mean_square(noise)


def _locally_scaled(white: Tensor, clean: Tensor, rng: np.random.Generator) -> Tensor:
    """Return Gaussian noise whose strength depends on position and image intensity."""
    n = white.shape[-1]
    grid = torch.linspace(-1, 1, n)
    slope = torch.from_numpy(rng.uniform(-0.7, 0.7, 3).astype(np.float32))
    place = slope[0] * grid[:, None, None] + slope[1] * grid[:, None] + slope[2] * grid
    strength = torch.exp(place) * (1 + float(rng.uniform(0, 3)) * clean)
    noise = white * strength
    return noise / _root_mean_square(noise)

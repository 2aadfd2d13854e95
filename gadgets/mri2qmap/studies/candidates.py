"""A common interface of the denoisers that are compared, and the networks among them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from mri2qmap.denoiser.checkpoint import Denoiser, Task, load_denoiser, models_for
from mri2qmap.denoiser.volume import admm_denoiser, denoise_volumes
from mri2qmap.machine.devices import device_name, processor
from mri2qmap.mrsignal.synthesis import Contrast
from mri2qmap.recon.plug_and_play import Denoise

Restore = Callable[[Tensor, Sequence[Contrast], float, float], Tensor]
"""(images, contrast of each image, noise level, setting) -> restored images."""
SettingAt = Callable[[Contrast, float], float]
"""(contrast, noise level) -> setting."""


@dataclass(frozen=True)
class Candidate:
    """A denoiser that is compared.

    Attributes
    ----------
    name
        Name in tables.
    version
        Version of the package that implements it, or a hash of the weights.
    where
        Processor and threads that it uses.
    restore
        Restores images (n, z, y, x), scaled to an intensity of about 1, from their contrasts, noise
        level and a setting. The n contrasts are any of `Contrast`, each once.
    prior
        Makes it a denoiser for the iterations of `plug_and_play`, from a function that returns the
        setting for a contrast and a noise level. The iterations have all contrasts.
    final_denoiser
        Like `prior`, for the final images of `plug_and_play`; None if it is the same denoiser.
    settings
        Values of its free parameter among which the best is chosen.
    parameter
        Name of the free parameter; empty if there is none: then there is one setting, unused.
    sigmas
        Lowest and highest noise level for which it can be used.
    trained
        Whether it is a network.
    """

    name: str
    version: str
    where: str
    restore: Restore
    prior: Callable[[SettingAt], Denoise]
    settings: tuple[float, ...] = (0.0,)
    parameter: str = ""
    sigmas: tuple[float, float] = (0.0, math.inf)
    trained: bool = False
    final_denoiser: Callable[[SettingAt], Denoise] | None = None


def available_networks() -> list[str]:
    """Names of the project's models that denoise weighted images."""
    return models_for(Task.WEIGHTED)


def load_networks(
    names: Sequence[str], device: torch.device, seed: int, taken: Sequence[str] = ()
) -> list[Candidate]:
    """Load networks by name or path.

    Parameters
    ----------
    names
        Names or paths, see `load_denoiser`.
    device
        Device of the networks; images are copied to it and back.
    seed
        Seed of the random shifts of the patches.
    taken
        Names of other candidates.

    Raises
    ------
    Mri2QmapError
        If a network cannot be loaded.
    """
    candidates: list[Candidate] = []
    for name in dict.fromkeys(names):
        denoiser = load_denoiser(name, device)
        used = [*taken, *(candidate.name for candidate in candidates)]
        # Trainings write files of the same name to different folders.
        parent = f"{Path(name).resolve().parent.name}/{denoiser.name}"
        label = next((x for x in (denoiser.name, parent) if x not in used), name)
        candidates.append(_of_network(label, denoiser, device, seed))
    return candidates


def _of_network(label: str, denoiser: Denoiser, device: torch.device, seed: int) -> Candidate:
    network = denoiser.network

    def restore(
        images: Tensor, contrasts: Sequence[Contrast], sigma: float, setting: float
    ) -> Tensor:
        del setting
        restored = denoise_volumes(
            network,
            images.to(device),
            sigma,
            contrasts,
            scale=torch.ones(len(images)),
            generator=torch.Generator().manual_seed(seed),
        )
        return restored.to(images.device)

    def prior(setting_at: SettingAt, flip_average: bool = False) -> Denoise:
        del setting_at
        denoise = admm_denoiser(
            network, torch.Generator().manual_seed(seed), flip_average=flip_average
        )
        return lambda images, sigma: denoise(images.to(device), sigma).to(images.device)

    final_denoiser = partial(prior, flip_average=True)
    where = processor(torch.get_num_threads()) if device.type == "cpu" else device_name(device)
    limits = (network.config.sigma_min, network.config.sigma_max)
    return Candidate(
        label,
        _hash(denoiser),
        where,
        restore,
        prior,
        sigmas=limits,
        trained=True,
        final_denoiser=final_denoiser,
    )


def _hash(denoiser: Denoiser) -> str:
    """Short hash of the configuration and the weights of a network."""
    digest = hashlib.sha256(repr(denoiser.network.config).encode())
    for weight in denoiser.network.state_dict().values():
        digest.update(weight.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]

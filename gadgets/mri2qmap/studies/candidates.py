"""The denoisers that a benchmark compares, all behind one face, and the networks among them."""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from mri2qmap.denoiser.checkpoint import Denoiser, Task, load_denoiser, models_for
from mri2qmap.denoiser.volume import admm_denoiser, denoise_volumes
from mri2qmap.machine.devices import device_name
from mri2qmap.mrsignal.synthesis import Contrast
from mri2qmap.recon.plug_and_play import Denoise

Restore = Callable[[Tensor, float, float], Tensor]
SettingAt = Callable[[int, float], float]


@dataclass(frozen=True)
class Candidate:
    """A denoiser under test.

    Attributes
    ----------
    name
        What it is called in tables.
    version
        What else its results depend on: the version of a package, or a hash of the weights.
    where
        Processor and threads that do the work.
    restore
        Images (n, z, y, x) in the order of `Contrast` with bright ends of 1, their noise level and
        a setting, to restored images of the same shape.
    prior
        Makes it a prior for `plug_and_play`, given what says the setting for the number of a
        contrast and a noise level.
    final_denoiser
        Likewise, for the images at the end of `plug_and_play`; None is as in its loop.
    settings
        Values of its free parameter among which the best is chosen.
    parameter
        What the free parameter is; empty if there is none, and then the one setting is ignored.
    sigmas
        Lowest and highest noise level that it is made for.
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
        As `load_denoiser` takes them.
    device
        Where they run; images are taken there and back.
    seed
        Of the random shifts of the patches.
    taken
        Names that other candidates bear.

    Raises
    ------
    Mri2QmapError
        If a network cannot be loaded.
    """
    candidates: list[Candidate] = []
    for name in dict.fromkeys(names):
        denoiser = load_denoiser(name, device)
        used = [*taken, *(candidate.name for candidate in candidates)]
        # Trainings leave files of one name in folders of different names.
        parent = f"{Path(name).resolve().parent.name}/{denoiser.name}"
        label = next((x for x in (denoiser.name, parent) if x not in used), name)
        candidates.append(_of_network(label, denoiser, device, seed))
    return candidates


def processor(threads: int) -> str:
    """Name of the CPU and how much of it is used."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    name = next(models, "") or platform.processor() or platform.machine()
    return f"{name}, {threads} thread{'s' * (threads != 1)}"


def _of_network(label: str, denoiser: Denoiser, device: torch.device, seed: int) -> Candidate:
    network, contrasts = denoiser.network, list(Contrast)

    def restore(images: Tensor, sigma: float, setting: float) -> Tensor:
        del setting
        restored = denoise_volumes(
            network,
            images.to(device),
            sigma,
            contrasts[: len(images)],
            scale=torch.ones(len(images)),
            generator=torch.Generator().manual_seed(seed),
        )
        return restored.to(images.device)

    def prior(setting_at: SettingAt, flip_average: bool = False) -> Denoise:
        del setting_at
        denoise = admm_denoiser(network, seed, flip_average=flip_average)
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
    """Short hash of a network's shape and weights."""
    digest = hashlib.sha256(repr(denoiser.network.config).encode())
    for weight in denoiser.network.state_dict().values():
        digest.update(weight.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]

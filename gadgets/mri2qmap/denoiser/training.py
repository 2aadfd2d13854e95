"""Training a denoiser: the loop, its checkpoints and its validation."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
import pickle
import platform
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from mri2qmap.denoiser.checkpoint import Denoiser, load_denoiser, save_denoiser
from mri2qmap.denoiser.label_maps import LabelMap, load_label_map
from mri2qmap.denoiser.loop_errors import LoopErrors
from mri2qmap.denoiser.network import ConditionalResidualUNet, DenoiserConfig, noise_levels
from mri2qmap.denoiser.patches import Batch, PatchSource
from mri2qmap.denoiser.training_config import Optimisation, TrainingConfig
from mri2qmap.denoiser.training_images import SyntheticVolume, synthesise_volume
from mri2qmap.denoiser.volume import denoise_volumes
from mri2qmap.errors import Mri2QmapError

#: Streams of random numbers derived from one seed (PatchSource has 0 and 1).
_DRAWS, _VALIDATION = 2, 3
VALIDATION_SIGMAS = (0.02, 0.05, 0.1, 0.2)
_VALIDATION_VOLUMES = 2


def load_anatomies(folder: Path, names: tuple[str, ...]) -> list[LabelMap]:
    """Load the named label maps of a folder.

    Raises
    ------
    Mri2QmapError
        If one is missing (the message names the folder) or cannot be read.
    """
    paths = [folder / f"{name}.nii.gz" for name in names]
    if missing := [path.name for path in paths if not path.is_file()]:
        raise Mri2QmapError(f"label maps: {folder} has no {', '.join(missing)}")
    return [load_label_map(path) for path in tqdm(paths, desc="label maps", leave=False)]


class Trainer:
    """The state of a training: network, running mean, optimiser and number of the step.

    Parameters
    ----------
    config : TrainingConfig
        Everything that decides the result.
    device : torch.device
        Where the network is trained.
    """

    def __init__(self, config: TrainingConfig, device: torch.device) -> None:
        self.config = config
        self.device = device
        self.step = 0
        self.seconds = 0.0
        torch.manual_seed(config.optimisation.seed)
        self.network = ConditionalResidualUNet(config.network).to(device)
        self.mean_network = deepcopy(self.network).requires_grad_(False)
        self.optimiser = torch.optim.Adam(
            self.network.parameters(),
            lr=config.optimisation.learning_rate,
            betas=(0.9, 0.99),
            fused=True,
        )

    def draw(self, step: int) -> tuple[Tensor, Tensor]:
        """Contrasts (batch, contrasts) and noise levels (batch,) of a step, both float32."""
        settings = self.config.optimisation
        rng = np.random.default_rng([settings.seed, _DRAWS, step])
        present = _draw_present(self.config.network, settings, rng)
        levels = noise_levels(self.config.network).numpy()
        low, high = settings.working_sigmas
        working = levels[(levels >= low) & (levels <= high)]
        sigmas = np.where(
            rng.random(settings.batch) < settings.working_share,
            rng.choice(working if working.size else levels, settings.batch),
            rng.choice(levels, settings.batch),
        )
        return torch.from_numpy(present), torch.from_numpy(sigmas.astype(np.float32))

    def begin_with(self, denoiser: Denoiser) -> None:
        """Take over the weights of another training.

        Raises
        ------
        Mri2QmapError
            If its network has another shape.
        """
        if denoiser.network.config != self.config.network:
            raise Mri2QmapError(
                f"training: the network of {denoiser.name} is {denoiser.network.config}, that of"
                f" the configuration {self.config.network}; it cannot be begun with"
            )
        for network in (self.network, self.mean_network):
            network.load_state_dict(denoiser.network.state_dict())

    def train_step(self, batch: Batch) -> float:
        """Take one step; return the mean squared error of the predicted unit noise, unweighted."""
        settings = self.config.optimisation
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, settings)
        sigma, present = batch.sigma.to(self.device), batch.present.to(self.device)
        noise = batch.noise.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=settings.mixed_precision):
            predicted = self.network.noise(batch.noisy.to(self.device), sigma, present)
        used = present if self.config.network.joint else torch.ones_like(present[:, :1])
        errors = (predicted.float() - noise).square().mean((2, 3, 4))
        # Recorded errors may be far larger than the noise level that the loop states.
        errors = errors / noise.square().mean((2, 3, 4)).clamp_min(1)
        errors = (used * errors).sum(1) / used.sum(1)
        weights = 1 + sigma / settings.weight_sigma
        (weights * errors).mean().backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        decay = min(settings.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.mean_network.parameters()), list(self.network.parameters()), 1 - decay
            )
        self.step += 1
        return float(errors.detach().mean())

    def save(self, path: Path) -> None:
        """Write all that is needed to continue, replacing the file in one step."""
        state = {
            "config": json.dumps(dataclasses.asdict(self.config)),
            "step": self.step,
            "seconds": self.seconds,
            "network": self.network.state_dict(),
            "mean_network": self.mean_network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        part = path.with_name(path.name + ".part")
        torch.save(state, part)
        os.replace(part, path)

    def restore(self, path: Path) -> None:
        """Continue from a file that :meth:`save` wrote.

        Raises
        ------
        Mri2QmapError
            If the file cannot be read or belongs to another configuration.
        """
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            config = state["config"]
        except (OSError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
            raise Mri2QmapError(f"training state {path}: cannot be read ({error})") from error
        if config != json.dumps(dataclasses.asdict(self.config)):
            raise Mri2QmapError(
                f"training state {path}: it was written with another configuration; restore that"
                " configuration, or start anew in another folder"
            )
        self.step, self.seconds = state["step"], state["seconds"]
        self.network.load_state_dict(state["network"])
        self.mean_network.load_state_dict(state["mean_network"])
        self.optimiser.load_state_dict(state["optimiser"])


def _draw_present(
    network: DenoiserConfig, settings: Optimisation, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Which contrasts each patch of a batch holds (batch, contrasts)."""
    count = len(network.contrasts)
    present = np.eye(count, dtype=np.float32)[rng.integers(count, size=settings.batch)]
    if network.joint:
        # The rest is complete, or misses one contrast or two.
        two = 1 - present
        kind = rng.random(settings.batch)[:, None]
        share = settings.missing_share
        present = np.where(kind < share / 2, present, np.where(kind < share, two, 1))
    return present.astype(np.float32)


def learning_rate(step: int, settings: Optimisation) -> float:
    """Linear warm-up, then a cosine that ends at zero."""
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    progress = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def validation_volumes(anatomies: list[LabelMap], config: TrainingConfig) -> list[SyntheticVolume]:
    """Draw the fixed synthetic volumes of the validation subjects."""
    seed = config.optimisation.seed
    return [
        synthesise_volume(
            anatomies[index % len(anatomies)],
            config.images,
            np.random.default_rng([seed, _VALIDATION, index]),
        )
        for index in range(_VALIDATION_VOLUMES)
    ]


def validate(
    network: ConditionalResidualUNet, volumes: list[SyntheticVolume], device: torch.device
) -> dict[tuple[str, float], float]:
    """Measure PSNR after denoising white Gaussian noise.

    Parameters
    ----------
    network : ConditionalResidualUNet
        On ``device``.
    volumes : list of SyntheticVolume
        What to add noise to; always the same noise.
    device : torch.device
        Where to compute.

    Returns
    -------
    dict
        (contrast, sigma) -> PSNR [dB] for a peak of 1, over the voxels of the object (above 0.02),
        all volumes together.
    """
    errors: dict[tuple[str, float], list[Tensor]] = {}
    generator = torch.Generator().manual_seed(0)
    contrasts = network.config.contrasts
    for volume in volumes:
        for sigma in VALIDATION_SIGMAS:
            noise = torch.randn(volume.images.shape, generator=generator)
            restored = denoise_volumes(
                network,
                (volume.images + sigma * noise).to(device),
                sigma,
                contrasts,
                generator=generator,
                scale=torch.ones(len(contrasts)),
            ).cpu()
            for index, contrast in enumerate(contrasts):
                inside = volume.images[index] > 0.02
                error = (restored[index] - volume.images[index])[inside].square()
                errors.setdefault((contrast, sigma), []).append(error)
    return {key: -10 * math.log10(float(torch.cat(parts).mean())) for key, parts in errors.items()}


def train(
    config: TrainingConfig,
    labels: Path,
    out: Path,
    device: torch.device,
    max_minutes: float | None = None,
    initial: str | None = None,
    loop_errors: Path | None = None,
    log: Callable[[str], None] = tqdm.write,
) -> bool:
    """Train, or continue to train, until the last step or the time is reached.

    Parameters
    ----------
    config : TrainingConfig
        Everything that decides the result.
    labels : Path
        Folder of the label maps.
    out : Path
        Folder for ``state.pt`` (continued from if it is there), ``weights.safetensors`` and
        ``progress.csv``. The weights are the running mean, stored in half precision, which changes
        the images by less than 1e-3.
    device : torch.device
        Where to train.
    max_minutes : float, optional
        Stop after this time, with a checkpoint.
    initial : str, optional
        Name or path of a denoiser of the same shape to begin with.
    loop_errors : Path, optional
        Folder of recorded inputs of the denoiser; needed if ``config.images.loop_fraction`` > 0.
    log : callable
        Takes one line at a time.

    Returns
    -------
    bool
        Whether the last step was reached.

    Raises
    ------
    Mri2QmapError
        If label maps or recordings are missing or unreadable, the state in ``out`` is of another
        training, or ``initial`` has another shape.
    """
    settings = config.optimisation
    if (config.images.loop_fraction > 0) != (loop_errors is not None):
        raise Mri2QmapError(
            f"training config, images: loop_fraction is {config.images.loop_fraction:g}, but"
            f" recordings are {'not ' * (loop_errors is None)}given; both or neither are needed"
        )
    recordings = None if loop_errors is None else LoopErrors.of_folder(loop_errors)
    trainer = Trainer(config, device)
    state = out / "state.pt"
    if state.exists():
        trainer.restore(state)
        log(f"continuing after step {trainer.step}")
    elif initial is not None:
        trainer.begin_with(load_denoiser(initial, device))
    source = PatchSource(
        load_anatomies(labels, config.subjects.training),
        config.images,
        config.network.joint,
        settings.seed,
        recordings,
    )
    volumes = validation_volumes(load_anatomies(labels, config.subjects.validation), config)
    out.mkdir(parents=True, exist_ok=True)

    begin = last_save = time.monotonic()
    earlier = trainer.seconds
    losses: list[float] = []
    bar = tqdm(total=settings.steps, initial=trainer.step, desc="training", unit="step")

    def checkpoint() -> None:
        trainer.seconds = earlier + time.monotonic() - begin
        trainer.save(state)
        save_denoiser(
            out / "weights.safetensors", trainer.mean_network, _info(trainer), torch.float16
        )

    try:
        while trainer.step < settings.steps:
            present, sigmas = trainer.draw(trainer.step)
            batch = source.batch(trainer.step, settings.patch, present, sigmas)
            losses.append(trainer.train_step(batch))
            bar.update()
            now = time.monotonic()
            if trainer.step % settings.validate_every == 0 or trainer.step == settings.steps:
                scores = validate(trainer.mean_network, volumes, device)
                _append_progress(
                    out / "progress.csv", trainer.step, earlier + now - begin, losses, scores
                )
                at = 0.1
                summary = ", ".join(f"{c} {v:.2f}" for (c, s), v in scores.items() if s == at)
                log(f"step {trainer.step}: loss {np.mean(losses):.4f}, PSNR at {at}: {summary} dB")
                losses.clear()
            if now - last_save > 60 * settings.checkpoint_minutes:
                checkpoint()
                last_save = now
            if max_minutes is not None and now - begin > 60 * max_minutes:
                log(f"stopped after {max_minutes:g} minutes at step {trainer.step}")
                break
    finally:
        bar.close()
        checkpoint()
    return trainer.step >= settings.steps


def _info(trainer: Trainer) -> dict[str, object]:
    """Collect what the weights file records about its training."""
    return {
        "step": trainer.step,
        "seconds": round(trainer.seconds),
        "training": dataclasses.asdict(trainer.config),
        "torch": torch.__version__,
        "processor": platform.machine() if trainer.device.type == "cpu" else trainer.device.type,
        "threads": torch.get_num_threads(),
    }


def _append_progress(
    path: Path,
    step: int,
    seconds: float,
    losses: list[float],
    scores: dict[tuple[str, float], float],
) -> None:
    """Add a line to the table of losses and validation PSNRs."""
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if new:
            names = [f"psnr_{contrast}_{sigma:g}" for contrast, sigma in scores]
            writer.writerow(["step", "seconds", "loss", *names])
        values = [f"{score:.3f}" for score in scores.values()]
        writer.writerow([step, f"{seconds:.0f}", f"{np.mean(losses):.5f}", *values])

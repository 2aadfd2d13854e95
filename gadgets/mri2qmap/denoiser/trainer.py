"""The state of a training, and what one step does to it."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pickle
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mri2qmap.denoiser.checkpoint import Denoiser
from mri2qmap.denoiser.network import ConditionalResidualUNet, DenoiserConfig, noise_levels
from mri2qmap.denoiser.patches import Batch
from mri2qmap.denoiser.processes import Processes
from mri2qmap.denoiser.training_config import Optimisation, TrainingConfig, config_from_json
from mri2qmap.errors import Mri2QmapError

#: Stream of random numbers derived from the seed (PatchSource has 0 and 1).
_DRAWS = 2


class Trainer:
    """The state of a training: network, running mean, optimiser and number of the step.

    Parameters
    ----------
    config : TrainingConfig
        Everything that decides the result.
    device : torch.device
        Where the network is trained.
    processes : Processes
        This process among those that train together, which are in touch already.

    Attributes
    ----------
    whole : bool
        Whether the last step was taken to its end: false if it was interrupted while it changed
        the weights.
    """

    def __init__(
        self, config: TrainingConfig, device: torch.device, processes: Processes | None = None
    ) -> None:
        self.config = config
        self.device = device
        self.step = 0
        self.seconds = 0.0
        self.whole = True
        torch.manual_seed(config.optimisation.seed)
        self.network = ConditionalResidualUNet(config.network).to(device)
        self.mean_network = deepcopy(self.network).requires_grad_(False)
        self.optimiser = torch.optim.Adam(
            self.network.parameters(),
            lr=config.optimisation.learning_rate,
            betas=(0.9, 0.99),
            fused=True,
        )
        self._denoise: nn.Module = self.network
        if processes is not None and processes.count > 1:
            # It averages the gradients: as equal parts of a batch, those of the whole batch.
            self._denoise = DistributedDataParallel(
                self.network,
                device_ids=[device] if device.type == "cuda" else None,
                gradient_as_bucket_view=True,
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

    def train_step(self, batch: Batch) -> Tensor:
        """Take one step.

        Parameters
        ----------
        batch : Batch
            This process's part of it.

        Returns
        -------
        Tensor
            () mean squared error of the restored patches in units of their noise, unweighted.

        Raises
        ------
        Mri2QmapError
            If the gradient is not finite; the weights are then as before.
        """
        settings = self.config.optimisation
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, settings)
        batch = batch.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=settings.mixed_precision):
            restored = self._denoise(batch.noisy, batch.sigma, batch.present)
        errors = (restored.float() - batch.clean) / batch.sigma[:, None, None, None, None]
        errors = errors.square().mean((2, 3, 4))
        # Recorded errors may be far larger than the noise level that the loop states.
        errors = errors / batch.noise.square().mean((2, 3, 4)).clamp_min(1)
        joint = self.config.network.joint
        used = batch.present if joint else torch.ones_like(batch.present[:, :1])
        errors = (used * errors).sum(1) / used.sum(1)
        weights = 1 + batch.sigma / settings.weight_sigma
        (weights * errors).mean().backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip)
        if not bool(norm.isfinite()):
            raise Mri2QmapError(
                f"training: the gradient is {float(norm)} at step {self.step}; start anew with a"
                " lower learning_rate"
            )
        self.whole = False
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        decay = min(settings.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.mean_network.parameters()), list(self.network.parameters()), 1 - decay
            )
        self.step += 1
        self.whole = True
        return errors.detach().mean()

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
            config = config_from_json(state["config"])
        except (
            OSError, RuntimeError, TypeError, EOFError, KeyError, ValueError, Mri2QmapError,
            pickle.UnpicklingError,
        ) as error:  # fmt: skip
            raise Mri2QmapError(f"training state {path}: cannot be read ({error})") from error
        if config != self.config:
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

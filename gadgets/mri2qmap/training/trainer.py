"""State of a training, and a single training step."""

from __future__ import annotations

import dataclasses
import json
import math
import operator
import pickle
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from mri2qmap.denoiser.checkpoint import Denoiser
from mri2qmap.denoiser.network import (
    ConditionalResidualUNet,
    DenoiserConfig,
    noise_levels,
)
from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.process_group import ProcessGroup
from mri2qmap.storage.atomic import atomic_write
from mri2qmap.storage.tensor_files import raising_oserror
from mri2qmap.training.muon import Muon
from mri2qmap.training.patches import Batch
from mri2qmap.training.training_config import Optimisation, TrainingConfig, config_from_json

#: Random stream of the conditions, derived from the seed (PatchSource uses 0 and 1).
_DRAWS = 2
#: Noise level at which the weight of a patch is doubled. The relative error after denoising becomes
#: smaller with the noise level; the weight compensates for this.
_WEIGHT_SIGMA = 0.03
#: Lower limit of the root-mean-square error of an input, by which the loss is normalised.
_MIN_INPUT_ERROR = 1e-3
#: Offset of the relative squared error under the square root of the loss.
_ROOT_OFFSET = 0.01
#: Edge of the surroundings whose error is the unit of a voxel's error [voxels], and the fraction
#: of the error of the patch that is added to this unit.
_REGION, _PATCH_SHARE = 5, 0.1


def relative_error(after: Tensor, before: Tensor, unit: Tensor) -> Tensor:
    """Mean squared error after denoising, relative to that before in the same region.

    In images synthesised from estimated maps, errors at borders and in fluid are many times those
    within tissue and would dominate the mean. The squared error of each voxel is therefore divided
    by the mean squared error before denoising in its surroundings, plus a tenth of that of the
    whole patch.

    Parameters
    ----------
    after, before
        Squared errors (batch, images, z, y, x).
    unit
        Mean of the error before (batch, images), positive.

    Returns
    -------
        (batch, images).
    """
    reach = (min(_REGION, *before.shape[2:]) - 1) // 2
    local = functional.avg_pool3d(
        before, 2 * reach + 1, stride=1, padding=reach, count_include_pad=False
    )
    local = local + _PATCH_SHARE * unit[:, :, None, None, None]
    relative: Tensor = (after / local).mean((2, 3, 4))
    return relative


class Trainer:
    """State of a training: network, exponential moving average (EMA), optimisers and step number.

    Parameters
    ----------
    config : TrainingConfig
        Complete configuration.
    device : torch.device
        Device of the network.
    processes : ProcessGroup, optional
        The connected group of processes (default: a single process).

    Attributes
    ----------
    consistent : bool
        Whether the state is consistent: False if the last step was interrupted while it changed the
        weights.
    """

    def __init__(
        self, config: TrainingConfig, device: torch.device, processes: ProcessGroup | None = None
    ) -> None:
        self.config = config
        self.device = device
        self.step = 0
        self.seconds = 0.0
        self.consistent = True
        torch.manual_seed(config.optimisation.seed)
        self.network = ConditionalResidualUNet(config.network).to(device)
        self.ema_network = deepcopy(self.network).requires_grad_(False)
        settings = config.optimisation
        # The scale of the last layer's outputs matters (voxel values), so Adam trains it.
        inner = {
            id(module.weight)
            for module in self.network.modules()
            if isinstance(module, nn.Conv3d | nn.ConvTranspose3d)
            and module is not self.network.head
        }
        matrices = [p for p in self.network.parameters() if id(p) in inner]
        others = [p for p in self.network.parameters() if id(p) not in inner]
        self.optimisers = (
            torch.optim.Adam(others, lr=settings.learning_rate, betas=(0.9, 0.99), fused=True),
            Muon(matrices, lr=settings.matrix_rate),
        )
        self._denoise: nn.Module = self.network
        if processes is not None and processes.world_size > 1:
            # Averages the gradients of equal parts of the batch: the gradient of the whole batch.
            self._denoise = DistributedDataParallel(
                self.network,
                device_ids=[device] if device.type == "cuda" else None,
                gradient_as_bucket_view=True,
            )

    def step_conditions(self, step: int) -> tuple[Tensor, Tensor]:
        """Return contrasts (batch, contrasts) and noise levels (batch,) of a step, both float32."""
        settings = self.config.optimisation
        return self.draw_conditions(
            np.random.default_rng([settings.seed, _DRAWS, step]), settings.batch
        )

    def draw_conditions(self, rng: np.random.Generator, count: int = 1) -> tuple[Tensor, Tensor]:
        """Draw contrasts (count, contrasts) and noise levels (count,), both float32."""
        settings = self.config.optimisation
        present = _draw_present(self.config.network, settings.missing_share, count, rng)
        levels = noise_levels(self.config.network).numpy()
        low, high = settings.working_sigmas
        working = levels[(levels >= low) & (levels <= high)]
        sigmas = np.where(
            rng.random(count) < settings.working_share,
            rng.choice(working if working.size else levels, count),
            rng.choice(levels, count),
        )
        return torch.from_numpy(present), torch.from_numpy(sigmas.astype(np.float32))

    def load_initial_weights(self, denoiser: Denoiser) -> None:
        """Initialise the networks with the weights of another training.

        The other network may lack the pre-filter and some blocks. New blocks initially have no
        effect.

        Raises
        ------
        Mri2QmapError
            If the networks are otherwise different.
        """
        weights, config = denoiser.network.state_dict(), denoiser.network.config
        if self.config.network.prefilter and not config.prefilter:
            weights = add_prefilter_inputs(weights)
            config = dataclasses.replace(config, prefilter=True)
        wanted = self.config.network.blocks
        if len(config.blocks) == len(wanted) and all(map(operator.le, config.blocks, wanted)):
            weights = self.network.state_dict() | weights
            config = dataclasses.replace(config, blocks=wanted)
        if config != self.config.network:
            raise Mri2QmapError(
                f"training: the network of {denoiser.name} is {denoiser.network.config}, which does"
                f" not match that of the configuration, {self.config.network}; choose other initial"
                " weights, or change the configuration"
            )
        for network in (self.network, self.ema_network):
            network.load_state_dict(weights)

    def train_step(self, batch: Batch) -> Tensor:
        """Take one step.

        Parameters
        ----------
        batch : Batch
            This process's part of the batch.

        Returns
        -------
        Tensor
            () mean `relative_error` of the denoised patches.

        Raises
        ------
        Mri2QmapError
            If the gradient is not finite; the weights are then unchanged.

        Notes
        -----
        The loss is the mean over images of sqrt(e^2 + 0.01) (1 + s / 0.03), with the
        root-mean-square error s of the input, and the `relative_error` e^2 of the output. The root
        gives smooth objects and contrasts of low intensity the same weight as others.
        """
        settings = self.config.optimisation
        schedule = rate_schedule(self.step, settings)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = optimiser.defaults["lr"] * schedule
        batch = batch.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=settings.mixed_precision):
            restored = self._denoise(
                batch.noisy,
                batch.sigma,
                batch.present,
                batch.synthesised,
                *batch.estimates.unbind(1),
            )
        errors = (restored.float() - batch.clean).square()
        joint = self.config.network.joint
        used = batch.present if joint else torch.ones_like(batch.present[:, :1])
        used = used / used.sum(1, keepdim=True)
        # Recorded inputs have errors smaller than sigma, so the actual error is the reference.
        before = batch.noise.square() * batch.sigma.square()[:, None, None, None, None]
        unit = before.mean((2, 3, 4)).clamp_min(_MIN_INPUT_ERROR**2)
        relative = relative_error(errors, before, unit)
        roots = (relative + _ROOT_OFFSET).sqrt()
        weighted = used * roots * (1 + unit.sqrt() / _WEIGHT_SIGMA)
        torch.autograd.backward(weighted.sum(1).mean())
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip)
        if not bool(norm.isfinite()):
            raise Mri2QmapError(
                f"training: the gradient is {float(norm)} at step {self.step}; restart with a"
                " lower learning_rate"
            )
        self.consistent = False
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        decay = min(settings.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.ema_network.parameters()), list(self.network.parameters()), 1 - decay
            )
        self.step += 1
        self.consistent = True
        loss: Tensor = (used * relative.detach()).sum(1).mean()
        return loss

    def save(self, path: Path) -> None:
        """Write the complete state atomically."""
        state = {
            "config": json.dumps(dataclasses.asdict(self.config)),
            "step": self.step,
            "seconds": self.seconds,
            "network": self.network.state_dict(),
            "mean_network": self.ema_network.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
        }
        with atomic_write(path) as part:
            raising_oserror(path, lambda: torch.save(state, part))

    def restore(self, path: Path) -> None:
        """Continue from a file written by :meth:`save`.

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
                " configuration, or start a new training in another folder"
            )
        self.step, self.seconds = state["step"], state["seconds"]
        self.network.load_state_dict(state["network"])
        self.ema_network.load_state_dict(state["mean_network"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)


def add_prefilter_inputs(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Extend the weights of a network without pre-filter to one with it.

    Parameters
    ----------
    weights : mapping
        State of a network of the same configuration, but without ``prefilter``.

    Returns
    -------
    dict
        Extended weights: the first layer ignores the new inputs, and the last layer adds no
        correction to the pre-filtered estimates.
    """
    wider = dict(weights)
    stem = weights["stem.weight"]
    wider["stem.weight"] = torch.cat([stem, *[torch.zeros_like(stem)] * 2], dim=1)
    for name in ("head.weight", "head.bias"):
        mean, log_variance = weights[name].chunk(2)
        wider[name] = torch.cat([torch.zeros_like(mean), log_variance, torch.zeros_like(mean)])
    return wider


def _draw_present(
    network: DenoiserConfig, missing_share: float, count: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Draw the contrasts that each patch holds (count, contrasts)."""
    contrasts = len(network.contrasts)
    present = np.eye(contrasts, dtype=np.float32)[rng.integers(contrasts, size=count)]
    if network.joint:
        # All contrasts, or all but one, or one alone.
        two = 1 - present
        kind = rng.random(count)[:, None]
        one_left, two_left = kind < missing_share / 2, kind < missing_share
        present = np.where(one_left, present, np.where(two_left, two, 1))
    return present.astype(np.float32)


def rate_schedule(step: int, settings: Optimisation) -> float:
    """Return the learning-rate factor: linear warm-up, then a cosine that ends at zero."""
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    progress = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))

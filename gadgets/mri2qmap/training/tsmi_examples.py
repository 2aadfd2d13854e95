"""What networks that restore TSMIs learn from, and how well they do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mri2qmap.denoiser.checkpoint import Task
from mri2qmap.denoiser.network import ConditionalResidualUNet
from mri2qmap.denoiser.tsmi_images import TsmiRecording, find_tsmi_recordings
from mri2qmap.denoiser.tsmi_restoration import ARTEFACT_SIGMA, restore_images
from mri2qmap.errors import Mri2QmapError
from mri2qmap.training.patches import BATCHES, Batch, Conditions, crop, draw_corner
from mri2qmap.training.subjects import SubjectSplits, used_subjects
from mri2qmap.training.training_config import TrainingConfig
from mri2qmap.training.validation import Scores, Validate

#: Noise levels of validation, per part of a coefficient: those of the loop.
_VALIDATION_SIGMAS = (0.01, 0.02, 0.05, 0.1)
#: Magnitude, of TSMIs whose bright end is 1, above which a voxel belongs to the object.
_OBJECT = 0.05
_LEAST_OBJECT = 0.1
_CROPS_TRIED = 4
#: Largest factor on the intensity, either way.
_GAIN = 1.25


class TsmiExamples(SubjectSplits):
    """Recorded TSMIs of subjects for training and validation.

    Parameters
    ----------
    config : TrainingConfig
        Who is for what, and what is to be removed.
    folder : Path
        Of the recordings.

    Raises
    ------
    Mri2QmapError
        If there are no recordings, one cannot be read or has another shape than the configuration
        says, they are of several sequences, a subject that the configuration names is not there, or
        too few subjects are.
    """

    def __init__(self, config: TrainingConfig, folder: Path) -> None:
        paths = find_tsmi_recordings(folder)
        super().__init__(config, {"tsmi": paths})
        self._config = config
        split = self.splits["tsmi"]
        shape = (len(config.network.contrasts), *(config.images.size,) * 3)
        recordings = {
            name: [_load(path, shape) for path in paths[name]] for name in used_subjects(split)
        }
        sequences = {r.sequence for of in recordings.values() for r in of}
        if len(sequences) > 1:
            raise Mri2QmapError(
                f"TSMI recordings: {folder} holds recordings of {len(sequences)} sequences, whose"
                " coefficients do not mean the same; give each a folder"
            )
        (self._sequence,) = sequences
        self._train = _of_group(recordings, split, "training")
        self._validate = _of_group(recordings, split, "validation")

    def provenance(self) -> dict[str, object]:
        """What the history of the weights says of the data: subjects and sequence."""
        return {**super().provenance(), "sequence": self._sequence}

    def source(self, conditions: Conditions, device: torch.device) -> TsmiPatches:
        """Batches of patches; noise levels are those of the steps."""
        del conditions, device  # of first estimates, which there are none of
        return TsmiPatches(self._train, self._config)

    def validator(self, device: torch.device) -> Validate:
        """See :func:`validate_tsmi`."""
        count = self._config.optimisation.validate_volumes
        return partial(
            validate_tsmi,
            recordings=self._validate[:count],
            task=self._config.task,
            device=device,
        )


class TsmiPatches:
    """Batches by the number of the training step, cut from recordings.

    Parameters
    ----------
    recordings : sequence of TsmiRecording
        At least one.
    config : TrainingConfig
        Task, channels and seed.
    """

    def __init__(self, recordings: Sequence[TsmiRecording], config: TrainingConfig) -> None:
        self._recordings = recordings
        self._task = config.task
        self._seed = config.optimisation.seed

    def batch(
        self, step: int, patch: int, present: Tensor, sigmas: Tensor, first: int = 0
    ) -> Batch:
        """Draw the batch of a step, or some patches of it.

        Parameters
        ----------
        step : int
            Number of the step, 0 or more.
        patch : int
            Side of the patches.
        present : Tensor
            (patches, channels); every patch holds all of them.
        sigmas : Tensor
            (patches,) noise levels, for removing noise.
        first : int
            Number within the batch of the first of these patches.
        """
        examples = [
            self._example(patch, sigma, np.random.default_rng([self._seed, BATCHES, step, number]))
            for number, sigma in enumerate(sigmas, start=first)
        ]
        clean, noise, levels = (torch.stack(part) for part in zip(*examples, strict=True))
        return Batch(
            clean,
            noise,
            levels,
            torch.ones_like(present),
            torch.zeros_like(levels),
            clean.new_empty(len(clean), 0, *clean.shape[1:]),
        )

    def _example(
        self, patch: int, sigma: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Truth and errors (channels, z, y, x), the latter divided by the level, and that."""
        for _ in range(_CROPS_TRIED):
            recording = self._recordings[int(rng.integers(len(self._recordings)))]
            corner = draw_corner(recording.truth.shape[-1], patch, rng)
            clean = crop(recording.truth, corner, patch).float()
            if _object(clean).float().mean() > _LEAST_OBJECT:
                break
        gain = float(np.exp(rng.uniform(-1, 1) * math.log(_GAIN)))
        clean = gain * clean
        if self._task is Task.TSMI_ARTEFACTS:
            sigma = torch.tensor(ARTEFACT_SIGMA)
            found = gain * crop(recording.least_squares, corner, patch).float()
            noise = (found - clean) / sigma
        else:
            noise = torch.from_numpy(rng.standard_normal(clean.shape, np.float32))
        axes = [0, 1, *(2 + int(axis) for axis in rng.permutation(3))]
        flips = [axis for axis in (2, 3, 4) if rng.random() < 0.5]
        clean, noise = torch.stack([clean, noise]).permute(axes).flip(flips)
        return clean, noise, sigma


def validate_tsmi(
    network: ConditionalResidualUNet,
    recordings: Sequence[TsmiRecording],
    task: Task,
    device: torch.device,
) -> Scores:
    """Measure PSNR after restoring recordings.

    Parameters
    ----------
    network : ConditionalResidualUNet
        On ``device``.
    recordings : sequence of TsmiRecording
        At least one.
    task : Task
        What is removed: noise, always the same, or what undersampling left.
    device : torch.device
        Where to compute.

    Returns
    -------
    dict
        ("TSMI", root mean square of the errors before) -> PSNR [dB] for a peak of 1, over the
        object and all channels.
    """
    generator = torch.Generator().manual_seed(0)
    if task is Task.TSMI_ARTEFACTS:
        inputs = [recording.least_squares.float() for recording in recordings]
        before = [_error(x, r.truth) for x, r in zip(inputs, recordings, strict=True)]
        size = float(f"{math.sqrt(sum(before) / len(before)):.3g}")
        return {("TSMI", size): _score(network, recordings, inputs, ARTEFACT_SIGMA, device)}
    scores: Scores = {}
    for sigma in _VALIDATION_SIGMAS:
        inputs = [
            r.truth.float() + sigma * torch.randn(r.truth.shape, generator=generator)
            for r in recordings
        ]
        scores["TSMI", sigma] = _score(network, recordings, inputs, sigma, device)
    return scores


def _score(
    network: ConditionalResidualUNet,
    recordings: Sequence[TsmiRecording],
    inputs: Sequence[Tensor],
    sigma: float,
    device: torch.device,
) -> float:
    """PSNR [dB] of restored inputs (channels, z, y, x)."""
    generator = torch.Generator().manual_seed(0)
    errors = [
        _error(restore_images(network, x.to(device), sigma, generator=generator).cpu(), r.truth)
        for x, r in zip(inputs, recordings, strict=True)
    ]
    return -10 * math.log10(sum(errors) / len(errors))


def _error(images: Tensor, truth: Tensor) -> float:
    """Mean squared error over the object of images (channels, z, y, x)."""
    truth = truth.float()
    return float((images - truth)[:, _object(truth)].square().mean())


def _object(truth: Tensor) -> Tensor:
    """Voxels (z, y, x) with signal."""
    return torch.linalg.vector_norm(truth, dim=0) > _OBJECT


def _load(path: Path, shape: tuple[int, ...]) -> TsmiRecording:
    recording = TsmiRecording.load(path)
    if recording.truth.shape != shape:
        raise Mri2QmapError(
            f"TSMI recording {path}: shape {tuple(recording.truth.shape)}; the configuration"
            f" (network.contrasts, images.size) expects {shape}"
        )
    return recording


def _of_group(
    recordings: Mapping[str, Sequence[TsmiRecording]], split: Mapping[str, str], group: str
) -> list[TsmiRecording]:
    return [r for name, of in recordings.items() if split[name] == group for r in of]

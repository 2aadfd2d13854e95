"""Training and validation data for networks that restore TSMIs."""

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

#: Noise levels of the validation, of real and imaginary parts, as in the MRF-PnP iterations.
_VALIDATION_SIGMAS = (0.01, 0.02, 0.05, 0.1)
#: Magnitude above which a voxel belongs to the object, for TSMIs of intensity scale 1.
_OBJECT = 0.05
#: Smallest fraction of object voxels in a patch, if several crops allow it.
_MIN_OBJECT = 0.1
_CROPS_TRIED = 4
#: Largest random factor on the intensity, and inverse of the smallest.
_GAIN = 1.25


class TsmiExamples(SubjectSplits):
    """Recorded TSMIs of training and validation subjects.

    Parameters
    ----------
    config : TrainingConfig
        Split of the subjects and task of the network.
    folder : Path
        Folder of the recordings.

    Raises
    ------
    Mri2QmapError
        If there are no recordings, one cannot be read or has another shape than configured, they
        belong to several sequences, a subject named in the configuration is missing, or there are
        too few subjects.
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
                " subspace coefficients differ; use one folder for each sequence"
            )
        (self._sequence,) = sequences
        self._train = _of_group(recordings, split, "training")
        self._validate = _of_group(recordings, split, "validation")

    def provenance(self) -> dict[str, object]:
        """Return subjects and sequence for the training history."""
        return {**super().provenance(), "sequence": self._sequence}

    def source(self, conditions: Conditions, device: torch.device) -> TsmiPatches:
        """Return the source of patches; noise levels are those of the steps."""
        del conditions, device  # needed only with a pre-filter
        return TsmiPatches(self._train, self._config)

    def validator(self, device: torch.device) -> Validate:
        """Return :func:`validate_tsmi` for the validation recordings."""
        count = self._config.optimisation.validate_volumes
        return partial(
            validate_tsmi,
            recordings=self._validate[:count],
            task=self._config.task,
            device=device,
        )


class TsmiPatches:
    """Source of batches, cut from recordings.

    Parameters
    ----------
    recordings : sequence of TsmiRecording
        Recordings, at least one.
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
        """Draw the batch of a step, or a part of it.

        Parameters
        ----------
        step : int
            Number of the step, 0 or more.
        patch : int
            Side of the patches [voxels].
        present : Tensor
            (patches, channels); all channels are always present.
        sigmas : Tensor
            (patches,) noise levels, used for the removal of noise.
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
        """Return truth and errors / level (channels, z, y, x), and the noise level."""
        for _ in range(_CROPS_TRIED):
            recording = self._recordings[int(rng.integers(len(self._recordings)))]
            corner = draw_corner(recording.truth.shape[-1], patch, rng)
            clean = crop(recording.truth, corner, patch).float()
            if _object(clean).float().mean() > _MIN_OBJECT:
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
    """Measure the PSNR after restoration of recordings.

    Parameters
    ----------
    network : ConditionalResidualUNet
        Network on ``device``.
    recordings : sequence of TsmiRecording
        Recordings, at least one.
    task : Task
        Removal of noise (reproducible) or of undersampling artefacts.
    device : torch.device
        Device of the computation.

    Returns
    -------
    dict
        ("TSMI", root mean square of the input error) -> PSNR [dB] for a peak of 1, over the object
        and all channels.
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
    """Return the PSNR [dB] after restoration of the inputs (channels, z, y, x)."""
    generator = torch.Generator().manual_seed(0)
    errors = [
        _error(restore_images(network, x.to(device), sigma, generator=generator).cpu(), r.truth)
        for x, r in zip(inputs, recordings, strict=True)
    ]
    return -10 * math.log10(sum(errors) / len(errors))


def _error(images: Tensor, truth: Tensor) -> float:
    """Return the mean squared error of images (channels, z, y, x) over the object."""
    truth = truth.float()
    return float((images - truth)[:, _object(truth)].square().mean())


def _object(truth: Tensor) -> Tensor:
    """Return the voxels (z, y, x) with signal, bool."""
    inside: Tensor = torch.linalg.vector_norm(truth, dim=0) > _OBJECT
    return inside


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

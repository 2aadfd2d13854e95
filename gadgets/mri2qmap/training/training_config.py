"""Training configuration: a YAML file that is read into frozen dataclasses."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mri2qmap.denoiser.checkpoint import Task, current_setting_names
from mri2qmap.denoiser.network import CONTRASTS, DenoiserConfig
from mri2qmap.denoiser.tsmi_images import tsmi_channels
from mri2qmap.errors import Mri2QmapError
from mri2qmap.pipeline.settings import from_values
from mri2qmap.training.image_settings import ImageSettings


@dataclass(frozen=True)
class Subjects:
    """Split of the subjects into groups.

    A label map is named by its file without ``.nii.gz``, a subject with acquired images as in
    :func:`find_weighted_files`. If no subject of a kind (label maps, acquired images) is named, all
    available subjects of that kind, except those held out, are split at random.

    Parameters
    ----------
    training, validation : tuple of str
        Subjects for training and for validation: both or neither.
    held_out : tuple of str
        Subjects in neither group; they need not be available.
    validation_share, held_out_share : float
        Fractions of a random split, with at least one subject for validation; the others are for
        training. The split depends only on the names and on ``optimisation.seed``.

    Raises
    ------
    Mri2QmapError
        If the groups overlap or are incomplete, or the fractions are out of range.
    """

    training: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    validation_share: float = 0.1
    held_out_share: float = 0.1

    def __post_init__(self) -> None:
        """Validate the groups and fractions."""
        if bool(self.training) != bool(self.validation):
            raise Mri2QmapError(
                "training config, subjects: name subjects for both training and validation, or for"
                " neither"
            )
        shares = self.validation_share, self.held_out_share
        if not (all(share >= 0 for share in shares) and sum(shares) < 1):
            raise Mri2QmapError(
                "training config, subjects: validation_share and held_out_share must not be"
                " negative and must add up to less than 1"
            )
        every = [*self.training, *self.validation, *self.held_out]
        if twice := sorted({name for name in every if every.count(name) > 1}):
            raise Mri2QmapError(f"training config, subjects: {', '.join(twice)} named twice")


@dataclass(frozen=True)
class Optimisation:
    """Settings of the optimisation.

    Parameters
    ----------
    steps, batch, patch : int
        Number of steps, patches per step (over all processes) and side of a patch [voxels].
    matrix_rate, learning_rate : float
        Highest learning rates of Muon, which trains the convolutions, and of Adam, which trains the
        other parameters. The rates rise linearly for ``warmup`` steps, then fall to zero as a
        cosine.
    warmup : int
        Steps of the linear rise of the learning rates.
    clip : float
        Largest norm of the gradient.
    ema : float
        Decay per step of the exponential moving average of the weights, which is the result.
    working_sigmas : (float, float)
        Range of the most relevant noise levels.
    working_share : float
        Fraction of patches with noise levels in ``working_sigmas``; the others are drawn from all
        levels.
    missing_share : float
        Fraction of the patches of a joint network in which one or two contrasts are missing.
    validate_every, validate_volumes : int
        Steps between two validations, and number of validation volumes of each kind (label maps,
        acquired images).
    checkpoint_minutes : float
        Time between two checkpoints [min].
    mixed_precision : bool
        Run the network in bfloat16 (useful only with hardware support).
    seed : int
        Seed of all random numbers.

    Raises
    ------
    Mri2QmapError
        If a value is out of range.
    """

    steps: int = 20000
    batch: int = 4
    patch: int = 32
    matrix_rate: float = 0.004
    learning_rate: float = 5e-4
    warmup: int = 300
    clip: float = 1.0
    ema: float = 0.999
    working_sigmas: tuple[float, float] = (0.015, 0.25)
    working_share: float = 0.85
    missing_share: float = 0.15
    validate_every: int = 1000
    validate_volumes: int = 2
    checkpoint_minutes: float = 3.0
    mixed_precision: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Validate the values."""
        counts = self.steps, self.batch, self.patch, self.validate_every, self.validate_volumes
        if min(counts) < 1 or self.warmup < 0 or self.seed < 0:
            raise Mri2QmapError(
                "training config, optimisation: steps, batch, patch, validate_every and"
                " validate_volumes must be at least 1, warmup and seed not negative"
            )
        rates = self.matrix_rate, self.learning_rate
        if not all(0 < v < math.inf for v in (*rates, self.clip, self.checkpoint_minutes)):
            raise Mri2QmapError(
                "training config, optimisation: matrix_rate, learning_rate, clip and"
                " checkpoint_minutes must be positive"
            )
        if not (
            0 <= self.ema < 1 and 0 <= self.working_share <= 1 and 0 <= self.missing_share <= 1
        ):
            raise Mri2QmapError(
                "training config, optimisation: ema, working_share and missing_share must lie"
                " between 0 and 1"
            )
        if not 0 < self.working_sigmas[0] <= self.working_sigmas[1]:
            raise Mri2QmapError(
                "training config, optimisation: working_sigmas must be positive and ascend"
            )


@dataclass(frozen=True)
class TrainingConfig:
    """Complete configuration of a training, except for the images themselves.

    Parameters
    ----------
    subjects, network, images, optimisation
        See their classes.
    task : Task
        Purpose of the network. Networks for TSMIs must be joint; their contrasts are the channels
        of a TSMI (`tsmi_channels`). Of ``images``, they use only ``size``, the size of the
        recordings.

    Raises
    ------
    Mri2QmapError
        If the parts are inconsistent.
    """

    subjects: Subjects = field(default_factory=Subjects)
    network: DenoiserConfig = field(default_factory=DenoiserConfig)
    images: ImageSettings = field(default_factory=ImageSettings)
    optimisation: Optimisation = field(default_factory=Optimisation)
    task: Task = Task.WEIGHTED

    def __post_init__(self) -> None:
        """Check the consistency of the parts."""
        if self.optimisation.patch % self.network.size_multiple:
            raise Mri2QmapError(
                f"training config: patch {self.optimisation.patch} must be a multiple of"
                f" {self.network.size_multiple} for this network"
            )
        if self.optimisation.patch > self.images.size:
            raise Mri2QmapError(
                f"training config: patch {self.optimisation.patch} is larger than the volumes"
                f" ({self.images.size})"
            )
        if self.task is Task.WEIGHTED:
            if self.network.contrasts != CONTRASTS:
                raise Mri2QmapError(
                    f"training config: contrasts {self.network.contrasts}, but a reconstruction"
                    f" needs {', '.join(CONTRASTS)}; omit the setting (contrasts without images"
                    " are allowed)"
                )
        elif not self.network.joint or self.network.prefilter:
            raise Mri2QmapError(
                f"training config: a network for {self.task} must be joint and without prefilter"
            )
        elif self.network.contrasts != tsmi_channels(len(self.network.contrasts) // 2):
            raise Mri2QmapError(
                f"training config: contrasts {self.network.contrasts}, but a network for"
                f" {self.task} needs {', '.join(tsmi_channels(2))}, ..."
            )


def read_training_config(path: Path) -> TrainingConfig:
    """Read a configuration file.

    Raises
    ------
    Mri2QmapError
        If it cannot be read, or has an unknown key, a missing one or a value of the wrong kind;
        the message names the file and the key.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise Mri2QmapError(f"training config {path}: cannot be read ({error})") from error
    try:
        return from_values(_with_current_names(content), TrainingConfig)
    except (Mri2QmapError, ValueError) as error:
        raise Mri2QmapError(f"{path}: {error}") from error


def config_from_json(text: str) -> TrainingConfig:
    """Inverse of ``json.dumps(dataclasses.asdict(config))``; a missing key has its default.

    Raises
    ------
    Mri2QmapError, ValueError
        If it is not a configuration.
    """
    return from_values(_with_current_names(json.loads(text)), TrainingConfig)


def _with_current_names(content: Any) -> Any:
    """Return the content of a configuration with the current names of its settings."""
    if isinstance(content, dict) and isinstance(content.get("network"), dict):
        return {**content, "network": current_setting_names(content["network"])}
    return content

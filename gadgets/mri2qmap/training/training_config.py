"""The training configuration: a YAML file, read once into frozen dataclasses."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from mri2qmap.denoiser.network import CONTRASTS, DenoiserConfig
from mri2qmap.denoiser.task import Task
from mri2qmap.denoiser.tsmi_images import tsmi_channels
from mri2qmap.errors import Mri2QmapError
from mri2qmap.pipeline.settings import from_values
from mri2qmap.training.image_settings import ImageSettings


@dataclass(frozen=True)
class Subjects:
    """Which subjects are used for training, for validation, and for neither.

    A label map is named by its file without ``.nii.gz``, a subject of weighted images as
    :func:`find_weighted_files` names it. If no label map is named, or no subject of weighted
    images, all available ones of that kind except those held out are divided at random.

    Parameters
    ----------
    training, validation : tuple of str
        Subjects to train on, and subjects to measure the progress on: name both or neither.
    held_out : tuple of str
        Subjects that must appear in neither; they need not exist.
    validation_share, held_out_share : float
        Shares of a random division: at least one subject for validation; the rest of both is for
        training. The division depends on the names and ``optimisation.seed`` alone.
    """

    training: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    validation_share: float = 0.1
    held_out_share: float = 0.1

    def __post_init__(self) -> None:
        """Refuse incomplete divisions, overlapping groups and shares out of range."""
        if bool(self.training) != bool(self.validation):
            raise Mri2QmapError(
                "training config, subjects: name one for training and one for validation, or none"
            )
        shares = self.validation_share, self.held_out_share
        if not (all(share >= 0 for share in shares) and sum(shares) < 1):
            raise Mri2QmapError(
                "training config, subjects: validation_share and held_out_share must not be"
                " negative, and leave some for training"
            )
        every = [*self.training, *self.validation, *self.held_out]
        if twice := sorted({name for name in every if every.count(name) > 1}):
            raise Mri2QmapError(f"training config, subjects: {', '.join(twice)} named twice")


@dataclass(frozen=True)
class Optimisation:
    """How the network is trained.

    Parameters
    ----------
    steps, batch, patch : int
        Number of steps, patches per step (of all processes together) and side of a patch.
    matrix_rate, learning_rate : float
        Highest rates of Muon, which trains the convolutions, and of Adam, which trains the rest.
        They rise linearly for ``warmup`` steps and fall as a cosine to zero.
    warmup : int
        See above.
    clip : float
        Largest norm of the gradient.
    ema : float
        Decay per step of the running mean of the weights, which is the result of the training.
    working_sigmas : (float, float)
        Range of the noise levels that occur in a reconstruction. ``working_share`` is the share of
        patches with noise levels from that range; the others have any level.
    missing_share : float
        Share of the patches of a joint network in which one contrast or two are missing.
    validate_every : int
        Steps between two validations, and ``validate_volumes`` the volumes of each kind (from
        label maps, acquired) that they use.
    checkpoint_minutes : float
        Minutes between two checkpoints.
    mixed_precision : bool
        Run the network in bfloat16 (worthwhile only where the hardware has it).
    seed : int
        Seed of all random numbers.
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
        """Refuse numbers out of range."""
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
                "training config, optimisation: ema, working_share and missing_share lie between 0"
                " and 1"
            )
        if not 0 < self.working_sigmas[0] <= self.working_sigmas[1]:
            raise Mri2QmapError(
                "training config, optimisation: working_sigmas must be positive and ascend"
            )


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that a training depends on, except the images themselves.

    Parameters
    ----------
    subjects, network, images, optimisation
        See their classes.
    task : Task
        Task of the network. Networks for TSMIs are joint, their contrasts are the channels of a
        TSMI (`tsmi_channels`), and only ``size`` of the images is used, that of the recordings.
    """

    subjects: Subjects = field(default_factory=Subjects)
    network: DenoiserConfig = field(default_factory=DenoiserConfig)
    images: ImageSettings = field(default_factory=ImageSettings)
    optimisation: Optimisation = field(default_factory=Optimisation)
    task: Task = Task.WEIGHTED

    def __post_init__(self) -> None:
        """Refuse parts that contradict each other."""
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
                    f" needs {', '.join(CONTRASTS)}; leave the setting out (contrasts may lack"
                    " images)"
                )
        elif not self.network.joint or self.network.first_estimates:
            raise Mri2QmapError(
                f"training config: a network for {self.task} is joint and has no first estimates"
            )
        elif self.network.contrasts != tsmi_channels(len(self.network.contrasts) // 2):
            raise Mri2QmapError(
                f"training config: contrasts {self.network.contrasts}, but a network for"
                f" {self.task} needs {', '.join(tsmi_channels(2))} and so on"
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
        return from_values(content, TrainingConfig)
    except (Mri2QmapError, ValueError) as error:
        raise Mri2QmapError(f"{path}: {error}") from error


def config_from_json(text: str) -> TrainingConfig:
    """Inverse of ``json.dumps(dataclasses.asdict(config))``; a missing key has its default.

    Raises
    ------
    Mri2QmapError, ValueError
        If it is not a configuration.
    """
    return from_values(json.loads(text), TrainingConfig)

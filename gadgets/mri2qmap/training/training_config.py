"""The training configuration: a YAML file, read once into frozen dataclasses."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from mri2qmap.denoiser.checkpoint import Task
from mri2qmap.denoiser.network import CONTRASTS, DenoiserConfig, current_setting_names
from mri2qmap.denoiser.tsmi_images import tsmi_channels
from mri2qmap.errors import Mri2QmapError
from mri2qmap.training.image_settings import ImageSettings


@dataclass(frozen=True)
class Subjects:
    """Which subjects are for what.

    A label map is named by its file without ``.nii.gz``, a subject of weighted images as
    :func:`find_weighted_files` names it. If no label map is named, or no subject of weighted
    images, all that there are of that kind, but those held out, are divided at random.

    Parameters
    ----------
    training, validation : tuple of str
        What is learned from, and what the progress is measured on: both or neither.
    held_out : tuple of str
        Subjects that must appear in neither; they need not be there.
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
        """Refuse half a division, overlapping groups and impossible shares."""
        if bool(self.training) != bool(self.validation):
            raise Mri2QmapError(
                "training config, subjects: name one for training and one for validation, or none"
            )
        shares = self.validation_share, self.held_out_share
        if not (min(shares) >= 0 and sum(shares) < 1):
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
        Number of steps, patches a step (of all processes together) and side of a patch.
    matrix_rate, learning_rate : float
        Highest rates of Muon, which trains the convolutions, and of Adam, which trains the rest.
        They rise linearly for ``warmup`` steps and fall as a cosine to zero.
    warmup : int
        See above.
    clip : float
        Largest norm of the gradient.
    ema : float
        Decay a step of the running mean of the weights, which is what is kept.
    working_sigmas : (float, float)
        Noise levels that matter most, and ``working_share`` the share of patches drawn from them;
        the rest is drawn from all levels.
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
        Of everything random.
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
        if min(*rates, self.clip, self.checkpoint_minutes) <= 0:
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
    """All that a training depends on, besides the images themselves.

    Parameters
    ----------
    subjects, network, images, optimisation
        See their classes.
    task : Task
        What the network is for. Networks for TSMIs are joint, their contrasts are the channels of
        a TSMI (`tsmi_channels`), and of the images only ``size`` counts, that of the recordings.
    """

    subjects: Subjects = field(default_factory=Subjects)
    network: DenoiserConfig = field(default_factory=DenoiserConfig)
    images: ImageSettings = field(default_factory=ImageSettings)
    optimisation: Optimisation = field(default_factory=Optimisation)
    task: Task = Task.WEIGHTED

    def __post_init__(self) -> None:
        """Refuse parts that do not fit each other."""
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
        elif not self.network.joint or self.network.prefilter:
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
        config = _convert(_renamed(content), TrainingConfig, "")
    except (Mri2QmapError, ValueError) as error:
        raise Mri2QmapError(f"{path}: {error}") from error
    assert isinstance(config, TrainingConfig)
    return config


def config_from_json(text: str) -> TrainingConfig:
    """Inverse of ``json.dumps(dataclasses.asdict(config))``; what is missing has its default.

    Raises
    ------
    Mri2QmapError, ValueError
        If it is no configuration.
    """
    config = _convert(_renamed(json.loads(text)), TrainingConfig, "")
    assert isinstance(config, TrainingConfig)
    return config


def _renamed(content: Any) -> Any:
    """Return the content of a configuration with the settings' current names."""
    if isinstance(content, dict) and isinstance(content.get("network"), dict):
        return {**content, "network": current_setting_names(content["network"])}
    return content


def _convert(value: object, kind: Any, where: str) -> object:
    """Turn what YAML gave into a value of an annotated type."""
    if dataclasses.is_dataclass(kind):
        return _build(value, kind, where)
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise Mri2QmapError(f"{where} is {value!r}, expected a list")
        kinds = get_args(kind)
        if kinds[-1] is not Ellipsis and len(kinds) != len(value):
            raise Mri2QmapError(f"{where} has {len(value)} entries, expected {len(kinds)}")
        return tuple(
            _convert(entry, kinds[0] if kinds[-1] is Ellipsis else kinds[i], f"{where}[{i}]")
            for i, entry in enumerate(value)
        )
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        if value not in list(kind):
            raise Mri2QmapError(f"{where} is {value!r}, expected one of {', '.join(kind)}")
        return kind(str(value))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise Mri2QmapError(f"{where} is {value}, expected a finite number")
    if type(value) is not kind:
        raise Mri2QmapError(f"{where} is {value!r}, expected {kind.__name__}")
    return value


def _build(value: object, kind: Any, where: str) -> object:
    """Make a dataclass of a mapping, refusing keys that it does not know."""
    if not isinstance(value, dict):
        raise Mri2QmapError(f"{where or 'the file'} is {value!r}, expected a mapping")
    fields = {f.name: f for f in dataclasses.fields(kind)}
    if unknown := sorted(str(key) for key in value if key not in fields):
        raise Mri2QmapError(
            f"{where or 'the file'}: unknown {', '.join(unknown)}; known are {', '.join(fields)}"
        )
    hints = get_type_hints(kind)
    prefix = f"{where}." if where else ""
    return kind(**{key: _convert(v, hints[key], f"{prefix}{key}") for key, v in value.items()})

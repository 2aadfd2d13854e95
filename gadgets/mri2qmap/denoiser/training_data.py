"""What a training learns from: label maps, acquired weighted images, recordings of the loop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import yaml
from tqdm import tqdm

from mri2qmap.denoiser.label_maps import find_label_maps, load_label_map
from mri2qmap.denoiser.loop_errors import LoopErrors
from mri2qmap.denoiser.network import CONTRASTS
from mri2qmap.denoiser.training_config import Subjects, TrainingConfig
from mri2qmap.denoiser.training_images import TrainingVolume, synthesise_volume
from mri2qmap.denoiser.weighted_files import find_weighted_files
from mri2qmap.denoiser.weighted_volumes import WeightedSubject, WeightedVolumes
from mri2qmap.errors import Mri2QmapError

#: Streams of random numbers derived from the seed (PatchSource has 0 and 1, Trainer 2).
_VALIDATION, _DIVISION = 3, 4
_GROUPS = ("training", "validation", "held_out")

DrawVolume = Callable[[np.random.Generator], TrainingVolume]
#: Group (training, validation, held out) of subjects by name.
Division = dict[str, str]


@dataclass(frozen=True)
class TrainingFolders:
    """Where the images for a training lie.

    Attributes
    ----------
    labels : Path, optional
        Folder of label maps.
    weighted : mapping
        Folder of acquired images of each contrast that there is (T1w, T2w, PDw).
    loop_errors : Path, optional
        Folder of recorded inputs of the denoiser.
    """

    labels: Path | None = None
    weighted: Mapping[str, Path] = field(default_factory=dict)
    loop_errors: Path | None = None


class TrainingData:
    """Subjects for training and validation, of one kind or two.

    Parameters
    ----------
    config : TrainingConfig
        Who is for what, and what volumes look like.
    folders : TrainingFolders
        Where they are.
    quiet : bool
        Show no progress bars.

    Attributes
    ----------
    divisions : dict
        Kind ("labels", "weighted") -> division of its subjects.
    loop_errors : LoopErrors or None
        Recorded inputs of the denoiser.

    Raises
    ------
    Mri2QmapError
        If a folder is missing or empty, a file cannot be used, a subject that the configuration
        names is not there, too few subjects are, or folders and configuration contradict each
        other.
    """

    def __init__(
        self, config: TrainingConfig, folders: TrainingFolders, quiet: bool = False
    ) -> None:
        recorded = config.images.loop_fraction > 0
        if recorded != (folders.loop_errors is not None):
            raise Mri2QmapError(
                f"training config, images: loop_fraction is {config.images.loop_fraction:g}, but"
                f" recordings are {'not ' * recorded}given; both or neither are needed"
            )
        if folders.labels is None and not folders.weighted:
            raise Mri2QmapError(
                "training: there is nothing to learn from; give a folder of label maps (--labels)"
                " or folders of weighted images (--t1w, --t2w, --pdw)"
            )
        self.loop_errors = (
            LoopErrors.of_folder(folders.loop_errors) if folders.loop_errors else None
        )
        self._config = config
        labels = {} if folders.labels is None else find_label_maps(folders.labels)
        weighted = find_weighted_files(folders.weighted)
        self.divisions = _divide(config, {"labels": labels, "weighted": weighted})
        self._contrasts = Counter(contrast for files in weighted.values() for contrast in files)
        self._train: list[Sequence[DrawVolume]] = []
        self._validate: list[Sequence[DrawVolume]] = []
        if folders.labels is not None:
            self._add(self._label_draws(labels, quiet), self.divisions["labels"])
        if weighted:
            self._add(self._weighted_draws(weighted, quiet), self.divisions["weighted"])

    def draw_volume(self, rng: np.random.Generator) -> TrainingVolume:
        """Draw a volume of a training subject."""
        kind = 0
        if len(self._train) > 1:
            kind = int(rng.random() < self._config.images.acquired_fraction)
        subjects = self._train[kind]
        return subjects[int(rng.integers(len(subjects)))](rng)

    def validation_volumes(self) -> list[TrainingVolume]:
        """Draw the volumes of validation subjects, always the same."""
        settings = self._config.optimisation
        return [
            subjects[index % len(subjects)](
                np.random.default_rng([settings.seed, _VALIDATION, index])
            )
            for subjects in self._validate
            for index in range(settings.validate_volumes)
        ]

    def counts(self) -> dict[str, dict[str, int]]:
        """Number of subjects of each kind and group."""
        return {
            kind: {group: list(division.values()).count(group) for group in _GROUPS}
            for kind, division in self.divisions.items()
        }

    def summary(self) -> list[str]:
        """Say who is for what, and what may surprise, a line each."""
        lines = []
        for kind, counts in self.counts().items():
            groups = (f"{count} {group.replace('_', ' ')}" for group, count in counts.items())
            lines.append(f"{kind}: subjects for {', '.join(groups)}")
        if self._contrasts:
            subjects = len(self.divisions["weighted"])
            seen = ", ".join(f"{name} of {self._contrasts[name]}" for name in CONTRASTS)
            lines.append(f"weighted images of {subjects} subjects: {seen}")
            if len(self._contrasts) > 1 and sum(self._contrasts.values()) == subjects:
                lines.append("no subject has more than one contrast: do the names of files agree?")
            if missing := [name for name in CONTRASTS if not self._contrasts[name]]:
                if "labels" not in self.divisions:
                    lines.append(f"the network will not know {', '.join(missing)}: no images")
        return lines

    def keep_division(self, path: Path) -> None:
        """Write who is for what, or make sure that it is as an earlier run wrote it.

        Raises
        ------
        Mri2QmapError
            If it is not.
        """
        mine = {
            kind: {
                group: [name for name, of in division.items() if of == group] for group in _GROUPS
            }
            for kind, division in self.divisions.items()
        }
        if not path.exists():
            path.write_text(yaml.safe_dump(mine, sort_keys=False), encoding="utf-8")
            return
        try:
            same = yaml.safe_load(path.read_text(encoding="utf-8")) == mine
        except (UnicodeDecodeError, yaml.YAMLError):
            same = False
        if not same:
            raise Mri2QmapError(
                f"training: {path} says that this training began with other subjects than there"
                " are now; restore the folders, or start anew in another one"
            )

    def _add(self, draws: dict[str, DrawVolume], division: Division) -> None:
        """Take up the subjects of one kind."""
        for group, to in (("training", self._train), ("validation", self._validate)):
            # In the order of the configuration where it names them.
            names = [name for name in division if division[name] == group]
            to.append([draws[name] for name in names])

    def _label_draws(self, paths: Mapping[str, Path], quiet: bool) -> dict[str, DrawVolume]:
        used = _used(self.divisions["labels"])
        bar = tqdm(used, desc="label maps", leave=False, disable=quiet)
        return {
            name: partial(synthesise_volume, load_label_map(paths[name]), self._config.images)
            for name in bar
        }

    def _weighted_draws(
        self, files: Mapping[str, Mapping[str, Path]], quiet: bool
    ) -> dict[str, DrawVolume]:
        used = _used(self.divisions["weighted"])
        bar = tqdm(used, desc="weighted images", leave=False, disable=quiet)
        subjects = [WeightedSubject(name, files[name]) for name in bar]
        volumes = WeightedVolumes(subjects, self._config.images)
        return {name: partial(volumes.draw, index) for index, name in enumerate(used)}


def _used(division: Division) -> list[str]:
    return [name for name, group in division.items() if group != "held_out"]


def _divide(config: TrainingConfig, found: Mapping[str, Collection[str]]) -> dict[str, Division]:
    """Division of the subjects of each kind that there is, see :class:`Subjects`."""
    subjects = config.subjects
    named = {name: "training" for name in subjects.training}
    named |= {name: "validation" for name in subjects.validation}
    every = {name for names in found.values() for name in names}
    if missing := [name for name in named if name not in every]:
        raise Mri2QmapError(
            f"training config, subjects: {', '.join(missing)} not found; there are"
            f" {_listed(sorted(every))}"
        )
    divisions: dict[str, Division] = {}
    known: Division = {}  # the same name means the same person in both kinds
    for kind, names in found.items():
        if not names:
            continue
        division = {name: group for name, group in named.items() if name in names}
        if not division:
            division = _at_random(names, subjects, known, config.optimisation.seed)
        for group in ("training", "validation"):
            if group not in division.values():
                raise Mri2QmapError(
                    f"training: of the {len(names)} subjects of {kind} ({_listed(sorted(names))})"
                    f" none is for {group}; more are needed, or others in the configuration"
                )
        divisions[kind] = division
        known |= division
    return divisions


def _at_random(names: Collection[str], subjects: Subjects, known: Division, seed: int) -> Division:
    """Divide subjects of whom none is named; the group of some may be known from elsewhere."""
    division = {name: "held_out" for name in subjects.held_out if name in names}
    division |= {name: known[name] for name in sorted(names) if name in known}
    rest = [name for name in sorted(names) if name not in division]
    order = [rest[i] for i in np.random.default_rng([seed, _DIVISION]).permutation(len(rest))]
    validation = max(1, round(subjects.validation_share * len(rest)))
    held_out = round(subjects.held_out_share * len(rest))
    for number, name in enumerate(order):
        if number < validation:
            division[name] = "validation"
        else:
            division[name] = "held_out" if number < validation + held_out else "training"
    return dict(sorted(division.items()))


def _listed(names: Sequence[str]) -> str:
    """Some names, for a message."""
    return ", ".join(names[:10]) + ", ..." * (len(names) > 10) if names else "none"

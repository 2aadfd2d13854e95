"""Split of the subjects into groups for training and validation, and held-out subjects."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml

from mri2qmap.errors import Mri2QmapError
from mri2qmap.storage.atomic import write_text
from mri2qmap.training.training_config import Subjects, TrainingConfig

#: Random stream of the split, derived from the seed (PatchSource uses 0 and 1, Trainer 2,
#: TrainingData 3).
_SPLIT_STREAM = 4
_GROUPS = ("training", "validation", "held_out")

#: Group ("training", "validation" or "held_out") of each subject by name.
Split = dict[str, str]


class SubjectSplits:
    """Split of subjects of one or more kinds into groups.

    Parameters
    ----------
    config : TrainingConfig
        Names the subjects of each group, or the fractions of a random split.
    found : mapping
        Names of the available subjects of each kind.

    Attributes
    ----------
    splits : dict
        Kind -> split of its subjects.

    Raises
    ------
    Mri2QmapError
        If a subject named in the configuration is missing, or there are too few subjects.
    """

    def __init__(self, config: TrainingConfig, found: Mapping[str, Collection[str]]) -> None:
        self.splits = _split_subjects(config, found)

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of subjects of each kind and group."""
        return {
            kind: {group: list(split.values()).count(group) for group in _GROUPS}
            for kind, split in self.splits.items()
        }

    def provenance(self) -> dict[str, object]:
        """Return the description of the data for the training history."""
        return {"subjects": self.counts()}

    def summary(self) -> list[str]:
        """Describe the groups, one line for each kind."""
        lines = []
        for kind, counts in self.counts().items():
            groups = (f"{count} {group.replace('_', ' ')}" for group, count in counts.items())
            lines.append(f"{kind}: {', '.join(groups)} subjects")
        return lines

    def keep_split(self, path: Path) -> None:
        """Write the split to a file, or check that it equals the one written by an earlier run.

        Raises
        ------
        Mri2QmapError
            If it differs.
        """
        current = {
            kind: {group: [name for name, of in split.items() if of == group] for group in _GROUPS}
            for kind, split in self.splits.items()
        }
        if not path.exists():
            write_text(path, yaml.safe_dump(current, sort_keys=False))
            return
        try:
            same = yaml.safe_load(path.read_text(encoding="utf-8")) == current
        except (UnicodeDecodeError, yaml.YAMLError):
            same = False
        if not same:
            raise Mri2QmapError(
                f"training: {path} shows that this training was started with other subjects;"
                " restore the folders, or start a new training in another folder"
            )


def used_subjects(split: Split) -> list[str]:
    """Return the names of the subjects for training or validation."""
    return [name for name, group in split.items() if group != "held_out"]


def _split_subjects(
    config: TrainingConfig, found: Mapping[str, Collection[str]]
) -> dict[str, Split]:
    """Split the available subjects of each kind, see :class:`Subjects`."""
    subjects = config.subjects
    named = {name: "training" for name in subjects.training}
    named |= {name: "validation" for name in subjects.validation}
    every = {name for names in found.values() for name in names}
    if missing := [name for name in named if name not in every]:
        raise Mri2QmapError(
            f"training config, subjects: {', '.join(missing)} not found; available:"
            f" {_listed(sorted(every))}"
        )
    splits: dict[str, Split] = {}
    known: Split = {}  # equal names denote the same person in all kinds
    for kind, names in found.items():
        if not names:
            continue
        split = {name: group for name, group in named.items() if name in names}
        if not split:
            split = _random_split(names, subjects, known, config.optimisation.seed)
        for group in ("training", "validation"):
            if group not in split.values():
                raise Mri2QmapError(
                    f"training: of the {len(names)} subjects of {kind} ({_listed(sorted(names))})"
                    f" none is for {group}; add subjects, or change the configuration"
                )
        splits[kind] = split
        known |= split
    return splits


def _random_split(names: Collection[str], subjects: Subjects, known: Split, seed: int) -> Split:
    """Split subjects at random; known subjects keep the group that they have in another kind."""
    split = {name: "held_out" for name in subjects.held_out if name in names}
    split |= {name: known[name] for name in sorted(names) if name in known}
    rest = [name for name in sorted(names) if name not in split]
    order = [rest[i] for i in np.random.default_rng([seed, _SPLIT_STREAM]).permutation(len(rest))]
    validation = max(1, round(subjects.validation_share * len(rest)))
    held_out = round(subjects.held_out_share * len(rest))
    for number, name in enumerate(order):
        if number < validation:
            split[name] = "validation"
        else:
            split[name] = "held_out" if number < validation + held_out else "training"
    return dict(sorted(split.items()))


def _listed(names: Sequence[str]) -> str:
    """Format some of the names for a message."""
    return ", ".join(names[:10]) + ", ..." * (len(names) > 10) if names else "none"

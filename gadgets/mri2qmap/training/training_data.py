"""Training data for weighted images: label maps, acquired images and ADMM recordings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch

from mri2qmap.anatomy.label_maps import find_label_maps, load_label_map
from mri2qmap.denoiser.network import CONTRASTS
from mri2qmap.errors import Mri2QmapError
from mri2qmap.pipeline.progress import Reporter, TerminalReporter
from mri2qmap.training.admm_recordings import AdmmRecordings
from mri2qmap.training.patches import Conditions, PatchSource
from mri2qmap.training.subjects import Split, SubjectSplits, used_subjects
from mri2qmap.training.training_config import TrainingConfig
from mri2qmap.training.training_images import TrainingVolume, synthesise_volume
from mri2qmap.training.validation import Validate, validate
from mri2qmap.training.weighted_files import find_weighted_files
from mri2qmap.training.weighted_volumes import WeightedSubject, WeightedVolumes

#: Random stream of the validation, derived from the seed (PatchSource uses 0 and 1, Trainer 2).
_VALIDATION = 3

DrawVolume = Callable[[np.random.Generator], TrainingVolume]


@dataclass(frozen=True)
class TrainingFolders:
    """Folders of the training images.

    Attributes
    ----------
    labels : Path, optional
        Label maps.
    weighted : mapping
        Contrast (T1w, T2w, PDw) -> folder of acquired images.
    admm_recordings : Path, optional
        ADMM recordings.
    tsmi : Path, optional
        Recorded TSMIs, for networks that restore TSMIs.
    """

    labels: Path | None = None
    weighted: Mapping[str, Path] = field(default_factory=dict)
    admm_recordings: Path | None = None
    tsmi: Path | None = None


class TrainingData(SubjectSplits):
    """Training and validation data of label maps, acquired images or both.

    Parameters
    ----------
    config : TrainingConfig
        Split of the subjects and distribution of the volumes.
    folders : TrainingFolders
        Folders of the images.
    quiet : bool
        Whether to hide progress bars.

    Attributes
    ----------
    splits : dict
        Kind ("labels", "weighted") -> split of its subjects.
    admm_recordings : AdmmRecordings or None
        ADMM recordings.

    Raises
    ------
    Mri2QmapError
        If a folder is missing or empty, a file cannot be used, a subject named in the configuration
        is missing, there are too few subjects, or folders and configuration are inconsistent.
    """

    def __init__(
        self, config: TrainingConfig, folders: TrainingFolders, quiet: bool = False
    ) -> None:
        recorded = config.images.loop_fraction > 0
        if recorded != (folders.admm_recordings is not None):
            raise Mri2QmapError(
                f"training config, images: loop_fraction is {config.images.loop_fraction:g}, but"
                f" recordings are {'not ' * recorded}given (--loop-errors); give both or neither"
            )
        if folders.labels is None and not folders.weighted:
            raise Mri2QmapError(
                "training: no images given; give a folder of label maps (--labels) or folders of"
                " weighted images (--t1w, --t2w, --pdw)"
            )
        self.admm_recordings = (
            AdmmRecordings.of_folder(folders.admm_recordings) if folders.admm_recordings else None
        )
        self._config = config
        labels = {} if folders.labels is None else find_label_maps(folders.labels)
        weighted = find_weighted_files(folders.weighted)
        super().__init__(config, {"labels": labels, "weighted": weighted})
        self._contrasts = Counter(contrast for files in weighted.values() for contrast in files)
        self._train: list[Sequence[DrawVolume]] = []
        self._validate: list[Sequence[DrawVolume]] = []
        if folders.labels is not None:
            self._add(self._label_draws(labels, quiet), self.splits["labels"])
        if weighted:
            self._add(self._weighted_draws(weighted, quiet), self.splits["weighted"])

    def draw_volume(self, rng: np.random.Generator) -> TrainingVolume:
        """Draw a volume of a training subject."""
        kind = 0
        if len(self._train) > 1:
            kind = int(rng.random() < self._config.images.acquired_fraction)
        subjects = self._train[kind]
        return subjects[int(rng.integers(len(subjects)))](rng)

    def source(self, conditions: Conditions, device: torch.device) -> PatchSource:
        """Return the source of noisy patches; see :class:`PatchSource`."""
        settings = self._config.optimisation
        return PatchSource(
            self.draw_volume,
            self._config.images,
            self._config.network.joint,
            settings.seed,
            self.admm_recordings,
            conditions if self._config.network.prefilter else None,
            device,
            lanes=settings.batch,
        )

    def validator(self, device: torch.device) -> Validate:
        """Return :func:`validate` for the volumes of :meth:`validation_volumes`."""
        return partial(validate, volumes=self.validation_volumes(), device=device)

    def validation_volumes(self) -> list[TrainingVolume]:
        """Draw the volumes of the validation subjects; the result is reproducible."""
        settings = self._config.optimisation
        return [
            subjects[index % len(subjects)](
                np.random.default_rng([settings.seed, _VALIDATION, index])
            )
            for subjects in self._validate
            for index in range(settings.validate_volumes)
        ]

    def summary(self) -> list[str]:
        """Describe the data and possible problems, one line each."""
        lines = super().summary()
        if self._contrasts:
            subjects = len(self.splits["weighted"])
            seen = ", ".join(f"{name} of {self._contrasts[name]}" for name in CONTRASTS)
            lines.append(f"weighted images of {subjects} subjects: {seen}")
            if len(self._contrasts) > 1 and sum(self._contrasts.values()) == subjects:
                lines.append("no subject has more than one contrast; check the file names")
            if missing := [name for name in CONTRASTS if not self._contrasts[name]]:
                if "labels" not in self.splits:
                    lines.append(
                        f"no images of {', '.join(missing)}: the network will not learn them"
                    )
        return lines

    def _add(self, draws: dict[str, DrawVolume], split: Split) -> None:
        """Add the subjects of one kind."""
        for group, to in (("training", self._train), ("validation", self._validate)):
            # In the order of the configuration, if subjects are named there.
            names = [name for name in split if split[name] == group]
            to.append([draws[name] for name in names])

    def _label_draws(self, paths: Mapping[str, Path], quiet: bool) -> dict[str, DrawVolume]:
        names = used_subjects(self.splits["labels"])
        return {
            name: partial(synthesise_volume, load_label_map(paths[name]), self._config.images)
            for name in _reporter(quiet).progress(names, "label maps")
        }

    def _weighted_draws(
        self, files: Mapping[str, Mapping[str, Path]], quiet: bool
    ) -> dict[str, DrawVolume]:
        names = used_subjects(self.splits["weighted"])
        shown = _reporter(quiet).progress(names, "weighted images")
        subjects = [WeightedSubject(name, files[name]) for name in shown]
        volumes = WeightedVolumes(subjects, self._config.images)
        return {name: partial(volumes.draw, index) for index, name in enumerate(names)}


def _reporter(quiet: bool) -> Reporter:
    return Reporter() if quiet else TerminalReporter()

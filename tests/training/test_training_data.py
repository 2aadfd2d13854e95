from __future__ import annotations

import dataclasses
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
import yaml

pytest.importorskip("monai", reason="training needs the [train] extra")

from mri2qmap.anatomy.label_maps import load_label_map
from mri2qmap.errors import Mri2QmapError
from mri2qmap.training.image_settings import ImageSettings
from mri2qmap.training.subjects import _split_subjects
from mri2qmap.training.training_config import Optimisation, Subjects, TrainingConfig
from mri2qmap.training.training_data import TrainingData, TrainingFolders
from mri2qmap.training.training_images import synthesise_volume

UNNAMED = TrainingConfig(
    images=ImageSettings(size=16, pool=2), optimisation=Optimisation(patch=8, validate_volumes=3)
)


def named(**groups: object) -> TrainingConfig:
    return dataclasses.replace(UNNAMED, subjects=Subjects(**groups))


LABELS = named(training=("head_a", "head_c"), validation=("head_b",))


def data(config: TrainingConfig, **folders: object) -> TrainingData:
    return TrainingData(config, TrainingFolders(**folders), quiet=True)


def both(folder) -> dict[str, object]:
    return {"T1w": folder, "T2w": folder}


def test_label_maps_are_used_in_the_named_groups(label_folder):
    source = data(LABELS, labels=label_folder)
    assert source.splits == {
        "labels": {"head_a": "training", "head_c": "training", "head_b": "validation"}
    }
    drawn = [source.draw_volume(np.random.default_rng(seed)) for seed in range(12)]
    maps = [load_label_map(label_folder / f"head_{name}.nii.gz") for name in "ac"]
    seen = Counter()
    for seed, volume in enumerate(drawn):
        rng = np.random.default_rng(seed)
        number = int(rng.integers(2))
        seen[number] += 1
        assert torch.equal(
            volume.images, synthesise_volume(maps[number], LABELS.images, rng).images
        )
    assert len(seen) == 2
    validation, again = source.validation_volumes(), source.validation_volumes()
    assert len(validation) == 3
    assert all(torch.equal(a.images, b.images) for a, b in zip(validation, again, strict=True))
    assert not torch.equal(validation[0].images, validation[1].images)


def test_weighted_images_are_split_at_random_if_none_is_named(weighted_folder):
    source = data(UNNAMED, weighted=both(weighted_folder))
    groups = source.splits["weighted"]
    assert sorted(groups) == [f"subject{n}" for n in range(5)]
    assert source.counts() == {"weighted": {"training": 4, "validation": 1, "held_out": 0}}
    assert source.splits == data(UNNAMED, weighted=both(weighted_folder)).splits
    seeds = [
        dataclasses.replace(UNNAMED, optimisation=Optimisation(patch=8, seed=seed))
        for seed in range(8)
    ]
    chosen = {
        next(
            n
            for n, g in data(c, weighted=both(weighted_folder)).splits["weighted"].items()
            if g == "validation"
        )
        for c in seeds
    }
    assert len(chosen) > 1
    volumes = [source.draw_volume(np.random.default_rng(seed)) for seed in range(16)]
    present = {tuple(volume.present.tolist()) for volume in volumes}
    assert (True, True, False) in present
    assert all(torch.isfinite(volume.images).all() for volume in volumes)


def test_both_kinds_are_mixed(label_folder, weighted_folder):
    def shares(fraction: float) -> float:
        images = dataclasses.replace(LABELS.images, acquired_fraction=fraction)
        config = dataclasses.replace(LABELS, images=images)
        source = data(config, labels=label_folder, weighted=both(weighted_folder))
        draws = [source.draw_volume(np.random.default_rng(seed)) for seed in range(60)]
        return float(np.mean([volume.map_errors is None for volume in draws]))

    assert shares(0.0) == 0
    assert shares(1.0) == 1
    assert shares(0.3) == pytest.approx(0.3, abs=0.15)
    source = data(LABELS, labels=label_folder, weighted=both(weighted_folder))
    kinds = [volume.map_errors is None for volume in source.validation_volumes()]
    assert kinds == [False] * 3 + [True] * 3


def test_the_summary_reports_possible_problems(weighted_folder, tmp_path):
    lines = data(UNNAMED, weighted=both(weighted_folder)).summary()
    assert lines[0] == "weighted: 4 training, 1 validation, 0 held out subjects"
    assert lines[1] == "weighted images of 5 subjects: T1w of 5, T2w of 4, PDw of 0"
    assert lines[2] == "no images of PDw: the network will not learn them"
    assert len(lines) == 3
    for number, contrast in enumerate(("T1", "T1", "T2", "T2")):
        source = weighted_folder / f"subject{number}-{contrast}.nii.gz"
        shutil.copy(source, tmp_path / f"{number}-{contrast}.nii.gz")
    assert (
        "no subject has more than one contrast"
        in data(UNNAMED, weighted=both(tmp_path)).summary()[2]
    )


NAMES = [f"s{n:02d}" for n in range(40)]


def split_of(config: TrainingConfig, **found: list[str]) -> dict[str, dict[str, str]]:
    return _split_subjects(config, found)


def test_fractions_of_a_random_split():
    config = named(held_out=("s07", "absent"), validation_share=0.2, held_out_share=0.25)
    split = split_of(config, weighted=NAMES)["weighted"]
    assert split["s07"] == "held_out"
    assert Counter(split.values()) == {"training": 21, "validation": 8, "held_out": 11}
    assert list(split) == NAMES
    assert split == split_of(config, weighted=NAMES[::-1])["weighted"]


def test_kinds_are_split_separately_with_each_person_in_one_group():
    config = named(training=("s01", "s02"), validation=("s03",))
    splits = split_of(
        config, labels=["s01", "s02", "s03", "s04"], weighted=[f"p{n}" for n in NAMES]
    )
    assert splits["labels"] == {"s01": "training", "s02": "training", "s03": "validation"}
    assert Counter(splits["weighted"].values()) == {
        "training": 32,
        "validation": 4,
        "held_out": 4,
    }
    shared = split_of(UNNAMED, labels=NAMES, weighted=[*NAMES, "other1", "other2", "other3"])
    assert all(shared["weighted"][name] == group for name, group in shared["labels"].items())


@pytest.mark.parametrize(
    ("config", "found", "message"),
    [
        (
            named(training=("x", "s01"), validation=("y",)),
            NAMES,
            r"x, y not found; available: s00, .*\.\.\.",
        ),
        (
            named(held_out=("s00", "s01")),
            NAMES[:2],
            "of the 2 subjects of weighted .* none is for tr",
        ),
        (UNNAMED, NAMES[:1], "none is for training; add subjects"),
    ],
)
def test_impossible_splits_are_refused(config, found, message):
    with pytest.raises(Mri2QmapError, match=message):
        split_of(config, weighted=found)


def test_named_subject_of_the_other_kind_only(label_folder, weighted_folder):
    config = named(training=("head_a", "subject1"), validation=("head_b",))
    with pytest.raises(Mri2QmapError, match=r"5 subjects of weighted .* none is for validation"):
        data(config, labels=label_folder, weighted=both(weighted_folder))


def test_no_images_are_refused():
    with pytest.raises(Mri2QmapError, match=r"no images given; .*--labels.*--t1w"):
        data(UNNAMED)


def test_missing_label_maps(tmp_path, label_folder):
    with pytest.raises(Mri2QmapError, match=r"label maps: .* is not a folder"):
        data(LABELS, labels=tmp_path / "none")
    with pytest.raises(Mri2QmapError, match=r"label maps: .* contains no NIfTI files"):
        data(LABELS, labels=tmp_path)
    with pytest.raises(Mri2QmapError, match="head_z not found; available: head_a, head_b, head_c"):
        data(named(training=("head_z",), validation=("head_a",)), labels=label_folder)


def test_a_bad_image_is_found_before_the_training_starts(weighted_folder, tmp_path):
    for path in weighted_folder.iterdir():
        shutil.copy(path, tmp_path)
    (tmp_path / "subject3-T2.nii.gz").write_bytes(b"no NIfTI")
    with pytest.raises(Mri2QmapError, match=r"subject3-T2\.nii\.gz: cannot be read as NIfTI"):
        data(UNNAMED, weighted=both(tmp_path))


@pytest.mark.parametrize(("fraction", "given"), [(0.5, "not given"), (0.0, "given")])
def test_recordings_require_their_fraction_and_vice_versa(tmp_path, label_folder, fraction, given):
    images = dataclasses.replace(LABELS.images, loop_fraction=fraction)
    config = dataclasses.replace(LABELS, images=images)
    folder = None if fraction else tmp_path
    message = rf"loop_fraction is {fraction:g}, but recordings are {given} \(--loop-errors\)"
    with pytest.raises(Mri2QmapError, match=message):
        data(config, labels=label_folder, admm_recordings=folder)


def test_folder_without_recordings(tmp_path, label_folder):
    images = dataclasses.replace(LABELS.images, loop_fraction=0.5)
    config = dataclasses.replace(LABELS, images=images)
    with pytest.raises(Mri2QmapError, match=r"ADMM recordings: .* contains 0"):
        data(config, labels=label_folder, admm_recordings=tmp_path)


def test_the_split_is_stored_and_checked(tmp_path, weighted_folder):
    source = data(UNNAMED, weighted=both(weighted_folder))
    path = tmp_path / "subjects.yaml"
    source.keep_split(path)
    written = yaml.safe_load(path.read_text())["weighted"]
    assert {name: g for g, names in written.items() for name in names} == source.splits["weighted"]
    source.keep_split(path)
    groups = {group: tuple(names) for group, names in written.items()}
    assert data(named(**groups), weighted=both(weighted_folder)).counts() == source.counts()
    other = named(training=("subject0",), validation=("subject1",))
    with pytest.raises(Mri2QmapError, match=r"subjects\.yaml .* started with other subjects"):
        data(other, weighted=both(weighted_folder)).keep_split(path)

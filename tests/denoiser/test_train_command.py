from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch
import yaml

pytest.importorskip("monai", reason="training needs the [train] extra")

from mri2qmap.cli import train as command
from mri2qmap.denoiser.training_config import read_training_config
from mri2qmap.errors import Mri2QmapError

GOOD = {
    "subjects": {"training": ["head_a"], "validation": ["head_b"], "held_out": ["head_c"]},
    "network": {"channels": [4, 8], "blocks": [1, 1], "embedding": 8},
    "images": {"size": 16, "pool": 2},
    "optimisation": {"steps": 2, "batch": 1, "patch": 8, "learning_rate": 1.0e-3},
}


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers(required=True))
    return parser.parse_args(["train", *words])


def write(path: Path, content: object) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(autouse=True)
def restore_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_trains_from_the_command_line(tmp_path, label_folder):
    config = write(tmp_path / "c.yaml", GOOD)
    out = tmp_path / "out"
    args = parse(str(config), "--labels", str(label_folder), "-o", str(out), "--threads", "1")
    assert args.run(args) == 0
    names = {path.name for path in out.iterdir()}
    assert names == {"state.pt", "weights.safetensors", "progress.csv"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--threads", "0"], "--threads 0"),
        (["--max-minutes", "-1"], "--max-minutes -1"),
        (["--device", "toaster"], "--device toaster"),
    ],
)
def test_bad_arguments(tmp_path, label_folder, words, message):
    config = write(tmp_path / "c.yaml", GOOD)
    out = tmp_path / "out"
    args = parse(str(config), "--labels", str(label_folder), "-o", str(out), *words)
    with pytest.raises(Mri2QmapError, match=message):
        args.run(args)
    assert not out.exists()


def test_unwritable_output(tmp_path, label_folder):
    config = write(tmp_path / "c.yaml", GOOD)
    (tmp_path / "file").touch()
    args = parse(str(config), "--labels", str(label_folder), "-o", str(tmp_path / "file" / "out"))
    with pytest.raises(Mri2QmapError, match="training into"):
        args.run(args)


def test_config_is_read_into_dataclasses(tmp_path):
    config = read_training_config(write(tmp_path / "c.yaml", GOOD))
    assert config.network.channels == (4, 8)
    assert config.optimisation.learning_rate == 1e-3
    assert config.subjects.held_out == ("head_c",)
    assert config.images.fine_voxels == (1.0, 2.5)


def changed(section: str, **values: object) -> dict[str, object]:
    return {**GOOD, section: {**GOOD[section], **values}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "expected a mapping"),
        ([1], "expected a mapping"),
        ({}, "subjects missing"),
        ({**GOOD, "speed": 3}, "the file: unknown speed; known are subjects"),
        ({**GOOD, "images": 3}, "images is 3, expected a mapping"),
        (changed("network", depth=3), "network: unknown depth"),
        (changed("network", channels=4), "network.channels is 4, expected a list"),
        (changed("network", channels=[4, "8"]), r"network.channels\[1\] is '8', expected int"),
        (changed("network", channels=[4]), "one number a level"),
        (changed("network", contrasts=["T1w"]), "only T1w, T2w, PDw"),
        (changed("optimisation", steps=2.5), "optimisation.steps is 2.5, expected int"),
        (changed("optimisation", steps=True), "optimisation.steps is True, expected int"),
        (changed("optimisation", learning_rate="1e-3"), "learning_rate is '1e-3', expected float"),
        (changed("optimisation", learning_rate=0), "must be positive"),
        (changed("optimisation", weight_sigma=0), "must be positive"),
        (changed("optimisation", steps=0), "at least 1"),
        (changed("optimisation", ema=1), "ema, working_share and missing_share"),
        (changed("optimisation", working_sigmas=[0.1]), "has 1 entries, expected 2"),
        (changed("optimisation", working_sigmas=[0.2, 0.1]), "must be positive and ascend"),
        (changed("optimisation", patch=6), "multiple of 4"),
        (changed("optimisation", patch=32), "larger than the volumes"),
        (changed("images", bias_fraction=2), "fractions must add up"),
        (changed("subjects", training=[]), "name one for training"),
        (changed("subjects", held_out=["head_a"]), "head_a named twice"),
    ],
)
def test_bad_config(tmp_path, content, message):
    path = write(tmp_path / "c.yaml", content)
    with pytest.raises(Mri2QmapError, match=message) as caught:
        read_training_config(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"a: [1", b"\xff\xfe\x00", None])
def test_unreadable_config(tmp_path, content):
    path = tmp_path / "c.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Mri2QmapError, match="cannot be read"):
        read_training_config(path)


def test_committed_config_keeps_its_word():
    models = Path(__file__).parents[2] / "models"
    config = read_training_config(models / "small.yaml")
    assert config.subjects.held_out == ("training_seg_18", "training_seg_19")
    assert "training_seg_17" not in config.subjects.training

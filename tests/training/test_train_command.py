from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch
import yaml

pytest.importorskip("monai", reason="training needs the [train] extra")


from mri2qmap.cli import train as command
from mri2qmap.denoiser.network import ConditionalResidualUNet
from mri2qmap.errors import Mri2QmapError
from mri2qmap.training.training_config import read_training_config

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
    assert {"state.pt", "weights.safetensors", "progress.csv", "progress.png"} < names


def test_trains_on_weighted_images(tmp_path, weighted_folder, label_folder):
    config = write(tmp_path / "c.yaml", GOOD)
    out = tmp_path / "out"
    folders = ["--t1w", str(weighted_folder), "--t2w", str(weighted_folder)]
    args = parse(str(config), *folders, "--labels", str(label_folder), "-o", str(out))
    assert args.run(args) == 0
    subjects = yaml.safe_load((out / "subjects.yaml").read_text())
    assert subjects["labels"] == {"training": ["head_a"], "validation": ["head_b"], "held_out": []}
    assert len(subjects["weighted"]["training"]) == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max-minutes", "-1"], "--max-minutes -1"),
        (["--max-minutes", "nan"], "--max-minutes nan"),
        (["--device", "toaster"], "device 'toaster' is unknown"),
        (["--initial", "nobody"], "denoiser 'nobody': no nobody"),
        (
            ["--loop-errors", "."],
            "loop_fraction is 0, but recordings are given \\(--loop-errors\\); give both",
        ),
        (["--t1w", "nowhere"], "T1w images: nowhere is not a folder"),
    ],
)
def test_bad_arguments(tmp_path, label_folder, words, message):
    config = write(tmp_path / "c.yaml", GOOD)
    out = tmp_path / "out"
    args = parse(str(config), "--labels", str(label_folder), "-o", str(out), *words)
    with pytest.raises(Mri2QmapError, match=message):
        args.run(args)
    assert not out.exists()


def test_share_of_recordings_without_a_folder_and_with_an_empty_one(tmp_path, label_folder):
    config = write(tmp_path / "c.yaml", changed("images", loop_fraction=0.5))
    words = [str(config), "--labels", str(label_folder), "-o", str(tmp_path / "out")]
    args = parse(*words)
    with pytest.raises(Mri2QmapError, match=r"loop_fraction is 0\.5, but recordings are not given"):
        args.run(args)
    args = parse(*words, "--loop-errors", str(tmp_path))
    with pytest.raises(Mri2QmapError, match=r"contains 0 .* mri2qmap record-loop"):
        args.run(args)


def test_no_images_at_all(tmp_path):
    args = parse(str(write(tmp_path / "c.yaml", GOOD)), "-o", str(tmp_path / "out"))
    with pytest.raises(Mri2QmapError, match="no images given"):
        args.run(args)


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


def test_former_name_of_a_setting_is_read(tmp_path):
    network = {**GOOD["network"], "first_estimates": True}
    content = {**GOOD, "network": network, "optimisation": {**GOOD["optimisation"], "patch": 8}}
    assert read_training_config(write(tmp_path / "c.yaml", content)).network.prefilter
    network["prefilter"] = False
    with pytest.raises(Mri2QmapError, match="prefilter is given twice"):
        read_training_config(write(tmp_path / "c.yaml", content))


def changed(section: str, **values: object) -> dict[str, object]:
    return {**GOOD, section: {**GOOD[section], **values}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "the file is empty, expected a mapping"),
        ([1], "expected a mapping"),
        ({**GOOD, "speed": 3}, 'the file: key "speed" is not known .known: subjects'),
        ({**GOOD, "images": 3}, "images is 3, expected a mapping"),
        (
            changed("network", chanels=[4]),
            r'network: key "chanels" is not known; did you mean "channels"\? .known: channels',
        ),
        (
            changed("network", channels=4),
            "network.channels is 4, expected a list, each a",
        ),
        (
            changed("network", channels=[4, "8"]),
            r"network.channels\[1\] is '8', expected a whole",
        ),
        (changed("network", channels=[4]), "one number for each level"),
        (changed("network", contrasts=["T1w"]), "a reconstruction needs T1w, T2w, PDw"),
        (changed("optimisation", steps=2.5), "optimisation.steps is 2.5, expected a whole number"),
        (
            changed("optimisation", steps=True),
            "optimisation.steps is True, expected a whole",
        ),
        (
            changed("optimisation", learning_rate="1e-3"),
            "learning_rate is '1e-3', expected a finite",
        ),
        (changed("optimisation", learning_rate=0), "must be positive"),
        (changed("optimisation", matrix_rate=0), "must be positive"),
        (changed("optimisation", steps=0), "at least 1"),
        (changed("optimisation", ema=1), "ema, working_share and missing_share"),
        (
            changed("optimisation", working_sigmas=[0.1]),
            r"is \[0.1\], expected 2 values, each a",
        ),
        (changed("optimisation", working_sigmas=[0.2, 0.1]), "must be positive and ascend"),
        (changed("optimisation", patch=6), "multiple of 4"),
        (changed("optimisation", patch=32), "larger than the volumes"),
        (changed("images", bias_fraction=2), "fractions, and sums of those"),
        (changed("images", bias_fraction=float("nan")), "bias_fraction is nan, expected a finite"),
        (changed("optimisation", validate_volumes=0), "validate_volumes must be at least 1"),
        (changed("subjects", training=[]), "name subjects for both training and validation, or"),
        (changed("subjects", validation=[]), "name subjects for both training and validation"),
        (changed("subjects", validation_share=0.6, held_out_share=0.4), "add up to less than 1"),
        (changed("subjects", validation_share=-0.1), "must not be negative"),
        (changed("subjects", training=[100307]), r"training\[0\] is 100307, expected text"),
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


MODELS = Path(__file__).parents[2] / "models"


def test_base_is_the_network_of_the_paper():
    config = read_training_config(MODELS / "base.yaml")
    shape = config.network
    assert len(shape.channels) == 5
    assert shape.blocks == (2, 2, 2, 2, 2)
    assert shape.attention_levels == (3, 4)
    assert shape.heads == 4
    assert shape.sigma_levels == 25
    assert (config.optimisation.batch, config.optimisation.patch) == (4, 64)
    assert config.optimisation.mixed_precision
    with torch.device("meta"):
        network = ConditionalResidualUNet(shape)
        noisy = torch.ones(1, shape.images_per_input, 64, 64, 64)
        out = network(noisy, torch.ones(1), torch.ones(1, 3), torch.zeros(1))
    assert out.shape == (1, shape.images_per_input, 64, 64, 64)
    # Two convolutions per block, two blocks per level; all levels but the last occur twice.
    *others, last = shape.channels
    convolutions = 2 * 2 * 27 * (2 * sum(width**2 for width in others) + last**2)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert convolutions < count < 1.2 * convolutions


def test_small_does_not_train_on_held_out_subjects():
    config = read_training_config(MODELS / "small.yaml")
    assert config.subjects.held_out == ("training_seg_18", "training_seg_19")
    assert "training_seg_17" not in config.subjects.training

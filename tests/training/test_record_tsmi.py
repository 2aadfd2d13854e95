"""Recordings of TSMIs: their content, and the command that creates them."""

import numpy as np
import pytest
import torch

from mri2qmap.cli import record_tsmi as command
from mri2qmap.cli.main import main
from mri2qmap.denoiser.tsmi_images import TsmiRecording, find_tsmi_recordings
from mri2qmap.training.random_scans import ScanRanges
from mri2qmap.training.record_tsmi import record_tsmi

SIDE = 16
RANGES = ScanRanges(
    matrix=SIDE, voxel_mm=(1.8, 2.0), noise=(0.1, 0.1), acceleration=(1.0, 1.0), ball_share=0.0
)


@pytest.fixture(scope="module")
def recording(anatomy, scanned):
    return record_tsmi(anatomy, *scanned, RANGES, np.random.default_rng(0))


def test_contents(recording, scanned):
    assert recording.sequence == tuple(scanned[0].numbers())
    for images in (recording.truth, recording.least_squares):
        assert images.shape == (10, SIDE, SIDE, SIDE)
        assert images.dtype == torch.float16
        assert torch.isfinite(images).all()
    assert 0.5 < float(torch.linalg.vector_norm(recording.least_squares.float(), dim=0).max()) < 4


def test_least_squares_are_close_to_the_truth_and_noisy(anatomy, scanned):
    def error(noise):
        ranges = ScanRanges(**{**vars(RANGES), "noise": (noise, noise)})
        found = record_tsmi(anatomy, *scanned, ranges, np.random.default_rng(0))
        truth = found.truth.float()
        return float((found.least_squares.float() - truth).norm() / truth.norm())

    little, much = error(0.02), error(0.3)
    assert little < 0.4
    assert much > little + 0.05


def test_imaginary_parts_are_small_after_removal_of_the_phase(recording):
    real, imaginary = recording.truth.float().unflatten(0, (5, 2)).unbind(1)
    assert float(imaginary.norm()) < 0.2 * float(real.norm())
    assert float(real[0].sum()) > 0  # the sign is removed too


@pytest.fixture
def words(tmp_path, labels, short_sequence, monkeypatch, one_thread):
    monkeypatch.setattr(command, "DICTIONARY_STEP", 0.3)
    subjects = ["--labels", str(labels), "--subjects", "head_a", "head_b"]
    rest = ["--matrix", str(SIDE), "--acceleration", "1", "-o", str(tmp_path / "out")]
    return ["record-tsmi", *subjects, *rest, *one_thread]


def test_command_continues_where_it_stopped(words, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([*words, "--count", "2"]) == 0
    assert "recordings 0 to 1, 2 of them new" in capsys.readouterr().out
    first = (out / "head_a-000000.tsmi.safetensors").read_bytes()
    (out / "head_a-000000.tsmi.safetensors").unlink()
    assert main([*words, "--count", "3"]) == 0
    assert "recordings 0 to 2, 2 of them new" in capsys.readouterr().out
    assert (out / "head_a-000000.tsmi.safetensors").read_bytes() == first
    found = find_tsmi_recordings(out)
    assert {name: len(paths) for name, paths in found.items()} == {"head_a": 2, "head_b": 1}
    assert TsmiRecording.load(found["head_b"][0]).truth.shape == (10, SIDE, SIDE, SIDE)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--acceleration", "0"], "--acceleration 0: expected 0.01 to 100"),
        (["--noise", "nan"], "--noise nan: expected 0.01 to 100"),
        (["--matrix", "8"], "--matrix 8: expected 16 or more"),
        (["--subjects", "nobody"], "--subjects nobody: not in"),
    ],
)
def test_bad_settings(words, tmp_path, capsys, more, message):
    assert main([*words, *more]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

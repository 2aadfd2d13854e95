"""ADMM recordings: their content, and the command that creates them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mri2qmap.cli import record_loop as command
from mri2qmap.cli.main import main
from mri2qmap.denoiser.checkpoint import save_denoiser
from mri2qmap.denoiser.network import ConditionalResidualUNet, DenoiserConfig
from mri2qmap.denoiser.volume import intensity_scale
from mri2qmap.errors import Mri2QmapError
from mri2qmap.training.admm_recordings import AdmmRecording, AdmmRecordings
from mri2qmap.training.record_admm import RecordingSettings, record_admm

SIDE = 16
SETTINGS = RecordingSettings(
    matrix=SIDE,
    voxel_mm=(1.8, 2.0),
    noise=(0.1, 0.1),
    acceleration=(1.0, 1.0),
    iterations=(5, 5),
    cg_iterations=(4, 4),
)


@pytest.fixture(scope="module")
def network() -> ConditionalResidualUNet:
    torch.manual_seed(0)
    shape = DenoiserConfig(channels=(4, 8), blocks=(1, 1), embedding=8)
    return ConditionalResidualUNet(shape).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def record(anatomy, network, scanned):
    """Create a recording with some settings changed."""

    def run(seed: int = 0, **changes: object) -> AdmmRecording:
        settings = dataclasses.replace(SETTINGS, **changes)
        rng = np.random.default_rng(seed)
        return record_admm(anatomy, network, *scanned, settings, rng)

    return run


def distances(recording: AdmmRecording) -> np.ndarray:
    """Relative error (iterations, 3) of each input, in units of the truth."""
    truth = recording.truth.float()
    inputs = recording.inputs.float() * recording.scales[:, :, None, None, None]
    errors = (inputs - truth).square().sum((2, 3, 4)) / truth.square().sum((1, 2, 3))
    return errors.sqrt().numpy()


@pytest.fixture(scope="module")
def with_truth(record) -> AdmmRecording:
    return record(truth_share=(1.0, 1.0), weight=(1.0, 1.0), coupling=(100.0, 100.0))


def test_contents(with_truth):
    assert with_truth.truth.shape == (3, SIDE, SIDE, SIDE)
    assert with_truth.inputs.shape == (6, 3, SIDE, SIDE, SIDE)
    assert with_truth.scales.shape == (6, 3)
    assert with_truth.truth.dtype == with_truth.inputs.dtype == torch.float16
    for values in vars(with_truth).values():
        assert torch.isfinite(values).all()
    np.testing.assert_allclose(with_truth.sigmas[:-1], np.geomspace(0.3, 0.03, 5), rtol=1e-5)
    assert 0.01 < with_truth.sigmas[-1] < 0.3  # the noise level of the scan


def test_truth_and_inputs_have_intensity_scale_one(with_truth):
    torch.testing.assert_close(
        intensity_scale(with_truth.truth.float()), torch.ones(3), atol=2e-3, rtol=0
    )
    for images in with_truth.inputs:
        torch.testing.assert_close(
            intensity_scale(images.float()), torch.ones(3), atol=2e-3, rtol=0
        )
    assert float(with_truth.truth.min()) >= 0
    assert ((with_truth.scales > 0.5) & (with_truth.scales < 2)).all()


def test_with_the_truth_as_prior_the_inputs_approach_it(with_truth):
    errors = distances(with_truth)
    assert np.all(errors[0] > 0.1)
    assert np.all(errors[-1] < 0.5 * errors[0])


def mostly_equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal except for few voxels: the summation order of threads may change a match."""
    return float(((a.float() - b.float()).abs() < 5e-3).float().mean()) > 0.98


def test_without_the_truth_as_prior_errors_are_larger(record, with_truth):
    without = record(truth_share=(0.0, 0.0), weight=(1.0, 1.0), coupling=(100.0, 100.0))
    assert torch.equal(without.truth, with_truth.truth)
    assert mostly_equal(without.inputs[0], with_truth.inputs[0])
    assert distances(without)[-1].mean() > 1.3 * distances(with_truth)[-1].mean()


def test_more_noise_gives_larger_errors(record):
    quiet, loud = (
        distances(record(noise=(level, level), iterations=(1, 1)))[0].mean()
        for level in (0.02, 0.6)
    )
    assert loud > 1.2 * quiet


def test_recordings_are_determined_by_the_seed(record):
    short = {"iterations": (1, 2), "cg_iterations": (1, 3)}
    first, again, other = (record(seed, **short) for seed in (3, 3, 4))
    for name, value in vars(first).items():
        assert mostly_equal(value, getattr(again, name))
    assert not torch.equal(first.truth, other.truth)


def test_balls_leave_the_border_dark(record):
    def shown(ball_share: float) -> float:
        truth = record(1, ball_share=ball_share, iterations=(1, 1), voxel_mm=(0.9, 1.0)).truth
        return float((truth[:, 0] > 0.02).float().mean())

    assert shown(1.0) < 0.1
    assert shown(0.0) > 0.5


def test_almost_empty_heads_are_refused(anatomy, network, scanned):
    indices = np.zeros_like(anatomy.indices)
    indices[0, 0, 0] = anatomy.labels.index(2)
    empty = dataclasses.replace(anatomy, indices=indices)
    with pytest.raises(Mri2QmapError, match=r"20 random fields of view .* almost empty"):
        record_admm(empty, network, *scanned, SETTINGS, np.random.default_rng(0))


@pytest.fixture
def words(tmp_path, labels, network, short_sequence, monkeypatch) -> list[str]:
    """Command line up to the settings of the recordings, with a short sequence."""
    monkeypatch.setattr(command, "DICTIONARY_STEP", 0.3)
    save_denoiser(tmp_path / "tiny.safetensors", network, {})
    subjects = ["--labels", str(labels), "--subjects", "head_a", "head_b"]
    model = ["--denoiser", str(tmp_path / "tiny.safetensors"), "--matrix", str(SIDE)]
    return ["record-loop", *subjects, *model, "-o", str(tmp_path / "out")]


def test_command_continues_where_it_stopped(words, one_thread, tmp_path, capsys):
    out = tmp_path / "out"
    words = [*words, *one_thread]  # the summation order of several threads varies
    assert main([*words, "--count", "2", "--seed", "5"]) == 0
    assert "recordings 0 to 1, 2 of them new" in capsys.readouterr().out
    names = [f"{number:06d}.loop.safetensors" for number in range(3)]
    assert sorted(path.name for path in out.iterdir()) == names[:2]
    contents = [(out / name).read_bytes() for name in names[:2]]
    assert contents[0] != contents[1]
    (out / names[0]).unlink()
    (out / names[1]).write_bytes(b"kept")
    assert main([*words, "--count", "3", "--seed", "5"]) == 0
    assert "recordings 0 to 2, 2 of them new" in capsys.readouterr().out
    assert (out / names[0]).read_bytes() == contents[0]
    assert (out / names[1]).read_bytes() == b"kept"
    (out / names[1]).unlink()
    third = load_file(out / names[2])["inputs"]
    (out / names[2]).unlink()
    assert main([*words, "--count", "1", "--first", "2", "--seed", "5"]) == 0
    assert torch.equal(load_file(out / names[2])["inputs"], third)
    AdmmRecordings.of_folder(out, at_least=2)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--count", "0"], "--count 0: expected 1 or more"),
        (["--first", "-1"], "--first -1: expected 0 or more"),
        (["--matrix", "8"], "--matrix 8: expected 16 or more"),
        (["--seed", "-2"], "--seed -2: expected 0 or more"),
        (["--threads", "0"], "--threads 0: expected 1 to 1024"),
        (["--subjects", "head_a", "nobody"], "--subjects nobody: not in"),
        (["--denoiser", "nothing"], "denoiser 'nothing': no nothing.safetensors"),
        (["--labels", "nowhere"], "label maps: nowhere is not a folder"),
    ],
)
def test_bad_settings(words, tmp_path, capsys, more, message):
    assert main([*words, *more]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_folder_that_cannot_be_written(words, tmp_path, capsys):
    (tmp_path / "out").touch()
    assert main(words) == 2
    assert "out: it cannot be written" in capsys.readouterr().err

from __future__ import annotations

import csv
import dataclasses
import math

import numpy as np
import pytest
import torch

pytest.importorskip("monai", reason="training needs the [train] extra")

from mri2qmap.denoiser.checkpoint import load_denoiser
from mri2qmap.denoiser.network import ConditionalResidualUNet, DenoiserConfig
from mri2qmap.denoiser.patches import Batch
from mri2qmap.denoiser.training import Trainer, learning_rate, train, validate
from mri2qmap.denoiser.training_config import Optimisation, Subjects, TrainingConfig
from mri2qmap.denoiser.training_images import ImageSettings, SyntheticVolume
from mri2qmap.errors import Mri2QmapError

CPU = torch.device("cpu")
CONFIG = TrainingConfig(
    subjects=Subjects(training=("head_a", "head_b"), validation=("head_c",)),
    network=DenoiserConfig(channels=(8, 16), blocks=(1, 1), embedding=16),
    images=ImageSettings(size=24, pool=3, refresh=5),
    optimisation=Optimisation(
        steps=20, batch=2, patch=16, learning_rate=1e-2, warmup=3, ema=0.8, validate_every=10
    ),
)


def silent(line: str) -> None:
    """Swallow the log."""


def read_progress(folder) -> list[dict[str, str]]:
    with (folder / "progress.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_training_learns_and_is_written(label_folder, tmp_path):
    settings = dataclasses.replace(
        CONFIG.optimisation,
        steps=60,
        batch=4,
        learning_rate=6e-3,
        working_sigmas=(0.3, 0.5),
        working_share=1.0,
        validate_every=20,
    )
    images = dataclasses.replace(
        CONFIG.images, coloured_fraction=0.0, scaled_fraction=0.0, map_error_fraction=0.0
    )
    config = dataclasses.replace(CONFIG, optimisation=settings, images=images)
    assert train(config, label_folder, tmp_path, CPU, log=silent)
    rows = read_progress(tmp_path)
    assert [row["step"] for row in rows] == ["20", "40", "60"]
    # The loss of a network that predicts no noise is 1.
    losses = [float(row["loss"]) for row in rows]
    assert losses[0] > losses[1] > losses[2]
    assert losses[2] < 0.65
    assert float(rows[2]["psnr_PDw_0.2"]) > -20 * math.log10(0.2) + 1
    loaded = load_denoiser(str(tmp_path / "weights.safetensors"))
    assert loaded.info["step"] == 60
    assert loaded.info["training"]["subjects"]["training"] == ["head_a", "head_b"]
    assert loaded.network.config == config.network


def test_resumed_training_equals_an_uninterrupted_one(label_folder, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(CONFIG, label_folder, whole, CPU, log=silent)
    lines: list[str] = []
    stops = 0
    while not train(CONFIG, label_folder, parts, CPU, max_minutes=1e-3, log=lines.append):
        stops += 1
        assert stops <= 20
    assert stops >= 1
    assert any("continuing after step" in line for line in lines)
    weights = [
        load_denoiser(str(folder / "weights.safetensors")).network.state_dict()
        for folder in (whole, parts)
    ]
    for key, value in weights[0].items():
        assert torch.equal(value, weights[1][key]), key
    states = [torch.load(folder / "state.pt", weights_only=True) for folder in (whole, parts)]
    for key, value in states[0]["network"].items():
        assert torch.equal(value, states[1]["network"][key]), key


def test_interrupted_training_keeps_its_state(label_folder, tmp_path):
    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, label_folder, tmp_path, CPU, log=interrupt)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 10


def test_state_of_another_configuration_is_refused(label_folder, tmp_path):
    train(CONFIG, label_folder, tmp_path, CPU, max_minutes=1e-9, log=silent)
    other = dataclasses.replace(
        CONFIG, optimisation=dataclasses.replace(CONFIG.optimisation, steps=30)
    )
    with pytest.raises(Mri2QmapError, match="another configuration"):
        train(other, label_folder, tmp_path, CPU, log=silent)


@pytest.mark.parametrize("content", [b"", b"PK nonsense", b"\x80\x02}q\x00."])
def test_damaged_state_is_refused(label_folder, tmp_path, content):
    (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(Mri2QmapError, match=r"state\.pt: cannot be read"):
        train(CONFIG, label_folder, tmp_path, CPU, log=silent)


def test_missing_label_map_leaves_nothing_behind(tmp_path):
    with pytest.raises(Mri2QmapError, match=r"has no head_a\.nii\.gz, head_b\.nii\.gz"):
        train(CONFIG, tmp_path, tmp_path / "out", CPU, log=silent)
    assert not (tmp_path / "out").exists()


def test_draws_favour_the_working_levels():
    settings = dataclasses.replace(CONFIG.optimisation, batch=500, working_share=0.75)
    trainer = Trainer(dataclasses.replace(CONFIG, optimisation=settings), CPU)
    present, sigmas = trainer.draw(0)
    torch.testing.assert_close(present.mean(0), torch.full((3,), 1 / 3), atol=0.07, rtol=0)
    assert (present.sum(1) == 1).all()
    low, high = settings.working_sigmas
    inside = ((sigmas >= low) & (sigmas <= high)).float().mean()
    share_of_all_levels = 14 / 25
    assert float(inside) == pytest.approx(0.75 + 0.25 * share_of_all_levels, abs=0.05)


def test_joint_patches_sometimes_miss_contrasts():
    settings = dataclasses.replace(CONFIG.optimisation, batch=1000, missing_share=0.4)
    network = dataclasses.replace(CONFIG.network, joint=True)
    config = dataclasses.replace(CONFIG, network=network, optimisation=settings)
    held = Trainer(config, CPU).draw(0)[0].sum(1)
    shares = torch.stack([(held == count).float().mean() for count in (1, 2, 3)])
    torch.testing.assert_close(shares, torch.tensor([0.2, 0.2, 0.6]), atol=0.05, rtol=0)


def test_missing_contrasts_teach_nothing():
    config = dataclasses.replace(CONFIG, network=dataclasses.replace(CONFIG.network, joint=True))
    trainer = Trainer(config, CPU)
    present, sigmas = torch.tensor([[1.0, 0, 0], [1, 0, 0]]), torch.tensor([0.1, 0.2])
    noise = torch.randn(2, 3, 16, 16, 16)
    before = trainer.network.head.bias.detach().clone()
    trainer.train_step(Batch(torch.zeros_like(noise), noise, sigmas, present))
    changed = trainer.network.head.bias.detach() != before
    assert changed[:8].all()
    assert not changed[8:].any()


def test_running_mean_lags_behind_the_weights(label_folder):
    trainer = Trainer(CONFIG, CPU)
    before = [p.clone() for p in trainer.mean_network.parameters()]
    trainer.step = 1000
    present, sigmas = trainer.draw(0)
    noise = torch.randn(2, 1, 16, 16, 16)
    trainer.train_step(Batch(torch.zeros_like(noise), noise, sigmas, present))
    for old, mean, new in zip(
        before, trainer.mean_network.parameters(), trainer.network.parameters(), strict=True
    ):
        torch.testing.assert_close(mean, 0.8 * old + 0.2 * new)


def test_learning_rate_schedule():
    settings = Optimisation(steps=1100, warmup=100, learning_rate=0.5)
    assert learning_rate(0, settings) == pytest.approx(0.005)
    assert learning_rate(99, settings) == pytest.approx(0.5)
    assert learning_rate(600, settings) == pytest.approx(0.25)
    assert learning_rate(1100, settings) == pytest.approx(0.0)


def test_validation_of_a_network_that_does_nothing():
    images = torch.rand(3, 16, 16, 16) + 0.1
    network = ConditionalResidualUNet(CONFIG.network)
    scores = validate(network, [SyntheticVolume(images, images)], CPU)
    assert scores["T2w", 0.1] == pytest.approx(20.0, abs=0.2)
    assert scores["PDw", 0.02] == pytest.approx(-20 * np.log10(0.02), abs=0.2)

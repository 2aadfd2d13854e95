from __future__ import annotations

import csv
import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("monai", reason="training needs the [train] extra")

from mri2qmap.denoiser.checkpoint import load_denoiser, save_denoiser
from mri2qmap.denoiser.network import ConditionalResidualUNet, DenoiserConfig
from mri2qmap.errors import Mri2QmapError
from mri2qmap.training.image_settings import ImageSettings
from mri2qmap.training.patches import Batch
from mri2qmap.training.trainer import Trainer, rate_schedule
from mri2qmap.training.training import prefetched_batches, train
from mri2qmap.training.training_config import Optimisation, Subjects, TrainingConfig
from mri2qmap.training.training_data import TrainingFolders
from mri2qmap.training.training_images import TrainingVolume
from mri2qmap.training.validation import validate

CPU = torch.device("cpu")
CONFIG = TrainingConfig(
    subjects=Subjects(training=("head_a", "head_b"), validation=("head_c",)),
    network=DenoiserConfig(channels=(8, 16), blocks=(1, 1), embedding=16),
    images=ImageSettings(size=24, pool=3, refresh=5),
    optimisation=Optimisation(
        steps=20, batch=2, patch=16, learning_rate=1e-2, warmup=3, ema=0.8, validate_every=10
    ),
)


def batch_of(
    clean: torch.Tensor, noise: torch.Tensor, sigmas: torch.Tensor, present: torch.Tensor
) -> Batch:
    """Patches with white noise, without pre-filter."""
    estimates = clean[:, None][:, :0]
    return Batch(clean, noise, sigmas, present, torch.zeros(len(clean)), estimates)


def silent(line: str) -> None:
    """Swallow the log."""


def of(labels: Path) -> TrainingFolders:
    """Label maps only."""
    return TrainingFolders(labels=labels)


def read_progress(folder) -> list[dict[str, str]]:
    with (folder / "progress.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_twenty_steps_halve_the_loss(label_folder, tmp_path, monkeypatch):
    settings = dataclasses.replace(
        CONFIG.optimisation,
        batch=16,
        learning_rate=1e-2,
        matrix_rate=0.02,
        working_sigmas=(0.4, 0.5),
        working_share=1.0,
    )
    images = ImageSettings(
        size=24, pool=6, refresh=5, coloured_fraction=0, scaled_fraction=0, map_error_fraction=0
    )
    network = DenoiserConfig(channels=(16, 32), blocks=(1, 1), embedding=16)
    config = dataclasses.replace(CONFIG, network=network, images=images, optimisation=settings)
    losses: list[float] = []
    step = Trainer.train_step

    def recorded(trainer: Trainer, batch: Batch) -> Tensor:
        loss = step(trainer, batch)
        losses.append(float(loss))
        return loss

    monkeypatch.setattr(Trainer, "train_step", recorded)
    assert train(config, of(label_folder), tmp_path, CPU, log=silent)
    assert len(losses) == 20
    assert np.mean(losses[-3:]) < 0.5 * losses[0]
    rows = read_progress(tmp_path)
    assert [row["step"] for row in rows] == ["10", "20"]
    for row, part in zip(rows, (losses[:10], losses[10:]), strict=True):
        assert float(row["loss"]) == pytest.approx(np.mean(part), abs=1e-4)
    loaded = load_denoiser(str(tmp_path / "weights.safetensors"))
    assert loaded.info["step"] == 20
    assert loaded.info["training"]["subjects"]["training"] == ["head_a", "head_b"]
    assert loaded.info["subjects"] == {"labels": {"training": 2, "validation": 1, "held_out": 0}}
    assert loaded.network.config == config.network
    assert {path.name for path in tmp_path.iterdir()} == {
        "state.pt",
        "weights.safetensors",
        "progress.csv",
        "progress.png",
        "subjects.yaml",
    }


@pytest.mark.parametrize("joint", [False, True])
def test_training_on_weighted_images_with_missing_contrasts(weighted_folder, tmp_path, joint):
    network = dataclasses.replace(CONFIG.network, joint=joint)
    settings = dataclasses.replace(CONFIG.optimisation, steps=3, validate_every=3)
    config = TrainingConfig(Subjects(), network, CONFIG.images, settings)
    folders = TrainingFolders(weighted={"T1w": weighted_folder, "T2w": weighted_folder})
    lines: list[str] = []
    assert train(config, folders, tmp_path, CPU, log=lines.append)
    assert any("no images of PDw" in line for line in lines)
    (row,) = read_progress(tmp_path)
    assert math.isfinite(float(row["loss"]))
    assert "psnr_PDw_0.1" not in row
    assert math.isfinite(float(row["psnr_T1w_0.1"]))


@pytest.mark.slow
def test_resumed_training_equals_an_uninterrupted_one(label_folder, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(CONFIG, of(label_folder), whole, CPU, log=silent)
    lines: list[str] = []

    def interrupt(line: str) -> None:
        lines.append(line)
        if line.startswith("step 10:"):
            raise KeyboardInterrupt

    assert not train(CONFIG, of(label_folder), parts, CPU, max_minutes=1e-9, log=lines.append)
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, of(label_folder), parts, CPU, log=interrupt)
    assert train(CONFIG, of(label_folder), parts, CPU, log=lines.append)
    continued = [line for line in lines if line.startswith("continuing")]
    assert continued == ["continuing after step 1", "continuing after step 10"]
    weights = [
        load_denoiser(str(folder / "weights.safetensors")).network.state_dict()
        for folder in (whole, parts)
    ]
    for key, value in weights[0].items():
        assert torch.equal(value, weights[1][key]), key
    states = [torch.load(folder / "state.pt", weights_only=True) for folder in (whole, parts)]
    for key, value in states[0]["network"].items():
        assert torch.equal(value, states[1]["network"][key]), key


def test_state_of_another_configuration_is_refused(label_folder, tmp_path):
    train(CONFIG, of(label_folder), tmp_path, CPU, max_minutes=1e-9, log=silent)
    other = dataclasses.replace(
        CONFIG, optimisation=dataclasses.replace(CONFIG.optimisation, steps=30)
    )
    with pytest.raises(Mri2QmapError, match="another configuration"):
        train(other, of(label_folder), tmp_path, CPU, log=silent)


@pytest.mark.parametrize("content", [b"", b"PK nonsense", b"\x80\x02}q\x00."])
def test_damaged_state_is_refused(label_folder, tmp_path, content):
    (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(Mri2QmapError, match=r"state\.pt: cannot be read"):
        train(CONFIG, of(label_folder), tmp_path, CPU, log=silent)


def test_missing_label_maps_create_no_files(tmp_path):
    with pytest.raises(Mri2QmapError, match="label maps"):
        train(CONFIG, of(tmp_path), tmp_path / "out", CPU, log=silent)
    assert not (tmp_path / "out").exists()


def test_changed_subjects_are_refused(label_folder, tmp_path):
    config = dataclasses.replace(CONFIG, subjects=Subjects())
    labels, out = tmp_path / "labels", tmp_path / "out"
    shutil.copytree(label_folder, labels)
    train(config, of(labels), out, CPU, max_minutes=1e-9, log=silent)
    shutil.copy(label_folder / "head_a.nii.gz", labels / "head_d.nii.gz")
    with pytest.raises(Mri2QmapError, match=r"subjects\.yaml .* started with other subjects"):
        train(config, of(labels), out, CPU, log=silent)


def test_states_of_older_versions_use_defaults_for_new_settings(tmp_path):
    trainer = Trainer(CONFIG, CPU)
    trainer.step = 7
    trainer.save(tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    config = json.loads(state["config"])
    del config["optimisation"]["validate_volumes"], config["images"]["acquired_fraction"]
    config["network"]["first_estimates"] = config["network"].pop("prefilter")  # its former name
    torch.save({**state, "config": json.dumps(config)}, tmp_path / "state.pt")
    restored = Trainer(CONFIG, CPU)
    restored.restore(tmp_path / "state.pt")
    assert restored.step == 7


def test_divergence_stops_before_the_weights_change():
    trainer = Trainer(CONFIG, CPU)
    before = [p.clone() for p in trainer.network.parameters()]
    present, sigmas = trainer.step_conditions(0)
    noise = torch.full((2, 1, 16, 16, 16), math.inf)
    with pytest.raises(Mri2QmapError, match=r"gradient is nan at step 0; .* lower learning_rate"):
        trainer.train_step(batch_of(torch.zeros_like(noise), noise, sigmas, present))
    assert trainer.consistent
    assert trainer.step == 0
    for old, new in zip(before, trainer.network.parameters(), strict=True):
        assert torch.equal(old, new)


def test_an_interrupted_step_is_not_saved(label_folder, tmp_path, monkeypatch):
    train(CONFIG, of(label_folder), tmp_path, CPU, max_minutes=1e-9, log=silent)
    saved = (tmp_path / "state.pt").read_bytes()

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "_foreach_lerp_", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, of(label_folder), tmp_path, CPU, log=silent)
    assert (tmp_path / "state.pt").read_bytes() == saved


def test_initial_weights_are_used(label_folder, tmp_path):
    torch.manual_seed(5)
    network = ConditionalResidualUNet(CONFIG.network)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    save_denoiser(tmp_path / "first.safetensors", network, {})
    settings = dataclasses.replace(
        CONFIG.optimisation, matrix_rate=1e-12, learning_rate=1e-12, steps=1
    )
    config = dataclasses.replace(CONFIG, optimisation=settings)
    first = str(tmp_path / "first.safetensors")
    train(config, of(label_folder), tmp_path / "out", CPU, initial=first, log=silent)
    found = torch.load(tmp_path / "out" / "state.pt", weights_only=True)
    for part in ("network", "mean_network"):
        for key, value in network.state_dict().items():
            torch.testing.assert_close(found[part][key], value, atol=1e-6, rtol=0)


def test_a_prefilter_can_be_added_to_initial_weights(tmp_path):
    shape = dataclasses.replace(CONFIG.network, channels=(8,), blocks=(1,), joint=True)
    plain = ConditionalResidualUNet(shape)
    save_denoiser(tmp_path / "plain.safetensors", plain, {})
    network = dataclasses.replace(shape, prefilter=True)
    trainer = Trainer(dataclasses.replace(CONFIG, network=network), CPU)
    trainer.load_initial_weights(load_denoiser(str(tmp_path / "plain.safetensors")))
    torch.testing.assert_close(trainer.network.down.state_dict(), plain.down.state_dict())
    save_denoiser(tmp_path / "first.safetensors", trainer.network, {})
    first = load_denoiser(str(tmp_path / "first.safetensors"))
    without = Trainer(dataclasses.replace(CONFIG, network=shape), CPU)
    with pytest.raises(Mri2QmapError, match="does not match that of the configuration"):
        without.load_initial_weights(first)


def test_blocks_can_be_added_to_initial_weights(tmp_path):
    shallow = dataclasses.replace(CONFIG.network, channels=(8, 8), blocks=(1, 2), stem=1)
    network = ConditionalResidualUNet(shallow)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    save_denoiser(tmp_path / "shallow.safetensors", network, {})
    trainers = {
        blocks: Trainer(
            dataclasses.replace(CONFIG, network=dataclasses.replace(shallow, blocks=blocks)), CPU
        )
        for blocks in ((3, 2), (1, 1))
    }
    first = load_denoiser(str(tmp_path / "shallow.safetensors"))
    deep = trainers[3, 2]
    deep.load_initial_weights(first)
    inputs = (torch.rand(1, 1, 8, 8, 8), torch.tensor([0.1]), torch.eye(3)[:1], torch.zeros(1))
    expected = first.network(*inputs)
    torch.testing.assert_close(deep.network(*inputs), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(deep.ema_network(*inputs), expected, atol=1e-6, rtol=0)
    with pytest.raises(Mri2QmapError, match="does not match that of the configuration"):
        trainers[1, 1].load_initial_weights(first)


@pytest.mark.slow
def test_training_with_prefilter_continues_where_it_stopped(label_folder, tmp_path):
    network = dataclasses.replace(CONFIG.network, joint=True, prefilter=True)
    settings = dataclasses.replace(CONFIG.optimisation, steps=4, validate_every=4)
    images = dataclasses.replace(CONFIG.images, pool=1, refresh=2)
    config = dataclasses.replace(CONFIG, network=network, optimisation=settings, images=images)
    whole = train(config, of(label_folder), tmp_path / "whole", CPU, log=silent)
    train(config, of(label_folder), tmp_path / "parts", CPU, max_minutes=0.0, log=silent)
    parts = train(config, of(label_folder), tmp_path / "parts", CPU, log=silent)
    assert whole
    assert parts
    files = [load_denoiser(str(tmp_path / n / "weights.safetensors")) for n in ("whole", "parts")]
    for a, b in zip(*(each.network.state_dict().values() for each in files), strict=True):
        assert torch.equal(a, b)


def test_initial_weights_of_another_shape_are_refused(label_folder, tmp_path, tiny_network):
    save_denoiser(tmp_path / "tiny.safetensors", tiny_network, {})
    first = str(tmp_path / "tiny.safetensors")
    with pytest.raises(
        Mri2QmapError, match=r"network of tiny is .*does not match that of the configuration"
    ):
        train(CONFIG, of(label_folder), tmp_path / "out", CPU, initial=first, log=silent)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("ahead", [False, True])
def test_batches_are_yielded_in_order(ahead):
    drawn: list[int] = []

    def draw(step: int) -> Batch:
        drawn.append(step)
        part = torch.full((1, 1), float(step))
        return Batch(part, part, part[0], part, part[0], part)

    batches = prefetched_batches(draw, 3, 8, ahead)
    assert float(next(batches).sigma) == 3
    assert [float(batch.sigma) for batch in batches] == [4, 5, 6, 7]
    assert drawn == [3, 4, 5, 6, 7]
    assert list(prefetched_batches(draw, 8, 8, ahead)) == []


def test_errors_of_prefetching_are_raised():
    def draw(step: int) -> Batch:
        raise Mri2QmapError(f"no image at step {step}")

    with pytest.raises(Mri2QmapError, match="no image at step 2"):
        list(prefetched_batches(draw, 2, 8, ahead=True))


def test_draws_favour_the_working_levels():
    settings = dataclasses.replace(CONFIG.optimisation, batch=500, working_share=0.75)
    trainer = Trainer(dataclasses.replace(CONFIG, optimisation=settings), CPU)
    present, sigmas = trainer.step_conditions(0)
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
    held = Trainer(config, CPU).step_conditions(0)[0].sum(1)
    shares = torch.stack([(held == count).float().mean() for count in (1, 2, 3)])
    torch.testing.assert_close(shares, torch.tensor([0.2, 0.2, 0.6]), atol=0.05, rtol=0)


def test_missing_contrasts_do_not_affect_the_loss():
    config = dataclasses.replace(CONFIG, network=dataclasses.replace(CONFIG.network, joint=True))
    trainer = Trainer(config, CPU)
    present, sigmas = torch.tensor([[1.0, 0, 0], [1, 0, 0]]), torch.tensor([0.1, 0.2])
    noise = torch.randn(2, 3, 16, 16, 16)
    before = trainer.network.head.bias.detach().clone()
    trainer.train_step(batch_of(torch.zeros_like(noise), noise, sigmas, present))
    changed = trainer.network.head.bias.detach() != before
    # Mean and variance outputs for the eight voxels of a cell, for each contrast.
    first = torch.arange(3).repeat_interleave(8).repeat(2) == 0
    assert torch.equal(changed, first)


def test_mixed_precision_changes_little(label_folder):
    losses = []
    for mixed in (False, True):
        settings = dataclasses.replace(CONFIG.optimisation, mixed_precision=mixed)
        trainer = Trainer(dataclasses.replace(CONFIG, optimisation=settings), CPU)
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(2, 1, 16, 16, 16, generator=generator)
        clean = torch.rand(2, 1, 16, 16, 16, generator=generator)
        batch = batch_of(clean, noise, torch.tensor([0.1, 0.3]), torch.eye(3)[:2])
        losses.append([float(trainer.train_step(batch)) for _ in range(3)])
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.03)


def test_the_moving_average_lags_behind_the_weights(label_folder):
    trainer = Trainer(CONFIG, CPU)
    before = [p.clone() for p in trainer.ema_network.parameters()]
    trainer.step = 1000
    present, sigmas = trainer.step_conditions(0)
    noise = torch.randn(2, 1, 16, 16, 16)
    trainer.train_step(batch_of(torch.zeros_like(noise), noise, sigmas, present))
    for old, mean, new in zip(
        before, trainer.ema_network.parameters(), trainer.network.parameters(), strict=True
    ):
        torch.testing.assert_close(mean, 0.8 * old + 0.2 * new)


def test_schedule_of_the_learning_rates():
    settings = Optimisation(steps=1100, warmup=100)
    assert rate_schedule(0, settings) == pytest.approx(0.01)
    assert rate_schedule(99, settings) == pytest.approx(1)
    assert rate_schedule(600, settings) == pytest.approx(0.5)
    assert rate_schedule(1100, settings) == pytest.approx(0)


class Untouched(ConditionalResidualUNet):
    """Returns its input."""

    def forward(self, noisy, sigma, present, synthesised):
        return noisy


@pytest.mark.parametrize("joint", [False, True])
def test_validation_of_the_identity(joint):
    images = torch.rand(3, 16, 16, 16) + 0.1
    network = Untouched(dataclasses.replace(CONFIG.network, joint=joint))
    complete = TrainingVolume(images, torch.ones(3, dtype=torch.bool))
    scores = validate(network, [complete], CPU)
    assert scores["T2w", 0.1] == pytest.approx(20.0, abs=0.2)
    assert scores["PDw", 0.02] == pytest.approx(-20 * np.log10(0.02), abs=0.2)
    assert len(scores) == 12
    partial = TrainingVolume(images, torch.tensor([True, False, True]))
    scores = validate(network, [partial, partial], CPU)
    assert {contrast for contrast, _ in scores} == {"T1w", "PDw"}
    assert scores["T1w", 0.1] == pytest.approx(20.0, abs=0.2)

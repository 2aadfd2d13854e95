from __future__ import annotations

import dataclasses
import json
import os

import pytest
import torch
from safetensors.torch import save_file

from mri2qmap.denoiser import checkpoint
from mri2qmap.denoiser.checkpoint import load_denoiser, model_path, save_denoiser
from mri2qmap.denoiser.network import ConditionalResidualUNet
from mri2qmap.errors import Mri2QmapError


def test_round_trip(tmp_path, tiny_network):
    save_denoiser(tmp_path / "mine.safetensors", tiny_network, {"step": 7, "note": "é"})
    loaded = load_denoiser(str(tmp_path / "mine.safetensors"))
    assert loaded.name == "mine"
    assert loaded.info == {"step": 7, "note": "é"}
    assert loaded.network.config == tiny_network.config
    assert not loaded.network.training
    expected = tiny_network.state_dict()
    for key, value in loaded.network.state_dict().items():
        assert torch.equal(value, expected[key])
    assert list(tmp_path.iterdir()) == [tmp_path / "mine.safetensors"]


def test_half_precision_storage_is_close(tmp_path, tiny_network):
    path = tmp_path / "half.safetensors"
    save_denoiser(path, tiny_network, {}, dtype=torch.float16)
    noisy = torch.randn(1, 1, 8, 8, 8)
    arguments = noisy, torch.tensor([0.1]), torch.eye(3)[1:2], torch.ones(1)
    loaded = load_denoiser(str(path)).network
    torch.testing.assert_close(loaded(*arguments), tiny_network(*arguments), atol=5e-3, rtol=0)


def test_a_name_is_found_in_both_folders(tmp_path, monkeypatch, tiny_network):
    checkout, wheel = tmp_path / "models", tmp_path / "_models"
    monkeypatch.setattr(checkpoint, "model_folders", lambda: (checkout, wheel))
    with pytest.raises(Mri2QmapError, match="available: none"):
        model_path("tiny")
    wheel.mkdir()
    save_denoiser(wheel / "tiny.safetensors", tiny_network, {})
    assert model_path("tiny") == wheel / "tiny.safetensors"
    checkout.mkdir()
    save_denoiser(checkout / "tiny.safetensors", tiny_network, {})
    assert model_path("tiny") == checkout / "tiny.safetensors"
    with pytest.raises(Mri2QmapError) as caught:
        load_denoiser("tinny")
    assert str(wheel) in str(caught.value)
    assert "available: tiny" in str(caught.value)


def test_project_folders_are_named():
    folders = checkpoint.model_folders()
    assert [folder.name for folder in folders] == ["models", "_models"]


def damaged_files(network: ConditionalResidualUNet) -> dict[str, object]:
    weights = {key: value.clone() for key, value in network.state_dict().items()}
    good = {
        "format": checkpoint._FORMAT,
        "config": json.dumps({"channels": [4, 8], "blocks": [1, 1], "embedding": 8}),
        "info": "{}",
    }
    fewer = {key: value for key, value in weights.items() if key != "stem.weight"}
    infinite = {**weights, "stem.bias": torch.full_like(weights["stem.bias"], float("inf"))}
    return {
        "no metadata": (weights, None, "format None"),
        "other format": (weights, {**good, "format": "resnet"}, "format 'resnet'"),
        "no config": (weights, {"format": good["format"]}, "do not form a valid network"),
        "config no json": (weights, {**good, "config": "{"}, "do not form a valid network"),
        "config no mapping": (weights, {**good, "config": "3"}, "do not form a valid network"),
        "unknown key": (weights, {**good, "config": '{"depth": 3}'}, "depth"),
        "bad value": (weights, {**good, "config": '{"stem": 0}'}, "do not form a valid network"),
        "other shape": (weights, {**good, "config": '{"channels": [4, 4]}'}, "do not form"),
        "weight missing": (fewer, good, "stem.weight"),
        "not finite": (infinite, good, "not finite"),
    }


@pytest.mark.parametrize(
    "case",
    [
        "no metadata",
        "other format",
        "no config",
        "config no json",
        "config no mapping",
        "unknown key",
        "bad value",
        "other shape",
        "weight missing",
        "not finite",
    ],
)
def test_damaged_contents(tmp_path, tiny_network, case):
    weights, metadata, message = damaged_files(tiny_network)[case]
    path = tmp_path / "bad.safetensors"
    save_file(weights, path, metadata=metadata)
    with pytest.raises(Mri2QmapError, match=message) as caught:
        load_denoiser(str(path))
    assert str(path) in str(caught.value)


def test_former_names_of_settings_are_read(tmp_path, tiny_network):
    config = {**dataclasses.asdict(tiny_network.config), "first_estimates": False}
    del config["prefilter"]
    metadata = {"format": checkpoint._FORMAT, "config": json.dumps(config), "info": "{}"}
    path = tmp_path / "old.safetensors"
    save_file(tiny_network.state_dict(), path, metadata=metadata)
    assert load_denoiser(str(path)).network.config == tiny_network.config
    metadata["config"] = json.dumps({**config, "prefilter": True})
    save_file(tiny_network.state_dict(), path, metadata=metadata)
    with pytest.raises(Mri2QmapError, match="prefilter is given twice"):
        load_denoiser(str(path))


@pytest.mark.parametrize("kept", [0, 4, 300, 3000])
def test_truncated_file(tmp_path, tiny_network, kept):
    path = tmp_path / "cut.safetensors"
    save_denoiser(path, tiny_network, {})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(Mri2QmapError, match="damaged or incomplete safetensors file"):
        load_denoiser(str(path))


def test_missing_path():
    with pytest.raises(Mri2QmapError, match="no such file"):
        load_denoiser("nowhere/x.safetensors")


def test_a_file_is_read_once_until_it_changes(tmp_path, tiny_network):
    path = tmp_path / "mine.safetensors"
    save_denoiser(path, tiny_network, {"step": 1})
    first = load_denoiser(str(path))
    assert load_denoiser(str(path)) is first
    save_denoiser(path, tiny_network, {"step": 22})
    assert load_denoiser(str(path)).info == {"step": 22}


def test_a_changed_file_with_the_same_time_and_length_is_read_again(tmp_path, tiny_network):
    path = tmp_path / "mine.safetensors"
    for step in (1, 2):
        save_denoiser(path, tiny_network, {"step": step})
        os.utime(path, (1, 1))
        assert load_denoiser(str(path)).info == {"step": step}

"""Training with two processes gives the same result as with one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from torch import distributed

pytest.importorskip("monai", reason="training needs the [train] extra")

from mri2qmap.training.distributed import ProcessGroup

import mri2qmap
from mri2qmap.cli.main import main
from mri2qmap.errors import Mri2QmapError

CONFIG = {
    "subjects": {"training": ["head_a", "head_b"], "validation": ["head_c"]},
    "network": {"channels": [4, 8], "blocks": [1, 1], "embedding": 8, "joint": True},
    "images": {"size": 16, "pool": 2, "refresh": 2},
    "optimisation": {"steps": 6, "batch": 4, "patch": 8, "learning_rate": 1e-3, "warmup": 2},
}


@pytest.mark.slow
@pytest.mark.skipif(
    not (distributed.is_available() and distributed.is_gloo_available()),
    reason="this PyTorch has no Gloo",
)
def test_two_processes_give_the_result_of_one(tmp_path, label_folder):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(CONFIG))
    words = ["train", str(tmp_path / "c.yaml"), "--labels", str(label_folder), "--device", "cpu"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {  # as torchrun does
        "PYTHONPATH": os.pathsep.join([str(Path(mri2qmap.__file__).parents[1]), *sys.path]),
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
    }
    # Separate output folders show which process writes.
    commands = [
        subprocess.Popen(
            [sys.executable, "-m", "mri2qmap.cli.main", *words, "-o", str(tmp_path / f"out{rank}")],
            env={**os.environ, **told, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [command.communicate(timeout=300) for command in commands]
    finally:
        for command in commands:
            command.kill()
    for command, (_, errors) in zip(commands, outputs, strict=True):
        assert command.returncode == 0, errors
    assert "step 6: loss" in outputs[0][0]
    assert outputs[1][0] == ""
    assert not (tmp_path / "out1").exists()
    assert main([*words, "-o", str(tmp_path / "alone")]) == 0
    states = [
        torch.load(tmp_path / folder / "state.pt", weights_only=True)
        for folder in ("out0", "alone")
    ]
    assert states[0]["step"] == states[1]["step"] == 6
    assert main([*words, "-o", str(tmp_path / "one"), "--max-minutes", "1e-9"]) == 0
    begun = torch.load(tmp_path / "one" / "state.pt", weights_only=True)
    assert begun["step"] == 1
    for part in ("network", "mean_network"):
        moved = 0.0
        for key, value in states[1][part].items():
            torch.testing.assert_close(states[0][part][key], value, atol=2e-5, rtol=1e-4)
            moved = max(moved, float((value - begun[part][key]).abs().max()))
        assert moved > 1e-3  # the weights changed much more than they differ
    tables = [(tmp_path / folder / "progress.csv").read_text() for folder in ("out0", "alone")]
    losses = [float(table.splitlines()[1].split(",")[2]) for table in tables]
    assert losses[0] == pytest.approx(losses[1], abs=2e-5)


def test_batches_are_divided_equally():
    assert ProcessGroup().batch_slice(5) == slice(0, 5)
    assert [ProcessGroup(rank, 3).batch_slice(6) for rank in range(3)] == [
        slice(0, 2),
        slice(2, 4),
        slice(4, 6),
    ]
    with pytest.raises(
        Mri2QmapError, match="batch of 4 patches cannot be divided equally among 3 processes"
    ):
        ProcessGroup(1, 3).batch_slice(4)


def test_a_single_process_without_torchrun(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert ProcessGroup.from_environment() == ProcessGroup(0, 1, 0)
    assert ProcessGroup().is_main


def test_environment_of_torchrun(monkeypatch):
    for name, value in (("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    found = ProcessGroup.from_environment()
    assert found == ProcessGroup(5, 8, 1)
    assert not found.is_main


@pytest.mark.parametrize(("name", "value"), [("RANK", "8"), ("WORLD_SIZE", "many"), ("RANK", "-1")])
def test_an_inconsistent_environment_is_refused(monkeypatch, name, value):
    for key, good in (("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(key, value if key == name else good)
    with pytest.raises(Mri2QmapError, match="is not a valid torchrun environment"):
        ProcessGroup.from_environment()


def test_unreachable_processes_are_reported(monkeypatch):
    for name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(Mri2QmapError, match="process 1 cannot reach the 1 others"):
        with ProcessGroup(1, 2).connected(torch.device("cpu")):
            pass

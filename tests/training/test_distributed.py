"""Training with two processes gives the same result as with one."""

from __future__ import annotations

import pytest
import torch
import yaml
from helpers.processes import NO_GLOO, run_together

pytest.importorskip("monai", reason="training needs the [train] extra")


from mri2qmap.cli.main import main
from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.process_group import ProcessGroup
from mri2qmap.training.training import batch_slice

CONFIG = {
    "subjects": {"training": ["head_a", "head_b"], "validation": ["head_c"]},
    "network": {"channels": [4, 8], "blocks": [1, 1], "embedding": 8, "joint": True},
    "images": {"size": 16, "pool": 2, "refresh": 2},
    "optimisation": {"steps": 6, "batch": 4, "patch": 8, "learning_rate": 1e-3, "warmup": 2},
}


@pytest.mark.slow
@pytest.mark.skipif(NO_GLOO, reason="this PyTorch has no Gloo")
def test_two_processes_give_the_result_of_one(tmp_path, label_folder):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(CONFIG))
    words = ["train", str(tmp_path / "c.yaml"), "--labels", str(label_folder), "--device", "cpu"]
    # Separate output folders show which process writes.
    first, second = run_together(
        [
            ["-m", "mri2qmap.cli.main", *words, "-o", str(tmp_path / f"out{rank}")]
            for rank in range(2)
        ]
    )
    assert (first.code, second.code) == (0, 0), first.errors + second.errors
    assert "step 6: loss" in first.output
    assert second.output == ""
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
    assert batch_slice(ProcessGroup(), 5) == slice(0, 5)
    assert [batch_slice(ProcessGroup(rank, 3), 6) for rank in range(3)] == [
        slice(0, 2),
        slice(2, 4),
        slice(4, 6),
    ]
    with pytest.raises(
        Mri2QmapError, match="batch of 4 patches cannot be divided equally among 3 processes"
    ):
        batch_slice(ProcessGroup(1, 3), 4)

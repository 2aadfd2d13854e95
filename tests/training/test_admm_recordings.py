from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mri2qmap.errors import Mri2QmapError
from mri2qmap.training.admm_recordings import AdmmRecording, AdmmRecordings, recording_path


def recording(value: float) -> AdmmRecording:
    return AdmmRecording(
        truth=torch.full((3, 8, 8, 8), 2 * value).half(),
        inputs=torch.full((2, 3, 8, 8, 8), 3 * value).half(),
        scales=torch.tensor([[1.0, 2, 4], [1, 2, 4]]),
        sigmas=torch.tensor([0.2, 0.1]),
    )


def test_recordings_of_a_folder(tmp_path):
    for index in range(3):
        recording(index + 1).save(recording_path(tmp_path, f"{index}"))
    errors = AdmmRecordings.of_folder(tmp_path)
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(30):
        clean, noisy, sigma = errors.draw(rng)
        value = float(clean[0, 0, 0, 0]) / 2
        seen.add((value, round(float(sigma), 3)))
        assert clean[:, 0, 0, 0].tolist() == [2 * value, value, value / 2]
        assert (noisy == 3 * value).all()
        assert clean.dtype == noisy.dtype == torch.float32
    assert seen == {(v, s) for v in (1.0, 2.0, 3.0) for s in (0.2, 0.1)}
    assert not list(tmp_path.glob("*.part"))


def test_too_few_recordings(tmp_path):
    with pytest.raises(Mri2QmapError, match=r"contains 0 .* at least 1; create them with"):
        AdmmRecordings.of_folder(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_damaged_recording(tmp_path, damage):
    path = recording_path(tmp_path, "0")
    if damage == "cut":
        recording(1).save(path)
        path.write_bytes(path.read_bytes()[:1000])
    else:
        save_file({"weights": torch.ones(3)}, path)
    with pytest.raises(Mri2QmapError, match="cannot be read"):
        AdmmRecordings.of_folder(tmp_path)

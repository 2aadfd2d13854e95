"""The GPU of tests that compare results with those of the CPU."""

from collections.abc import Iterator

import pytest
import torch
from helpers.pretend_gpu import pretend_gpu

from mri2qmap.denoiser import volume


@pytest.fixture(params=["pretend", pytest.param("real", marks=pytest.mark.cuda)])
def gpu(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """`cuda:0`: the pretend GPU, and the real one of the machine."""
    if request.param == "pretend":
        with pretend_gpu():
            yield torch.device("cuda:0")
    elif torch.cuda.is_available():
        yield torch.device("cuda:0")
    else:
        pytest.skip("no CUDA device")


@pytest.fixture
def single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let networks compute in float32 on every device."""
    monkeypatch.setattr(volume, "preferred_precision", lambda device: torch.float32)

import pytest
import torch

from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.devices import device_name, free_gpu_memory, select_device

GPUS = torch.cuda.device_count() if torch.cuda.is_available() else 0


def test_auto_selects_the_gpu_if_available():
    assert select_device("auto").type == ("cuda" if GPUS else "cpu")
    assert select_device("cpu") == torch.device("cpu")
    assert device_name(torch.device("cpu")) == "cpu"


@pytest.mark.skipif(GPUS == 0, reason="no CUDA device")
def test_gpu_is_selected_by_number():
    assert select_device("cuda") == select_device("cuda:0") == torch.device("cuda", 0)
    assert torch.cuda.get_device_name(0) in device_name(torch.device("cuda", 0))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (f"cuda:{GPUS}", "PyTorch finds"),
        ("cuda:-1", "is unknown"),
        ("cuda:", "is unknown"),
        ("gpu", "is unknown"),
        ("", "is unknown"),
        ("mps", "is unknown"),
    ],
)
def test_other_devices_are_refused(name, words):
    with pytest.raises(Mri2QmapError, match=words):
        select_device(name)


def test_memory_that_pytorch_keeps_is_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 70)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 30)
    fraction = 1.0
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: fraction)
    assert free_gpu_memory(torch.device("cuda:0")) == 45
    fraction = 0.6
    assert free_gpu_memory(torch.device("cuda:0")) == 30
    fraction = 0.1
    assert free_gpu_memory(torch.device("cuda:0")) == 0

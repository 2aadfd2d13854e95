"""Data type of a network's matrix products."""

from __future__ import annotations

import pytest
import torch

from mri2qmap.denoiser import volume
from mri2qmap.denoiser.volume import denoise_volumes, preferred_precision

CPU = torch.device("cpu")


@pytest.fixture
def capabilities(monkeypatch):
    """Capabilities reported by PyTorch; empty as in older versions."""
    found: dict[str, bool] = {}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    volume._cpu_multiplies_bfloat16.cache_clear()
    yield found
    volume._cpu_multiplies_bfloat16.cache_clear()


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({}, torch.float32),
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, torch.float32),
        ({"avx512_bf16": True, "amx_bf16": False}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
    ],
)
def test_a_cpu_with_products_of_bfloat16_uses_it(capabilities, found, expected):
    capabilities.update(found)
    assert preferred_precision(CPU) == expected


def test_older_pytorch_does_not_report_capabilities(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    volume._cpu_multiplies_bfloat16.cache_clear()
    assert preferred_precision(CPU) == torch.float32
    volume._cpu_multiplies_bfloat16.cache_clear()


@pytest.mark.parametrize("native", [False, True])
def test_a_gpu_uses_bfloat16_unless_it_is_emulated(monkeypatch, native):
    def is_supported(including_emulation: bool = True) -> bool:
        return including_emulation or native

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    wanted = torch.bfloat16 if native else torch.float32
    assert preferred_precision(torch.device("cuda")) == wanted


def test_bfloat16_changes_images_slightly(capabilities, tiny_network):
    images = torch.rand(3, 16, 16, 16, generator=torch.Generator().manual_seed(0))

    def restored(wanted: torch.dtype | None) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        contrasts = tiny_network.config.contrasts
        return denoise_volumes(
            tiny_network, images, 0.2, contrasts, generator=generator, precision=wanted
        )

    exact, rounded = restored(torch.float32), restored(torch.bfloat16)
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(rounded, exact, atol=0.01, rtol=0)
    assert torch.equal(restored(None), exact)
    capabilities["amx_bf16"] = True
    volume._cpu_multiplies_bfloat16.cache_clear()
    assert torch.equal(restored(None), rounded)

"""The number format in which a network runs fastest."""

from __future__ import annotations

from functools import cache

import torch


def preferred_precision(device: torch.device) -> torch.dtype:
    """Return bfloat16 where the device has matrix units for it, otherwise float32.

    On a core with AMX it takes the shipped network a quarter of the time, and changes images by
    less than 0.3 % and their PSNR by less than 0.01 dB; without such units it is slower than
    float32.
    """
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device.type == "cpu" and _cpu_has_matrix_units()
    return torch.bfloat16 if native else torch.float32


@cache
def _cpu_has_matrix_units() -> bool:
    # Older PyTorch does not say what the processor can do.
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16"))

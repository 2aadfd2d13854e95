"""Selection of the computing device."""

from __future__ import annotations

import torch

from mri2qmap.errors import Mri2QmapError


def select_device(name: str) -> torch.device:
    """Return the device with this name.

    Parameters
    ----------
    name
        ``auto`` (a CUDA GPU if available, else the CPU), ``cpu``, ``cuda`` or ``cuda:N``.

    Raises
    ------
    Mri2QmapError
        If the name is invalid or the GPU does not exist.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    kind, colon, number = name.partition(":")
    if name == "cpu":
        return torch.device("cpu")
    if kind != "cuda" or (colon and not number.isdecimal()):
        raise Mri2QmapError(f"device {name!r} is unknown: auto, cpu, cuda or cuda:N is expected")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = int(number) if colon else 0
    if index >= count:
        found = f"{count} CUDA device(s)" if count else "no CUDA device"
        raise Mri2QmapError(
            f'device {name!r} is not available, PyTorch finds {found}: choose "auto" or "cpu"'
        )
    return torch.device("cuda", index)


def device_name(device: torch.device) -> str:
    """Return a human-readable name of `device`, for example ``cuda:0 (NVIDIA H200)``."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)

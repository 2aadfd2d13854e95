"""The choice of the device that carries the numerics."""

from __future__ import annotations

import torch

from mri2qmap.errors import Mri2QmapError


def select_device(name: str) -> torch.device:
    """Return the device called `name`.

    Parameters
    ----------
    name
        ``auto`` (a CUDA GPU where there is one, else the CPU), ``cpu``, ``cuda`` or ``cuda:N``.

    Raises
    ------
    Mri2QmapError
        For any other name, and for a GPU that this machine has not got.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    kind, colon, number = name.partition(":")
    if name == "cpu":
        return torch.device("cpu")
    if kind != "cuda" or (colon and not number.isdecimal()):
        raise Mri2QmapError(f"device {name!r} is not known: auto, cpu, cuda or cuda:N is expected")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = int(number) if colon else 0
    if index >= count:
        found = f"{count} CUDA device(s)" if count else "no CUDA device"
        raise Mri2QmapError(
            f"device {name!r} was asked for, but PyTorch finds {found}: "
            "use --device auto or --device cpu"
        )
    return torch.device("cuda", index)


def device_name(device: torch.device) -> str:
    """Return the name of `device` for people, such as ``cuda:0 (NVIDIA H200)``."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)

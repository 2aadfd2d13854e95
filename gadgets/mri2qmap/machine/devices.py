"""Selection of the computing device, and how many voxels to give it at a time."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.cancellation import raise_if_cancelled

AUTO = "auto"
"""Device: a CUDA GPU if available, else the CPU, which may also take over from a GPU."""
_VOXELS_ON_CPU = 1 << 14  # at once; the arrays of a block fit into the cache
_VOXELS_ON_GPU = 1 << 18


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
    if name == AUTO:
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


def processor(threads: int) -> str:
    """Name of the CPU and number of threads."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    name = next(models, "") or platform.processor() or platform.machine()
    return f"{name}, {threads} thread{'s' * (threads != 1)}"


@contextmanager
def gpu_memory_limited(device: torch.device, limit: int | None) -> Iterator[None]:
    """Limit the memory that PyTorch may take on a GPU while the block runs.

    Parameters
    ----------
    device
        A CPU is not limited.
    limit
        Bytes; None means no limit.
    """
    if limit is None or device.type != "cuda":
        yield
        return
    before = torch.cuda.get_per_process_memory_fraction(device)
    total = torch.cuda.mem_get_info(device)[1]
    torch.cuda.set_per_process_memory_fraction(min(limit / total, 1.0), device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(before, device)


def free_gpu_memory(device: torch.device) -> int:
    """Return the memory of a GPU that may be taken [bytes].

    It is free, or PyTorch keeps it for later use. The limit of `gpu_memory_limited` counts.
    """
    free, total = torch.cuda.mem_get_info(device)
    allocated = torch.cuda.memory_allocated(device)
    allowed = int(total * torch.cuda.get_per_process_memory_fraction(device))
    return max(min(free + torch.cuda.memory_reserved(device), allowed) - allocated, 0)


def voxel_blocks(count: int, device: torch.device) -> Iterator[slice]:
    """Blocks of voxels for computations that need many numbers for each voxel."""
    size = _VOXELS_ON_CPU if device.type == "cpu" else _VOXELS_ON_GPU
    for first in range(0, count, size):
        raise_if_cancelled()
        yield slice(first, min(first + size, count))

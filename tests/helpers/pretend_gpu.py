"""A pretend GPU for tests: `torch.cuda`, the tensors of `pretend_tensors`, and cufinufft."""

from __future__ import annotations

import sys
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from helpers.pretend_cufinufft import cufinufft
from helpers.pretend_guard import switch_to_nothing
from helpers.pretend_tensors import PretendGpu, PretendMode

NAME = "Pretend GPU"
TOTAL = 80 * 2**30
"""Memory of the pretend GPU [bytes]."""


class Event:
    """A moment on the pretend GPU, which computes at once."""

    def __init__(self, enable_timing: bool = False, **_: Any) -> None:
        self._timing, self._moment = enable_timing, 0.0

    def record(self, stream: object = None) -> None:
        self._moment = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds until another event."""
        if not (self._timing and end._timing):
            raise RuntimeError("Both events must be created with argument 'enable_timing=True'.")
        return 1000 * (end._moment - self._moment)


def _functions(gpu: PretendGpu, bfloat16: bool) -> dict[str, Any]:
    """What replaces members of `torch.cuda`."""

    def reset(device: object = None) -> None:
        gpu.reset_peak()

    def limit(fraction: float, device: object = None) -> None:
        gpu.fraction = fraction
        gpu.limit = fraction * TOTAL

    def synchronize(device: object = None) -> None:
        gpu.waits["synchronize"] += 1

    properties = types.SimpleNamespace(
        name=NAME, total_memory=TOTAL, major=9, minor=0, multi_processor_count=132
    )
    return {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda device=None: NAME,
        "get_device_properties": lambda device=None: properties,
        "get_device_capability": lambda device=None: (9, 0),
        "is_bf16_supported": lambda including_emulation=True: bfloat16 or including_emulation,
        "mem_get_info": lambda device=None: (TOTAL - gpu.memory, TOTAL),
        "get_per_process_memory_fraction": lambda device=None: gpu.fraction,
        "set_per_process_memory_fraction": limit,
        "memory_allocated": lambda device=None: gpu.memory,
        "memory_reserved": lambda device=None: gpu.memory,
        "max_memory_allocated": lambda device=None: gpu.peak,
        "max_memory_reserved": lambda device=None: gpu.peak,
        "reset_peak_memory_stats": reset,
        "synchronize": synchronize,
        "empty_cache": lambda: None,
        "current_stream": lambda device=None: types.SimpleNamespace(
            cuda_stream=0, device_index=0, synchronize=synchronize
        ),
        "Event": Event,
    }


@contextmanager
def pretend_gpu(bfloat16: bool = False) -> Iterator[PretendGpu]:
    """Let PyTorch have one GPU, `cuda:0`, in this thread.

    Parameters
    ----------
    bfloat16
        Whether it has instructions for bfloat16.
    """
    switch_to_nothing()
    gpu = PretendGpu()
    with (
        mock.patch.multiple(torch.cuda, **_functions(gpu, bfloat16)),
        _imported("cufinufft", cufinufft(gpu)),
        PretendMode(gpu),
    ):
        yield gpu


@contextmanager
def _imported(name: str, module: types.ModuleType) -> Iterator[None]:
    """Let `import` find a module; others that are imported meanwhile stay."""
    before = sys.modules.get(name)
    sys.modules[name] = module
    try:
        yield
    finally:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before

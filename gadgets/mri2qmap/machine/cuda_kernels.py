"""CUDA kernels of this package: compiled by CuPy when they are first used, run on torch's stream.

The sources are files ``*.cu`` beside the modules that use them. They take their variants from
macros and include no header, so that nvrtc compiles them without a CUDA toolkit, and a C++ compiler
for the CPU with a few definitions.
"""

from __future__ import annotations

import functools
import logging
import numbers
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.optional_packages import load_optional

logger = logging.getLogger(__name__)

Argument = torch.Tensor | int | float | None
"""A tensor, whose address a kernel receives, a 64-bit integer, a number in single precision, or a
null address."""
Launch = Callable[[str, int, int, Sequence[Argument]], None]
"""Runs a kernel, by its name, with a number of blocks, the threads of a block, and arguments."""
Build = Callable[[Path, tuple[str, ...], torch.device], Launch]
"""Compiles a source with options for a device."""

_THREADS_OF_A_BLOCK = 128
_MOST_BLOCKS = 2**31 - 1


def packed(arguments: Sequence[Argument]) -> tuple[np.generic, ...]:
    """Return the values that a kernel receives; their types are those of its parameters."""
    return tuple(_packed(argument) for argument in arguments)


def _packed(argument: Argument) -> np.generic:
    if argument is None:
        return np.uint64(0)
    if isinstance(argument, torch.Tensor):
        return np.uint64(argument.data_ptr())
    if isinstance(argument, numbers.Integral):  # also those of NumPy
        return np.int64(argument)
    return np.float32(argument)


@functools.cache
def compiled_by_cupy(path: Path, options: tuple[str, ...], device: torch.device) -> Launch:
    """Compile a source for a GPU, once for each set of options.

    Raises
    ------
    Mri2QmapError
        If CuPy is not installed.
    """
    cupy: Any = load_optional("cupy", "running CUDA kernels")
    module = cupy.RawModule(code=path.read_text(encoding="utf-8"), options=options)
    kernel = functools.cache(module.get_function)
    index = torch.cuda.current_device() if device.index is None else device.index

    def launch(name: str, blocks: int, threads: int, arguments: Sequence[Argument]) -> None:
        stream = torch.cuda.current_stream(index).cuda_stream
        with cupy.cuda.Device(index), cupy.cuda.ExternalStream(stream):
            kernel(name)((blocks,), (threads,), packed(arguments))

    return launch


@functools.cache
def cuda_kernels_run(device: torch.device) -> bool:
    """Whether CuPy compiles and starts kernels on a GPU; if not, the log says once why."""
    try:
        launch = compiled_by_cupy(Path(__file__).with_name("nothing.cu"), (), device)
        launch("nothing", 1, 1, (0,))
    except Exception as error:  # CuPy raises whatever its libraries and the driver return
        reason = str(error) if isinstance(error, Mri2QmapError) else f"CuPy fails: {error!r}"
        logger.warning(
            "%s: PyTorch's own operations are used instead of fused kernels and take longer; %s",
            device,
            reason,
        )
        return False
    return True


class CudaKernels:
    """The kernels of one source in one variant.

    Parameters
    ----------
    path
        The source.
    macros
        Values of its macros.
    device
        Device of the tensors.
    build
        Compiler.
    """

    def __init__(
        self,
        path: Path,
        macros: Mapping[str, int],
        device: torch.device,
        build: Build = compiled_by_cupy,
    ) -> None:
        self._device = device
        options = tuple(f"-D{name}={value}" for name, value in macros.items())
        self._launch = build(path, options, device)

    def __call__(self, name: str, n_threads: int, *arguments: Argument) -> None:
        """Run a kernel with at least so many threads.

        Raises
        ------
        ValueError
            If a tensor is on another device or not contiguous, or there are too many threads.
        """
        for argument in arguments:
            if isinstance(argument, torch.Tensor):
                self._check(name, argument)
        blocks = -(-n_threads // _THREADS_OF_A_BLOCK)
        if blocks > _MOST_BLOCKS:
            raise ValueError(f"kernel {name}: {n_threads} threads are more than a GPU starts")
        if blocks:
            self._launch(name, blocks, _THREADS_OF_A_BLOCK, arguments)

    def _check(self, name: str, tensor: torch.Tensor) -> None:
        # A kernel reads the memory as it is: one of another order gives wrong results.
        if tensor.device != self._device:
            raise ValueError(f"kernel {name} on {self._device}: a tensor is on {tensor.device}")
        if not tensor.is_contiguous() or tensor.is_conj() or tensor.is_neg():
            raise ValueError(f"kernel {name}: a tensor {tuple(tensor.shape)} is not contiguous")

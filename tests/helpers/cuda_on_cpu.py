"""CUDA kernels compiled for the CPU, and started by the same code as on a GPU."""

import ctypes
import functools
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from mri2qmap.machine.cuda_kernels import Argument, Launch, packed

COMPILER = shutil.which("g++")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="there is no g++")

_SHIM = Path(__file__).with_name("cuda_on_cpu.h")
_KERNEL = re.compile(r"__global__ void (\w+)\(([^)]*)\)")
_TENSORS = {
    "float2*": {torch.complex64},
    "float*": {torch.float32},
    "int64*": {torch.int64},
    "stored*": {torch.float16, torch.float32, torch.complex64},
}
"""Types of the tensors that may be given for a pointer."""
_NUMBERS = {"int64": np.int64, "float": np.float32}


def parameters(source: str) -> dict[str, list[str]]:
    """Types of the parameters of each kernel in a source, without ``const``."""
    found = {}
    for name, listed in _KERNEL.findall(source):
        typed = (re.sub(r"const|__restrict__", "", text) for text in listed.split(","))
        found[name] = [" ".join(text.split()[:-1]) for text in typed]
    return found


@functools.cache
def compiled_for_the_cpu(path: Path, options: tuple[str, ...], device: torch.device) -> Launch:
    """Compile a CUDA source by the C++ compiler; see `mri2qmap.machine.cuda_kernels.Build`."""
    source = path.read_text()
    signatures = parameters(source)
    starts = "".join(
        f'extern "C" void start_{name}(long long blocks, int threads, void** arguments)'
        f"{{ run({name}, blocks, threads, arguments); }}\n"
        for name in signatures
    )
    with tempfile.TemporaryDirectory() as folder:
        code, library = Path(folder, "kernels.cpp"), Path(folder, "kernels.so")
        code.write_text(f'#include "{_SHIM}"\n{source}\n{starts}')
        command = [COMPILER, "-std=c++17", "-O2", "-Wall", "-Wno-unknown-pragmas", *options]
        command += ["-shared", "-fPIC", str(code), "-o", str(library)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        loaded = ctypes.CDLL(str(library))

    def launch(name: str, blocks: int, threads: int, arguments: Sequence[Argument]) -> None:
        values = packed(arguments)
        assert len(values) == len(signatures[name])
        for kind, argument, value in zip(signatures[name], arguments, values, strict=True):
            if kind.endswith("*"):
                assert value.dtype == np.uint64
                assert argument is None or argument.dtype in _TENSORS[kind], (name, kind)
            else:
                assert type(value) is _NUMBERS[kind], (name, kind, value)
        memory = [np.array(value) for value in values]
        addresses = (ctypes.c_void_p * len(memory))(*(one.ctypes.data for one in memory))
        getattr(loaded, f"start_{name}")(ctypes.c_longlong(blocks), threads, addresses)

    launch.library = loaded
    return launch


def amid_nan(tensor: torch.Tensor) -> torch.Tensor:
    """Copy a tensor into the middle of memory that is otherwise full of NaN."""
    room = torch.full((3, *tensor.shape), torch.nan, dtype=tensor.dtype)
    return room[1].copy_(tensor)


def nothing_else_written(tensor: torch.Tensor) -> bool:
    """Whether the memory around a tensor of `amid_nan` is as it was."""
    room = tensor.as_strided((3, *tensor.shape), (tensor.numel(), *tensor.stride()), 0)
    return bool(room[0].isnan().all() and room[2].isnan().all())

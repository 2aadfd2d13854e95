"""cufinufft on the pretend GPU: its signatures and its checks, computed by finufft.

After the Python interface of cufinufft 2.5. Like it, `Plan.execute` takes the address of the memory
of a tensor and nothing else: a lazily conjugated one is transformed as if it were not. Here that
raises.
"""

from __future__ import annotations

import math
import types
import warnings
from typing import Any

import finufft
import numpy as np
import torch
from helpers.pretend_tensors import PretendGpu, PretendTensor

OPTIONS = {
    "modeord",
    "upsampfac",
    "gpu_method",
    "gpu_sort",
    "gpu_binsizex",
    "gpu_binsizey",
    "gpu_binsizez",
    "gpu_obinsizex",
    "gpu_obinsizey",
    "gpu_obinsizez",
    "gpu_maxsubprobsize",
    "gpu_kerevalmeth",
    "gpu_spreadinterponly",
    "gpu_maxbatchsize",
    "gpu_device_id",
    "gpu_stream",
    "debug",
}
_BATCH = 8
"""Largest number of transforms whose fine grids cufinufft has in memory together."""


def cufinufft(gpu: PretendGpu) -> types.ModuleType:
    """Return the module for a pretend GPU."""
    module = types.ModuleType("cufinufft")
    module.__version__ = "2.5.1"  # type: ignore[attr-defined]
    module.Plan = type("Plan", (_Plan,), {"_gpu": gpu})  # type: ignore[attr-defined]
    return module


class _Plan:
    """See `cufinufft.Plan`."""

    _gpu: PretendGpu

    def __init__(
        self,
        nufft_type: int,
        n_modes: Any,
        n_trans: int = 1,
        eps: float = 1e-6,
        isign: int | None = None,
        dtype: str = "complex64",
        **kwargs: Any,
    ) -> None:
        if unknown := kwargs.keys() - OPTIONS:
            raise TypeError(f"Invalid option '{min(unknown)}'")
        if np.dtype(dtype) not in (np.complex64, np.complex128):
            raise TypeError("Expected complex64 or complex128.")
        if kwargs.get("gpu_device_id", 0) != 0:
            raise RuntimeError("Error creating plan.")
        isign = isign if isign is not None else (-1 if nufft_type == 2 else 1)
        self._type, self._n_modes, self._n_trans = nufft_type, tuple(n_modes), n_trans
        self._complex = getattr(torch, str(np.dtype(dtype)))
        self._plan = finufft.Plan(
            nufft_type, self._n_modes, n_trans, eps, isign, dtype=dtype, nthreads=1
        )
        batch = min(n_trans, kwargs.get("gpu_maxbatchsize", 0) or _BATCH)
        factor = kwargs.get("upsampfac", 0) or 2.0
        fine = (batch, *(_fast_size(factor * n) for n in self._n_modes))
        self.fine_grids = self._gpu.allocate(id(self), fine, self._complex)

    def setpts(
        self,
        x: torch.Tensor,
        y: torch.Tensor | None = None,
        z: torch.Tensor | None = None,
        s: None = None,
        t: None = None,
        u: None = None,
    ) -> None:
        points = [p for p in (x, y, z) if p is not None]
        if len(points) != len(self._n_modes):
            raise TypeError(f"{len(points)} coordinates for {len(self._n_modes)} axes")
        real = self._complex.to_real()
        points = [_checked(p, name, real) for p, name in zip(points, "xyz", strict=False)]
        self._points = points  # cufinufft keeps addresses
        self._plan.setpts(*(p.on_cpu.numpy() for p in points))

    def execute(self, data: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        points = (len(self._points[0]),)
        given, made = (points, self._n_modes) if self._type == 1 else (self._n_modes, points)
        data = _checked(data, "data", self._complex)
        if data.numel() != self._n_trans * math.prod(given):
            raise TypeError(f"Argument `data` must be of shape {(self._n_trans, *given)}")
        shape = (*data.shape[: data.ndim - len(given)], *made)
        if out is None:
            out = torch.empty(shape, dtype=self._complex, device=data.device)
        out = _checked(out, "out", self._complex, output=True)
        if tuple(out.shape) != shape:
            raise TypeError(f"Argument `out` must be of shape {shape}")
        self._plan.execute(
            data.on_cpu.reshape(self._n_trans, *given).numpy(),
            out=out.on_cpu.view(self._n_trans, *made).numpy(),
        )
        return out


def _checked(
    tensor: torch.Tensor, name: str, dtype: torch.dtype, output: bool = False
) -> PretendTensor:
    if not isinstance(tensor, PretendTensor):
        raise TypeError(
            "Invalid GPU array implementation. Implementation must implement the standard cuda "
            "array interface."
        )
    if tensor.dtype != dtype:
        raise TypeError(
            f"Argument `{name}` does not have the correct dtype: {tensor.dtype} was given, but "
            f"{dtype} was expected."
        )
    if tensor.is_conj() or tensor.is_neg():
        raise ValueError(f"the address of `{name}` is that of numbers before their conjugation")
    if not tensor.is_contiguous():
        if output:
            raise TypeError(f"Argument `{name}` does not satisfy the following requirement: C")
        warnings.warn(f"Argument `{name}` is not contiguous. Copying array", stacklevel=3)
        tensor = tensor.contiguous()
    return tensor


def _fast_size(least: float) -> int:
    """Smallest even number with the factors 2, 3 and 5 only that is not below `least`."""
    size = math.ceil(least)
    while True:
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1 and size % 2 == 0:
            return size
        size += 1

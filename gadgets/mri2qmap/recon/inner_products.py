"""Inner products and norms of whole volumes, accumulated in double precision.

In single precision, the relative error of PyTorch's norm on a CPU is 1e-4 for a TSMI of 64^3 voxels
and 6e-3 at 128^3, that of its inner product 2e-5: each of a few vector lanes accumulates millions
of squares in sequence. Plain sums and means use pairwise summation and do not have this error.
"""

from __future__ import annotations

import torch

_PART = {"cpu": 2**15, "cuda": 2**24}
"""Real numbers that are converted together. On a CPU they fit into its cache, and PyTorch processes
them in one thread, so that the result does not depend on the number of threads."""


def inner_product(a: torch.Tensor, b: torch.Tensor) -> float:
    """Real part of the inner product <a, b> of two tensors of one shape, real or complex."""
    return float(dot(a, b))


def euclidean_norm(a: torch.Tensor) -> float:
    """Square root of the sum of |a|^2 over all elements, real or complex."""
    return float(squared_norm(a).sqrt())


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Square root of the sum of |a - b|^2 over all elements, real or complex, of one shape."""
    pairs = zip(_real_parts(a), _real_parts(b), strict=True)
    return float(_total([_in_double(x).sub_(y).square_().sum() for x, y in pairs], a).sqrt())


def dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """`inner_product` as a number () on the device of the tensors, float64, without a wait."""
    pairs = zip(_real_parts(a), _real_parts(b), strict=True)
    return _total([_in_double(x).mul_(y).sum() for x, y in pairs], a)


def squared_norm(a: torch.Tensor) -> torch.Tensor:
    """Square of `euclidean_norm` as a number () on the device, float64, without a wait."""
    return _total([_in_double(x).square_().sum() for x in _real_parts(a)], a)


def fetched(*numbers: torch.Tensor) -> list[float]:
    """Return numbers () of one device; the device is waited for once."""
    values: list[float] = torch.stack(numbers).tolist()
    return values


def _total(parts: list[torch.Tensor], like: torch.Tensor) -> torch.Tensor:
    """Sum () of the sums of parts, zero of none."""
    return torch.stack(parts).sum() if parts else like.new_zeros((), dtype=torch.float64)


def _real_parts(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Real and imaginary parts of all elements, in parts of limited size."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    flat = tensor.reshape(-1)
    return torch.split(flat, _PART.get(flat.device.type, 2**20)) if len(flat) else ()


def _in_double(part: torch.Tensor) -> torch.Tensor:
    """Copy in double precision, also of what is in double precision."""
    return part.to(torch.float64, copy=True)

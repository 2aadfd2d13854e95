"""Which packages for a GPU fit the CUDA release that PyTorch is built for."""

from __future__ import annotations

import contextlib
from collections.abc import Collection

CUPY = {
    11: ("cupy-cuda11x", "gpu-cuda11"),
    12: ("cupy-cuda12x", "gpu"),
    13: ("cupy-cuda13x", "gpu-cuda13"),
}
"""By CUDA release: the distribution of CuPy, and the extra of pyproject.toml that installs it."""
_CUFINUFFT = 12
"""CUDA release whose libraries (libcudart, libcufft) the wheels of cufinufft need."""


def torch_cuda() -> str | None:
    """CUDA version that PyTorch is built for; None without CUDA or where PyTorch does not load."""
    with contextlib.suppress(Exception):
        import torch

        return torch.version.cuda
    return None


def cupy_distribution() -> str:
    """Distribution of CuPy that fits PyTorch."""
    return _cupy_for(torch_cuda())[0]


def gpu_extra() -> str:
    """Extra of this package whose packages fit PyTorch."""
    return _cupy_for(torch_cuda())[1]


def cupy_misfit(installed: Collection[str], cuda: str | None) -> str | None:
    """Say what is wrong with the installed CuPy; None if it fits.

    Parameters
    ----------
    installed
        Those distributions of `CUPY` that are installed.
    cuda
        CUDA version of PyTorch, for example ``"13.0"``; None: without CUDA, where nothing is wrong.
    """
    release = _release(cuda)
    wrong = [name for number, (name, _) in CUPY.items() if name in installed and number != release]
    if release is None or not wrong:
        return None
    words = f"{' and '.join(wrong)} does not fit PyTorch, which is built for CUDA {cuda}"
    if release not in CUPY:
        return f"{words}; no extra of this package fits it"
    # All of them, because two have files of the same names.
    remedy = f"pip uninstall {' '.join(sorted(installed))}"
    return f"{words}: {remedy}, then pip install 'mri2qmap[{CUPY[release][1]}]'"


def cufinufft_misfit(cuda: str | None) -> str | None:
    """Say why the wheels of cufinufft do not fit PyTorch's CUDA version; None if they do."""
    release = _release(cuda)
    if release in (None, _CUFINUFFT):
        return None
    return (
        f"its wheels need libraries of CUDA {_CUFINUFFT}, and PyTorch is built for CUDA {cuda}: "
        "transforms by CuPy take its place"
    )


def _cupy_for(cuda: str | None) -> tuple[str, str]:
    release = _release(cuda)
    return CUPY[release if release in CUPY else 12]


def _release(cuda: str | None) -> int | None:
    """First number of a CUDA version."""
    return int(cuda.partition(".")[0]) if cuda else None

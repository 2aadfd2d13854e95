"""Time of the steps of a reconstruction on a GPU, and the least traffic of its memory.

The least traffic counts each array once that must be read or written, and a Fourier transform as
three passes, one along each axis. Work arrays in between are not in it, so a bandwidth of half of
the card's says that a step is within a factor of two of what the memory allows.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

_REPEATS = 5
_COMPLEX, _REAL = 8, 4  # bytes
_COEFFICIENTS = 5
_SIGMA = 0.1


def timed_steps(
    matrix: int, coils: int, acceleration: float, frames: int, device: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Time the steps that take the time of a reconstruction.

    Yields the name of each step and: seconds (median of `_REPEATS`), shortest and longest, bytes,
    and bytes per second. A step that fails has its error instead.
    """
    setup = _Setup(matrix, coils, acceleration, frames, device)
    steps: dict[str, Callable[[_Setup], tuple[Callable[[], object], float]]] = {
        "adjoint NUFFT": _nufft,
        "gram": _gram,
        "circulant": _circulant,
        "total variation": _variation,
        "matching": _matching,
        "denoiser": _denoiser,
        "search of similar cubes": _similarity,
        "non-local filter": _filter,
    }
    for name, prepare in steps.items():
        try:
            step, size = prepare(setup)
            yield name, _timed(step, size)
        except Exception as error:  # the other steps are still of use
            yield name, {"error": f"{type(error).__name__}: {error}"}


class _Setup:
    """Random arrays of the size of the scan."""

    def __init__(
        self, matrix: int, coils: int, acceleration: float, frames: int, device: str
    ) -> None:
        from mri2qmap.mrsignal.sequence import default_sequence
        from mri2qmap.simulation.trajectory import plan_sampling, spiral_projections

        self.shape = (matrix,) * 3
        self.voxels = math.prod(self.shape)
        self.coils, self.device = coils, device
        self.sequence = default_sequence(frames)
        plan = plan_sampling(self.shape, frames, acceleration)
        arms = spiral_projections(plan, self.shape)
        self.trajectory = torch.from_numpy(arms.reshape(-1, 3)).to(device)
        self.tsmi = self.random(_COEFFICIENTS)

    def random(self, count: int, dtype: torch.dtype = torch.complex64) -> torch.Tensor:
        return torch.randn(count, *self.shape, dtype=dtype, device=self.device)


def _timed(step: Callable[[], object], size: float) -> dict[str, Any]:
    """Time a step after one run that makes plans."""
    step()
    seconds = []
    for _ in range(_REPEATS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        step()
        end.record()
        end.synchronize()
        seconds.append(start.elapsed_time(end) / 1000)
    middle = statistics.median(seconds)
    return {
        "seconds": middle,
        "shortest_s": min(seconds),
        "longest_s": max(seconds),
        "bytes": size,
        "bytes_per_s": size / middle,
    }


def _transforms(count: int, voxels: int) -> float:
    """Bytes of `count` transforms: three passes that read and write."""
    return count * voxels * _COMPLEX * 3 * 2


def _nufft(setup: _Setup) -> tuple[Callable[[], object], float]:
    from mri2qmap.operators.nufft import Nufft

    nufft = Nufft(setup.trajectory, setup.shape, setup.device)
    samples = torch.randn(1, len(setup.trajectory), dtype=torch.complex64, device=setup.device)
    fine = 8 * setup.voxels  # the grid to which samples are spread
    points = len(setup.trajectory) * (_COMPLEX + 3 * _REAL)
    size = points + fine * _COMPLEX + _transforms(1, fine) + setup.voxels * _COMPLEX
    return lambda: nufft.adjoint(samples), size


def _gram(setup: _Setup) -> tuple[Callable[[], object], float]:
    from mri2qmap.operators.toeplitz import ToeplitzGram, n_pairs

    pairs = n_pairs(_COEFFICIENTS)
    kernels = torch.rand(2, 2, 2, pairs, *setup.shape, device=setup.device)
    gram = ToeplitzGram(kernels, setup.random(setup.coils))
    images = _COEFFICIENTS * setup.voxels * _COMPLEX
    # Of a coil: 8 parity grids, each transformed back and forth; its kernels; the coil's map.
    of_a_coil = _transforms(2 * 8 * _COEFFICIENTS, setup.voxels)
    of_a_coil += 8 * pairs * setup.voxels * _REAL + setup.voxels * _COMPLEX
    return lambda: gram(setup.tsmi), setup.coils * of_a_coil + 2 * images


def _circulant(setup: _Setup) -> tuple[Callable[[], object], float]:
    from mri2qmap.operators.circulant import BlockCirculant
    from mri2qmap.operators.toeplitz import n_pairs

    pairs = n_pairs(_COEFFICIENTS)
    circulant = BlockCirculant(torch.rand(pairs, *setup.shape, device=setup.device))
    size = _transforms(2 * _COEFFICIENTS, setup.voxels) + pairs * setup.voxels * _REAL
    return lambda: circulant(setup.tsmi), size


def _variation(setup: _Setup) -> tuple[Callable[[], object], float]:
    from mri2qmap.recon.nuclear_variation import NuclearVariation

    term = NuclearVariation(1.0, 0.1)
    # X and P are read; P, the pull and rho L^H Z are written. P has three directions.
    size = (1 + 3 + 3 + 1 + 1) * _COEFFICIENTS * setup.voxels * _COMPLEX
    return lambda: term.step(setup.tsmi), size


def _matching(setup: _Setup) -> tuple[Callable[[], object], float]:
    from mri2qmap.mrsignal.dictionary import DictionarySettings, load_dictionary
    from mri2qmap.mrsignal.group_matching import GroupSearch
    from mri2qmap.mrsignal.matching import match

    settings = DictionarySettings(coefficients=_COEFFICIENTS)
    dictionary = load_dictionary(setup.sequence, settings, setup.device)
    images, search = setup.random(3, torch.float32).abs(), GroupSearch()
    signals = _COEFFICIENTS * _COMPLEX + 3 * _REAL
    maps = 2 * _REAL + _COMPLEX + _REAL + 8 + 2 * _REAL  # T1, T2, PD, quality, atom, offset
    size = setup.voxels * (signals + maps)
    return lambda: match(setup.tsmi, dictionary, images, (1.0, 1.0, 1.0), search), size


def _denoiser(setup: _Setup) -> tuple[Callable[[], object], float]:
    from mri2qmap.denoiser.checkpoint import load_denoiser
    from mri2qmap.denoiser.volume import admm_denoiser

    network = load_denoiser("small", setup.device).network
    denoise = admm_denoiser(network, torch.Generator().manual_seed(0))
    images = setup.random(3, torch.float32).abs()
    moved = 0

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal moved
        arrays = (*inputs, output, *module.parameters())
        moved += sum(a.numel() * output.element_size() for a in arrays)

    hooks = [
        module.register_forward_hook(count)
        for module in network.modules()
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d)
    ]
    denoise(images, _SIGMA)  # inputs, outputs and weights of all convolutions
    for hook in hooks:
        hook.remove()
    return lambda: denoise(images, _SIGMA), moved


def _similarity(setup: _Setup) -> tuple[Callable[[], object], float]:
    from mri2qmap.denoiser.tsmi_wiener import TsmiWiener

    return lambda: TsmiWiener(setup.tsmi, 1.0), setup.tsmi.nbytes


def _filter(setup: _Setup) -> tuple[Callable[[], object], float]:
    from mri2qmap.denoiser.tsmi_wiener import TsmiWiener

    restore = TsmiWiener(setup.tsmi, 1.0)
    return lambda: restore(setup.tsmi), 3 * setup.tsmi.nbytes  # guide, input, output

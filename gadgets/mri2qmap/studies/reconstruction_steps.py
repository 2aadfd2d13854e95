"""Steps of a reconstruction on random data, each with the work that it cannot do without."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from mri2qmap.denoiser.checkpoint import load_denoiser
from mri2qmap.denoiser.volume import denoise_volumes
from mri2qmap.mrsignal.dictionary import Dictionary, DictionarySettings, load_dictionary
from mri2qmap.mrsignal.epg import fisp_signal
from mri2qmap.mrsignal.group_matching import GroupSearch
from mri2qmap.mrsignal.matching import exact_search
from mri2qmap.mrsignal.sequence import default_sequence
from mri2qmap.mrsignal.synthesis import Contrast
from mri2qmap.operators.nufft import Nufft
from mri2qmap.operators.toeplitz import ToeplitzGram
from mri2qmap.simulation.trajectory import plan_sampling, spiral_projections

COEFFICIENTS = 5
_KERNEL_WIDTH = 7
"""Width of FINUFFT's spreading kernel for the tolerance of `Nufft` [points of the fine grid]."""


@dataclass(frozen=True)
class Step:
    """A step, ready to be run.

    Attributes
    ----------
    run
        Does it once.
    flops
        Floating-point operations of the algorithm; None if they depend on the data.
    traffic
        Bytes that must at least be read or written if all in between stays in the cache.
    """

    run: Callable[[], object]
    flops: float | None
    traffic: float


def gram(n: int, coils: int, generator: torch.Generator) -> Step:
    """Product with A^H A for n^3 voxels, see `ToeplitzGram`.

    For each coil and coefficient, nested transforms along x, y and z process 2 + 4 + 8 volumes
    forwards and as many backwards, at 5 log2(n) operations for each point of a line. The product
    with the kernels has 4 operations for each frequency of the double grid and each pair of
    coefficients. The kernels are read once for two coils.
    """
    s = COEFFICIENTS
    pairs = s * (s + 1) // 2
    kernels = torch.rand(2, 2, 2, pairs, n, n, n, generator=generator)
    maps = None if coils == 1 else _noise(generator, coils, n, n, n)
    operator = ToeplitzGram(kernels, maps)
    tsmi = _noise(generator, s, n, n, n)
    flops = coils * n**3 * (28 * s * 5 * math.log2(n) + 8 * 4 * s**2)
    traffic = math.ceil(coils / 2) * 32 * pairs * n**3 + coils * 16 * s * n**3
    return Step(lambda: operator(tsmi), flops, traffic)


def adjoint(n: int, frames: int) -> Step:
    """Adjoint non-uniform transform of the samples of one readout group into one image.

    A sample is spread to 7 points along each axis, and the double grid is transformed.
    """
    shape = (n, n, n)
    plan = plan_sampling(shape, frames, 2.0)
    arms = torch.from_numpy(spiral_projections(plan, shape))[0].reshape(-1, 3)
    operator = Nufft(arms, shape)
    samples = torch.ones(len(arms), dtype=torch.complex64)
    fine = (2 * n) ** 3
    flops = len(arms) * 4 * _KERNEL_WIDTH**3 + 5 * fine * math.log2(fine)
    traffic = 20 * len(arms) + 3 * 16 * fine  # each axis of the grid is read and written once
    return Step(lambda: operator.adjoint(samples), flops, traffic)


def search(kind: str, n: int, atom_step: float, generator: torch.Generator) -> Step:
    """Search for the best atom of each of n^3 voxels.

    A score has 4 operations for each coefficient, and 3 for its square. In groups, how many scores
    are computed depends on the data.
    """
    dictionary = load_dictionary(default_sequence(), DictionarySettings(step=atom_step))
    voxels = n**3
    signals = _fingerprints(dictionary, voxels, generator)
    unit = torch.nn.functional.normalize(dictionary.mrf_atoms, dim=1)
    rows = torch.cat([signals.real, signals.imag])
    function: Any = exact_search if kind == "exact" else GroupSearch()
    s = len(signals)
    flops = voxels * len(unit) * (4 * s + 3) if kind == "exact" else None
    return Step(lambda: function(unit, rows, s), flops, voxels * (8 * s + 8))


def simulation(frames: int, atoms: int) -> Step:
    """Signals of so many atoms: the extended phase graph has one state more after each frame.

    A frame mixes the three components of each state, 12 operations, and relaxes them, 4.
    """
    t1 = torch.linspace(0.2, 4, atoms)
    t2 = torch.linspace(0.02, 2, atoms)
    sequence = default_sequence(frames)
    return Step(
        lambda: fisp_signal(t1, t2, sequence), atoms * 16 * frames**2 / 4, 4 * atoms * frames
    )


def denoising(side: int, generator: torch.Generator) -> Step:
    """One patch of the three weighted images, as in the ADMM iterations, by the shipped network."""
    network = load_denoiser("small").network
    images = torch.rand(len(Contrast), side, side, side, generator=generator)

    def run() -> torch.Tensor:
        return denoise_volumes(
            network, images, 0.1, list(Contrast), synthesised=True, patch=side, generator=generator
        )

    with FlopCounterMode(display=False) as counter:
        run()
    return Step(run, counter.get_total_flops(), 2 * images.nbytes)


def _noise(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.complex64, generator=generator)


def _fingerprints(dictionary: Dictionary, voxels: int, generator: torch.Generator) -> torch.Tensor:
    """Signals (s, voxels) of tissues that change slowly from voxel to voxel, with noise."""
    position = torch.linspace(0, 1, voxels)
    t1 = torch.exp(math.log(0.3) + math.log(10) * (0.5 + 0.5 * torch.sin(40 * position)))
    t2 = torch.minimum(t1, 0.02 * torch.exp(math.log(15) * (0.5 + 0.5 * torch.cos(70 * position))))
    table = dictionary.lut
    nearest = [
        int(((table.t1 / a).log().square() + (table.t2 / b).log().square()).argmin())
        for a, b in zip(t1[::64].tolist(), t2[::64].tolist(), strict=True)
    ]
    atoms = torch.tensor(nearest).repeat_interleave(64)[:voxels]
    clean = dictionary.mrf_atoms.T[:, atoms].to(torch.complex64)
    return clean + 0.03 * clean.abs().mean() * _noise(generator, *clean.shape)

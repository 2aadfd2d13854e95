"""Time the steps of a reconstruction: python tests/benchmarks/time_steps.py [--matrix 64].

Not a test: it prints seconds, the best of three, for one coil and the default dictionary.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch

from mri2qmap.denoiser.checkpoint import load_denoiser
from mri2qmap.denoiser.volume import denoise_volumes
from mri2qmap.mrsignal.dictionary import DictionarySettings, build_dictionary
from mri2qmap.mrsignal.group_matching import GroupSearch
from mri2qmap.mrsignal.matching import Search, exact_search, match
from mri2qmap.mrsignal.sequence import default_sequence
from mri2qmap.mrsignal.synthesis import Contrast
from mri2qmap.operators.toeplitz import ToeplitzGram, toeplitz_kernels
from mri2qmap.simulation.trajectory import plan_sampling, spiral_projections


def best_of_three(step: Callable[[], object]) -> float:
    """Shortest of three runs, after one that compiles and plans [s]."""
    step()
    times = []
    for _ in range(3):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return min(times)


def best_search(search: Search, *inputs: Any) -> float:
    """Shortest time that `match` spends in a search, of four [s]."""
    times = []

    def timed(*arguments: Any) -> Any:
        start = time.perf_counter()
        found = search(*arguments)
        times.append(time.perf_counter() - start)
        return found

    for _ in range(4):
        match(*inputs, search=timed)
    return min(times)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--matrix", type=int, default=64)
    n = parser.parse_args().matrix
    shape = (n, n, n)
    generator = torch.Generator().manual_seed(0)
    sequence = default_sequence()

    start = time.perf_counter()
    dictionary = build_dictionary(sequence, DictionarySettings())
    rows = [(f"simulate {len(dictionary.lut)} atoms (once)", time.perf_counter() - start)]

    plan = plan_sampling(shape, sequence.n_frames, 2.0)
    arms = torch.from_numpy(spiral_projections(plan, shape)).reshape(-1, 3)
    frames = torch.arange(sequence.n_frames).repeat_interleave(plan.samples).repeat(plan.groups)
    kernels = toeplitz_kernels(arms, frames, dictionary.basis, shape)
    rows.append(
        (
            f"Toeplitz kernels of {len(arms)} samples",
            best_of_three(lambda: toeplitz_kernels(arms, frames, dictionary.basis, shape)),
        )
    )
    tsmi = torch.randn(5, *shape, dtype=torch.complex64, generator=generator)
    gram = ToeplitzGram(kernels)
    rows.append(("gram, one coil", best_of_three(lambda: gram(tsmi))))
    images = torch.rand(3, *shape, generator=generator)
    # Searched in groups, a voxel that is like no atom costs more: three tissues, with noise.
    lut = dictionary.lut
    tissues = [
        int(((lut.t1 / t1).log().square() + (lut.t2 / t2).log().square()).argmin())
        for t1, t2 in ((0.8, 0.07), (1.3, 0.09), (3.0, 0.5))
    ]
    atoms = torch.tensor(tissues)[torch.randint(3, shape, generator=generator)]
    fingerprints = dictionary.mrf_atoms.T[:, atoms]
    brightness = float(fingerprints.norm(dim=0).mean())
    tissue = fingerprints + 0.02 * brightness * tsmi
    weighted = dictionary.mri_atoms.T[:, atoms] * (1 + 0.1 * images)
    for kind, more in (("MRF only", ()), ("combined", (weighted, (0.5, 0.5, 0.5)))):
        rows.append(
            (f"matching, {kind}", best_of_three(lambda more=more: match(tissue, dictionary, *more)))
        )
        rows += [
            (f"search alone, {kind}, {name}", best_search(search, tissue, dictionary, *more))
            for name, search in (("exact", exact_search), ("in groups", GroupSearch()))
        ]
    network = load_denoiser("small").network
    rows += [
        (
            f"denoising three volumes, {name}",
            best_of_three(
                lambda loop=loop: denoise_volumes(
                    network, images, 0.1, list(Contrast), synthesised=loop
                )
            ),
        )
        for name, loop in (("as in the loop", True), ("white noise", False))
    ]
    print(f"{n}^3, {torch.get_num_threads()} threads")
    for name, seconds in rows:
        print(f"{name:45}{seconds:9.3f} s")


if __name__ == "__main__":
    main()

"""Search for the best atom of each voxel, against mrpro's dictionary operator (if installed).

python tests/benchmarks/matching_speed.py [--voxels 65536] [--step 0.04]

The signals are fingerprints of random tissues in a temporal subspace, with noise and a phase. They
are sorted along a line through the volume, as neighbouring voxels are similar.
"""

import argparse
import importlib.util
import math
import statistics
import time

import torch

from mri2qmap.mrsignal.dictionary import DictionarySettings, load_dictionary
from mri2qmap.mrsignal.epg import fisp_signal
from mri2qmap.mrsignal.group_matching import GroupSearch
from mri2qmap.mrsignal.matching import exact_search
from mri2qmap.mrsignal.sequence import default_sequence

ROUNDS = 3


def noisy_signals(dictionary, sequence, voxels):
    """Signals (s, voxels), complex64, whose tissues change slowly from voxel to voxel."""
    generator = torch.Generator().manual_seed(0)
    position = torch.linspace(0, 1, voxels)
    t1 = torch.exp(math.log(0.3) + math.log(10) * (0.5 + 0.5 * torch.sin(40 * position)))
    t2 = torch.minimum(t1, 0.02 * torch.exp(math.log(15) * (0.5 + 0.5 * torch.cos(70 * position))))
    clean = (fisp_signal(t1, t2, sequence) @ dictionary.basis).T
    noise = torch.randn(2, *clean.shape, generator=generator) * 0.05 * clean.abs().mean()
    phase = torch.polar(torch.ones(voxels), 6 * position)
    return (clean + torch.complex(*noise)) * phase


def functions(atoms, signals):
    unit = torch.nn.functional.normalize(atoms, dim=1)
    rows = torch.cat([signals.real, signals.imag])
    groups = GroupSearch()
    found = {
        "exact": lambda: exact_search(unit, rows, len(signals))[0],
        "groups": lambda: groups(unit, rows, len(signals))[0],
        "torch, product and maximum": lambda: torch.cat(
            [
                (unit.to(signals.dtype) @ part).abs().max(0).indices
                for part in torch.split(signals, 2**13, dim=1)
            ]
        ),
    }
    if importlib.util.find_spec("mrpro"):
        from mrpro.operators import DictionaryMatchOp

        numbers = torch.arange(len(atoms))
        operator = DictionaryMatchOp(lambda number: (atoms[number].T,), batch_size=2**13)
        operator.append(numbers)
        found["mrpro"] = lambda: operator(signals)[0]
    return found


def run():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--voxels", type=int, default=2**16)
    parser.add_argument("--step", type=float, default=0.04)
    args = parser.parse_args()
    torch.set_num_threads(1)
    sequence = default_sequence()
    dictionary = load_dictionary(sequence, DictionarySettings(step=args.step))
    signals = noisy_signals(dictionary, sequence, args.voxels)
    products = len(dictionary.lut) * args.voxels
    print(f"{len(dictionary.lut)} atoms, {args.voxels} voxels, {len(signals)} coefficients")
    reference = None
    for name, function in functions(dictionary.mrf_atoms, signals).items():
        index = function()
        reference = index if reference is None else reference
        seconds = []
        for _ in range(ROUNDS):
            start = time.process_time()
            function()
            seconds.append(time.process_time() - start)
        median = statistics.median(seconds)
        same = (index == reference).double().mean()
        print(f"{name:28} {median:7.2f} s, {products / median / 1e9:6.2f} 10^9/s, same {same:.5f}")


if __name__ == "__main__":
    run()

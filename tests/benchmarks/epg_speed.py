"""Simulation of the signals of a dictionary, against mrpro's extended phase graphs (if installed).

python tests/benchmarks/epg_speed.py [--atoms 512]
"""

import argparse
import importlib.util
import statistics
import time

import torch

from mri2qmap.mrsignal.dictionary import DictionarySettings, lookup_table
from mri2qmap.mrsignal.epg import _simulate, fisp_signal
from mri2qmap.mrsignal.sequence import default_sequence

ROUNDS = 3


def mrpro_signal(states):
    """Return a function of T1 and T2 that simulates so many orders, up to the sign."""
    from mrpro.operators.models import EPG

    sequence = default_sequence()
    train = EPG.FispBlock(
        torch.tensor(sequence.flip_angles),
        torch.zeros(sequence.n_frames),
        torch.tensor(sequence.echo_times),
        torch.tensor(sequence.repetition_times),
    )
    blocks = EPG.EPGSequence([EPG.InversionBlock(sequence.inversion_time), train])

    def signal(t1, t2):
        parameters = EPG.Parameters(torch.ones_like(t1), t1, t2)
        _, signals = blocks(parameters, EPG.initial_state(parameters.shape, states, t1.device))
        return torch.stack(signals, -1).imag

    return signal


def run():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--atoms", type=int, default=512)
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = lookup_table(DictionarySettings())
    some = torch.linspace(0, len(table) - 1, args.atoms).long()
    t1, t2 = table.t1[some], table.t2[some]
    sequence = default_sequence()
    functions = {
        "compiled": lambda *times: fisp_signal(*times, sequence),
        "torch, in parts of 128 atoms": lambda *times: torch.cat(
            [
                _simulate(*part, torch.ones(len(part[0])), sequence)
                for part in zip(*(torch.split(x, 128) for x in times), strict=True)
            ]
        ),
    }
    if importlib.util.find_spec("mrpro"):
        functions |= {f"mrpro, {n} orders": mrpro_signal(n) for n in (64, 252)}
    exact = _simulate(t1.double(), t2.double(), torch.ones(len(t1)).double(), sequence)
    for name, function in functions.items():
        found = function(t1, t2)
        seconds = []
        for _ in range(ROUNDS):
            start = time.process_time()
            function(t1, t2)
            seconds.append(time.process_time() - start)
        error = min((sign * found - exact).norm() / exact.norm() for sign in (1, -1))
        ms = 1e3 * statistics.median(seconds) / len(t1)
        print(f"{name:30} {ms:8.3f} ms of CPU time an atom, relative error {error:.1e}")


if __name__ == "__main__":
    run()

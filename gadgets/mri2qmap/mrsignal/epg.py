"""Extended phase graphs of an inversion-prepared FISP train.

With constant RF phase and the flip axis along y, all configuration states are real. The simulation,
and the temporal subspace derived from it, are therefore real.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch

from mri2qmap.machine.cancellation import raise_if_cancelled
from mri2qmap.machine.worker_threads import run_in_threads
from mri2qmap.mrsignal.epg_loop import Array, simulate_atoms
from mri2qmap.mrsignal.sequence import Sequence

Progress = Callable[[Iterable[int], str], Iterable[int]]

_ATOMS_PER_GROUP = 128
"""Atoms that a thread simulates at a time: their pulses and decays fit into the cache."""
_ATOMS_PER_STEP = 2**14
"""Atoms between two reports of progress."""


def fisp_signal(
    t1: torch.Tensor,
    t2: torch.Tensor,
    sequence: Sequence,
    b1: torch.Tensor | float = 1.0,
    progress: Progress | None = None,
) -> torch.Tensor:
    """Simulate the transverse magnetisation at the echo of every frame.

    The equilibrium magnetisation of 1 is inverted perfectly (as by an adiabatic pulse). After the
    inversion time, each frame has one excitation. After each echo, a gradient dephases the voxel by
    one full cycle, so the orders increase by one per frame.

    Parameters
    ----------
    t1, t2
        Relaxation times (atoms,) [s].
    sequence
        Flip angles and timing.
    b1
        Relative transmit field, a number or (atoms,). It scales the excitation angles, but not the
        adiabatic inversion.
    progress
        Receives the progress.

    Returns
    -------
        Signal (atoms, frames) float32.

    References
    ----------
    Weigel, J Magn Reson Imaging 41:266-295 (2015), with an RF phase of 90 degrees.
    """
    b1 = torch.as_tensor(b1, dtype=torch.float32, device=t1.device).expand(t1.shape)
    if t1.device.type != "cpu":
        return _simulate(t1.float(), t2.float(), b1, sequence)
    arrays = [values.to(torch.float32).numpy() for values in (t1, t2, b1)]
    signal = np.empty((len(t1), sequence.n_frames), dtype=np.float32)
    starts: Iterable[int] = range(0, len(t1), _ATOMS_PER_STEP)
    if progress is not None and len(t1) > _ATOMS_PER_STEP:
        starts = progress(starts, "simulating the dictionary")
    for start in starts:
        part = slice(start, start + _ATOMS_PER_STEP)
        columns = [array[part] for array in arrays]
        n_groups = -(-len(columns[0]) // _ATOMS_PER_GROUP)
        run_in_threads(_simulate_groups, signal[part], *columns, sequence, n_steps=n_groups)
    return torch.from_numpy(signal)


def _simulate_groups(
    signal: Array, t1: Array, t2: Array, b1: Array, sequence: Sequence, first: int, stop: int
) -> None:
    """Fill the rows of some groups of atoms of the signal (atoms, frames)."""
    for number in range(first, stop):
        raise_if_cancelled()
        atoms = slice(number * _ATOMS_PER_GROUP, (number + 1) * _ATOMS_PER_GROUP)
        signal[atoms] = simulate_atoms(t1[atoms], t2[atoms], b1[atoms], sequence)


def _simulate(
    t1: torch.Tensor, t2: torch.Tensor, b1: torch.Tensor, sequence: Sequence
) -> torch.Tensor:
    """Simulate all atoms at once, for GPUs; see `simulate_atoms` for CPUs."""
    n_frames, n_atoms = sequence.n_frames, len(t1)
    # Only orders that can return to zero before the end of the train contribute.
    n_orders = n_frames // 2 + 2
    dephasing, rephasing, longitudinal = torch.zeros(
        3, n_orders, n_atoms, dtype=t1.dtype, device=t1.device
    )
    longitudinal[0] = 1 - 2 * torch.exp(-sequence.inversion_time / t1)
    signal = torch.empty(n_frames, n_atoms, dtype=t1.dtype, device=t1.device)

    for frame in range(n_frames):
        raise_if_cancelled()
        angle = sequence.flip_angles[frame] * b1
        tr, te = sequence.repetition_times[frame], sequence.echo_times[frame]
        e1, e2 = torch.exp(-tr / t1), torch.exp(-tr / t2)
        live = min(frame + 1, n_frames - frame, n_orders - 1)
        plus, minus, z = dephasing[:live], rephasing[:live], longitudinal[:live]

        # The rotation about y changes F+ and F- by the same amount.
        both = plus + minus
        gain = torch.sin(angle) * z - torch.sin(angle / 2) ** 2 * both
        z.mul_(torch.cos(angle)).sub_(both.mul_(0.5 * torch.sin(angle)))
        plus.add_(gain)
        minus.add_(gain)
        signal[frame] = plus[0] * torch.exp(-te / t2)

        z.mul_(e1)
        z[0] += 1 - e1
        # Spoiler gradient: orders of F+ increase, those of F- decrease, and F-(1) becomes F+(0).
        dephasing[1 : live + 1] = plus * e2
        rephasing[: live - 1] = minus[1:] * e2
        rephasing[live - 1 : live + 1] = 0
        dephasing[0] = rephasing[0]
    return signal.T

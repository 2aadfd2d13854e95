"""Extended phase graphs of an inversion-prepared FISP train.

With the RF phase constant, every configuration state is real when the flip axis is y, so the
simulation is real and so is the temporal subspace that follows from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import torch

from mri2qmap.mrsignal.sequence import Sequence

Progress = Callable[[Iterable[torch.Tensor], str, int], Iterable[torch.Tensor]]

# States of 250 orders then stay in the cache, and below the size at which torch would split each of
# some 10^5 small operations over threads, which costs more than it saves: chunks run side by side.
ATOMS_PER_CHUNK = 128


def fisp_signal(
    t1: torch.Tensor,
    t2: torch.Tensor,
    sequence: Sequence,
    b1: torch.Tensor | float = 1.0,
    progress: Progress | None = None,
) -> torch.Tensor:
    """Simulate the transverse magnetisation at the echo of every frame.

    Equilibrium magnetisation 1 is inverted perfectly (as by an adiabatic pulse), waits the
    inversion time, and then sees one excitation a frame. After each echo a gradient dephases the
    voxel by a full cycle, so orders move up by one a frame.

    Parameters
    ----------
    t1, t2
        Relaxation times (atoms,) [s].
    sequence
        Flip angles and timing.
    b1
        Relative transmit field, one number or (atoms,): the excitation angles are multiplied by
        it, the adiabatic inversion is not.
    progress
        Told how far the simulation has come.

    Returns
    -------
        Signal (atoms, frames) float32.

    References
    ----------
    Weigel, J Magn Reson Imaging 41:266-295 (2015), with the RF phase at 90 degrees.
    """
    b1 = torch.as_tensor(b1, dtype=torch.float32, device=t1.device).expand(t1.shape)
    size = ATOMS_PER_CHUNK if t1.device.type == "cpu" else len(t1)
    parts = list(zip(t1.split(size), t2.split(size), b1.split(size), strict=True))
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        chunks = pool.map(lambda p: _simulate(p[0], p[1], p[2], sequence), parts)
        return torch.cat(
            list(progress(chunks, "simulating the dictionary", len(parts)) if progress else chunks)
        )


def _simulate(
    t1: torch.Tensor, t2: torch.Tensor, b1: torch.Tensor, sequence: Sequence
) -> torch.Tensor:
    n_frames, n_atoms = sequence.n_frames, len(t1)
    # An order counts only if it can still return to zero before the train ends.
    n_orders = n_frames // 2 + 2
    dephasing, rephasing, longitudinal = torch.zeros(
        3, n_orders, n_atoms, dtype=torch.float32, device=t1.device
    )
    longitudinal[0] = 1 - 2 * torch.exp(-sequence.inversion_time / t1)
    signal = torch.empty(n_frames, n_atoms, dtype=torch.float32, device=t1.device)

    for frame in range(n_frames):
        angle = sequence.flip_angles[frame] * b1
        tr, te = sequence.repetition_times[frame], sequence.echo_times[frame]
        e1, e2 = torch.exp(-tr / t1), torch.exp(-tr / t2)
        live = min(frame + 1, n_frames - frame, n_orders - 1)
        plus, minus, z = dephasing[:live], rephasing[:live], longitudinal[:live]

        # The rotation about y adds the same amount to F+ and F-.
        both = plus + minus
        gain = torch.sin(angle) * z - torch.sin(angle / 2) ** 2 * both
        z.mul_(torch.cos(angle)).sub_(both.mul_(0.5 * torch.sin(angle)))
        plus.add_(gain)
        minus.add_(gain)
        signal[frame] = plus[0] * torch.exp(-te / t2)

        z.mul_(e1)
        z[0] += 1 - e1
        # The spoiler: orders of F+ move up, those of F- down, and F-(1) becomes F+(0).
        dephasing[1 : live + 1] = plus * e2
        rephasing[: live - 1] = minus[1:] * e2
        rephasing[live - 1 : live + 1] = 0
        dephasing[0] = rephasing[0]
    return signal.T

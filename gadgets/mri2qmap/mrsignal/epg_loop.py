"""The compiled simulation of `mri2qmap.mrsignal.epg`, for 16 atoms at once."""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mri2qmap.machine.compiled_loops import compiled
from mri2qmap.machine.simd import LANES, load, splat, store

if TYPE_CHECKING:
    from mri2qmap.mrsignal.sequence import Sequence

Array = NDArray[np.float32]


def simulate_atoms(t1: Array, t2: Array, b1: Array, sequence: Sequence) -> Array:
    """Simulate some atoms in this thread; see `mri2qmap.mrsignal.epg.fisp_signal`.

    Parameters
    ----------
    t1, t2, b1
        Relaxation times [s] and relative transmit field (atoms,).
    sequence
        Flip angles and timing.

    Returns
    -------
        Signal (atoms, frames).
    """
    n_atoms = len(t1)
    t1, t2, b1 = (np.pad(values, (0, -n_atoms % LANES), "edge") for values in (t1, t2, b1))
    angles, tr, te = (
        np.array(values, dtype=np.float32)[:, None]
        for values in (sequence.flip_angles, sequence.repetition_times, sequence.echo_times)
    )
    angles = angles * b1
    signal = np.empty((sequence.n_frames, len(t1)), dtype=np.float32)
    with np.errstate(divide="ignore", over="ignore"):  # of times that are zero
        decays = np.exp(-tr / t1), np.exp(-tr / t2), np.exp(-te / t2)
        inverted = 1 - 2 * np.exp(np.float32(-sequence.inversion_time) / t1)
    _simulate(np.cos(angles), np.sin(angles), np.sin(angles / 2) ** 2, *decays, inverted, signal)
    return signal[:, :n_atoms].T


@compiled(nogil=True, fastmath={"contract", "nsz"}, error_model="numpy", boundscheck=False)
def _simulate(  # pragma: no cover - compiled
    cosines, sines, half_sines, e1, e2, echo_decay, inverted, signal
):
    """Simulate all atoms; the inputs are (frames, atoms), `inverted` (atoms,).

    The states F+, F- and Z of the orders, from 0 on, are rows of arrays. A spoiler gradient moves
    the row of order 0 of F+ and F-, not the states.
    """
    n_frames = len(signal)
    n_blocks = signal.shape[1] // LANES
    n_orders = n_frames // 2 + 2  # higher ones cannot return to 0 before the end
    plus = np.empty((n_frames + n_orders) * LANES, dtype=np.float32)
    minus = np.empty((n_frames + n_orders) * LANES, dtype=np.float32)
    longitudinal = np.empty(n_orders * LANES, dtype=np.float32)
    one, half = splat(np.float32(1)), splat(np.float32(0.5))
    for block in range(n_blocks):
        plus[:], minus[:], longitudinal[:] = 0, 0, 0
        store(longitudinal, 0, load(inverted, block))
        first = n_frames  # row of order 0 of F+; that of F- is the number of the frame
        for frame in range(n_frames):
            row = frame * n_blocks + block
            cos, sin, half_sin = load(cosines, row), load(sines, row), load(half_sines, row)
            t1_decay, t2_decay = load(e1, row), load(e2, row)
            live = min(frame + 1, n_frames - frame, n_orders - 1)
            for k in range(live):
                f, g = load(plus, first + k), load(minus, frame + k)
                z = load(longitudinal, k)
                # The rotation about y changes F+ and F- by the same amount.
                both = f + g
                gain = sin * z - half_sin * both
                f = f + gain
                if k == 0:
                    store(signal, row, f * load(echo_decay, row))
                store(plus, first + k, f * t2_decay)
                store(minus, frame + k, (g + gain) * t2_decay)
                store(longitudinal, k, (cos * z - half * sin * both) * t1_decay)
            store(longitudinal, 0, load(longitudinal, 0) + (one - t1_decay))
            first -= 1
            store(plus, first, load(minus, frame + 1))  # F-(1) becomes F+(0)

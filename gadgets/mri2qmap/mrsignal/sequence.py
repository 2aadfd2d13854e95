"""The fingerprinting sequence: an inversion followed by a train of unbalanced gradient echoes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Sequence:
    """Timing and flip angles of one readout group of an inversion-prepared FISP train.

    Attributes
    ----------
    flip_angles
        Nominal flip angle of each frame [rad].
    repetition_times
        TR of each frame [s].
    echo_times
        TE of each frame [s].
    inversion_time
        Time from the inversion to the first excitation [s].

    Raises
    ------
    ValueError
        If lengths or values are inconsistent or out of range.
    """

    flip_angles: tuple[float, ...]
    repetition_times: tuple[float, ...]
    echo_times: tuple[float, ...]
    inversion_time: float

    def __post_init__(self) -> None:
        n = len(self.flip_angles)
        if n == 0:
            raise ValueError("Sequence: no frames given")
        for name in ("repetition_times", "echo_times"):
            if len(getattr(self, name)) != n:
                raise ValueError(f"Sequence: {len(getattr(self, name))} {name} for {n} flip angles")
        values = np.array([*self.flip_angles, *self.repetition_times, *self.echo_times])
        if not np.all(np.isfinite(values)) or not np.isfinite(self.inversion_time):
            raise ValueError("Sequence: a flip angle or a time is not finite")
        if min(self.repetition_times) <= 0 or min(self.echo_times) < 0 or self.inversion_time < 0:
            raise ValueError("Sequence: TR must be positive, TE and TI not negative")
        if np.any(np.array(self.echo_times) >= np.array(self.repetition_times)):
            raise ValueError("Sequence: TE must be shorter than TR in every frame")

    @property
    def n_frames(self) -> int:
        """Number of time frames L."""
        return len(self.flip_angles)

    def numbers(self) -> NDArray[np.float64]:
        """Return all numbers of the sequence (3 frames + 1,): flip angles, TR, TE, TI."""
        return np.array(
            [*self.flip_angles, *self.repetition_times, *self.echo_times, self.inversion_time]
        )

    def digest(self) -> str:
        """Return a hash of all numbers of the sequence, for cache keys."""
        return hashlib.sha256(self.numbers().tobytes()).hexdigest()


def variable_flip_angles(n_frames: int = 500) -> NDArray[np.float64]:
    """Return a smooth flip-angle train between 10 and 75 degrees, for simulations [rad].

    Two half-sine lobes, each of two fifths of the train, with peaks of 30 and 75 degrees, are
    followed by a constant tail of 10 degrees: the shape of the published TGAS-SPI-MRF trains (Cao
    et al. 2022), within the range given in the paper.
    """
    position = np.linspace(0.0, 1.0, n_frames)
    degrees = np.full(n_frames, 10.0)
    for start, stop, peak in ((0.0, 0.4, 30.0), (0.4, 0.8, 75.0)):
        lobe = (position >= start) & (position < stop)
        phase = (position[lobe] - start) / (stop - start)
        degrees[lobe] += (peak - 10.0) * np.sin(np.pi * phase)
    return np.asarray(np.deg2rad(degrees))


def default_sequence(n_frames: int = 500) -> Sequence:
    """Return the paper's timing, TI/TE/TR = 20/0.7/12 ms, with `variable_flip_angles`."""
    return Sequence(
        flip_angles=tuple(float(a) for a in variable_flip_angles(n_frames)),
        repetition_times=(12e-3,) * n_frames,
        echo_times=(0.7e-3,) * n_frames,
        inversion_time=20e-3,
    )

"""Buffering of acquisitions, and their concatenation into arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import ismrmrd
import numpy as np
import torch

from mri2qmap.machine.cancellation import raise_if_cancelled

CALIBRATION_MEMORY = 1024
"""Default size of the buffer of readouts before the coil calibration [MiB]."""
LEAST_READOUTS = 64
"""Readouts on which coils can be calibrated at the least, as they have different directions."""
OBJECT_BYTES = 2560
"""Memory of an acquisition besides its samples [bytes]."""


@dataclass(frozen=True)
class Readouts:
    """Concatenated samples of several acquisitions.

    Attributes
    ----------
    kspace
        Samples (coils, samples), complex64.
    trajectory
        k-space positions (samples, 3), columns kx, ky, kz [cycles/voxel], float32.
    frames
        Time frame of each sample (samples,), int64.
    """

    kspace: torch.Tensor
    trajectory: torch.Tensor
    frames: torch.Tensor


def gather_readouts(acquisitions: Sequence[ismrmrd.Acquisition], device: torch.device) -> Readouts:
    """Concatenate acquisitions with the same number of channels."""
    kspace = np.concatenate([a.data for a in acquisitions], axis=1)
    trajectory = np.concatenate([a.traj for a in acquisitions])
    frames = np.repeat(
        [a.idx.contrast for a in acquisitions], [a.number_of_samples for a in acquisitions]
    )
    return Readouts(
        torch.from_numpy(kspace).to(device, torch.complex64),
        torch.from_numpy(trajectory).to(device, torch.float32),
        torch.from_numpy(frames.astype(np.int64)).to(device),
    )


def combine_channels(acquisition: ismrmrd.Acquisition, matrix: np.ndarray) -> ismrmrd.Acquisition:
    """Return the acquisition with its channels combined by a matrix (new channels, channels)."""
    data = (matrix @ acquisition.data).astype(np.complex64)
    head = acquisition.getHead()
    head.active_channels = len(data)
    head.available_channels = len(data)
    for word in range(len(head.channel_mask)):
        head.channel_mask[word] = 0
    for channel in range(min(len(data), 64 * len(head.channel_mask))):
        head.channel_mask[channel // 64] |= 1 << (channel % 64)
    return ismrmrd.Acquisition(head, data, acquisition.traj)


def sample_bytes(channels: int) -> int:
    """Return the memory of the samples of all channels at one k-space position [bytes]."""
    return 8 * channels + 12


def acquisition_bytes(acquisition: ismrmrd.Acquisition) -> int:
    """Return the memory of an acquisition [bytes]."""
    return int(acquisition.data.nbytes + acquisition.traj.nbytes) + OBJECT_BYTES


def counted_samples(acquisition: ismrmrd.Acquisition) -> int:
    """Return the samples of a coil; more for a short acquisition, which needs as much memory."""
    least = OBJECT_BYTES // sample_bytes(acquisition.active_channels)
    return max(int(acquisition.number_of_samples), least)


class HeldReadouts:
    """Buffer of imaging acquisitions until the coil calibration.

    The calibration needs a complete readout group: all frames and all k-space directions. It always
    uses the same group, so that the result does not depend on the order of the readouts.

    Parameters
    ----------
    n_frames
        Number of frames of a group.
    group
        Number of the group that is used for the calibration.
    most_bytes
        Size of the acquisitions at which the buffer is full [bytes], provided that it contains at
        least `LEAST_READOUTS`, or as many as a group.
    planned_bytes
        Size at which it is full in any case [bytes]; None: no limit.
    """

    def __init__(
        self, n_frames: int, group: int, most_bytes: int, planned_bytes: int | None = None
    ) -> None:
        self._n_frames = n_frames
        self._group = group
        self._most_bytes = most_bytes
        self._planned_bytes = math.inf if planned_bytes is None else planned_bytes
        self._held: list[ismrmrd.Acquisition] = []
        self._bytes = 0
        self._frames: dict[int, set[int]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def add(self, acquisition: ismrmrd.Acquisition) -> bool:
        """Add an acquisition; return whether the calibration can start."""
        self._held.append(acquisition)
        self._bytes += acquisition_bytes(acquisition)
        group = int(acquisition.idx.segment)
        frames = self._frames.setdefault(group, set())
        frames.add(int(acquisition.idx.contrast))
        enough = min(self._n_frames, LEAST_READOUTS)
        full = self._bytes >= self._most_bytes and len(self._held) >= enough
        full = full or self._bytes >= self._planned_bytes
        return full or (group == self._group and len(frames) == self._n_frames)

    def complete_group(self) -> list[ismrmrd.Acquisition]:
        """Return the sorted readouts of the first complete group; empty if none is complete."""
        complete = [g for g, frames in self._frames.items() if len(frames) == self._n_frames]
        first = min(complete, default=-1)
        return _sorted([a for a in self._held if a.idx.segment == first])

    def sorted(self) -> list[ismrmrd.Acquisition]:
        """Return all readouts sorted by group, frame and the other counters."""
        return _sorted(self._held)


def _sorted(acquisitions: list[ismrmrd.Acquisition]) -> list[ismrmrd.Acquisition]:
    """Sort by group, frame and the other counters."""
    places = []
    for number, acquisition in enumerate(acquisitions):
        if number % 2**12 == 0:
            raise_if_cancelled()
        places.append((_place(acquisition), number))
    places.sort()
    return [acquisitions[number] for _, number in places]


def _place(acquisition: ismrmrd.Acquisition) -> tuple[int, ...]:
    idx = acquisition.idx
    names = ("kspace_encode_step_1", "kspace_encode_step_2", "average", "slice", "phase")
    rest = (*names, "repetition", "set")
    return (idx.segment, idx.contrast, *(getattr(idx, n) for n in rest), *idx.user)

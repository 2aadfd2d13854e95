"""Acquisitions held until they are needed, and gathered into arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import ismrmrd
import numpy as np
import torch


@dataclass(frozen=True)
class Readouts:
    """Samples of several acquisitions, one after the other.

    Attributes
    ----------
    kspace
        Samples (c, samples), complex64.
    trajectory
        Positions (samples, 3), columns kx, ky, kz [cycles/voxel], float32.
    frames
        Time frame of each sample (samples,), int64.
    """

    kspace: torch.Tensor
    trajectory: torch.Tensor
    frames: torch.Tensor


def gather_readouts(acquisitions: Sequence[ismrmrd.Acquisition], device: torch.device) -> Readouts:
    """Join acquisitions of the same number of channels."""
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
    """Acquisition with its channels combined by a matrix (new channels, channels)."""
    data = (matrix @ acquisition.data).astype(np.complex64)
    head = acquisition.getHead()
    head.active_channels = len(data)
    head.available_channels = len(data)
    for word in range(len(head.channel_mask)):
        head.channel_mask[word] = 0
    for channel in range(min(len(data), 64 * len(head.channel_mask))):
        head.channel_mask[channel // 64] |= 1 << (channel % 64)
    return ismrmrd.Acquisition(head, data, acquisition.traj)


class HeldReadouts:
    """Imaging acquisitions that wait until the coils can be calibrated on them.

    A calibration needs a whole readout group: all frames, and all directions of k-space. It is
    always the same group, so that the order in which readouts come does not matter.

    Parameters
    ----------
    n_frames
        Frames of a group.
    group
        Number of the group to wait for.
    most_bytes
        Samples and trajectories that wait at most, once they are as many readouts as a group has.
    """

    def __init__(self, n_frames: int, group: int, most_bytes: int) -> None:
        self._n_frames = n_frames
        self._group = group
        self._most_bytes = most_bytes
        self._held: list[ismrmrd.Acquisition] = []
        self._bytes = 0
        self._frames: dict[int, set[int]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def add(self, acquisition: ismrmrd.Acquisition) -> bool:
        """Hold an acquisition; say whether no more need to wait."""
        self._held.append(acquisition)
        self._bytes += acquisition.data.nbytes + acquisition.traj.nbytes
        group = int(acquisition.idx.segment)
        frames = self._frames.setdefault(group, set())
        frames.add(int(acquisition.idx.contrast))
        full = self._bytes >= self._most_bytes and len(self._held) >= self._n_frames
        return full or (group == self._group and len(frames) == self._n_frames)

    def complete_group(self) -> list[ismrmrd.Acquisition]:
        """Return the readouts of the first complete group, sorted; none where none is complete."""
        complete = [g for g, frames in self._frames.items() if len(frames) == self._n_frames]
        return [a for a in self.sorted() if a.idx.segment == min(complete, default=-1)]

    def sorted(self) -> list[ismrmrd.Acquisition]:
        """All that is held by group, frame and the other counters, whatever order it came in."""
        return sorted(self._held, key=_place)


def _place(acquisition: ismrmrd.Acquisition) -> tuple[int, ...]:
    idx = acquisition.idx
    names = ("kspace_encode_step_1", "kspace_encode_step_2", "average", "slice", "phase")
    rest = (*names, "repetition", "set")
    return (idx.segment, idx.contrast, *(getattr(idx, n) for n in rest), *idx.user)

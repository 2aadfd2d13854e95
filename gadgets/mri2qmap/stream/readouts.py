"""Acquisitions gathered into arrays."""

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


def with_channels(acquisition: ismrmrd.Acquisition, matrix: np.ndarray) -> ismrmrd.Acquisition:
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

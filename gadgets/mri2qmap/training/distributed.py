"""Distributed training by several processes, started by torchrun.

Each process computes an equal part of every batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from mri2qmap.errors import Mri2QmapError


@dataclass(frozen=True)
class ProcessGroup:
    """Rank of this process and size of its group.

    Attributes
    ----------
    rank : int
        Number of this process in the group.
    world_size : int
        Number of processes in the group.
    local_rank : int
        Number of this process on its machine.

    Raises
    ------
    ValueError
        If the numbers are inconsistent.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    def __post_init__(self) -> None:
        """Validate the numbers."""
        if not (0 <= self.rank < self.world_size and self.local_rank >= 0):
            raise ValueError(f"{self}: expected 0 <= rank < count and local_rank >= 0")

    @classmethod
    def from_environment(cls) -> ProcessGroup:
        """Read the variables that torchrun sets; a single process if they are not set.

        Raises
        ------
        Mri2QmapError
            If the variables are incomplete or inconsistent.
        """
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        found = {name: os.environ[name] for name in names if name in os.environ}
        if "RANK" not in found:
            return cls()
        try:
            return cls(*(int(found[name]) for name in names))
        except (KeyError, ValueError) as error:
            raise Mri2QmapError(
                f"training: {found} is not a valid torchrun environment ({error}); start the"
                " processes with torchrun, or unset RANK"
            ) from error

    @property
    def is_main(self) -> bool:
        """Whether this process validates, reports and writes files (rank 0)."""
        return self.rank == 0

    def batch_slice(self, batch: int) -> slice:
        """Return the patches of a batch that this process computes.

        Raises
        ------
        Mri2QmapError
            If the batch size is not a multiple of the number of processes.
        """
        if batch % self.world_size:
            raise Mri2QmapError(
                f"training config, optimisation: a batch of {batch} patches cannot be divided"
                f" equally among {self.world_size} processes; change one of the two"
            )
        size = batch // self.world_size
        return slice(self.rank * size, (self.rank + 1) * size)

    @contextmanager
    def connected(self, device: torch.device) -> Iterator[None]:
        """Connect the processes: with NCCL for GPUs, with Gloo for CPUs.

        Raises
        ------
        Mri2QmapError
            If the other processes cannot be reached.
        """
        if self.world_size == 1:
            yield
            return
        gpu = device.type == "cuda"
        try:
            distributed.init_process_group(
                "nccl" if gpu else "gloo", device_id=device if gpu else None
            )
        except (RuntimeError, ValueError) as error:
            raise Mri2QmapError(
                f"training: process {self.rank} cannot reach the {self.world_size - 1} others"
                f" ({error}); start the processes with torchrun"
            ) from error
        try:
            yield
        finally:
            distributed.destroy_process_group()

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of a tensor over all processes."""
        if self.world_size > 1:
            value = value / self.world_size
            distributed.all_reduce(value)
        return value

    def broadcast_flag(self, flag: bool, device: torch.device) -> bool:
        """Return the flag of the main process on all processes."""
        if self.world_size == 1:
            return flag
        answer = torch.tensor(int(flag), device=device)
        distributed.broadcast(answer, src=0)
        return bool(answer)

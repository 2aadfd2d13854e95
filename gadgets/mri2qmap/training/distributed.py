"""One training by several processes, as torchrun starts them: each has a part of every batch."""

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
    """Number of a process among those that train together.

    Attributes
    ----------
    rank, local_rank : int
        Its number among all, and among those of its machine.
    world_size : int
        How many there are.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be."""
        if not (0 <= self.rank < self.world_size and self.local_rank >= 0):
            raise ValueError(f"{self}: expected 0 <= rank < count and local_rank >= 0")

    @classmethod
    def from_environment(cls) -> ProcessGroup:
        """Read what torchrun tells each process; one process where it does not.

        Raises
        ------
        Mri2QmapError
            If the environment contradicts itself.
        """
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        told = {name: os.environ[name] for name in names if name in os.environ}
        if "RANK" not in told:
            return cls()
        try:
            return cls(*(int(told[name]) for name in names))
        except (KeyError, ValueError) as error:
            raise Mri2QmapError(
                f"training: {told} is not what torchrun sets ({error}); start the processes with"
                " torchrun, or unset RANK"
            ) from error

    @property
    def is_main(self) -> bool:
        """Whether this is the one process that validates, reports and writes."""
        return self.rank == 0

    def batch_slice(self, batch: int) -> slice:
        """Which patches of a batch are this process's.

        Raises
        ------
        Mri2QmapError
            If the batch cannot be shared out equally.
        """
        if batch % self.world_size:
            raise Mri2QmapError(
                f"training config, optimisation: a batch of {batch} cannot be shared equally by"
                f" {self.world_size} processes"
            )
        size = batch // self.world_size
        return slice(self.rank * size, (self.rank + 1) * size)

    @contextmanager
    def connected(self, device: torch.device) -> Iterator[None]:
        """Be in touch with the other processes: NCCL between GPUs, Gloo between CPUs.

        Raises
        ------
        Mri2QmapError
            If the others cannot be reached.
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
        """Mean of a tensor over all processes."""
        if self.world_size > 1:
            value = value / self.world_size
            distributed.all_reduce(value)
        return value

    def broadcast_flag(self, yes: bool, device: torch.device) -> bool:
        """What the first process says, to all."""
        if self.world_size == 1:
            return yes
        answer = torch.tensor(int(yes), device=device)
        distributed.broadcast(answer, src=0)
        return bool(answer)

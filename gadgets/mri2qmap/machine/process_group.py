"""Several processes that work on one reconstruction or training, started by torchrun.

All run the same program on the same input. They call the same collectives in the same order, and
what depends on the data is decided by values that are the same to the last bit in all of them.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import itertools
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NoReturn

import torch
from torch import Tensor, distributed

import mri2qmap
from mri2qmap.errors import Mri2QmapError, ReportedElsewhereError
from mri2qmap.machine.failure_channel import (
    FailureChannel,
    accept_others,
    connect_to_main,
    listening_socket,
    new_token,
)

CONNECTION_SECONDS = 120.0
"""Longest time that the first process waits for the last one to start."""
COLLECTIVE_SECONDS = 1800.0
"""Longest time that a collective waits for the slowest process. Processes that end or fail are
noticed at once; this is for those that hang, and for machines that cannot be reached any more."""
_REASON_SECONDS = 5.0
"""Time for the reason of a broken connection to arrive."""
_REPORT_SECONDS = 10.0
"""Time for the main process to report the failure of another one and to end."""
_groups = itertools.count()
"""Numbers of the groups of this process, one after another."""
_STARTED_BY = "start the processes with torchrun"


@dataclass
class ProcessGroup:
    """Rank of this process and size of its group; by default a single process.

    Attributes
    ----------
    rank : int
        Number of this process in the group.
    world_size : int
        Number of processes in the group.
    local_rank : int
        Number of this process on its machine.
    local_size : int, optional
        Number of processes on this machine (default: all of the group).

    Raises
    ------
    ValueError
        If the numbers are inconsistent.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_size: int = 0
    _channel: FailureChannel | None = field(default=None, init=False, repr=False, compare=False)
    _calls: int = field(default=0, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Validate the numbers."""
        self.local_size = self.local_size or self.world_size
        ranks_fit = 0 <= self.rank < self.world_size and 0 <= self.local_rank < self.local_size
        if not ranks_fit or self.local_size > self.world_size:
            raise ValueError(
                f"rank {self.rank} of {self.world_size}, local rank {self.local_rank} of "
                f"{self.local_size}: 0 <= rank < number of processes is expected"
            )

    @classmethod
    def from_environment(cls) -> ProcessGroup:
        """Read the variables that torchrun sets; a single process if they are not set.

        Raises
        ------
        Mri2QmapError
            If the variables are incomplete or inconsistent.
        """
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        found = {name: os.environ[name] for name in names if name in os.environ}
        if "RANK" not in found:
            return cls()
        try:
            rank, world_size, local_rank = (int(found[name]) for name in names[:3])
            return cls(rank, world_size, local_rank, int(found.get(names[3], 0)))
        except (KeyError, ValueError) as error:
            raise Mri2QmapError(
                f"{found} is not a valid torchrun environment ({error}); {_STARTED_BY}, or unset "
                "RANK"
            ) from error

    @property
    def is_main(self) -> bool:
        """Whether this process reports and writes files (rank 0)."""
        return self.rank == 0

    def device_name(self, name: str, gpu: bool) -> str:
        """Name of this process's device: a GPU of its own where there are several processes.

        Parameters
        ----------
        name
            Device that was asked for, see `mri2qmap.machine.devices.select_device`.
        gpu
            Whether there is a GPU.

        Raises
        ------
        Mri2QmapError
            If one GPU was asked for, which several processes cannot share.
        """
        if self.world_size == 1 or name == "cpu" or not gpu:
            return name
        if name not in ("auto", "cuda"):
            raise Mri2QmapError(
                f"--device {name}: {self.world_size} processes cannot share it; leave the number"
                " out, and each takes a GPU of its own"
            )
        return f"cuda:{self.local_rank}"

    @contextmanager
    def connected(self, device: torch.device) -> Iterator[None]:
        """Connect the processes: with NCCL for GPUs, with Gloo for CPUs.

        At the end, the other processes wait for the main one. An error of one process ends all: the
        main process raises it, the others raise `ReportedElsewhereError`.

        Raises
        ------
        Mri2QmapError
            If the other processes cannot be reached or run other versions, or if one of them fails.
        """
        if self.world_size == 1:
            yield
            return
        self._initialise(device)
        channel = None
        try:
            channel = self._opened_channel(device)
            self._channel, self._calls = channel, 0
            with channel.cancellation.active():
                self.refuse_unless_same(
                    {
                        "version of mri2qmap": mri2qmap.__version__,
                        "version of PyTorch": torch.__version__,
                    }
                )
                yield
                channel.finish()
            if channel.failure is not None:
                raise channel.failure.as_error()
        except BaseException as error:
            if channel is None:
                raise
            self._end_with(error, channel)
        finally:
            self._channel = None
            if distributed.is_initialized():
                distributed.destroy_process_group()
        if channel is not None:
            channel.close()

    def sum_(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over all processes; the same bits in each of them.

        All processes must call this with tensors of the same shape and type, in the same order.

        Raises
        ------
        Mri2QmapError
            If another process has failed or calls something else.
        """
        if self.world_size == 1:
            return tensor
        self._refuse_unless_in_step(tensor)
        whole = tensor.resolve_conj().contiguous()
        self._all_reduce(torch.view_as_real(whole) if whole.is_complex() else whole)
        return tensor if whole is tensor else tensor.copy_(whole)

    def share(self, count: int) -> slice:
        """Return the part of so many tasks that this process does, of as equal size as possible."""
        return slice(
            count * self.rank // self.world_size, count * (self.rank + 1) // self.world_size
        )

    def share_of_pairs(self, outer: int, inner: int) -> Iterator[tuple[int, slice]]:
        """Yield the part of the tasks (outer, inner) that this process does.

        Yields
        ------
        number
            Number of the outer part.
        part
            Range of the inner ones, not empty.
        """
        own = self.share(outer * inner)
        for number in range(outer):
            first = max(own.start - number * inner, 0)
            stop = min(own.stop - number * inner, inner)
            if first < stop:
                yield number, slice(first, stop)

    def refuse_if_failed(self) -> None:
        """Raise the error of another process, if one has failed.

        Raises
        ------
        Mri2QmapError
            That error.
        """
        if self._channel is not None and self._channel.failure is not None:
            raise self._channel.failure.as_error()

    def refuse_unless_same(self, facts: Mapping[str, str]) -> None:
        """Compare facts that must be the same in all processes.

        Parameters
        ----------
        facts
            Values by what they are.

        Raises
        ------
        Mri2QmapError
            If they differ; the message names what differs.
        """
        if self.world_size == 1:
            return
        digests = b"".join(hashlib.sha256(value.encode()).digest() for value in facts.values())
        own = torch.frombuffer(bytearray(digests), dtype=torch.uint8).reshape(len(facts), -1)
        everyone = torch.zeros(self.world_size, *own.shape, dtype=torch.int32)
        everyone[self.rank] = own
        everyone = self.sum_(everyone.to(self._device())).cpu()
        for rank, others in enumerate(everyone):
            unlike = (others != everyone[0]).any(1).tolist()
            names = [name for name, differs in zip(facts, unlike, strict=True) if differs]
            if names:
                raise Mri2QmapError(
                    f"process {rank} differs from process 0 in: {', '.join(names)}; all processes "
                    "of a run need the same"
                )

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of a tensor over all processes."""
        return self.sum_(value / self.world_size)

    def broadcast_flag(self, flag: bool, device: torch.device) -> bool:
        """Return the flag of the main process on all processes."""
        return bool(self.sum_(torch.tensor(int(flag and self.is_main), device=device)))

    def __getstate__(self) -> dict[str, Any]:
        """Leave the connection behind."""
        return {**self.__dict__, "_channel": None}

    def _initialise(self, device: torch.device) -> None:
        gpu = device.type == "cuda"
        try:
            from torch.distributed import PrefixStore  # type: ignore[attr-defined]

            # The store outlives a group and would give the next one its addresses.
            store = PrefixStore(f"mri2qmap/{next(_groups)}", _store())
            distributed.init_process_group(
                "nccl" if gpu else "gloo",
                store=store,
                rank=self.rank,
                world_size=self.world_size,
                timeout=timedelta(seconds=COLLECTIVE_SECONDS),
                device_id=device if gpu else None,
            )
        except (RuntimeError, ValueError, AttributeError, ImportError) as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> Mri2QmapError:
        return Mri2QmapError(
            f"process {self.rank} cannot reach the {self.world_size - 1} others ({error}); "
            f"{_STARTED_BY}"
        )

    def _opened_channel(self, device: torch.device) -> FailureChannel:
        """Connect to the main process, whose port and token the others get by a collective."""
        address = os.environ["MASTER_ADDR"]
        port_and_token = torch.zeros(2, dtype=torch.int64)
        try:
            if self.is_main:
                server, token = listening_socket(address), new_token()
                port_and_token[:] = torch.tensor([server.getsockname()[1], token])
            shared = port_and_token.to(device)
            distributed.broadcast(shared, src=0)
            port, token = shared.tolist()
            if self.is_main:
                return accept_others(server, token, self.world_size - 1, CONNECTION_SECONDS)
            return connect_to_main(address, port, token, self.rank, CONNECTION_SECONDS)
        except (RuntimeError, OSError) as error:
            raise self._unreachable(error) from error

    def _device(self) -> torch.device:
        """Device of the tensors that the backend can add."""
        nccl = distributed.get_backend() == "nccl"
        return torch.device("cuda", self.local_rank) if nccl else torch.device("cpu")

    def _all_reduce(self, tensor: Tensor, maximum: bool = False) -> None:
        assert self._channel is not None, "only inside connected()"
        operation = distributed.ReduceOp.MAX if maximum else distributed.ReduceOp.SUM
        self.refuse_if_failed()
        try:
            distributed.all_reduce(tensor, operation)
        except RuntimeError as error:
            error.__traceback__ = None  # its frames would keep the connections of the group open
            failure = self._channel.wait_for_failure(_REASON_SECONDS)
            if failure is None:
                raise Mri2QmapError(f"process {self.rank} has lost the others ({error})") from error
            raise failure.as_error() from error
        self.refuse_if_failed()

    def _refuse_unless_in_step(self, tensor: Tensor) -> None:
        """Compare the call with those of the other processes.

        Gloo would abort the process if the sizes differed; equal sizes would give wrong sums.
        """
        self._calls += 1
        call = f"{self._calls} {tuple(tensor.shape)} {tensor.dtype}"
        number = zlib.crc32(call.encode())
        bounds = torch.tensor([number, -number], device=tensor.device)
        self._all_reduce(bounds, maximum=True)
        if int(bounds.sum()):
            raise Mri2QmapError(
                f"process {self.rank}: the processes are not in step any more (sum {call}): their "
                "input, settings, versions or devices differ"
            )

    def _end_with(self, error: BaseException, channel: FailureChannel) -> NoReturn:
        """Tell the others of an error or, if it is that of another process, raise that."""
        failure = channel.failure
        if failure is None and isinstance(error, RuntimeError):  # of a collective, perhaps
            failure = channel.wait_for_failure(_REASON_SECONDS)
        if failure is None:
            text = str(error) if isinstance(error, Mri2QmapError) else _described(error)
            channel.send_failure(text)
        if distributed.is_initialized():
            distributed.destroy_process_group()  # processes that wait in a collective go on
        if self.is_main:
            atexit.register(channel.close)  # the others wait until the error has been reported
            if failure is None or failure.text == str(error):
                raise error  # of this process, or of all
            raise failure.as_error() from error
        reported = channel.wait_until_reported(_REPORT_SECONDS)
        channel.close()
        if reported:
            raise ReportedElsewhereError(str(error)) from error
        raise error if failure is None else failure.as_error() from error


SINGLE_PROCESS = ProcessGroup()
"""The default of what can be split among processes."""


@functools.cache
def _store() -> Any:
    """Return the store in which processes find each other; it is kept for further groups."""
    from torch.distributed.rendezvous import rendezvous

    meeting = rendezvous("env://", timeout=timedelta(seconds=CONNECTION_SECONDS))
    return next(iter(meeting))[0]


def _described(error: BaseException) -> str:
    if not isinstance(error, Exception):
        return "it was interrupted"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__

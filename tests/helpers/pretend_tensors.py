"""Tensors that report `cuda:0` and are computed on the CPU.

A `PretendTensor` wraps a tensor of the CPU, of the same sizes and strides. PyTorch dispatches it
like a tensor of a GPU (autocast, lazily conjugated views, broadcasting are PyTorch's own), down to
the operators of its backends, which `PretendGpu` computes with the wrapped tensors. What a GPU
refuses is refused: operators on tensors of both devices, arrays of its memory, random numbers from
a generator of the CPU.

Transfers, synchronisations and allocated bytes are counted in `PretendGpu`.
"""

from __future__ import annotations

import functools
import math
import sys
import types
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

GPU = torch.device("cuda:0")
_CPU = torch.device("cpu")
_BLOCK = 512
"""PyTorch allocates memory of a GPU in multiples of this [bytes]."""

aten = torch.ops.aten
_BETWEEN_DEVICES = {aten.copy_, aten._to_copy}
_CPU_INDICES = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
_CPU_SCALARS = {*_CPU_INDICES, aten.fill_, aten.fill, aten.masked_fill, aten.masked_fill_}
"""Operators that take tensors of the CPU without axes, besides elementwise ones."""
_WAITING = {
    aten._local_scalar_dense,
    aten.equal,
    aten.nonzero,
    aten.masked_select,
    aten._unique2,
    aten.unique_dim,
    aten.unique_consecutive,
    aten.bincount,
    aten.repeat_interleave,
    aten._linalg_check_errors,
}
"""Operators that wait for the GPU, because the size of the result depends on the data or the host
reads it."""


class PretendTensor(torch.Tensor):
    """A tensor on the pretend GPU; `on_cpu` is what it is computed with."""

    on_cpu: torch.Tensor
    allocation: Allocation
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, on_cpu: torch.Tensor, allocation: Allocation) -> PretendTensor:
        self = torch.Tensor._make_wrapper_subclass(
            cls,
            on_cpu.shape,
            strides=on_cpu.stride(),
            storage_offset=on_cpu.storage_offset(),
            dtype=on_cpu.dtype,
            device=GPU,
            requires_grad=on_cpu.requires_grad,
        )
        torch._C._set_conj(self, on_cpu.is_conj())
        torch._C._set_neg(self, on_cpu.is_neg())
        self.on_cpu, self.allocation = on_cpu, allocation
        return self

    def __repr__(self) -> str:  # type: ignore[override]
        return f"{self.on_cpu!r} on {GPU}"

    def numpy(self, *, force: bool = False) -> Any:
        if force:
            return self.cpu().numpy()
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor "
            "to host memory first."
        )

    def __format__(self, form: str) -> str:
        return format(self.item(), form) if self.ndim == 0 else repr(self)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return self.numpy()

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __tensor_flatten__(self) -> tuple[list[str], Allocation]:
        """Tell `torch.nn.Module.to` that the tensor cannot be put into one of the CPU."""
        return ["on_cpu"], self.allocation

    @staticmethod
    def __tensor_unflatten__(
        parts: dict[str, torch.Tensor], allocation: Allocation, size: object, stride: object
    ) -> PretendTensor:
        return PretendTensor(parts["on_cpu"], allocation)

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        mine = next(x for x in _tensors((*args, *kwargs.values())) if isinstance(x, cls))
        return mine.allocation.gpu.compute(func, args, kwargs)


@dataclass(eq=False)
class Allocation:
    """Memory that tensors share; it is free when the last of them is gone."""

    gpu: PretendGpu
    size: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    def __del__(self) -> None:
        self.gpu.memory -= self.size


@dataclass
class PretendGpu:
    """State of the pretend GPU.

    Attributes
    ----------
    uploads, downloads
        Number of copies from the CPU and to it, by the function of the package.
    waits
        Number of operations for which the CPU waits for the GPU, by the function of the package.
        Downloads are among them.
    memory, peak
        Bytes of all living tensors and the largest value since `reset_peak`.
    fraction, limit
        Share of the memory that may be taken, and the same in bytes.
    highest, alive, place
        If `watch` is set: the largest value of all, what was alive then, and the function of the
        package that was at work.
    """

    uploads: Counter[str] = field(default_factory=Counter)
    downloads: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)
    memory: int = 0
    peak: int = 0
    fraction: float = 1.0
    limit: float = math.inf
    watch: bool = False
    highest: int = 0
    alive: Counter[tuple[tuple[int, ...], torch.dtype, int]] = field(default_factory=Counter)
    place: str = ""
    _alive: weakref.WeakValueDictionary[int, Allocation] = field(
        default_factory=weakref.WeakValueDictionary
    )

    def reset_counts(self) -> None:
        """Forget transfers and waits."""
        for counter in (self.uploads, self.downloads, self.waits):
            counter.clear()

    def reset_peak(self) -> None:
        """Begin a new peak."""
        self.peak = self.memory

    def allocate(self, owner: int, shape: tuple[int, ...], dtype: torch.dtype) -> Allocation:
        """Take memory for numbers, under a key of which there is one only while it is taken."""
        size = -(-math.prod(shape) * dtype.itemsize // _BLOCK) * _BLOCK
        if self.memory + size > self.limit:
            raise torch.OutOfMemoryError(f"{size} bytes beyond {self.memory} of {self.limit:.0f}")
        self._alive[owner] = allocation = Allocation(self, size, shape, dtype)
        self.memory += size
        self.peak = max(self.peak, self.memory)
        if self.watch and self.memory > self.highest:
            self.highest, self.place = self.memory, _caller()
            self.alive = Counter((a.shape, a.dtype, a.size) for a in self._alive.values())
        return allocation

    def wrap(self, on_cpu: torch.Tensor) -> PretendTensor:
        """Put a tensor of the CPU, which nobody else may use, on the GPU."""
        storage = on_cpu.untyped_storage()
        allocation = self._alive.get(storage._cdata)
        if allocation is None:
            whole = storage.nbytes() == on_cpu.nbytes
            shape = tuple(on_cpu.shape) if whole else (storage.nbytes() // on_cpu.itemsize,)
            allocation = self.allocate(storage._cdata, shape, on_cpu.dtype)
        return PretendTensor(on_cpu, allocation)

    def compute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Compute an operator of a backend, of which an argument or the result is on the GPU."""
        packet = func.overloadpacket
        given = list(_tensors((*args, *kwargs.values())))
        target = kwargs.get("device")
        if packet not in _BETWEEN_DEVICES:
            _check_devices(func, args, kwargs, given)
        self._count(packet, args, given, target)
        inner_args = [_on_cpu(x) for x in args]
        inner_kwargs = {name: _on_cpu(x) for name, x in kwargs.items()}
        if target is not None:
            inner_kwargs["device"] = _CPU
        if "pin_memory" in inner_kwargs:
            inner_kwargs["pin_memory"] = False
        with torch._C._DisableTorchDispatch():
            result = func(*inner_args, **inner_kwargs)
        if packet is aten._to_copy and target is not None and target.type == "cpu":
            return _own(result, inner_args[0])
        if packet is aten._local_scalar_dense or packet is aten.equal:
            return result
        if packet is aten._to_copy:
            result = _own(result, inner_args[0])
        return self._results(func, args, kwargs, result)

    def _results(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> Any:
        """Wrap new tensors; where an argument was written to, return it itself."""
        written = _written(func, args, kwargs)
        for tensor in written.values():
            if isinstance(tensor, PretendTensor) and (
                tensor.shape != tensor.on_cpu.shape or tensor.stride() != tensor.on_cpu.stride()
            ):
                raise NotImplementedError(f"{func} changes the sizes of its argument")
        names = _signature(func)[1]
        if len(names) == 1:
            return written[names[0]] if names[0] else self._wrapped(result)
        return tuple(
            written[name] if name else self._wrapped(one)
            for name, one in zip(names, result, strict=True)
        )

    def _wrapped(self, result: Any) -> Any:
        if isinstance(result, torch.Tensor):
            return self.wrap(result)
        if isinstance(result, list | tuple):
            return type(result)(map(self._wrapped, result))
        return result

    def _count(
        self, packet: Any, args: tuple[Any, ...], given: list[torch.Tensor], target: Any
    ) -> None:
        counters: list[Counter[str]] = []
        on_gpu = [isinstance(x, PretendTensor) for x in given]
        if packet in _BETWEEN_DEVICES and given:
            moved = (
                on_gpu
                if packet is aten.copy_
                else [target.type == "cuda" if target else on_gpu[0], *on_gpu]
            )
            if len(moved) == 2 and moved[0] != moved[1]:
                counters = [self.uploads] if moved[0] else [self.downloads, self.waits]
        elif packet is aten._local_scalar_dense:
            counters = [self.downloads, self.waits]
        elif packet in _WAITING:
            counters = [self.waits]
        elif packet in _CPU_INDICES:
            indices = [x for x in args[1] if x is not None]
            if any(x.dtype in (torch.bool, torch.uint8) for x in indices):
                counters.append(self.waits)
            if any(not isinstance(x, PretendTensor) for x in indices):
                counters.append(self.uploads)
        for counter in counters:
            counter[_caller()] += 1


class PretendMode(TorchDispatchMode):
    """Sends operators of the pretend GPU, and new tensors for it, to a `PretendGpu`."""

    def __init__(self, gpu: PretendGpu) -> None:
        super().__init__()
        self.gpu = gpu
        self._lifted: list[bool] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # otherwise PyTorch's compiler is imported, which takes seconds

    def __enter__(self) -> PretendMode:
        # `torch.tensor` copies its numbers to the device in sight of this mode.
        self._lifted.append(torch._C._only_lift_cpu_tensors())
        torch._C._set_only_lift_cpu_tensors(True)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch._C._set_only_lift_cpu_tensors(self._lifted.pop())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        device = kwargs.get("device")
        if PretendTensor in types or (device is not None and torch.device(device).type == "cuda"):
            return self.gpu.compute(func, args, kwargs)
        return func(*args, **kwargs)


def _caller() -> str:
    """Where the package is at work, for example ``recon.admm._objective``."""
    frame: types.FrameType | None = sys._getframe(2)
    while frame is not None:
        module = str(frame.f_globals.get("__name__"))
        if module.startswith("mri2qmap."):
            return f"{module.removeprefix('mri2qmap.')}.{frame.f_code.co_name}"
        frame = frame.f_back
    return "elsewhere"


def _own(result: torch.Tensor, argument: torch.Tensor) -> torch.Tensor:
    """A copy where the CPU would have returned the argument's own memory."""
    same = result.untyped_storage()._cdata == argument.untyped_storage()._cdata
    return result.clone() if same else result


def _check_devices(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], given: list[torch.Tensor]
) -> None:
    """Refuse what a GPU refuses."""
    packet = func.overloadpacket
    generator = kwargs.get("generator")
    if generator is not None and generator.device.type == "cpu":
        raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
    foreign = [x for x in given if not isinstance(x, PretendTensor)]
    if not foreign:
        return
    written = list(_written(func, args, kwargs).values())
    scalars = torch.Tag.pointwise in func.tags or packet in _CPU_SCALARS
    indices = [x for x in args[1] if x is not None] if packet in _CPU_INDICES else []
    on_gpu = isinstance(args[0], PretendTensor) if args else True
    for tensor in foreign:
        as_scalar = scalars and tensor.ndim == 0 and not any(tensor is x for x in written)
        as_index = on_gpu and any(tensor is x for x in indices)
        if not (as_scalar or as_index):
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found at least two devices, "
                f"cuda:0 and cpu! ({func}, {tuple(tensor.shape)} on the CPU)"
            )


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Tensors that an operator writes to, by the name of their memory in its signature."""
    found = {}
    for memory, number, name in _signature(func)[0]:
        value = args[number] if number < len(args) else kwargs.get(name)
        if isinstance(value, torch.Tensor):
            found[memory] = value
    return found


@functools.cache
def _signature(func: Any) -> tuple[tuple[tuple[str, int, str], ...], tuple[str, ...]]:
    """Memory, number and name of what an operator writes to; memory of each result, or nothing."""

    def memory(about: Any) -> str:
        alias = about.alias_info
        return next(iter(alias.before_set)) if alias is not None and alias.is_write else ""

    schema = func._schema
    written = tuple(
        (memory(about), number, about.name)
        for number, about in enumerate(schema.arguments)
        if memory(about)
    )
    return written, tuple(memory(about) for about in schema.returns)


def _tensors(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    """All tensors among arguments and in lists of these."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _on_cpu(value: Any) -> Any:
    """An argument with the tensors with which it is computed."""
    if isinstance(value, PretendTensor):
        return value.on_cpu
    if isinstance(value, list | tuple):
        return [_on_cpu(x) for x in value]
    return value

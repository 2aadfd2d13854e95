"""Vectors of single-precision numbers in compiled loops: one instruction for 16 lanes.

Numba vectorises an inner loop only if few arrays occur in it, because it must exclude at run time
that they overlap. A butterfly of a Fourier transform has eight. With these functions, which only
work in compiled loops, the vectors are explicit, and LLVM maps them to the registers of the
processor: one of AVX-512, two of AVX2, four of SSE or NEON.

An array is addressed in rows of `LANES` numbers: row 2 are the numbers 32 to 47 of its memory,
whatever its shape. It must be contiguous and of float32; the row is not checked. `load`,
`load_real`, `load_imaginary` and `prefetch` take arrays of uint16, too, whose bits are those of
float16 (`HAS_HALF_PRECISION`).
"""

# mypy: allow-untyped-calls

from __future__ import annotations

import operator
import platform
from collections.abc import Callable
from typing import Any

from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.core.datamodel import models
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, register_model

LANES = 16

_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_HALF_VECTOR = ir.VectorType(ir.HalfType(), LANES)
_UNDEFINED = ir.Constant(_VECTOR, ir.Undefined)


def _has_half_precision() -> bool:
    machine = platform.machine().lower()
    if machine in ("aarch64", "arm64"):
        return True
    features = binding.get_host_cpu_features()
    return machine in ("x86_64", "amd64") and bool(features.get("f16c"))


HAS_HALF_PRECISION = _has_half_precision()
"""Whether the processor converts float16 to float32 itself."""


class _Lanes(types.Type):
    """Numba's type of a vector of `LANES` float32."""

    def __init__(self) -> None:
        super().__init__(name=f"Lanes{LANES}")


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: _Lanes) -> None:
        super().__init__(manager, kind, _VECTOR)


_LANES = _Lanes()


def _in_compiled_loops(generator: Callable[..., Any]) -> Any:
    """Make a function of compiled loops from one that describes its types and its code."""
    return intrinsic(generator)


def _constant(numbers: list[int]) -> Any:
    return ir.Constant(ir.VectorType(ir.IntType(32), len(numbers)), numbers)


def _address(
    context: Any, builder: Any, kind: Any, array: Any, row: Any, half: bool = False
) -> Any:
    """Pointer to a row of an array, also of one in half precision if that is allowed."""
    allowed = (types.float32, types.uint16) if half else (types.float32,)
    if kind.dtype not in allowed or kind.layout != "C":
        raise TypeError(f"vectors: a contiguous array of float32 is expected, not {kind}")
    data = context.make_array(kind)(context, builder, array).data
    first = builder.gep(data, [builder.mul(row, ir.Constant(row.type, LANES))])
    vector = _VECTOR if kind.dtype == types.float32 else _HALF_VECTOR
    return builder.bitcast(first, vector.as_pointer())


def _loaded(context: Any, builder: Any, kind: Any, array: Any, row: Any) -> Any:
    """Row of an array, in single precision."""
    # The rows of numpy's arrays and of slices are aligned to single numbers only.
    place = _address(context, builder, kind, array, row, half=True)
    if kind.dtype == types.float32:
        return builder.load(place, align=4)
    return builder.fpext(builder.load(place, align=2), _VECTOR)


@_in_compiled_loops
def load(typing: Any, array: Any, row: Any) -> Any:
    """Return a row of a contiguous array of float32, or of float16 as uint16."""

    def generate(context: Any, builder: Any, kinds: Any, values: Any) -> Any:
        return _loaded(context, builder, kinds.args[0], *values)

    return _LANES(array, types.intp), generate


@_in_compiled_loops
def store(typing: Any, array: Any, row: Any, lanes: Any) -> Any:
    """Write a vector to a row of a contiguous float32 array."""

    def generate(context: Any, builder: Any, kinds: Any, values: Any) -> Any:
        array, row, lanes = values
        builder.store(lanes, _address(context, builder, kinds.args[0], array, row), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, _LANES), generate


@_in_compiled_loops
def prefetch(typing: Any, array: Any, row: Any) -> Any:
    """Have a row of an array brought into the cache of the core, without waiting for it."""

    def generate(context: Any, builder: Any, kinds: Any, values: Any) -> Any:
        number, byte = ir.IntType(32), ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        array, row = values
        address = _address(context, builder, kinds.args[0], array, row, half=True)
        place = builder.bitcast(address, byte)
        # to read, into the second-level cache, data
        builder.call(function, [place, *(ir.Constant(number, n) for n in (0, 2, 1))])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


@_in_compiled_loops
def splat(typing: Any, number: Any) -> Any:
    """Return a vector with the same number, float32, in all lanes."""

    def generate(context: Any, builder: Any, kinds: Any, values: Any) -> Any:
        first = builder.insert_element(_UNDEFINED, values[0], ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(first, _UNDEFINED, _constant([0] * LANES))

    return _LANES(types.float32), generate


def _every_second(first: int) -> Any:
    """Return a function of an array and a row: every second number of the rows 2 row, 2 row + 1."""

    def every_second(typing: Any, array: Any, row: Any) -> Any:
        def generate(context: Any, builder: Any, kinds: Any, values: Any) -> Any:
            array, row = values
            even = builder.mul(row, ir.Constant(row.type, 2))
            odd = builder.add(even, ir.Constant(row.type, 1))
            both = [_loaded(context, builder, kinds.args[0], array, part) for part in (even, odd)]
            return builder.shuffle_vector(*both, _constant(list(range(first, 2 * LANES, 2))))

        return _LANES(array, types.intp), generate

    return every_second


load_real = _in_compiled_loops(_every_second(0))
"""Return the real parts of a row of complex numbers, from a float32 view of their array."""
load_imaginary = _in_compiled_loops(_every_second(1))
"""Return the imaginary parts of a row of complex numbers, from a float32 view of their array."""


@_in_compiled_loops
def transpose(
    typing: Any, source: Any, row: Any, step: Any, target: Any, target_row: Any, target_step: Any
) -> Any:
    """Write the transpose of 16 rows of an array, ``step`` rows apart, to 16 rows of another."""

    def generate(context: Any, builder: Any, kinds: Any, values: Any) -> Any:
        source, row, step, target, target_row, target_step = values
        rows = []
        for _ in range(LANES):
            place = _address(context, builder, kinds.args[0], source, row)
            rows.append(builder.load(place, align=4))
            row = builder.add(row, step)
        half = LANES // 2
        low = _constant([i // 2 + LANES * (i % 2) for i in range(LANES)])
        high = _constant([half + i // 2 + LANES * (i % 2) for i in range(LANES)])
        # Each stage interleaves rows that are half of all rows apart.
        for _ in range(LANES.bit_length() - 1):
            rows = [
                builder.shuffle_vector(rows[i], rows[i + half], order)
                for i in range(half)
                for order in (low, high)
            ]
        for lanes in rows:
            place = _address(context, builder, kinds.args[3], target, target_row)
            builder.store(lanes, place, align=4)
            target_row = builder.add(target_row, target_step)
        return context.get_dummy_value()

    arguments = (source, types.intp, types.intp, target, types.intp, types.intp)
    return types.void(*arguments), generate


class _Elementwise(AbstractTemplate):
    """Type of the sum, difference or product of two vectors."""

    def generic(self, args: Any, kws: Any) -> Any:
        if len(args) == 2 and all(isinstance(kind, _Lanes) for kind in args):
            return signature(_LANES, _LANES, _LANES)
        return None


def _define(symbol: Any, instruction: str) -> None:
    infer_global(symbol)(type(instruction, (_Elementwise,), {}))

    def generate(context: Any, builder: Any, kinds: Any, values: Any) -> Any:
        return getattr(builder, instruction)(*values)

    lower_builtin(symbol, _Lanes, _Lanes)(generate)


for _symbol, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
):
    _define(_symbol, _instruction)

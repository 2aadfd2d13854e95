"""Fourier transforms of 16 lines at once, one in each lane of the processor's vectors.

All lines go through the same butterflies, so there is nothing to reorder within a vector. Lines are
arrays (size, 16), real and imaginary parts apart, which fit into the caches of a core. The mixed
radix algorithm of Stockham writes each stage to the other of two buffers and needs no bit reversal.

References
----------
Temperton, J Comput Phys 52:1 (1983).
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mri2qmap.machine.compiled_loops import compiled
from mri2qmap.machine.simd import load, splat, store

LARGEST_RADIX = 31
"""Sizes with a larger prime factor are transformed faster by general libraries: the number of
operations for each number of a line is proportional to the radix."""

OPTIONS = {"fastmath": True, "error_model": "numpy", "nogil": True}
"""Options of the compilation of loops on lanes."""
_ZERO, _ONE = np.float32(0), np.float32(1)
_HALF = np.float32(0.5)
_SIN_60 = np.float32(math.sqrt(0.75))
_COS_72, _SIN_72 = np.float32(math.cos(0.4 * math.pi)), np.float32(math.sin(0.4 * math.pi))
_COS_144, _SIN_144 = np.float32(math.cos(0.8 * math.pi)), np.float32(math.sin(0.8 * math.pi))


class LinePlan(NamedTuple):
    """Stages and roots of unity of the transform of one size.

    Attributes
    ----------
    stages
        For each stage (stages, 4): radix, product of the radices before it, size divided by the
        product that includes it, and where its roots begin.
    cosines, sines
        Roots of unity of all stages, exp(-i a) as cos(a) and -sin(a).
    """

    stages: NDArray[np.int64]
    cosines: NDArray[np.float32]
    sines: NDArray[np.float32]


def radices(size: int) -> list[int]:
    """Return the radices of the stages: fours, then primes in ascending order."""
    if size < 1:
        raise ValueError(f"a line has at least one number, got {size}")
    found = []
    while size % 4 == 0:
        found.append(4)
        size //= 4
    factor = 2
    while size > 1:
        while size % factor == 0:
            found.append(factor)
            size //= factor
        factor += 1
    return found


@lru_cache
def line_plan(size: int) -> LinePlan:
    """Plan the transforms of lines of one size."""
    stages, roots = [], []
    before, start = 1, 0
    for radix in radices(size):
        after = size // (before * radix)
        twiddles = np.outer(np.arange(after) * before, np.arange(1, radix)) / size
        turns = np.concatenate([twiddles.ravel(), np.arange(radix) / radix])
        stages.append((radix, before, after, start))
        roots.append(np.exp(-2j * np.pi * turns))
        start += len(turns)
        before *= radix
    values = np.concatenate([*roots, [1]])
    return LinePlan(
        np.array(stages, dtype=np.int64).reshape(-1, 4),
        values.real.astype(np.float32),
        values.imag.astype(np.float32),
    )


@compiled(**OPTIONS)
def transform_lines(a, b, c, d, plan, sign):
    """Transform lines a + i b (size, 16) by a `LinePlan`, with c and d as the other buffer.

    The sign is 1 for the transform and -1 for the inverse one without its factor 1/size. Return
    whether the result is in c and d; the other buffer is overwritten, too.
    """
    flipped = False
    stages = plan.stages
    for stage in range(len(stages)):
        radix, before, after = stages[stage, 0], stages[stage, 1], stages[stage, 2]
        cos, sin = plan.cosines[stages[stage, 3] :], plan.sines[stages[stage, 3] :]
        if flipped:
            x, y, u, v = c, d, a, b
        else:
            x, y, u, v = a, b, c, d
        if radix == 4:
            _radix_4(x, y, u, v, before, after, cos, sin, sign)
        elif radix == 2:
            _radix_2(x, y, u, v, before, after, cos, sin, sign)
        elif radix == 3:
            _radix_3(x, y, u, v, before, after, cos, sin, sign)
        elif radix == 5:
            _radix_5(x, y, u, v, before, after, cos, sin, sign)
        else:
            _odd_radix(x, y, u, v, radix, before, after, cos, sin, sign)
        flipped = not flipped
    return flipped


# Row i + after * (p + radix * k) of the input, p < radix, is row i + after * (k + before * q) of
# the output, q < radix; the twiddle factor of (i, q) is number i * (radix - 1) + q - 1.


@compiled(**OPTIONS)
def _store_turned(u, v, row, real, imaginary, cos, sin, sign):
    """Write a vector times a root of unity."""
    c, s = splat(cos), splat(sin * sign)
    store(u, row, real * c - imaginary * s)
    store(v, row, real * s + imaginary * c)


@compiled(**OPTIONS)
def _radix_2(x, y, u, v, before, after, cos, sin, sign):
    step = after * before
    for i in range(after):
        for k in range(before):
            row, out = i + after * 2 * k, i + after * k
            x0, y0 = load(x, row), load(y, row)
            x1, y1 = load(x, row + after), load(y, row + after)
            store(u, out, x0 + x1)
            store(v, out, y0 + y1)
            _store_turned(u, v, out + step, x0 - x1, y0 - y1, cos[i], sin[i], sign)


@compiled(**OPTIONS)
def _radix_3(x, y, u, v, before, after, cos, sin, sign):
    step = after * before
    half, sin_60 = splat(_HALF), splat(_SIN_60 * sign)
    for i in range(after):
        for k in range(before):
            row, out = i + after * 3 * k, i + after * k
            x0, y0 = load(x, row), load(y, row)
            x1, y1 = load(x, row + after), load(y, row + after)
            x2, y2 = load(x, row + 2 * after), load(y, row + 2 * after)
            xs, ys = x1 + x2, y1 + y2
            store(u, out, x0 + xs)
            store(v, out, y0 + ys)
            xm, ym = x0 - half * xs, y0 - half * ys
            xd, yd = sin_60 * (y1 - y2), sin_60 * (x2 - x1)
            w = 2 * i
            _store_turned(u, v, out + step, xm + xd, ym + yd, cos[w], sin[w], sign)
            _store_turned(u, v, out + 2 * step, xm - xd, ym - yd, cos[w + 1], sin[w + 1], sign)


@compiled(**OPTIONS)
def _radix_4(x, y, u, v, before, after, cos, sin, sign):
    step = after * before
    turn = splat(_ONE * sign)
    for i in range(after):
        w = 3 * i
        for k in range(before):
            row, out = i + after * 4 * k, i + after * k
            x0, y0 = load(x, row), load(y, row)
            x1, y1 = load(x, row + after), load(y, row + after)
            x2, y2 = load(x, row + 2 * after), load(y, row + 2 * after)
            x3, y3 = load(x, row + 3 * after), load(y, row + 3 * after)
            xs, ys, xd, yd = x0 + x2, y0 + y2, x0 - x2, y0 - y2
            xt, yt = x1 + x3, y1 + y3
            xe, ye = turn * (y1 - y3), turn * (x3 - x1)
            store(u, out, xs + xt)
            store(v, out, ys + yt)
            _store_turned(u, v, out + step, xd + xe, yd + ye, cos[w], sin[w], sign)
            _store_turned(u, v, out + 2 * step, xs - xt, ys - yt, cos[w + 1], sin[w + 1], sign)
            _store_turned(u, v, out + 3 * step, xd - xe, yd - ye, cos[w + 2], sin[w + 2], sign)


@compiled(**OPTIONS)
def _radix_5(x, y, u, v, before, after, cos, sin, sign):
    step = after * before
    c1, c2 = splat(_COS_72), splat(_COS_144)
    s1, s2 = splat(_SIN_72 * sign), splat(_SIN_144 * sign)
    for i in range(after):
        w = 4 * i
        for k in range(before):
            row, out = i + after * 5 * k, i + after * k
            x0, y0 = load(x, row), load(y, row)
            x1, y1 = load(x, row + after), load(y, row + after)
            x2, y2 = load(x, row + 2 * after), load(y, row + 2 * after)
            x3, y3 = load(x, row + 3 * after), load(y, row + 3 * after)
            x4, y4 = load(x, row + 4 * after), load(y, row + 4 * after)
            xs, ys, xd, yd = x1 + x4, y1 + y4, x1 - x4, y1 - y4
            xt, yt, xe, ye = x2 + x3, y2 + y3, x2 - x3, y2 - y3
            store(u, out, x0 + xs + xt)
            store(v, out, y0 + ys + yt)
            xm, ym = x0 + c1 * xs + c2 * xt, y0 + c1 * ys + c2 * yt
            xn, yn = s1 * yd + s2 * ye, s1 * xd + s2 * xe
            _store_turned(u, v, out + step, xm + xn, ym - yn, cos[w], sin[w], sign)
            _store_turned(u, v, out + 4 * step, xm - xn, ym + yn, cos[w + 3], sin[w + 3], sign)
            xm, ym = x0 + c2 * xs + c1 * xt, y0 + c2 * ys + c1 * yt
            xn, yn = s2 * yd - s1 * ye, s2 * xd - s1 * xe
            _store_turned(u, v, out + 2 * step, xm + xn, ym - yn, cos[w + 1], sin[w + 1], sign)
            _store_turned(u, v, out + 3 * step, xm - xn, ym + yn, cos[w + 2], sin[w + 2], sign)


@compiled(**OPTIONS)
def _odd_radix(x, y, u, v, radix, before, after, cos, sin, sign):
    """Any odd radix: inputs p and radix - p have conjugate roots, outputs q and radix - q, too."""
    step = after * before
    roots = after * (radix - 1)
    for i in range(after):
        w = i * (radix - 1) - 1
        for k in range(before):
            row, out = i + after * radix * k, i + after * k
            x0, y0 = load(x, row), load(y, row)
            real, imaginary = x0, y0
            for p in range(1, radix):
                real = real + load(x, row + p * after)
                imaginary = imaginary + load(y, row + p * after)
            store(u, out, real)
            store(v, out, imaginary)
            for q in range(1, (radix + 1) // 2):
                xm, ym, xn, yn = x0, y0, splat(_ZERO), splat(_ZERO)
                root = 0
                for p in range(1, (radix + 1) // 2):
                    root = (root + q) % radix
                    c, s = splat(cos[roots + root]), splat(sin[roots + root] * sign)
                    low, high = row + p * after, row + (radix - p) * after
                    xl, yl, xh, yh = load(x, low), load(y, low), load(x, high), load(y, high)
                    xm, ym = xm + c * (xl + xh), ym + c * (yl + yh)
                    xn, yn = xn + s * (xl - xh), yn + s * (yl - yh)
                a, b = q, radix - q
                _store_turned(u, v, out + a * step, xm - yn, ym + xn, cos[w + a], sin[w + a], sign)
                _store_turned(u, v, out + b * step, xm + yn, ym - xn, cos[w + b], sin[w + b], sign)

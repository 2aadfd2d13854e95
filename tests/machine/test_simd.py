"""Vectors in compiled loops, against numpy."""

import numba
import numpy as np

from mri2qmap.machine.simd import (
    LANES,
    load,
    load_imaginary,
    load_real,
    prefetch,
    splat,
    store,
    transpose,
)

rng = np.random.default_rng(0)


def numbers(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def test_arithmetic():
    @numba.njit
    def combine(a, b, factor, out):
        for row in range(3):
            prefetch(a, row)
            x, y = load(a, row), load(b, row)
            store(out, row, (x + y) * splat(factor) - x * y)

    a, b, out = numbers(3, LANES), numbers(3, LANES), numbers(4, LANES)
    last = out[3].copy()
    combine(a, b, np.float32(0.3), out)
    np.testing.assert_allclose(out[:3], (a + b) * 0.3 - a * b, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(out[3], last)


def test_rows_of_slices_begin_anywhere():
    @numba.njit
    def copy(a, out):
        store(out[5:], 1, load(a[3:], 2))

    a, out = numbers(4 * LANES), np.zeros(4 * LANES, dtype=np.float32)
    copy(a, out)
    np.testing.assert_array_equal(out[5 + LANES : 5 + 2 * LANES], a[3 + 2 * LANES : 3 + 3 * LANES])
    assert np.count_nonzero(out) == LANES


def test_parts_of_complex_rows():
    @numba.njit
    def split(a, out):
        store(out, 0, load_real(a, 1))
        store(out, 1, load_imaginary(a, 1))

    a = (numbers(2, LANES) + 1j * numbers(2, LANES)).astype(np.complex64)
    out = np.empty((2, LANES), dtype=np.float32)
    split(a.view(np.float32), out)
    np.testing.assert_array_equal(out, [a[1].real, a[1].imag])


def test_transpose_of_rows_with_steps():
    @numba.njit
    def turn(a, out):
        transpose(a, 1, 2, out, 2, 3)

    a, out = numbers(2 * LANES, LANES), np.zeros((4 * LANES, LANES), dtype=np.float32)
    turn(a, out)
    np.testing.assert_array_equal(out[2 : 2 + 3 * LANES : 3], a[1::2].T)
    assert np.count_nonzero(out) == LANES**2

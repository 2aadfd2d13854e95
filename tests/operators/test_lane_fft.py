"""Transforms of 16 lines, against numpy."""

import numpy as np
import pytest

from mri2qmap.operators.lane_fft import line_plan, radices, transform_lines

SIZES = [*range(1, 34), 36, 44, 48, 60, 64, 74, 96, 125, 126, 154, 220, 256]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("sign", [1, -1])
def test_against_numpy(size, sign):
    rng = np.random.default_rng(size)
    lines = rng.standard_normal((2, size, 16)).astype(np.float32)
    values = lines[0] + 1j * lines[1]
    expected = np.fft.fft(values, axis=0) if sign == 1 else np.fft.ifft(values, axis=0) * size
    buffer = np.full((2, size, 16), np.nan, dtype=np.float32)
    in_buffer = transform_lines(*lines, *buffer, line_plan(size), np.float32(sign))
    found = buffer if in_buffer else lines
    error = np.linalg.norm(found[0] + 1j * found[1] - expected) / np.linalg.norm(expected)
    assert error < 3e-7


def test_radices():
    assert radices(1) == []
    assert radices(64) == [4, 4, 4]
    assert radices(220) == [4, 5, 11]
    assert radices(2 * 3 * 7) == [2, 3, 7]

"""Compiled loops of `LaneConvolution`: transforms along x, y and z, and product with the kernels.

Orders of the volumes in memory, for n volumes v = (coil, coefficient):

* rows and sums: (block of kx, v, z, y filled up to whole vectors, 16);
* planes: (ky, block of kx, v z and one unused row, 16). With this row, lines along y do not fall on
  the same lines of the caches.

`sizes` are the numbers of coefficients, of volumes, of z and y, and of blocks of kx.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mri2qmap.machine.compiled_loops import compiled
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
from mri2qmap.operators.lane_fft import OPTIONS, LinePlan, line_plan, transform_lines

PLANES_TOGETHER = 4
"""Adjacent planes z that the loops along y transform together."""

_FORWARD, _BACKWARD = np.float32(1), np.float32(-1)
_ZERO = np.float32(0)


class Axis(NamedTuple):
    """Transform along an axis, and the phase ramp exp(-i pi r / n) of its odd frequencies."""

    plan: LinePlan
    cosines: NDArray[np.float32]
    sines: NDArray[np.float32]


class Split(NamedTuple):
    """Real and imaginary parts of a volume, in rows of 16 frequencies kx."""

    real: NDArray[np.float32]
    imaginary: NDArray[np.float32]


def axis_of(size: int) -> Axis:
    """Prepare the transforms along an axis."""
    ramp = np.exp(-1j * np.pi / size * np.arange(size))
    return Axis(line_plan(size), ramp.real.astype(np.float32), ramp.imag.astype(np.float32))


def n_vectors(size: int) -> int:
    """Return the number of vectors that hold a row."""
    return -(-size // LANES)


@compiled(**OPTIONS)
def x_forward(image, maps, rows, sizes, axis, odd, start, stop):
    """Transform images (s, z, y, x) times coil maps along x; steps are the planes (v, z)."""
    s, n_volumes, nz, ny, n_blocks = sizes
    nx = image.shape[3]
    tile_re = np.zeros((LANES, n_blocks * LANES), dtype=np.float32)
    tile_im = np.zeros((LANES, n_blocks * LANES), dtype=np.float32)
    a, b = np.zeros_like(tile_re), np.zeros_like(tile_re)
    c, d = np.zeros_like(tile_re), np.zeros_like(tile_re)
    for step in range(start, stop):
        volume, z = step // nz, step % nz
        for y in range(0, ny, LANES):
            for lane in range(min(LANES, ny - y)):
                line = image[volume % s, z, y + lane]
                if len(maps):
                    sensitivity = maps[volume // s, z, y + lane]
                    for x in range(nx):
                        value = line[x] * sensitivity[x]
                        tile_re[lane, x], tile_im[lane, x] = value.real, value.imag
                else:
                    for x in range(nx):
                        tile_re[lane, x], tile_im[lane, x] = line[x].real, line[x].imag
            for block in range(n_blocks):
                transpose(tile_re, block, n_blocks, a, LANES * block, 1)
                transpose(tile_im, block, n_blocks, b, LANES * block, 1)
            if odd:
                _turn(a, b, 0, a, b, 0, nx, axis.cosines, axis.sines)
            re, im = a, b
            if transform_lines(a, b, c, d, axis.plan, _FORWARD):
                re, im = c, d
            for block in range(n_blocks):
                row = _row(block, n_volumes, volume, nz, z, ny) + y
                transpose(re, LANES * block, 1, rows.real, row, 1)
                transpose(im, LANES * block, 1, rows.imaginary, row, 1)


@compiled(**OPTIONS)
def x_backward(sums, maps, result, sizes, axis, odd, scale, start, stop):
    """Add the inverse transforms along x, combined over coils; steps are the planes (s, z)."""
    s, n_volumes, nz, ny, n_blocks = sizes
    nx = result.shape[3]
    tile_re = np.zeros((LANES, n_blocks * LANES), dtype=np.float32)
    tile_im = np.zeros((LANES, n_blocks * LANES), dtype=np.float32)
    a, b = np.zeros_like(tile_re), np.zeros_like(tile_re)
    c, d = np.zeros_like(tile_re), np.zeros_like(tile_re)
    for step in range(start, stop):
        coefficient, z = step // nz, step % nz
        for volume in range(coefficient, n_volumes, s):
            for y in range(0, ny, LANES):
                for block in range(n_blocks):
                    row = _row(block, n_volumes, volume, nz, z, ny) + y
                    transpose(sums.real, row, 1, a, LANES * block, 1)
                    transpose(sums.imaginary, row, 1, b, LANES * block, 1)
                re, im = a, b
                if transform_lines(a, b, c, d, axis.plan, _BACKWARD):
                    re, im = c, d
                if odd:
                    _turn(re, im, 0, re, im, 0, nx, axis.cosines, -axis.sines)
                for block in range(n_blocks):
                    transpose(re, LANES * block, 1, tile_re, block, n_blocks)
                    transpose(im, LANES * block, 1, tile_im, block, n_blocks)
                for lane in range(min(LANES, ny - y)):
                    line = result[coefficient, z, y + lane]
                    if len(maps):
                        sensitivity = maps[volume // s, z, y + lane]
                        for x in range(nx):
                            value = complex(tile_re[lane, x] * scale, tile_im[lane, x] * scale)
                            line[x] += value * np.conj(sensitivity[x])
                    else:
                        for x in range(nx):
                            line[x] += complex(tile_re[lane, x] * scale, tile_im[lane, x] * scale)


@compiled(**OPTIONS)
def _row(block, n_volumes, volume, nz, z, ny):
    """Number of the first row along y in `rows` and `sums`."""
    filled = (ny + LANES - 1) // LANES * LANES
    return ((block * n_volumes + volume) * nz + z) * filled


@compiled(**OPTIONS)
def y_forward(rows, planes, sizes, axis, odd, start, stop):
    """Transform along y; steps are the blocks of kx and, within these, groups of planes z."""
    _, n_volumes, nz, ny, n_blocks = sizes
    a = np.empty((PLANES_TOGETHER, ny * LANES), dtype=np.float32)
    b, c, d = np.empty_like(a), np.empty_like(a), np.empty_like(a)
    pitch = n_blocks * (n_volumes * nz + 1)
    n_groups = (nz + PLANES_TOGETHER - 1) // PLANES_TOGETHER
    for step in range(start, stop):
        block, first = step // n_groups, step % n_groups * PLANES_TOGETHER
        together = min(PLANES_TOGETHER, nz - first)
        for volume in range(n_volumes):
            re, im = a, b
            for i in range(together):
                row = _row(block, n_volumes, volume, nz, first + i, ny)
                if odd:
                    cos, sin = axis.cosines, axis.sines
                    _turn(rows.real, rows.imaginary, row, a[i], b[i], 0, ny, cos, sin)
                else:
                    _copy(rows.real, rows.imaginary, row, a[i], b[i], 0, ny)
                if transform_lines(a[i], b[i], c[i], d[i], axis.plan, _FORWARD):
                    re, im = c, d
            row = block * (n_volumes * nz + 1) + volume * nz + first
            for y in range(ny):
                for i in range(together):
                    store(planes.real, row + i, load(re, i * ny + y))
                    store(planes.imaginary, row + i, load(im, i * ny + y))
                row += pitch


@compiled(**OPTIONS)
def y_backward(planes, sums, sizes, axis, odd, start, stop):
    """Transform back along y; write the result, or add that of odd frequencies."""
    _, n_volumes, nz, ny, n_blocks = sizes
    a = np.empty((PLANES_TOGETHER, ny * LANES), dtype=np.float32)
    b, c, d = np.empty_like(a), np.empty_like(a), np.empty_like(a)
    pitch = n_blocks * (n_volumes * nz + 1)
    n_groups = (nz + PLANES_TOGETHER - 1) // PLANES_TOGETHER
    for step in range(start, stop):
        block, first = step // n_groups, step % n_groups * PLANES_TOGETHER
        together = min(PLANES_TOGETHER, nz - first)
        for volume in range(n_volumes):
            row = block * (n_volumes * nz + 1) + volume * nz + first
            for y in range(ny):
                for i in range(together):
                    store(a, i * ny + y, load(planes.real, row + i))
                    store(b, i * ny + y, load(planes.imaginary, row + i))
                row += pitch
            for i in range(together):
                re, im = a[i], b[i]
                if transform_lines(a[i], b[i], c[i], d[i], axis.plan, _BACKWARD):
                    re, im = c[i], d[i]
                row = _row(block, n_volumes, volume, nz, first + i, ny)
                if odd:
                    cos, sin = axis.cosines, axis.sines
                    _add_turned_back(re, im, 0, sums.real, sums.imaginary, row, ny, cos, sin)
                else:
                    _copy(re, im, 0, sums.real, sums.imaginary, row, ny)


@compiled(**OPTIONS)
def z_product(planes, even, odd, pairs, n_parities, is_complex, sizes, axis, start, stop):
    """Transform along z, multiply with the kernels, transform back; steps are (ky, block of kx).

    `pairs` has the first row of the kernel of each pair of coefficients (s, s).
    """
    s, n_volumes, nz, _, n_blocks = sizes
    a = np.empty((s, (nz + 1) * LANES), dtype=np.float32)
    b, c, d = np.empty_like(a), np.empty_like(a), np.empty_like(a)
    sum_re, sum_im = np.empty((s, nz * LANES), np.float32), np.empty((s, nz * LANES), np.float32)
    n_pairs = s * (s + 1) // 2
    n_rows = n_pairs * (nz + 1) * n_blocks
    for step in range(start, stop):
        place = (step // n_blocks * n_rows + step % n_blocks, n_blocks)
        for coil in range(n_volumes // s):
            first = step * (n_volumes * nz + 1) + coil * s * nz
            for parity in range(n_parities):
                kernels = odd if parity else even
                re, im, free_re, free_im = a, b, c, d
                for i in range(s):
                    row = first + i * nz
                    if parity:
                        cos, sin = axis.cosines, axis.sines
                        _turn(planes.real, planes.imaginary, row, a[i], b[i], 0, nz, cos, sin)
                    else:
                        _copy(planes.real, planes.imaginary, row, a[i], b[i], 0, nz)
                    if coil == 0 and not is_complex:
                        for n in range(i * n_pairs // s, (i + 1) * n_pairs // s):
                            for z in range(nz):
                                prefetch(kernels, place[0] + (n * (nz + 1) + z) * n_blocks)
                    if transform_lines(a[i], b[i], c[i], d[i], axis.plan, _FORWARD):
                        re, im, free_re, free_im = c, d, a, b
                if is_complex:
                    _multiply_complex(re, im, free_re, free_im, kernels, place, pairs, s, nz)
                else:
                    _multiply(re, im, free_re, free_im, kernels, place, pairs, s, nz)
                for i in range(s):
                    u, v = free_re[i], free_im[i]
                    if transform_lines(u, v, re[i], im[i], axis.plan, _BACKWARD):
                        u, v = re[i], im[i]
                    if parity:
                        cos, sin = axis.cosines, axis.sines
                        _add_turned_back(u, v, 0, sum_re, sum_im, i * nz, nz, cos, sin)
                    else:
                        _copy(u, v, 0, sum_re, sum_im, i * nz, nz)
            _copy(sum_re, sum_im, 0, planes.real, planes.imaginary, first, s * nz)


# The products are sums in registers, two rows of the matrix and two frequencies kz at once. If the
# number is odd, the last one is computed twice.


@compiled(**OPTIONS)
def _multiply(re, im, out_re, out_im, kernels, place, pairs, s, nz):
    """Multiply spectra (s, z, 16) with real symmetric matrices."""
    first, step = place
    zero = splat(_ZERO)
    for z in range(0, nz, 2):
        y = min(z + 1, nz - 1)
        for i in range(0, s, 2):
            j = min(i + 1, s - 1)
            re_iz, im_iz, re_iy, im_iy = zero, zero, zero, zero
            re_jz, im_jz, re_jy, im_jy = zero, zero, zero, zero
            for column in range(s):
                at_i, at_j = first + pairs[i, column], first + pairs[j, column]
                line = column * (nz + 1)
                u, v = load(re, line + z), load(im, line + z)
                k = load(kernels, at_i + z * step)
                re_iz, im_iz = re_iz + k * u, im_iz + k * v
                k = load(kernels, at_j + z * step)
                re_jz, im_jz = re_jz + k * u, im_jz + k * v
                u, v = load(re, line + y), load(im, line + y)
                k = load(kernels, at_i + y * step)
                re_iy, im_iy = re_iy + k * u, im_iy + k * v
                k = load(kernels, at_j + y * step)
                re_jy, im_jy = re_jy + k * u, im_jy + k * v
            _store_both(out_re, out_im, i * (nz + 1) + z, re_iz, im_iz)
            _store_both(out_re, out_im, i * (nz + 1) + y, re_iy, im_iy)
            _store_both(out_re, out_im, j * (nz + 1) + z, re_jz, im_jz)
            _store_both(out_re, out_im, j * (nz + 1) + y, re_jy, im_jy)


@compiled(**OPTIONS)
def _store_both(out_re, out_im, row, real, imaginary):
    store(out_re, row, real)
    store(out_im, row, imaginary)


@compiled(**OPTIONS)
def _multiply_complex(re, im, out_re, out_im, kernels, place, pairs, s, nz):
    """Multiply spectra (s, z, 16) with complex Hermitian matrices."""
    first, step = place
    for z in range(nz):
        for row in range(s):
            u, v = splat(_ZERO), splat(_ZERO)
            for column in range(s):
                at = first + pairs[row, column] + z * step
                k, j = load_real(kernels, at), load_imaginary(kernels, at)
                if column < row:
                    j = splat(_ZERO) - j
                x, y = load(re, column * (nz + 1) + z), load(im, column * (nz + 1) + z)
                u, v = u + (k * x - j * y), v + (k * y + j * x)
            _store_both(out_re, out_im, row * (nz + 1) + z, u, v)


@compiled(**OPTIONS)
def _copy(re, im, row, out_re, out_im, out_row, size):
    for i in range(size):
        store(out_re, out_row + i, load(re, row + i))
        store(out_im, out_row + i, load(im, row + i))


@compiled(**OPTIONS)
def _turn(re, im, row, out_re, out_im, out_row, size, cosines, sines):
    """Multiply a line with a phase ramp."""
    for i in range(size):
        c, s = splat(cosines[i]), splat(sines[i])
        x, y = load(re, row + i), load(im, row + i)
        store(out_re, out_row + i, x * c - y * s)
        store(out_im, out_row + i, x * s + y * c)


@compiled(**OPTIONS)
def _add_turned_back(re, im, row, out_re, out_im, out_row, size, cosines, sines):
    """Add a line times the conjugate of a phase ramp."""
    for i in range(size):
        c, s = splat(cosines[i]), splat(sines[i])
        x, y = load(re, row + i), load(im, row + i)
        store(out_re, out_row + i, load(out_re, out_row + i) + (x * c + y * s))
        store(out_im, out_row + i, load(out_im, out_row + i) + (y * c - x * s))

"""The non-uniform transforms of a GPU with their kernels compiled for the CPU."""

import itertools
import math

import pytest
import torch
from helpers.cuda_on_cpu import (
    amid_nan,
    compiled_for_the_cpu,
    needs_compiler,
    nothing_else_written,
)
from operators.cases import inner, relative_error

from mri2qmap.operators import cuda_nufft
from mri2qmap.operators.cuda_nufft import CudaNufft
from mri2qmap.operators.nufft import TOLERANCE, Nufft

pytestmark = needs_compiler
SHAPES = [(16, 16, 16), (15, 8, 21), (7, 40, 9), (1, 3, 2), (1, 1, 1), (1, 2, 2000)]
BATCH, SAMPLES = 2, 1500


def trajectory(seed=0):
    """Random samples, with some at the corners of k-space, beyond them, and at its centre."""
    generator = torch.Generator().manual_seed(seed)
    samples = torch.rand(SAMPLES, 3, generator=generator) - 0.5
    corners = list(itertools.product((-0.5, 0.5), repeat=3))
    beyond = list(itertools.product((-0.50009, 0.50009, 0.1), repeat=3))
    special = torch.tensor([*corners, *beyond, (0.0, 0.0, 0.0), (-0.25, 0.25, 0.125)])
    samples[: len(special)] = special
    return samples


def random(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed))


def own(positions, shape, tolerance=TOLERANCE):
    return CudaNufft(positions, shape, tolerance, compiled_for_the_cpu)


def transforms(nufft, samples, images):
    """Images and samples of both types."""
    type_1, type_2 = torch.empty_like(images), torch.empty_like(samples)
    nufft.execute(1, samples, type_1)
    nufft.execute(2, images, type_2)
    return type_1, type_2


def exact(positions, samples, images):
    """Both types by the sums that define them, in double precision."""
    axes = [torch.arange(n).double() - n // 2 for n in images.shape[1:]]
    z, y, x = (
        torch.exp(-2j * math.pi * positions[:, 2 - axis, None].double() * voxels)
        for axis, voxels in enumerate(axes)
    )
    samples, images = samples.to(torch.complex128), images.to(torch.complex128)
    type_1 = torch.einsum("bn,nz,ny,nx->bzyx", samples, z.conj(), y.conj(), x.conj())
    return type_1, torch.einsum("bzyx,nz,ny,nx->bn", images, z, y, x)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("grid_bytes", [2**29, 0], ids=["upsampling 2", "upsampling 1.5"])
def test_both_types_against_their_sums_and_each_other(shape, grid_bytes, monkeypatch):
    monkeypatch.setattr(cuda_nufft, "_GRID_BYTES", grid_bytes)
    positions, samples, images = trajectory(), random(BATCH, SAMPLES), random(BATCH, *shape)
    found = transforms(own(positions, shape), samples, images)
    for one, reference in zip(found, exact(positions, samples, images), strict=True):
        assert relative_error(one, reference) < 0.3 * TOLERANCE
    left, right = inner(found[0], images), inner(samples, found[1])
    assert abs(left - right) < 1e-6 * float(found[0].norm() * images.norm())


@pytest.mark.parametrize("tolerance", [1e-2, 1e-3, 1e-5, 1e-6])
@pytest.mark.parametrize("grid_bytes", [2**29, 0], ids=["upsampling 2", "upsampling 1.5"])
def test_the_tolerance_is_kept(tolerance, grid_bytes, monkeypatch):
    monkeypatch.setattr(cuda_nufft, "_GRID_BYTES", grid_bytes)
    shape = (18, 13, 16)
    positions, samples, images = trajectory(), random(BATCH, SAMPLES), random(BATCH, *shape)
    found = transforms(own(positions, shape, tolerance), samples, images)
    for one, reference in zip(found, exact(positions, samples, images), strict=True):
        # Below about 2e-6, rounding errors count.
        assert relative_error(one, reference) < max(tolerance, 2e-6)


@pytest.mark.parametrize("shape", [(12, 10, 14), (7, 9, 5)])
@pytest.mark.parametrize("batch", [(), (1,), (5,), (2, 3), (0,)])
def test_as_a_backend_of_the_operator_it_agrees_with_finufft(shape, batch):
    positions = trajectory()
    expected, found = (Nufft(positions, shape) for _ in range(2))
    found._own = own(positions, shape)
    images, samples = random(*batch, *shape), random(*batch, SAMPLES)
    for one, other in (
        (found(images), expected(images)),
        (found.H(samples), expected.H(samples)),
        (found.H(samples.conj()), expected.H(samples.conj())),
    ):
        assert one.shape == other.shape
        if one.numel():
            assert relative_error(one, other) < 2 * TOLERANCE


@pytest.mark.parametrize("at_once", [1, 2, 3, 7])
def test_batches_are_computed_in_parts_that_fit_into_the_memory(at_once, monkeypatch):
    shape, count = (6, 8, 10), 7
    positions, samples, images = trajectory(), random(count, SAMPLES), random(count, *shape)
    expected = transforms(own(positions, shape), samples, images)
    sizes = []
    for name in ("fftn", "ifftn"):
        transform = getattr(torch.fft, name)
        monkeypatch.setattr(
            torch.fft,
            name,
            lambda x, transform=transform, **how: sizes.append(len(x)) or transform(x, **how),
        )
    monkeypatch.setattr(cuda_nufft, "_GRID_BYTES", at_once * 8 * 12 * 16 * 20 + 5)
    found = transforms(own(positions, shape), samples, images)
    assert sizes == 2 * ([at_once] * (count // at_once) + [count % at_once] * (count % at_once > 0))
    for one, other in zip(found, expected, strict=True):
        assert relative_error(one, other) < 1e-6


def test_only_the_results_are_written_and_nothing_else_is_read():
    shape = (5, 6, 7)
    positions, samples, images = trajectory(), random(BATCH, SAMPLES), random(BATCH, *shape)
    nufft = own(positions, shape)
    expected = transforms(nufft, samples, images)
    nufft._positions, inputs = amid_nan(nufft._positions), (amid_nan(samples), amid_nan(images))
    results = amid_nan(torch.zeros_like(images)), amid_nan(torch.zeros_like(samples))
    for kind, data, result in zip((1, 2), inputs, results, strict=True):
        nufft.execute(kind, data, result)
        assert nothing_else_written(result)
        assert torch.equal(result, expected[kind - 1])


def test_the_order_of_samples_does_not_matter():
    shape = (6, 8, 10)
    positions, samples, images = trajectory(), random(BATCH, SAMPLES), random(BATCH, *shape)
    shuffled = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(2))
    first = transforms(own(positions, shape), samples, images)
    other = transforms(own(positions[shuffled], shape), samples[:, shuffled], images)
    assert relative_error(other[0], first[0]) < 1e-6
    assert torch.equal(other[1], first[1][:, shuffled])


def test_samples_are_processed_bin_by_bin():
    nufft = own(trajectory(), (16, 16, 16))
    size = nufft._grid[0]
    bins = ((nufft._positions + 0.5) * size).clamp(0, size - 1).long() // cuda_nufft._BIN
    number = (bins[0] * 100 + bins[1]) * 100 + bins[2]
    assert bool((number.diff() >= 0).all())


def test_no_samples_give_nothing():
    images = random(1, 4, 4, 4)
    own(torch.zeros(0, 3), (4, 4, 4)).execute(1, random(1, 0), images)
    assert not bool(images.any())


def test_large_images_have_grids_of_less_upsampling():
    """By their size only; nothing is computed."""
    grids = []
    for n in (200, 256):
        nufft = own(torch.zeros(1, 3), (n, n, n))
        grids.append(nufft._grid)
    assert grids == [(400,) * 3, (384,) * 3]


@pytest.mark.parametrize("tolerance", [0.0, -1.0, 1e-7, 1.0, math.nan])
def test_a_tolerance_out_of_range_is_refused(tolerance):
    with pytest.raises(ValueError, match="tolerance must be from 1e-6 to 1"):
        own(trajectory(), (4, 4, 4), tolerance)

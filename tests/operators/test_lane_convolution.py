"""The fused convolution, against transforms of the whole grid by torch."""

import pytest
import torch
from operators.cases import hermitian, random

from mri2qmap.machine.simd import HAS_HALF_PRECISION
from mri2qmap.operators.circulant import BlockCirculant
from mri2qmap.operators.lane_convolution import LaneConvolution, lane_kernels
from mri2qmap.operators.toeplitz import ToeplitzGram, n_pairs, toeplitz_kernels

SHAPES = [(4, 6, 10), (18, 20, 34), (2, 2, 2), (6, 36, 16), (14, 4, 50)]


@pytest.fixture
def threads():
    """Function that sets the number of threads."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def whole_grid(kernels, maps, x, monkeypatch):
    """The gram by torch, one parity grid at a time."""
    monkeypatch.setattr(LaneConvolution, "fits", staticmethod(lambda shape, device: False))
    expected = ToeplitzGram(kernels, maps)(x)
    monkeypatch.undo()
    return expected


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("s", "n_coils"), [(1, 1), (2, 3), (5, 1), (3, 2)])
@pytest.mark.parametrize("kind", [torch.float32, torch.complex64])
def test_gram_against_torch(shape, s, n_coils, kind, monkeypatch, threads):
    kernels, x = hermitian((2, 2, 2), s, shape, kind), random(s, *shape)
    maps = random(n_coils, *shape, seed=2) if n_coils > 1 else None
    expected = whole_grid(kernels, maps, x, monkeypatch)
    before = x.clone()
    for n_threads in (1, 3):
        threads(n_threads)
        torch.testing.assert_close(ToeplitzGram(kernels, maps)(x), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(x, before)


@pytest.mark.parametrize("shape", [*SHAPES, (3, 5, 7), (1, 1, 9), (9, 17, 1)])
@pytest.mark.parametrize("kind", [torch.float32, torch.complex64])
def test_periodic_convolution_against_torch(shape, kind, monkeypatch):
    matrices, x = hermitian((1, 1, 1), 3, shape, kind)[0, 0, 0], random(3, *shape)
    found = BlockCirculant(matrices)(x)
    monkeypatch.setattr(LaneConvolution, "fits", staticmethod(lambda *_: False))
    torch.testing.assert_close(found, BlockCirculant(matrices)(x), rtol=1e-4, atol=1e-5)


def test_number_of_threads_and_coils_together_do_not_matter(threads):
    shape = (12, 20, 34)
    kernels, x = hermitian((2, 2, 2), 4, shape, torch.float32), random(4, *shape)
    maps = random(5, *shape, seed=2)
    results = []
    for n_threads, n_coils in ((1, 1), (1, 2), (2, 2), (4, 5)):
        threads(n_threads)
        results.append(LaneConvolution(kernels, coils_together=n_coils)(x, maps))
    assert torch.equal(results[1], results[2])
    for result in results:
        torch.testing.assert_close(result, results[0], rtol=1e-5, atol=1e-5)


def test_kernels_in_the_fastest_order_are_not_copied():
    kernels = lane_kernels(2, 3, (4, 6, 10), torch.float32)
    assert LaneConvolution(kernels).kernels is kernels
    assert ToeplitzGram(kernels).kernels is kernels
    for other in (kernels.contiguous(), kernels.flip(0), kernels[:, :, :, :1], kernels.double()):
        assert LaneConvolution(other.float()).kernels is not other
    trajectory, frames = torch.rand(50, 3) - 0.5, torch.zeros(50, dtype=torch.int64)
    made = toeplitz_kernels(trajectory, frames, torch.ones(1, 1), (4, 6, 10))
    assert ToeplitzGram(made).kernels is made


@pytest.mark.parametrize("shape", [(4, 6, 10), (6, 36, 16)])
@pytest.mark.parametrize("n_coils", [0, 3])
def test_kernels_in_half_precision(shape, n_coils):
    kernels = hermitian((2, 2, 2), 3, shape, torch.float32)
    half = lane_kernels(2, n_pairs(3), shape, torch.float16).copy_(kernels / 8)
    x = random(3, *shape)
    maps = random(n_coils, *shape, seed=2) if n_coils else None
    convolution = LaneConvolution(half, scale=8.0)
    assert (convolution.kernels is half) == HAS_HALF_PRECISION
    found, rounded = convolution(x, maps), LaneConvolution(half.float() * 8)(x, maps)
    torch.testing.assert_close(found, rounded, rtol=1e-5, atol=1e-5)
    exact = LaneConvolution(kernels)(x, maps)
    assert 1e-5 < float((found - exact).norm() / exact.norm()) < 3e-4


def test_kernels_with_the_strides_but_without_the_memory_are_copied():
    """The last row is not filled up to a whole vector."""
    ordered = lane_kernels(2, 1, (2, 2, 10), torch.float32).normal_()
    size = 1 + sum((n - 1) * step for n, step in zip(ordered.shape, ordered.stride(), strict=True))
    short = torch.zeros(size).as_strided(ordered.shape, ordered.stride()).copy_(ordered)
    gram = ToeplitzGram(short)
    assert gram.kernels is not short
    x = random(1, 2, 2, 10)
    assert torch.equal(gram(x), ToeplitzGram(ordered)(x))


def test_other_inputs(monkeypatch):
    """Conjugate views and transposed tensors."""
    shape = (6, 6, 6)
    kernels, x = hermitian((2, 2, 2), 2, shape, torch.complex64), random(2, *shape)
    maps = random(2, *shape, seed=2)
    expected = whole_grid(kernels, maps, x, monkeypatch)
    lazy = [t.conj().resolve_conj().conj() for t in (kernels, maps, x)]
    assert all(t.is_conj() for t in lazy)
    turned = x.transpose(1, 3).contiguous().transpose(1, 3)
    for image in (lazy[2], turned):
        found = ToeplitzGram(lazy[0], lazy[1])(image)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_sizes_with_large_prime_factors_are_left_to_torch(monkeypatch):
    assert not LaneConvolution.fits((4, 74, 4), "cpu")
    assert LaneConvolution.fits((4, 62, 4), "cpu")
    assert not LaneConvolution.fits((4, 4, 4), "cuda")
    shape = (2, 74, 2)
    trajectory, frames = torch.rand(50, 3) - 0.5, torch.zeros(50, dtype=torch.int64)
    kernels = toeplitz_kernels(trajectory, frames, torch.ones(1, 1), shape)
    x = random(1, *shape)
    expected = ToeplitzGram(kernels)(x)
    monkeypatch.setattr(LaneConvolution, "fits", staticmethod(lambda shape, device: True))
    torch.testing.assert_close(ToeplitzGram(kernels)(x), expected, rtol=1e-4, atol=1e-5)


def test_wrong_shapes_are_refused():
    """The loops do not check them."""
    matrices, kernels = torch.ones(3, 4, 6, 10), lane_kernels(2, 3, (4, 6, 10), torch.float32)
    for operator in (BlockCirculant(matrices), LaneConvolution(kernels)):
        for shape in ((2, 4, 6, 100), (1, 4, 6, 10), (3, 4, 6, 10), (2, 4, 6, 8)):
            with pytest.raises(ValueError, match="expected a TSMI"):
                operator(random(*shape))
    with pytest.raises(ValueError, match="coil maps"):
        LaneConvolution(kernels)(random(2, 4, 6, 10), random(2, 4, 6, 8))
    with pytest.raises(ValueError, match="at least one number"):
        LaneConvolution.fits((0, 4, 4), "cpu")


def test_double_precision_is_converted():
    shape = (4, 6, 10)
    for kind in (torch.float64, torch.complex128):
        kernels, x = hermitian((2, 2, 2), 2, shape, kind), random(2, *shape, kind=torch.complex128)
        single = torch.complex64 if kind.is_complex else torch.float32
        expected = LaneConvolution(kernels.to(single))(x.to(torch.complex64))
        for gram in (LaneConvolution(kernels), ToeplitzGram(kernels)):
            found = gram(x.to(torch.complex64))
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_maps_of_no_coil_give_zero():
    kernels = hermitian((2, 2, 2), 1, (2, 2, 2), torch.float32)
    found = LaneConvolution(kernels)(random(1, 2, 2, 2), torch.empty(0, 2, 2, 2))
    assert not bool(found.any())

"""The convolution of a GPU with its kernels compiled for the CPU, against torch and the CPU's."""

import ctypes
import functools
import math

import pytest
import torch
from helpers.cuda_on_cpu import (
    amid_nan,
    compiled_for_the_cpu,
    needs_compiler,
    nothing_else_written,
)
from operators.cases import hermitian, random, relative_error

from mri2qmap.machine.cuda_kernels import CudaKernels
from mri2qmap.operators import cuda_convolution, fused_convolution
from mri2qmap.operators.circulant import BlockCirculant, CirculantGram
from mri2qmap.operators.cuda_convolution import CudaConvolution
from mri2qmap.operators.kernel_product import apply_kernels
from mri2qmap.operators.lane_convolution import LaneConvolution
from mri2qmap.operators.toeplitz import (
    ToeplitzGram,
    in_half_precision,
    n_pairs,
    toeplitz_kernels,
)

pytestmark = needs_compiler
SHAPES = [(4, 6, 10), (3, 5, 7), (2, 74, 2), (1, 1, 129)]
KINDS = [torch.float32, torch.complex64]
HALF_ERROR = 4e-4  # a number is off by up to 2^-11, or 4.9e-4


def kernels_for(s, is_complex=0, half=0):
    """The CUDA kernels of one variant, compiled for the CPU."""
    macros = {"N_COEFFICIENTS": s, "COMPLEX_KERNELS": is_complex, "HALF_KERNELS": half}
    device = torch.device("cpu")
    return CudaKernels(cuda_convolution._SOURCE, macros, device, compiled_for_the_cpu)


def rounded(kernels):
    """The convolution with kernels in half precision."""
    halves, scale = in_half_precision(kernels)
    return CudaConvolution(halves, scale, build=compiled_for_the_cpu)


@pytest.fixture
def by_torch(monkeypatch):
    """Function that applies an operator made without a fused convolution."""

    def apply(make, x):
        with monkeypatch.context() as patch:
            patch.setattr(LaneConvolution, "fits", staticmethod(lambda shape, device: False))
            operator = make()
            assert operator._fused is None
            return operator(x)

    return apply


@pytest.fixture
def as_on_gpu(monkeypatch):
    """Operators choose the convolution of a GPU."""
    monkeypatch.setattr(LaneConvolution, "fits", staticmethod(lambda shape, device: False))
    built = functools.partial(CudaConvolution, build=compiled_for_the_cpu)
    built.fits = lambda device: True
    monkeypatch.setattr(fused_convolution, "CudaConvolution", built)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("s", "n_coils"), [(1, 0), (5, 0), (2, 3), (3, 1)])
@pytest.mark.parametrize("kind", KINDS)
def test_gram_against_torch(shape, s, n_coils, kind, by_torch):
    kernels, x = hermitian((2, 2, 2), s, shape, kind), random(s, *shape)
    maps = random(n_coils, *shape, seed=2) if n_coils else None
    expected = by_torch(lambda: ToeplitzGram(kernels, maps), x)
    before = x.clone()
    found = CudaConvolution(kernels, build=compiled_for_the_cpu)(x, maps)
    assert relative_error(found, expected) < 1e-6
    assert torch.equal(x, before)
    if kind == torch.float32:
        half = rounded(kernels)(x, maps)
        assert 1e-6 < relative_error(half, expected) < HALF_ERROR


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_periodic_convolution_against_torch(shape, kind, by_torch):
    matrices, x = hermitian((1, 1, 1), 3, shape, kind), random(3, *shape)
    expected = by_torch(lambda: BlockCirculant(matrices[0, 0, 0]), x)
    convolution = CudaConvolution(matrices, build=compiled_for_the_cpu)
    assert relative_error(convolution(x), expected) < 1e-6
    uniform = torch.ones(1, *shape)
    assert relative_error(convolution(x, uniform), expected) < 1e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("s", "n_coils"), [(1, 1), (4, 3), (10, 2)])
def test_product_against_torch(kind, s, n_coils):
    """Also that nothing beyond the arrays is read or written."""
    shape = (3, 7, 13)  # more than two blocks of threads, the last of which is not full
    kernels, spectra = hermitian((1, 1, 1), s, shape, kind)[0, 0, 0], random(n_coils, s, *shape)
    scales = random(n_pairs(s), kind=torch.float32, seed=5)
    expected = apply_kernels(kernels * scales[:, None, None, None], spectra.clone())
    cuda = kernels_for(s, int(kind.is_complex))
    kernels, spectra, scales = amid_nan(kernels), amid_nan(spectra), amid_nan(scales)
    n_voxels = math.prod(shape)
    cuda("apply_kernels", n_voxels, kernels, scales, spectra, n_voxels, n_coils)
    torch.testing.assert_close(spectra, expected, rtol=1e-5, atol=1e-5)
    assert nothing_else_written(spectra)


def test_kernels_of_more_than_2_to_the_31_numbers_are_found(tmp_path):
    """The last voxels of them, in files that take no space where nothing is written."""
    s, n_voxels = 5, 160_000_100
    n_kernels, n_spectra = n_pairs(s) * n_voxels, s * n_voxels
    assert n_kernels - n_voxels > 2**31
    kernels, spectra = (
        torch.from_file(str(tmp_path / name), shared=True, size=size, dtype=kind)
        for name, size, kind in (
            ("kernels", n_kernels, torch.float16),
            ("spectra", n_spectra, torch.complex64),
        )
    )
    kernels, spectra = kernels.reshape(-1, n_voxels), spectra.reshape(1, s, n_voxels)
    last = hermitian((1, 1, 1), s, (1, 1, 3), torch.float32)[0, 0, 0, :, 0, 0].half()
    kernels[:, -3:], spectra[..., -3:] = last, random(1, s, 3)
    expected = apply_kernels(last[:, None, None].float(), spectra[..., None, None, -3:].clone())
    cuda = kernels_for(s, half=1)
    first = ctypes.c_longlong.in_dll(cuda._launch.library, "first_block")
    first.value = n_voxels // 128
    try:
        cuda("apply_kernels", n_voxels, kernels, torch.ones(n_pairs(s)), spectra, n_voxels, 1)
    finally:
        first.value = 0
    torch.testing.assert_close(spectra[..., -3:], expected[..., 0, 0, :], rtol=1e-5, atol=1e-5)


def test_modulation_and_its_adjoint_stay_within_their_arrays():
    s, n_coils, shape, parity = 2, 3, (3, 7, 13), (1, 0, 1)
    cuda = kernels_for(s)
    image, maps = amid_nan(random(s, *shape)), amid_nan(random(n_coils, *shape, seed=1))
    work, result = amid_nan(random(n_coils, s, *shape)), amid_nan(random(s, *shape, seed=2))
    result_before = result.clone()
    sizes = (*shape, n_coils, *parity)
    cuda("modulate", math.prod(shape), image, maps, work, *sizes)
    z, _, x = (torch.arange(n) / n for n in shape)
    ramp = torch.exp(-1j * math.pi * (z[:, None, None] + x))
    expected = image * maps[:, None] * ramp
    torch.testing.assert_close(work, expected, rtol=1e-5, atol=1e-5)
    cuda("accumulate", math.prod(shape), work, maps, result, *sizes)
    back = result_before + (maps[:, None].conj() * ramp.conj() * work).sum(0)
    torch.testing.assert_close(result, back, rtol=1e-5, atol=1e-5)
    assert nothing_else_written(work)
    assert nothing_else_written(result)


@pytest.mark.parametrize("at_once", [1, 2, 4, 5])
def test_coils_are_convolved_in_chunks_that_fit_into_the_work_memory(at_once, monkeypatch):
    shape, s = (4, 6, 10), 3
    kernels, x = hermitian((2, 2, 2), s, shape, torch.float32), random(s, *shape)
    maps = random(5, *shape, seed=2)
    expected = LaneConvolution(kernels)(x, maps)
    bytes_of_a_coil = 8 * s * math.prod(shape)
    monkeypatch.setattr(cuda_convolution, "CONVOLVED_BYTES", at_once * bytes_of_a_coil + 7)
    chunks = []
    transform = torch.fft.fftn
    monkeypatch.setattr(
        torch.fft, "fftn", lambda array, **how: chunks.append(len(array)) or transform(array, **how)
    )
    found = CudaConvolution(kernels, build=compiled_for_the_cpu)(x, maps)
    assert relative_error(found, expected) < 1e-6
    full, rest = divmod(5, at_once)
    assert chunks == [n for n in [at_once] * full + [rest] * (rest > 0) for _ in range(8)]


def test_less_memory_than_for_one_coil_is_one_at_a_time(monkeypatch):
    monkeypatch.setattr(cuda_convolution, "CONVOLVED_BYTES", 0)
    kernels, x = hermitian((2, 2, 2), 1, (2, 4, 4), torch.float32), random(1, 2, 4, 4)
    maps = random(2, 2, 4, 4, seed=2)
    found = CudaConvolution(kernels, build=compiled_for_the_cpu)(x, maps)
    assert relative_error(found, LaneConvolution(kernels)(x, maps)) < 1e-6


def test_maps_of_no_coil_give_zero():
    kernels = hermitian((2, 2, 2), 1, (2, 2, 2), torch.float32)
    convolution = CudaConvolution(kernels, build=compiled_for_the_cpu)
    assert not bool(convolution(random(1, 2, 2, 2), torch.empty(0, 2, 2, 2)).any())


def test_other_inputs():
    """Conjugate views, transposed tensors and double precision."""
    shape = (4, 4, 4)
    kernels, x = hermitian((2, 2, 2), 2, shape, torch.complex64), random(2, *shape)
    maps = random(2, *shape, seed=2)
    expected = LaneConvolution(kernels)(x, maps)
    lazy = [t.conj().resolve_conj().conj() for t in (kernels, maps, x)]
    turned = [t.transpose(-1, -3).contiguous().transpose(-1, -3) for t in (kernels, maps, x)]
    double = [t.to(torch.complex128) for t in (kernels, maps, x)]
    for others in (lazy, turned, double):
        convolution = CudaConvolution(others[0], build=compiled_for_the_cpu)
        assert relative_error(convolution(others[2], others[1]), expected) < 1e-6


def test_wrong_shapes_are_refused():
    convolution = CudaConvolution(torch.ones(2, 2, 2, 3, 4, 6, 8), build=compiled_for_the_cpu)
    for shape in ((2, 4, 6, 100), (1, 4, 6, 8), (3, 4, 6, 8), (2, 4, 8, 6)):
        with pytest.raises(ValueError, match="expected a TSMI"):
            convolution(random(*shape))
    with pytest.raises(ValueError, match="coil maps"):
        convolution(random(2, 4, 6, 8), random(2, 4, 6, 10))


@pytest.mark.parametrize(
    ("kind", "half"), [(torch.float32, False), (torch.float32, True), (torch.complex64, False)]
)
def test_operators_use_it(kind, half, as_on_gpu, monkeypatch):
    shape, s = (4, 6, 8), 3
    trajectory = (torch.rand(400, 3, generator=torch.Generator().manual_seed(0)) - 0.5) ** 3 * 4
    basis = torch.linalg.qr(random(9, s, kind=kind))[0]
    kernels = toeplitz_kernels(trajectory, torch.arange(400) % 9, basis, shape)
    stored, scale = in_half_precision(kernels) if half else (kernels, 1.0)
    gram = ToeplitzGram(stored, scale=scale)
    assert isinstance(gram._fused, CudaConvolution)
    assert gram.kernels.dtype == (torch.float16 if half else kernels.dtype)
    inverse, x = gram.circulant.inverse(0.5 * gram.mean_diagonal), random(s, *shape)
    assert isinstance(gram.circulant, CirculantGram)
    assert isinstance(inverse._fused, CudaConvolution)
    found = gram(x), gram.circulant(x), inverse(x)
    monkeypatch.undo()
    gram = ToeplitzGram(kernels)
    assert gram.mean_diagonal > 0
    expected = gram(x), gram.circulant(x), gram.circulant.inverse(0.5 * gram.mean_diagonal)(x)
    for one, other in zip(found, expected, strict=True):
        assert relative_error(one, other) < (HALF_ERROR if half else 1e-5)


def test_half_precision_holds_the_range_of_kernels():
    """Of radial samples, as dense at the centre of k-space as those of a scan."""
    shape, s, n_samples = (24, 24, 24), 3, 60_000
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(n_samples, 3, generator=generator)
    radius = 0.5 * torch.rand(n_samples, 1, generator=generator)
    trajectory = radius * direction / direction.norm(dim=1, keepdim=True)
    basis = torch.linalg.qr(random(9, s, kind=torch.float32))[0]
    kernels = toeplitz_kernels(trajectory, torch.arange(n_samples) % 9, basis, shape)
    diagonal = kernels[:, :, :, 0]
    assert float(diagonal.max() / diagonal.mean()) > 2000
    halves, scale = in_half_precision(kernels)
    assert float(halves.abs().max()) == 2**15
    # No pair is crowded out by the largest one: each is rounded as well as its own numbers allow.
    for pair, kept in zip(kernels.unbind(3), halves.unbind(3), strict=True):
        large = pair.abs() > 1e-6 * pair.abs().max()
        relative = (kept.float() * scale - pair)[large] / pair[large]
        assert float(relative.abs().max()) < 2**-11 + 1e-6
    x = random(s, *shape)
    expected = LaneConvolution(kernels)(x)
    assert relative_error(rounded(kernels)(x), expected) < 2e-4
    assert relative_error(LaneConvolution(halves, scale)(x), expected) < 2e-4


def test_coils_are_convolved_one_by_one_to_spare_memory():
    shape, s = (4, 6, 10), 2
    kernels, x = hermitian((2, 2, 2), s, shape, torch.float32), random(s, *shape)
    maps = random(3, *shape, seed=2)
    convolution = CudaConvolution(kernels, coils_together=1, build=compiled_for_the_cpu)
    assert relative_error(convolution(x, maps), LaneConvolution(kernels)(x, maps)) < 1e-6


@pytest.mark.parametrize("size", [0.0, 1e-30, 1.0, 65504.0, 3e38])
def test_kernels_of_any_size_are_rounded(size):
    kernels = torch.full((2, 2, 2, 1, 2, 2, 2), size)
    halves, scale = in_half_precision(kernels)
    torch.testing.assert_close(halves.double() * scale, kernels.double(), rtol=1e-3, atol=0)


def test_complex_kernels_stay_in_single_precision():
    kernels = hermitian((2, 2, 2), 2, (2, 2, 2), torch.complex64)
    same, scale = in_half_precision(kernels)
    assert same is kernels
    assert scale == 1

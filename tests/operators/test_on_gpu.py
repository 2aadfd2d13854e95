"""The operators on a GPU against the CPU: `pytest -m cuda` runs these alone."""

import pytest
import torch
from operators.cases import random, relative_error

from mri2qmap.machine.cuda_kernels import cuda_kernels_run
from mri2qmap.operators import cuda_convolution, nufft
from mri2qmap.operators.cuda_convolution import CudaConvolution
from mri2qmap.operators.nufft import Nufft
from mri2qmap.operators.toeplitz import ToeplitzGram, in_half_precision, toeplitz_kernels

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
GPU = torch.device("cuda:0")
SAMPLES = 4000


def trajectory():
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(SAMPLES, 3, generator=generator) - 0.5) ** 3 * 4


@pytest.fixture(params=["CUDA kernels", "PyTorch"])
def fused(request, monkeypatch):
    """Whether the gram uses CUDA kernels."""
    if request.param == "PyTorch":
        monkeypatch.setattr(cuda_convolution, "cuda_kernels_run", lambda device: False)
    elif not cuda_kernels_run(GPU):
        pytest.skip("CuPy does not run kernels")
    return request.param != "PyTorch"


@pytest.fixture(params=["cufinufft", "CUDA kernels"])
def backend(request, monkeypatch):
    """The library of non-uniform transforms."""
    if request.param == "cufinufft":
        pytest.importorskip("cufinufft", exc_type=ImportError)
    elif not cuda_kernels_run(GPU):
        pytest.skip("CuPy does not run kernels")
    else:
        monkeypatch.setattr(nufft, "_cufinufft_loads", lambda: False)
    return request.param


@pytest.mark.parametrize("shape", [(16, 18, 20), (6, 74, 10)])
@pytest.mark.parametrize("n_coils", [0, 1, 5])
@pytest.mark.parametrize("kind", [torch.float32, torch.complex64])
def test_gram_and_circulant(shape, n_coils, kind, fused, monkeypatch):
    s = 4
    basis = torch.linalg.qr(random(9, s, kind=kind))[0]
    kernels = toeplitz_kernels(trajectory(), torch.arange(SAMPLES) % 9, basis, shape)
    x, maps = random(s, *shape), random(n_coils, *shape, seed=1) if n_coils else None
    on_cpu = ToeplitzGram(kernels, maps)
    # Two coils at a time.
    monkeypatch.setattr(cuda_convolution, "CONVOLVED_BYTES", 2 * x.numel() * x.element_size())
    on_gpu = ToeplitzGram(kernels.to(GPU), None if maps is None else maps.to(GPU))
    assert isinstance(on_gpu._fused, CudaConvolution) == fused
    assert relative_error(on_gpu(x.to(GPU)).cpu(), on_cpu(x)) < 1e-5
    assert relative_error(on_gpu.circulant(x.to(GPU)).cpu(), on_cpu.circulant(x)) < 1e-5
    added = 0.5 * on_cpu.mean_diagonal
    expected = on_cpu.circulant.inverse(added)(x)
    assert relative_error(on_gpu.circulant.inverse(added)(x.to(GPU)).cpu(), expected) < 1e-4
    if kind == torch.float32:
        halves, scale = in_half_precision(kernels.to(GPU))
        half = ToeplitzGram(halves, on_gpu._coil_maps, scale)
        assert half.kernels.dtype == torch.float16
        assert relative_error(half(x.to(GPU)).cpu(), on_cpu(x)) < 4e-4


def test_kernels_follow_the_stream_of_torch():
    if not cuda_kernels_run(GPU):
        pytest.skip("CuPy does not run kernels")
    shape, s = (32, 32, 32), 3
    kernels = random(2, 2, 2, 6, *shape, kind=torch.float32).abs()
    x = random(s, *shape)
    expected = ToeplitzGram(kernels)(x)
    gram, stream = ToeplitzGram(kernels.to(GPU)), torch.cuda.Stream(GPU)
    with torch.cuda.stream(stream):
        values = x.to(GPU)
        for _ in range(5):
            found = gram(values)
    stream.synchronize()
    assert relative_error(found.cpu(), expected) < 1e-5


@pytest.mark.parametrize("shape", [(16, 16, 16), (15, 8, 21), (64, 2, 48)])
@pytest.mark.parametrize("batch", [(), (3,), (2, 2)])
def test_nufft(shape, batch, backend):
    images, samples = random(*batch, *shape), random(*batch, SAMPLES)
    on_cpu, on_gpu = (Nufft(trajectory(), shape, device) for device in ("cpu", GPU))
    assert (on_gpu._own is None) == (backend == "cufinufft")
    found, back = on_gpu(images), on_gpu.H(samples)
    assert found.device == back.device == GPU
    assert relative_error(found.cpu(), on_cpu(images)) < 3e-4
    assert relative_error(back.cpu(), on_cpu.H(samples)) < 3e-4


@pytest.mark.parametrize("kind", [torch.float32, torch.complex64])
def test_toeplitz_kernels(kind, backend):
    shape = (12, 16, 10)
    basis = torch.linalg.qr(random(9, 3, kind=kind))[0]
    frames = torch.arange(SAMPLES) % 9
    expected = toeplitz_kernels(trajectory(), frames, basis, shape)
    found = toeplitz_kernels(trajectory(), frames, basis, shape, GPU)
    assert found.device == GPU
    assert relative_error(found.cpu(), expected) < 5e-4

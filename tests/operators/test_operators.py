"""What is special in each operator; what all have in common is in test_linear_operators.py."""

import itertools
import math
import sys

import numpy as np
import pytest
import torch
from operators.cases import COEFFICIENTS, SHAPE, Scan, relative_error

from mri2qmap.errors import Mri2QmapError
from mri2qmap.operators import toeplitz
from mri2qmap.operators.kernel_product import apply_kernels, pair_index
from mri2qmap.operators.nufft import Nufft
from mri2qmap.operators.subspace_sampling import SubspaceSampling
from mri2qmap.operators.toeplitz import ToeplitzGram, n_pairs, toeplitz_kernels


@pytest.fixture(params=[False, True], ids=["real basis", "complex basis"])
def scan(request):
    return Scan(request.param)


def test_nufft_of_a_point_is_a_phase_ramp():
    trajectory = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    image = torch.zeros(SHAPE, dtype=torch.complex64)
    z, y, x = 1, 2, 7
    image[z, y, x] = 1
    position = torch.tensor([x - SHAPE[2] // 2, y - SHAPE[1] // 2, z - SHAPE[0] // 2]).float()
    expected = torch.exp(-2j * math.pi * (trajectory @ position)) / math.sqrt(math.prod(SHAPE))
    torch.testing.assert_close(
        Nufft(trajectory, SHAPE, tolerance=1e-6).forward(image), expected, atol=1e-6, rtol=1e-4
    )


def test_one_uniform_coil_needs_no_map(scan):
    kernels = toeplitz_kernels(scan.trajectory, scan.frames, scan.basis, SHAPE)
    x = scan.random(COEFFICIENTS, *SHAPE)
    ones = torch.ones(1, *SHAPE, dtype=torch.complex64)
    torch.testing.assert_close(ToeplitzGram(kernels)(x), ToeplitzGram(kernels, ones)(x))


def test_kernels_of_a_real_basis_are_real_and_add_up():
    scan = Scan(complex_basis=False)
    whole = toeplitz_kernels(scan.trajectory, scan.frames, scan.basis, SHAPE)
    assert whole.dtype == torch.float32
    assert whole.shape == (2, 2, 2, n_pairs(COEFFICIENTS), *SHAPE)
    parts = [
        toeplitz_kernels(scan.trajectory[half], scan.frames[half], scan.basis, SHAPE)
        for half in (slice(0, 120), slice(120, None))
    ]
    assert relative_error(parts[0] + parts[1], whole) < 1e-3


def test_mean_diagonal(scan):
    kernels = toeplitz_kernels(scan.trajectory, scan.frames, scan.basis, SHAPE)
    gram = ToeplitzGram(kernels)
    diagonal = 0.0
    for k in range(COEFFICIENTS):
        x = torch.zeros(COEFFICIENTS, *SHAPE, dtype=torch.complex64)
        x[k, 3, 4, 5] = 1
        diagonal += float(gram(x)[k, 3, 4, 5].real) / COEFFICIENTS
    assert gram.mean_diagonal == pytest.approx(diagonal, rel=1e-3)


@pytest.mark.parametrize("kind", [torch.float32, torch.complex64])
def test_kernel_product_against_dense_matrices(kind):
    generator = torch.Generator().manual_seed(2)
    s, shape = 3, (4, 9, 17)  # more than one block of frequencies
    kernels = torch.randn(n_pairs(s), *shape, dtype=kind, generator=generator)
    matrix = torch.zeros(s, s, *shape, dtype=torch.complex64)
    for row, column in itertools.combinations_with_replacement(range(s), 2):
        kernel = kernels[pair_index(row, column, s)]
        if row == column:
            kernels[pair_index(row, column, s)] = kernel.real
            kernel = kernel.real
        matrix[row, column], matrix[column, row] = kernel, kernel.conj()
    spectra = torch.randn(2, s, *shape, dtype=torch.complex64, generator=generator)
    expected = torch.einsum("klzyx,blzyx->bkzyx", matrix, spectra)
    torch.testing.assert_close(apply_kernels(kernels, spectra.clone()), expected)


@pytest.mark.parametrize("shape", [(8, 10, 12), (4, 6, 2)])
@pytest.mark.parametrize("kind", [torch.float32, torch.complex64])
def test_kernels_by_octants_are_those_of_the_whole_grid(shape, kind, monkeypatch):
    """On a GPU, by transforms of the image grid."""
    generator = torch.Generator().manual_seed(0)
    trajectory = torch.rand(300, 3, generator=generator) - 0.5
    frames = torch.randint(7, (300,), generator=generator)
    basis = torch.randn(7, 3, dtype=kind, generator=generator)
    expected = toeplitz_kernels(trajectory, frames, basis, shape)
    sizes = []

    def nufft(trajectory, size, device):
        sizes.append(size)
        return Nufft(trajectory, size, device)

    monkeypatch.setattr(toeplitz, "Nufft", nufft)
    monkeypatch.setattr(toeplitz, "_whole_grid", toeplitz._by_octants)
    found = toeplitz_kernels(trajectory, frames, basis, shape)
    assert sizes == [shape]
    torch.testing.assert_close(found, expected, rtol=0, atol=3e-4 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Nufft(torch.zeros(5, 2), SHAPE), r"\(samples, 3\)"),
        (lambda: Nufft(torch.full((5, 3), 2.0), SHAPE), "it reaches 2"),
        (lambda: Nufft(torch.full((5, 3), math.nan), SHAPE), "it reaches nan"),
        (lambda: Nufft(torch.zeros(5, 3), SHAPE).forward(torch.zeros(2, 2, 2)), "expected"),
        (lambda: ToeplitzGram(torch.zeros(3, 2, 2)), "kernels must be"),
        (
            lambda: ToeplitzGram(torch.zeros(2, 2, 2, 1, 4, 4, 4), torch.zeros(2, 4, 4, 6)),
            "do not fit",
        ),
        (
            lambda: ToeplitzGram(torch.zeros(2, 2, 2, 1, 4, 4, 4))(torch.zeros(2, 4, 4, 4)),
            "expected a TSMI",
        ),
        (
            lambda: toeplitz_kernels(
                torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64), torch.ones(1, 1), (4, 5, 4)
            ),
            "must be even",
        ),
        (
            lambda: SubspaceSampling(
                torch.zeros(4, 3), torch.zeros(3, dtype=torch.int64), torch.ones(1, 1), SHAPE
            ),
            "3 frame indices for 4",
        ),
    ],
)
def test_refuses_what_does_not_fit(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_no_samples_give_nothing():
    nufft = Nufft(torch.zeros(0, 3), SHAPE)
    assert float(nufft.adjoint(torch.zeros(0, dtype=torch.complex64)).abs().max()) == 0


def test_gpu_without_its_libraries_says_so(monkeypatch):
    for library in ("cufinufft", "cupy"):
        monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(Mri2QmapError, match=r"cufinufft or CuPy is needed.*mri2qmap\[gpu"):
        Nufft(torch.zeros(2, 3), SHAPE, "cuda:7")


def test_plans_are_reused():
    nufft = Nufft(torch.zeros(2, 3), SHAPE)
    samples = torch.ones(3, 2, dtype=torch.complex64)
    nufft.adjoint(samples)
    plans = dict(nufft._plans)
    nufft.adjoint(samples)
    assert nufft._plans == plans
    assert np.all([plans[key] is nufft._plans[key] for key in plans])


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_with_several_threads_the_adjoint_is_the_same_to_the_last_bit(count):
    """Otherwise the same scan would give other pixels under the same UIDs."""
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(100_000, 3, generator=generator)
    radius = 0.5 * torch.rand(100_000, 1, generator=generator)
    trajectory = radius * direction / direction.norm(dim=1, keepdim=True)
    samples = torch.randn(count, 100_000, dtype=torch.complex64, generator=generator)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        nufft = Nufft(trajectory, (32, 32, 32))
        first, *others = (nufft.adjoint(samples) for _ in range(6))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(first, other) for other in others)


def test_lazily_conjugated_data_is_transformed_as_its_values():
    nufft = Nufft(torch.rand(20, 3) - 0.5, (4, 6, 8))
    image = torch.randn(2, 4, 6, 8, dtype=torch.complex64)
    samples = torch.randn(2, 20, dtype=torch.complex64)
    torch.testing.assert_close(nufft.forward(image.conj()), nufft.forward(image.conj_physical()))
    found, expected = (nufft.adjoint(y) for y in (samples.conj(), samples.conj_physical()))
    torch.testing.assert_close(found, expected)

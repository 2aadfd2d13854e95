"""Each operator by its adjoint, its gram and a dense reference, with real and complex bases."""

import itertools
import math

import numpy as np
import pytest
import torch

from mri2qmap.errors import Mri2QmapError
from mri2qmap.operators.kernel_product import apply_kernels, pair_index
from mri2qmap.operators.nufft import Nufft
from mri2qmap.operators.subspace_sampling import SubspaceSampling
from mri2qmap.operators.toeplitz import ToeplitzGram, n_pairs, toeplitz_kernels

SHAPE = (6, 10, 8)
N_FRAMES, N_COEFFICIENTS, N_COILS, N_SAMPLES = 12, 4, 3, 300


class Problem:
    def __init__(self, complex_basis: bool, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        self.generator = generator
        self.trajectory = torch.rand(N_SAMPLES, 3, generator=generator) - 0.5
        self.frames = torch.randint(N_FRAMES, (N_SAMPLES,), generator=generator)
        kind = torch.complex64 if complex_basis else torch.float32
        mixing = torch.randn(N_FRAMES, N_COEFFICIENTS, dtype=kind, generator=generator)
        self.basis = torch.linalg.qr(mixing)[0]
        self.coil_maps = self.complex(N_COILS, *SHAPE)

    def complex(self, *shape):
        return torch.randn(shape, dtype=torch.complex64, generator=self.generator)

    def dense(self):
        """A as an explicit matrix (coils * samples, s * voxels) in double precision."""
        axes = [torch.arange(n) - n // 2 for n in SHAPE]
        z, y, x = (g.flatten().double() for g in torch.meshgrid(*axes, indexing="ij"))
        kx, ky, kz = self.trajectory.double().T[:, :, None]
        fourier = torch.exp(-2j * math.pi * (kx * x + ky * y + kz * z)) / math.sqrt(len(x))
        phi = self.basis[self.frames].to(torch.complex128)
        maps = self.coil_maps.reshape(N_COILS, -1).to(torch.complex128)
        blocks = torch.einsum("nk,nv,cv->cnkv", phi, fourier, maps)
        return blocks.reshape(N_COILS * N_SAMPLES, -1)


def inner(a, b):
    return torch.vdot(a.flatten().to(torch.complex128), b.flatten().to(torch.complex128))


def relative_error(value, reference):
    return float((value - reference).norm() / reference.norm())


@pytest.fixture(params=[False, True], ids=["real basis", "complex basis"])
def problem(request):
    return Problem(request.param)


def sampling(problem):
    return SubspaceSampling(
        problem.trajectory, problem.frames, problem.basis, SHAPE, problem.coil_maps
    )


def test_nufft_is_the_adjoint_of_its_adjoint(problem):
    nufft = Nufft(problem.trajectory, SHAPE, tolerance=1e-6)
    x, y = problem.complex(2, *SHAPE), problem.complex(2, N_SAMPLES)
    assert nufft.forward(x).shape == y.shape
    assert nufft.adjoint(y).shape == x.shape
    torch.testing.assert_close(
        inner(nufft.forward(x), y), inner(x, nufft.adjoint(y)), rtol=1e-4, atol=1e-3
    )


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


def test_sampling_is_the_adjoint_of_its_adjoint(problem):
    operator = sampling(problem)
    x, y = problem.complex(N_COEFFICIENTS, *SHAPE), problem.complex(N_COILS, N_SAMPLES)
    left, right = inner(operator.forward(x), y), inner(x, operator.adjoint(y))
    assert abs(left - right) < 1e-3 * abs(left)


def test_sampling_against_the_dense_matrix(problem):
    matrix = problem.dense()
    operator = sampling(problem)
    x, y = problem.complex(N_COEFFICIENTS, *SHAPE), problem.complex(N_COILS, N_SAMPLES)
    forward = (matrix @ x.flatten().to(torch.complex128)).reshape(N_COILS, N_SAMPLES)
    adjoint = (matrix.mH @ y.flatten().to(torch.complex128)).reshape(x.shape)
    assert relative_error(operator.forward(x), forward) < 3e-4
    assert relative_error(operator.adjoint(y), adjoint) < 3e-4


@pytest.mark.parametrize("coils_at_once", [1, 2, 3])
def test_toeplitz_gram_against_the_dense_matrix(problem, coils_at_once):
    kernels = toeplitz_kernels(problem.trajectory, problem.frames, problem.basis, SHAPE)
    gram = ToeplitzGram(kernels, problem.coil_maps, coils_at_once)
    x = problem.complex(N_COEFFICIENTS, *SHAPE)
    matrix = problem.dense()
    expected = (matrix.mH @ (matrix @ x.flatten().to(torch.complex128))).reshape(x.shape)
    assert relative_error(gram(x), expected) < 1e-3


def test_toeplitz_gram_against_the_samples(problem):
    kernels = toeplitz_kernels(problem.trajectory, problem.frames, problem.basis, SHAPE)
    gram = ToeplitzGram(kernels, problem.coil_maps)
    x = problem.complex(N_COEFFICIENTS, *SHAPE)
    assert relative_error(gram(x), sampling(problem).gram(x)) < 1e-3


def test_toeplitz_gram_is_hermitian_and_positive(problem):
    kernels = toeplitz_kernels(problem.trajectory, problem.frames, problem.basis, SHAPE)
    gram = ToeplitzGram(kernels, problem.coil_maps)
    x, y = problem.complex(2, N_COEFFICIENTS, *SHAPE)
    left, right = inner(gram(x), y), inner(x, gram(y))
    assert abs(left - right) < 1e-4 * abs(left)
    assert inner(x, gram(x)).real > 0


def test_one_uniform_coil_needs_no_map(problem):
    kernels = toeplitz_kernels(problem.trajectory, problem.frames, problem.basis, SHAPE)
    x = problem.complex(N_COEFFICIENTS, *SHAPE)
    ones = torch.ones(1, *SHAPE, dtype=torch.complex64)
    torch.testing.assert_close(ToeplitzGram(kernels)(x), ToeplitzGram(kernels, ones)(x))


def test_kernels_of_a_real_basis_are_real_and_add_up():
    problem = Problem(complex_basis=False)
    whole = toeplitz_kernels(problem.trajectory, problem.frames, problem.basis, SHAPE)
    assert whole.dtype == torch.float32
    assert whole.shape == (2, 2, 2, n_pairs(N_COEFFICIENTS), *SHAPE)
    parts = [
        toeplitz_kernels(problem.trajectory[half], problem.frames[half], problem.basis, SHAPE)
        for half in (slice(0, 120), slice(120, None))
    ]
    assert relative_error(parts[0] + parts[1], whole) < 1e-3


def test_mean_diagonal(problem):
    kernels = toeplitz_kernels(problem.trajectory, problem.frames, problem.basis, SHAPE)
    gram = ToeplitzGram(kernels)
    diagonal = 0.0
    for k in range(N_COEFFICIENTS):
        x = torch.zeros(N_COEFFICIENTS, *SHAPE, dtype=torch.complex64)
        x[k, 3, 4, 5] = 1
        diagonal += float(gram(x)[k, 3, 4, 5].real) / N_COEFFICIENTS
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


def test_kernel_product_on_a_gpu_uses_the_same_pairs(monkeypatch):
    from mri2qmap.operators import kernel_product

    generator = torch.Generator().manual_seed(3)
    kernels = torch.randn(n_pairs(3), 4, 4, 4, generator=generator)
    spectra = torch.randn(1, 3, 4, 4, 4, dtype=torch.complex64, generator=generator)
    compiled = apply_kernels(kernels, spectra.clone())
    monkeypatch.setattr(kernel_product, "_on_cpu", lambda _: False)
    torch.testing.assert_close(apply_kernels(kernels, spectra.clone()), compiled)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Nufft(torch.zeros(5, 2), SHAPE), r"\(samples, 3\)"),
        (lambda: Nufft(torch.full((5, 3), 2.0), SHAPE), "it reaches 2"),
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


def test_gpu_without_its_library_says_so(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cufinufft", None)
    nufft = Nufft(torch.zeros(2, 3), SHAPE)
    nufft.device = torch.device("cuda")
    with pytest.raises(Mri2QmapError, match="cufinufft is needed"):
        nufft._plan(1, 1)


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

"""The nearest circulant against dense matrices, and as a preconditioner."""

import itertools
import math

import pytest
import torch

from mri2qmap.operators.circulant import nearest_circulant
from mri2qmap.operators.toeplitz import ToeplitzGram, n_pairs, toeplitz_kernels
from mri2qmap.recon.conjugate_gradient import conjugate_gradient

SHAPE = (4, 6, 8)
VOXELS = math.prod(SHAPE)
COEFFICIENTS = 3


@pytest.fixture(params=[torch.float32, torch.complex64], ids=["real basis", "complex basis"])
def kernels(request):
    """Kernels of samples that are dense at the centre of k-space."""
    generator = torch.Generator().manual_seed(0)
    trajectory = (torch.rand(400, 3, generator=generator) - 0.5) ** 3 * 4
    frames = torch.randint(9, (400,), generator=generator)
    mixing = torch.randn(9, COEFFICIENTS, dtype=request.param, generator=generator)
    return toeplitz_kernels(trajectory, frames, torch.linalg.qr(mixing)[0], SHAPE)


def dense(operator):
    """Matrix (s, voxels, s, voxels) of an operator on TSMIs."""
    units = torch.eye(COEFFICIENTS * VOXELS, dtype=torch.complex64)
    columns = [operator(unit.reshape(COEFFICIENTS, *SHAPE)).reshape(-1) for unit in units]
    return torch.stack(columns, dim=1).reshape(COEFFICIENTS, VOXELS, COEFFICIENTS, VOXELS)


def periodic_average(block):
    """Nearest circulant to a matrix (voxels, voxels): the mean over each periodic diagonal."""
    grids = block.reshape(*SHAPE, *SHAPE)
    column = torch.zeros(SHAPE, dtype=block.dtype)
    for voxel in itertools.product(*map(range, SHAPE)):
        column += grids[(..., *voxel)].roll([-i for i in voxel], dims=(0, 1, 2)) / VOXELS
    return column


def test_is_the_nearest_circulant(kernels):
    matrix = dense(ToeplitzGram(kernels))
    spectra = nearest_circulant(kernels.unbind(3))
    rows, columns = torch.triu_indices(COEFFICIENTS, COEFFICIENTS)
    assert len(spectra) == n_pairs(COEFFICIENTS) == len(rows)
    for spectrum, row, column in zip(spectra, rows, columns, strict=True):
        expected = torch.fft.fftn(periodic_average(matrix[row, :, column]))
        torch.testing.assert_close(spectrum + 0j, expected, atol=1e-3, rtol=1e-3)


def test_inverse_is_hermitian_and_positive(kernels):
    matrix = dense(ToeplitzGram(kernels).circulant.inverse(0.0)).reshape(
        COEFFICIENTS * VOXELS, COEFFICIENTS * VOXELS
    )
    torch.testing.assert_close(matrix, matrix.mH, atol=1e-3, rtol=1e-3)
    assert float(torch.linalg.eigvalsh(matrix).min()) > 0


def test_the_argument_is_not_changed(kernels):
    tsmi = torch.ones(COEFFICIENTS, *SHAPE, dtype=torch.complex64)
    ToeplitzGram(kernels).circulant.inverse(0.1)(tsmi)
    assert torch.equal(tsmi, torch.ones_like(tsmi))


def test_the_preconditioner_reduces_the_number_of_steps(kernels):
    gram = ToeplitzGram(kernels)
    penalty = 0.5 * gram.mean_diagonal
    generator = torch.Generator().manual_seed(2)
    tsmi = torch.randn(COEFFICIENTS, *SHAPE, dtype=torch.complex64, generator=generator)

    def operator(x):
        return gram(x) + penalty * x

    right = operator(tsmi)
    _, plain = conjugate_gradient(operator, right, None, 200, 1e-4)
    found, outcome = conjugate_gradient(
        operator, right, None, 200, 1e-4, preconditioner=gram.circulant.inverse(penalty)
    )
    assert outcome.iterations < 0.7 * plain.iterations
    torch.testing.assert_close(found, tsmi, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("kind", [torch.float16, torch.float32])
def test_the_scale_of_the_kernels_counts(kernels, kind):
    """Also of kernels that are not in half precision any more, as after a transfer."""
    if kernels.is_complex():
        pytest.skip("complex kernels have no scale")
    expected, found = ToeplitzGram(kernels), ToeplitzGram((kernels / 8).to(kind), scale=8.0)
    assert found.mean_diagonal == pytest.approx(expected.mean_diagonal, rel=1e-3)
    x = torch.randn(expected.domain_shape, dtype=torch.complex64)
    for one, other in ((found, expected), (found.circulant, expected.circulant)):
        assert float((one(x) - other(x)).norm() / other(x).norm()) < 1e-3

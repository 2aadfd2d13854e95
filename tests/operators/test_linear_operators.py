"""Every operator against its dense matrix: application, adjoint, gram, products and sums."""

import math

import pytest
import torch
from operators.cases import COEFFICIENTS, SAMPLES, SHAPE, VOXELS, Scan, check_operator, random_like

from mri2qmap import operators
from mri2qmap.operators import (
    CirculantGram,
    FiniteDifferences,
    Identity,
    Nufft,
    SubspaceSampling,
    ToeplitzGram,
    toeplitz_kernels,
)
from mri2qmap.operators.circulant import nearest_circulant
from mri2qmap.recon import DenoiserRegulariser, LocallyLowRank, TotalVariation
from mri2qmap.recon.locally_low_rank import Blocks

TSMI = (COEFFICIENTS, *SHAPE)
ONE_COIL = torch.ones(1, *SHAPE, dtype=torch.complex64)


def nufft(scan):
    return Nufft(scan.trajectory, SHAPE, tolerance=1e-6), scan.fourier(), 1e-5


def sampling(scan, coil_maps=None):
    operator = SubspaceSampling(scan.trajectory, scan.frames, scan.basis, SHAPE, coil_maps)
    return operator, scan.sampling(ONE_COIL if coil_maps is None else coil_maps), 5e-4


def toeplitz(scan, coil_maps=None):
    kernels = toeplitz_kernels(scan.trajectory, scan.frames, scan.basis, SHAPE)
    matrix = scan.sampling(ONE_COIL if coil_maps is None else coil_maps)
    return ToeplitzGram(kernels, coil_maps), matrix.mH @ matrix, 1e-3


def circulant_matrix(scan, added=None):
    """The periodic convolution, from the spectra and explicit Fourier matrices."""
    kernels = toeplitz_kernels(scan.trajectory, scan.frames, scan.basis, SHAPE)
    rows, columns = torch.triu_indices(COEFFICIENTS, COEFFICIENTS)
    spectra = nearest_circulant(kernels.unbind(3)).reshape(len(rows), -1).to(torch.complex128)
    blocks = torch.zeros(VOXELS, COEFFICIENTS, COEFFICIENTS, dtype=torch.complex128)
    blocks[:, columns, rows] = spectra.T.conj()
    blocks[:, rows, columns] = spectra.T
    if added is not None:
        identity = torch.eye(COEFFICIENTS, dtype=torch.complex128)
        blocks = torch.linalg.inv(blocks + added.reshape(-1, 1, 1) * identity)
    unit = torch.eye(VOXELS, dtype=torch.complex128).reshape(VOXELS, *SHAPE)
    fourier = torch.fft.fftn(unit, dim=(1, 2, 3)).reshape(VOXELS, VOXELS).T / math.sqrt(VOXELS)
    matrix = torch.einsum("fv,fkl,fw->kvlw", fourier.conj(), blocks, fourier)
    return matrix.reshape(COEFFICIENTS * VOXELS, COEFFICIENTS * VOXELS)


def circulant(scan):
    gram = toeplitz(scan)[0]
    assert isinstance(gram.circulant, CirculantGram)
    return gram.circulant, circulant_matrix(scan), 1e-4


def inverse(scan):
    gram = toeplitz(scan)[0]
    added = torch.rand(SHAPE, generator=scan.generator)
    matrix = circulant_matrix(scan, (added + 0.05 * gram.mean_diagonal).double())
    return gram.circulant.inverse(added), matrix, 1e-4


def difference_matrix(shape):
    """Kronecker products of one-dimensional differences, zero at the last voxel."""

    def along(axis):
        matrix = torch.eye(1, dtype=torch.complex128)
        for number, size in enumerate(shape):
            factor = torch.eye(size)
            if number == axis:
                factor = torch.diag(torch.ones(size - 1), 1) - torch.eye(size)
                factor[-1] = 0
            matrix = torch.kron(matrix, factor.to(torch.complex128))
        return matrix

    return torch.cat([along(axis) for axis in range(len(shape) - 3, len(shape))])


def differences(scan):
    return FiniteDifferences(TSMI), difference_matrix(TSMI), 1e-6


def identity(scan):
    return Identity(TSMI), torch.eye(math.prod(TSMI), dtype=torch.complex128), 1e-6


def regularised_sum(scan):
    """The operator of an X-update: gram, a multiple of the identity, a multiple of D^H D."""
    gram, matrix, _ = toeplitz(scan, scan.coil_maps)
    d = difference_matrix(TSMI)
    operator = gram + 1.5 * Identity(TSMI) + 0.7 * FiniteDifferences(TSMI).gram
    return operator, matrix + 1.5 * torch.eye(len(matrix)) + 0.7 * d.mH @ d, 1e-3


def product(scan):
    """Not self-adjoint, with different shapes, and a factor in front."""
    operator, matrix, _ = sampling(scan, scan.coil_maps)
    circular, circular_matrix, _ = circulant(scan)
    return -2.0 * (operator @ circular), -2 * matrix @ circular_matrix, 1e-3


def variation(scan):
    d = difference_matrix(TSMI)
    return TotalVariation(0.3, 1.0).quadratic(TSMI), 0.3 * d.mH @ d, 1e-6


def low_rank(scan):
    regulariser = LocallyLowRank(0.3, 1.0, (Blocks(2), Blocks(2, 1)))
    return regulariser.quadratic(TSMI), 0.3 * identity(scan)[1], 1e-6


def denoiser(scan):
    return DenoiserRegulariser(0.3, lambda x: x).quadratic(TSMI), 0.3 * identity(scan)[1], 1e-6


CASES = {
    "NUFFT": nufft,
    "subspace sampling": sampling,
    "subspace sampling, coils": lambda scan: sampling(scan, scan.coil_maps),
    "Toeplitz gram": toeplitz,
    "Toeplitz gram, coils": lambda scan: toeplitz(scan, scan.coil_maps),
    "circulant gram": circulant,
    "inverse of a circulant": inverse,
    "finite differences": differences,
    "identity": identity,
    "regularised sum": regularised_sum,
    "product": product,
    "total variation": variation,
    "locally low rank": low_rank,
    "denoiser": denoiser,
}


@pytest.mark.parametrize("complex_basis", [False, True], ids=["real basis", "complex basis"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_operator_is_its_matrix(case, complex_basis):
    check_operator(*case(Scan(complex_basis)))


def test_the_gram_of_sampling_is_the_toeplitz_gram():
    operator, _, _ = sampling(Scan(complex_basis=True))
    assert isinstance(operator.gram, ToeplitzGram)
    assert operator.gram is operator.gram  # its kernels are computed once


def test_the_gram_of_sampling_an_odd_matrix_is_the_product():
    scan, shape = Scan(complex_basis=False), (4, 5, 6)
    operator = SubspaceSampling(scan.trajectory, scan.frames, scan.basis, shape)
    x = random_like((COEFFICIENTS, *shape), 3)
    assert torch.equal(operator.gram(x), operator.H(operator(x)))
    with pytest.raises(ValueError, match="must be even"):
        operator.toeplitz_gram()


def test_nufft_takes_leading_batch_axes():
    scan = Scan(complex_basis=False)
    operator = Nufft(scan.trajectory, SHAPE)
    x, y = random_like((2, 3, *SHAPE), 1), random_like((2, 3, SAMPLES), 2)
    for result, parts in (
        (operator(x), [operator(image) for image in x.flatten(0, 1)]),
        (operator.H(y), [operator.H(samples) for samples in y.flatten(0, 1)]),
    ):
        torch.testing.assert_close(result.flatten(0, 1), torch.stack(parts))


@pytest.mark.parametrize("shape", [(5, 6, 7), (2, 3, 4, 1, 4)])
def test_finite_differences_of_any_volumes(shape):
    check_operator(FiniteDifferences(shape), difference_matrix(shape), 1e-6)
    real = FiniteDifferences(shape)(torch.ones(shape))
    assert real.dtype == torch.float32
    assert not real.any()


def test_spectrum_of_finite_differences_away_from_the_border():
    shape, axes = (2, 8, 7, 6), (1, 2, 3)
    volumes = torch.zeros(shape, dtype=torch.complex64)
    volumes[:, 2:-2, 2:-2, 2:-2] = random_like((2, 4, 3, 2), 4)
    operator = FiniteDifferences(shape)
    spectra = torch.fft.fftn(volumes, dim=axes) * operator.gram_spectrum()
    torch.testing.assert_close(torch.fft.ifftn(spectra, dim=axes), operator.gram(volumes))


def test_shapes_that_do_not_fit_are_refused():
    d, one = FiniteDifferences(SHAPE), Identity(SHAPE)
    with pytest.raises(ValueError, match=r"the product of FiniteDifferences and FiniteDifferences"):
        d @ d
    with pytest.raises(ValueError, match="the sum of FiniteDifferences and Identity: domain and"):
        d + one


@pytest.mark.parametrize("package", ["operators", "recon"])
def test_the_public_names_of_a_package_are_imported_when_used(package):
    module = pytest.importorskip(f"mri2qmap.{package}")
    assert sorted(module.__all__) == sorted(module._MODULES)
    for name in module.__all__:
        assert getattr(module, name).__name__ == name
    assert set(module.__all__) <= set(dir(module))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        operators.nothing  # noqa: B018

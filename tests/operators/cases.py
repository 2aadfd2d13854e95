"""Operators with their dense matrices, and the checks that every operator must pass."""

import dataclasses
import math

import torch

from mri2qmap.operators import LinearOperator
from mri2qmap.operators.toeplitz import n_pairs

SHAPE = (4, 6, 8)
VOXELS = math.prod(SHAPE)
FRAMES, COEFFICIENTS, COILS, SAMPLES = 9, 3, 2, 200


def random(*shape, kind=torch.complex64, seed=0):
    return torch.randn(*shape, dtype=kind, generator=torch.Generator().manual_seed(seed))


def hermitian(parities, s, shape, kind):
    """Kernels with a real diagonal."""
    kernels = random(*parities, n_pairs(s), *shape, kind=kind, seed=1)
    rows, columns = torch.triu_indices(s, s)
    kernels[:, :, :, rows == columns] = kernels[:, :, :, rows == columns].real.to(kind)
    return kernels


@dataclasses.dataclass
class Scan:
    """Random samples, dense at the centre of k-space, with the matrix of each factor of A."""

    complex_basis: bool
    seed: int = 0

    def __post_init__(self):
        self.generator = torch.Generator().manual_seed(self.seed)
        self.trajectory = (torch.rand(SAMPLES, 3, generator=self.generator) - 0.5) ** 3 * 4
        self.frames = torch.randint(FRAMES, (SAMPLES,), generator=self.generator)
        kind = torch.complex64 if self.complex_basis else torch.float32
        mixing = torch.randn(FRAMES, COEFFICIENTS, dtype=kind, generator=self.generator)
        self.basis = torch.linalg.qr(mixing)[0]
        self.coil_maps = self.random(COILS, *SHAPE)

    def random(self, *shape):
        return torch.randn(shape, dtype=torch.complex64, generator=self.generator)

    def fourier(self):
        """Matrix (samples, voxels) of the NUFFT."""
        axes = [torch.arange(n) - n // 2 for n in SHAPE]
        z, y, x = (g.flatten().double() for g in torch.meshgrid(*axes, indexing="ij"))
        kx, ky, kz = self.trajectory.double().T[:, :, None]
        return torch.exp(-2j * math.pi * (kx * x + ky * y + kz * z)) / math.sqrt(VOXELS)

    def sampling(self, coil_maps):
        """Matrix (c * samples, s * voxels) of the forward model."""
        phi = self.basis[self.frames].to(torch.complex128)
        maps = coil_maps.reshape(len(coil_maps), -1).to(torch.complex128)
        blocks = torch.einsum("nk,nv,cv->cnkv", phi, self.fourier(), maps)
        return blocks.reshape(len(coil_maps) * SAMPLES, -1)


def relative_error(value, reference):
    return float((value - reference).norm() / reference.norm())


def random_like(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.complex64, generator=generator)


def check_operator(operator: LinearOperator, matrix: torch.Tensor, tolerance: float) -> None:
    """Application, adjoint and gram against a dense matrix (range, domain) and each other."""
    domain, codomain = operator.domain_shape, operator.range_shape
    assert matrix.shape == (math.prod(codomain), math.prod(domain))
    x, y = random_like(domain, 1), random_like(codomain, 2)
    untouched = x.clone(), y.clone()

    applied, returned = operator(x), operator.H(y)
    assert applied.shape == codomain
    assert returned.shape == domain

    def dense(factor, vector, shape):
        return (factor @ vector.flatten().to(torch.complex128)).reshape(shape)

    assert relative_error(applied, dense(matrix, x, codomain)) < tolerance
    assert relative_error(returned, dense(matrix.mH, y, domain)) < tolerance
    gram = dense(matrix.mH @ matrix, x, domain)
    assert relative_error(operator.gram(x), gram) < 2 * tolerance
    assert relative_error(operator.gram(x), operator.H(operator(x))) < 3 * tolerance
    left, right = inner(applied, y), inner(x, returned)
    assert abs(left - right) < tolerance * float(applied.norm() * y.norm())

    assert torch.equal(operator @ x, applied)
    assert torch.equal((operator.H @ operator) @ x, operator.H(applied))
    assert torch.equal(operator.H.H(x), applied)
    assert (operator.H.domain_shape, operator.H.range_shape) == (codomain, domain)
    assert operator.gram.domain_shape == operator.gram.range_shape == domain
    total = operator.add_to(y.clone(), x, -0.5)
    assert relative_error(total, y - 0.5 * applied) < 1e-6
    applied.zero_()  # the results are the caller's own
    assert torch.equal(x, untouched[0])
    assert torch.equal(y, untouched[1])


def inner(a, b):
    return torch.vdot(a.flatten().to(torch.complex128), b.flatten().to(torch.complex128))

"""Undersampled scans of two blocks, and operators as matrices."""

import dataclasses
import itertools
import math

import numpy as np
import scipy.sparse
import torch

from mri2qmap.operators.subspace_sampling import SubspaceSampling
from mri2qmap.operators.toeplitz import ToeplitzGram, toeplitz_kernels
from mri2qmap.recon.conjugate_gradient import conjugate_gradient


def noise(tsmi):
    """Noise of images of even shapes, from sums of 2 x 2 x 2 voxels of alternating signs."""
    details = sum(
        (-1) ** (i + j + k) * tsmi[:, i::2, j::2, k::2]
        for i, j, k in itertools.product((0, 1), repeat=3)
    )
    magnitude = (details.abs().square().sum(0) / 8).sqrt()
    return float(magnitude.median()) / math.sqrt(len(tsmi) - 1 / 3)


def unit_of(case):
    """The unit of strengths by another formula of the noise."""
    magnitude = case.initial.abs().square().sum(0).sqrt().double()
    brightness = float((magnitude**3).sum() / (magnitude**2).sum())
    return noise(case.adjoint) * (noise(case.initial) / brightness) ** (1 / 3)


def identity_gram(n_coefficients, shape, scale=1.0):
    """Full sampling: A^H A is a multiple of the identity, and LRTV is denoising."""
    rows, columns = torch.triu_indices(n_coefficients, n_coefficients)
    kernels = torch.zeros(2, 2, 2, len(rows), *shape)
    kernels[:, :, :, rows == columns] = scale
    return ToeplitzGram(kernels)


@dataclasses.dataclass
class Case:
    """Two blocks of different fingerprint and phase, undersampled and noisy."""

    gram: ToeplitzGram
    adjoint: torch.Tensor
    initial: torch.Tensor
    truth: torch.Tensor
    data_energy: float


def make_case(shape, seed=0, noise=0.2, density=1.2):
    generator = torch.Generator().manual_seed(seed)
    frames_total, n_coefficients = 20, 2
    mixing = torch.randn(frames_total, n_coefficients, generator=generator)
    basis = torch.linalg.qr(mixing)[0].contiguous()
    z, y, x = shape
    truth = torch.zeros(n_coefficients, *shape, dtype=torch.complex64)
    truth[:, 1 : z - 1, 1 : y - 1, 1 : x - 1] = torch.tensor([1.0, -0.5])[:, None, None, None]
    truth[:, z // 3 : z // 2, y // 3 : y - 2, x // 4 : x // 2] = torch.tensor([0.4j, 0.8])[
        :, None, None, None
    ]
    samples = int(density * math.prod(shape) * n_coefficients)
    direction = torch.randn(samples, 3, generator=generator)
    radius = 0.5 * torch.rand(samples, 1, generator=generator) ** 0.5
    trajectory = radius * direction / direction.norm(dim=1, keepdim=True)
    frames = torch.arange(samples) % frames_total
    sampling = SubspaceSampling(trajectory, frames, basis, shape)
    disturbance = torch.randn(truth.shape, dtype=torch.complex64, generator=generator)
    data = sampling.forward(truth + noise * disturbance)
    adjoint = sampling.adjoint(data)
    gram = ToeplitzGram(toeplitz_kernels(trajectory, frames, basis, shape))
    initial, _ = conjugate_gradient(gram, adjoint, max_iterations=8, tolerance=1e-3)
    return Case(gram, adjoint, initial, truth, float(data.abs().square().sum()))


def dense(gram):
    """The matrix of the gram, column by column, in double precision."""
    shape = gram.domain_shape
    unit = torch.eye(math.prod(shape), dtype=torch.complex64)
    columns = [gram(column.reshape(shape)).reshape(-1) for column in unit]
    matrix = torch.stack(columns, 1).numpy().astype(np.complex128)
    return (matrix + matrix.conj().T) / 2


def difference_matrix(n_coefficients, *shape):
    """Forward differences as a sparse matrix, built from Kronecker products."""

    def along(axis):
        parts = [scipy.sparse.identity(n) for n in (n_coefficients, *shape)]
        n = shape[axis]
        step = scipy.sparse.diags([-np.ones(n), np.ones(n - 1)], [0, 1]).tolil()
        step[-1] = 0
        parts[axis + 1] = step
        product = parts[0]
        for part in parts[1:]:
            product = scipy.sparse.kron(product, part)
        return product

    return scipy.sparse.vstack([along(axis) for axis in range(3)]).tocsr()


def primal_dual(matrix, differences, right, project, iterations):
    """Chambolle and Pock's algorithm in double precision, the quadratic term solved exactly.

    The proximal step is a projection of dual variables (direction, coefficient and voxel).
    """
    size = len(right)
    sigma_tau = 1 / 12.0  # of the squared norm of 3D differences
    tau = 3.0 / np.trace(matrix).real * size * math.sqrt(sigma_tau)
    sigma = sigma_tau / tau
    inverse = np.linalg.inv(np.eye(size) + tau * matrix)
    solution = np.zeros(size, dtype=complex)
    ahead = solution
    dual = np.zeros(3 * size, dtype=complex)
    for _ in range(iterations):
        dual = (dual + sigma * (differences @ ahead)).reshape(3, size)
        dual = project(dual).reshape(-1)
        previous = solution
        solution = inverse @ (solution - tau * (differences.T @ dual) + tau * right)
        ahead = 2 * solution - previous
    return solution, dual

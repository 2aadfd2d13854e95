from __future__ import annotations

import pytest
import torch

from mri2qmap.training.muon import Muon, orthogonalise


@pytest.mark.parametrize("shape", [(8, 30), (30, 8), (16, 16), (1, 5)])
def test_singular_values_become_one_and_vectors_are_kept(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    result = orthogonalise(matrix)
    rotated = u.T @ result @ vh.T  # diagonal if the singular vectors are unchanged
    values = rotated.diagonal()
    assert 0.6 < values.min() <= values.max() < 1.3
    torch.testing.assert_close(rotated, torch.diag(values), atol=1e-4, rtol=0)


def test_the_step_is_independent_of_the_gradient_scale():
    matrix = torch.randn(6, 20, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        orthogonalise(1e-6 * matrix), orthogonalise(matrix), atol=1e-5, rtol=0
    )
    assert torch.equal(orthogonalise(torch.zeros(3, 4)), torch.zeros(3, 4))


def test_first_step_of_a_convolution():
    weight = torch.randn(4, 2, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    parameter = torch.nn.Parameter(weight.clone())
    gradient = torch.randn(weight.shape, generator=torch.Generator().manual_seed(2))
    parameter.grad = gradient.clone()
    Muon([parameter], lr=0.1).step()
    step = orthogonalise(gradient.flatten(1)).reshape(weight.shape)
    torch.testing.assert_close(parameter.detach(), weight - 0.1 * step)


def test_badly_scaled_least_squares():
    """Directions with a hundred times smaller effect converge at the same rate."""
    generator = torch.Generator().manual_seed(0)
    true = torch.randn(8, 16, generator=generator)
    inputs = torch.randn(16, 400, generator=generator) * torch.logspace(0, -2, 16)[:, None]
    weight = torch.nn.Parameter(torch.zeros_like(true))
    muon = Muon([weight], lr=0.1)
    for step in range(300):
        for group in muon.param_groups:
            group["lr"] = 0.1 * (1 - step / 300)
        muon.zero_grad()
        ((weight - true) @ inputs).square().mean().backward()
        muon.step()
    assert (weight.detach() - true).norm() < 0.2 * true.norm()

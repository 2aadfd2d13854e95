"""Inner products and norms of volumes."""

import pytest
import torch

from mri2qmap.recon.inner_products import distance, euclidean_norm, inner_product

TOLERANCE = 1e-6
SHAPE = (5, 64, 64, 64)


@pytest.fixture(scope="module")
def volumes():
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(SHAPE, dtype=torch.complex64, generator=generator) for _ in range(2)]


def test_they_agree_with_double_precision(volumes):
    a, b = volumes
    wide = a.to(torch.complex128), b.to(torch.complex128)
    exact = float(torch.vdot(wide[0].reshape(-1), wide[1].reshape(-1)).real)
    norm = float(torch.view_as_real(wide[0]).square().sum().sqrt())
    assert inner_product(a, b) == pytest.approx(exact, rel=TOLERANCE)
    assert inner_product(b, a) == pytest.approx(exact, rel=TOLERANCE)
    assert euclidean_norm(a) == pytest.approx(norm, rel=TOLERANCE)
    turned = a.conj().transpose(1, 3)  # neither contiguous nor resolved
    assert euclidean_norm(turned) == pytest.approx(norm, rel=TOLERANCE)
    assert inner_product(turned, b.conj().transpose(1, 3)) == pytest.approx(exact, rel=TOLERANCE)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.complex64, torch.complex128])
def test_arguments_of_any_precision_are_unchanged(kind):
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(3, 4, dtype=kind, generator=generator) for _ in range(2))
    before = a.clone(), b.clone()
    inner = float((a.conj() * b).real.double().sum())
    assert inner_product(a, b) == pytest.approx(inner, rel=1e-5)
    assert euclidean_norm(a) == pytest.approx(float(a.abs().double().square().sum().sqrt()))
    difference = float((a - b).abs().double().square().sum().sqrt())
    assert distance(a, b) == pytest.approx(difference, rel=1e-5)
    assert torch.equal(a, before[0])
    assert torch.equal(b, before[1])


def test_real_and_empty_tensors():
    assert inner_product(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 5.0])) == 13
    assert euclidean_norm(torch.tensor([3.0, 4.0])) == 5
    assert inner_product(torch.zeros(0), torch.zeros(0)) == euclidean_norm(torch.zeros(0)) == 0


def test_the_result_does_not_depend_on_the_number_of_threads(volumes):
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append((inner_product(*volumes), euclidean_norm(volumes[0])))
    finally:
        torch.set_num_threads(before)
    assert len(set(found)) == 1

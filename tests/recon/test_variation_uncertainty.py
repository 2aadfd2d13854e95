"""Variation of maps in the neighbourhood of each voxel, and the deviations that follow from it."""

import math

import pytest
import torch

from mri2qmap.recon.variation_uncertainty import (
    T1_ERROR,
    T2_ERROR,
    local_variation,
    variation_uncertainty,
)

LEAST = 3e-3
SHAPE = (7, 6, 5)


def everywhere(shape):
    return torch.ones(shape, dtype=torch.bool)


def by_loops(times, inside):
    """The definition, voxel by voxel."""
    places = [tuple(place) for place in inside.nonzero().tolist()]

    def squared_length(place):
        total = 0.0
        for axis in range(3):
            around = [tuple(p + s * (a == axis) for a, p in enumerate(place)) for s in (-1, 1)]
            steps = [math.log(times[place] / times[n]) ** 2 for n in around if n in places]
            total += sum(steps) / len(steps) if steps else 0.0
        return total

    squares = {place: squared_length(place) for place in places}
    variation = torch.zeros(times.shape)
    for place in places:
        near = [n for n in places if max(abs(a - b) for a, b in zip(n, place, strict=True)) <= 2]
        logarithms = [math.log(squares[n] + LEAST**2) / 2 for n in near]
        variation[place] = math.exp(sum(logarithms) / len(near))
    return variation


def test_it_is_the_definition():
    generator = torch.Generator().manual_seed(0)
    times = 0.5 + torch.rand(SHAPE, generator=generator)
    inside = torch.rand(SHAPE, generator=generator) > 0.2
    torch.testing.assert_close(local_variation(times, inside), by_loops(times, inside))


def test_what_is_outside_of_the_object_does_not_count():
    generator = torch.Generator().manual_seed(1)
    times = 0.5 + torch.rand(SHAPE, generator=generator)
    inside = torch.rand(SHAPE, generator=generator) > 0.5
    expected = local_variation(times, inside)
    for value in (0.0, math.nan, math.inf):
        assert torch.equal(local_variation(times.where(inside, value), inside), expected)
    assert not expected[~inside].any()
    assert not local_variation(times, torch.zeros_like(inside)).any()


def test_of_an_even_slope_it_is_the_step():
    z = torch.arange(9.0).exp().reshape(9, 1, 1).expand(9, 9, 9)
    torch.testing.assert_close(
        local_variation(z**0.05, everywhere((9, 9, 9))), torch.full((9, 9, 9), 0.05), rtol=5e-3,
        atol=0,
    )  # fmt: skip


def test_a_single_border_counts_little():
    """The mean of the differences over the cube of 5 would be 0.28."""
    times = torch.ones(11, 11, 11)
    times[5:] = math.e
    variation = local_variation(times, everywhere(times.shape))
    assert 0.02 < variation[4, 5, 5] < 0.1
    assert variation[1, 5, 5] == pytest.approx(LEAST)


@pytest.mark.parametrize("curve", [T1_ERROR, T2_ERROR])
def test_the_deviation_rises_with_the_variation(curve):
    found = curve(torch.logspace(-2.6, 1, 50))
    assert (found.diff() > 0).all()
    assert found[-1] <= curve.largest
    assert found[0] < 0.02


def test_deviations_are_relative_to_the_maps():
    generator = torch.Generator().manual_seed(2)
    t1 = 0.8 * torch.exp(0.1 * torch.randn(SHAPE, generator=generator))
    t2 = 0.08 * torch.exp(0.1 * torch.randn(SHAPE, generator=generator))
    inside = everywhere(SHAPE)
    inside[0] = False
    both = variation_uncertainty(t1, t2, inside)
    scaled = variation_uncertainty(2 * t1, 3 * t2, inside)
    for once, more, factor, times in zip(both, scaled, (2, 3), (t1, t2), strict=True):
        torch.testing.assert_close(more, factor * once)
        assert not once[~inside].any()
        assert (once[inside] < 0.2 * times[inside]).all()
        assert (once[inside] > 0).all()


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 4, 4), (2, 2, 2)])
def test_small_volumes(shape):
    variation = local_variation(torch.ones(shape), everywhere(shape))
    torch.testing.assert_close(variation, torch.full(shape, LEAST))

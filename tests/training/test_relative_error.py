"""The error that the training minimises: that of each voxel in units of its region."""

import pytest
import torch

from mri2qmap.training.trainer import relative_error


def test_even_errors_are_compared_as_they_are():
    before = torch.full((2, 3, 8, 8, 8), 4.0)
    unit = before.mean((2, 3, 4))
    # A tenth of the patch's error is added to that of the region.
    assert relative_error(before, before, unit) == pytest.approx(torch.full((2, 3), 1 / 1.1))
    assert relative_error(before / 4, before, unit) == pytest.approx(torch.full((2, 3), 0.25 / 1.1))


def test_a_quiet_region_counts_beside_a_loud_one():
    before = torch.ones(1, 1, 20, 8, 8)
    before[:, :, 10:] = 100
    unit = before.mean((2, 3, 4))

    def gain(region: slice) -> float:
        after = before.clone()
        after[:, :, region] = 0
        return float(relative_error(before, before, unit) - relative_error(after, before, unit))

    quiet, loud = gain(slice(0, 8)), gain(slice(12, 20))
    assert 0.1 * loud < quiet < loud  # of plain mean squares it would be a hundredth


def test_an_input_without_error_is_compared_with_the_limit():
    zero = torch.zeros(1, 1, 2, 3, 4)
    found = relative_error(zero + 1e-6, zero, torch.full((1, 1), 1e-6))
    assert float(found) == pytest.approx(10)

import numpy as np
import pytest

from mri2qmap.errors import Mri2QmapError
from mri2qmap.simulation.trajectory import (
    FULL_DENSITY,
    golden_rotations,
    plan_sampling,
    spiral_arm,
    spiral_projections,
)


@pytest.mark.parametrize("matrix", [(64, 64, 64), (48, 64, 80), (24, 24, 24)])
@pytest.mark.parametrize("acceleration", [1, 2, 4, 8])
def test_the_density_is_the_full_density_divided_by_the_acceleration(matrix, acceleration):
    plan = plan_sampling(matrix, 100, acceleration)
    expected = FULL_DENSITY / acceleration
    assert plan.total / np.prod(matrix) == pytest.approx(expected, rel=0.01)
    assert spiral_projections(plan, matrix).shape == (plan.groups, 100, plan.samples, 3)


def test_groups_can_be_chosen():
    plan = plan_sampling((64, 64, 64), 500, 2, groups=8)
    assert plan.groups == 8
    assert plan.total / 64**3 == pytest.approx(1.9, rel=0.01)


def test_the_papers_matrix_gives_six_groups_of_long_arms():
    plan = plan_sampling((224, 224, 224), 500, 8, groups=6)
    assert plan.samples == pytest.approx(1688, rel=0.06)


@pytest.mark.parametrize(("frames", "groups"), [(500, 100000), (2, 1)])
def test_impossible_arms_are_refused(frames, groups):
    with pytest.raises(Mri2QmapError, match="arms of"):
        plan_sampling((128, 128, 128), frames, 1, groups)


def test_arm_is_archimedean_and_reaches_the_edge():
    arm = spiral_arm(101, turns=3, density_exponent=1)
    radius = np.linalg.norm(arm, axis=1)
    np.testing.assert_allclose(radius, np.linspace(0, 0.5, 101), atol=1e-12)
    angle = np.unwrap(np.arctan2(arm[1:, 1], arm[1:, 0]))
    np.testing.assert_allclose(angle, 6 * np.pi * radius[1:] / 0.5, atol=1e-9)


def test_half_power_has_constant_speed():
    arm = spiral_arm(2000, turns=5, density_exponent=0.5)
    steps = np.linalg.norm(np.diff(arm, axis=0), axis=1)[400:]
    np.testing.assert_allclose(steps, steps.mean(), rtol=0.02)


def test_rotations_are_proper_and_evenly_distributed():
    turns = golden_rotations(2000)
    np.testing.assert_allclose(
        turns @ turns.swapaxes(1, 2), np.broadcast_to(np.eye(3), turns.shape), atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(turns), 1)
    for run in (turns, turns[500:600]):
        normals = run[:, :, 2]
        np.testing.assert_allclose(normals.mean(0), 0, atol=0.03)
        np.testing.assert_allclose(normals.T @ normals / len(run), np.eye(3) / 3, atol=0.03)
    # The initial direction in the plane is evenly distributed too.
    np.testing.assert_allclose(turns[:, :, 0].mean(0), 0, atol=0.03)


@pytest.fixture(scope="module")
def trajectory():
    return spiral_projections(plan_sampling((32, 32, 32), 120, 2), (32, 32, 32))


def test_samples_fill_the_sphere(trajectory):
    radius = np.linalg.norm(trajectory, axis=-1)
    np.testing.assert_allclose(radius[:, :, 0], 0, atol=1e-6)
    np.testing.assert_allclose(radius[:, :, -1], 0.5, atol=1e-6)
    assert radius.max() <= 0.5 + 1e-6
    cells = np.floor((trajectory.reshape(-1, 3) + 0.5) * 16).astype(int).clip(0, 15)
    counts = np.zeros((16, 16, 16))
    np.add.at(counts, tuple(cells.T), 1)
    centres = np.stack(np.meshgrid(*[(np.arange(16) + 0.5) / 16 - 0.5] * 3))
    inside = np.linalg.norm(centres, axis=0) < 0.47
    assert np.mean(counts[inside] == 0) < 0.01


@pytest.mark.parametrize("exponent", [0.5, 2 / 3, 1.0])
def test_the_density_decreases_with_the_documented_power(exponent):
    plan = plan_sampling((32, 32, 32), 120, 1)
    radius = np.linalg.norm(spiral_projections(plan, (32, 32, 32), exponent), axis=-1)
    edges = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    density = np.histogram(radius, edges)[0] / np.diff(edges**3)
    # Distribution of the radius, r ~ t^p.
    expected = np.diff(edges ** (1 / exponent)) / np.diff(edges**3)
    np.testing.assert_allclose(density / density.sum(), expected / expected.sum(), rtol=0.05)


def test_no_two_arms_coincide(trajectory):
    ends = trajectory[:, :, -1].reshape(-1, 3).astype(float)
    distance = np.linalg.norm(ends[:, None] - ends, axis=-1) + 9 * np.eye(len(ends))
    assert distance.min() > 0.003
    # Consecutive frames have different directions: aliasing is incoherent in time.
    first = trajectory[0, :, -1].astype(float)
    cosine = (first[1:] * first[:-1]).sum(-1) / 0.25
    assert np.median(cosine) < 0.9

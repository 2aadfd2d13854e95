from itertools import permutations, product

import numpy as np
import pytest
from export.scans import oblique_geometry, patient_coordinate

from mri2qmap.export.planes import patient_affine, slice_stack
from mri2qmap.pipeline.geometry import Geometry

ORIENTATIONS = [
    (signs, order) for signs in product((1, -1), repeat=3) for order in permutations((0, 1, 2))
]


def test_standard_axial_volume_is_not_reordered():
    stack = slice_stack(Geometry((3, 4, 5), (2e-3, 1e-3, 0.5e-3)))
    volume = np.arange(60).reshape(3, 4, 5)
    np.testing.assert_array_equal(stack.arrange(volume), volume)
    assert stack.orientation == (1, 0, 0, 0, 1, 0)
    assert stack.pixel_spacing == (1.0, 0.5)
    assert stack.slice_spacing == 2.0
    # centre voxel (1, 2, 2) lies at the origin
    np.testing.assert_allclose(stack.positions, [[-1, -2, -2], [-1, -2, 0], [-1, -2, 2]])


@pytest.mark.parametrize(("signs", "order"), ORIENTATIONS)
def test_every_voxel_keeps_its_position(signs, order):
    geometry = oblique_geometry(signs, order)
    stack = slice_stack(geometry)
    volume = np.arange(np.prod(geometry.matrix)).reshape(geometry.matrix)
    arranged = stack.arrange(volume)
    row, column = np.array(stack.orientation[:3]), np.array(stack.orientation[3:])
    for z, y, x in [(0, 0, 0), (4, 0, 0), (0, 5, 0), (0, 0, 7), (1, 4, 2)]:
        ((k, i, j),) = np.argwhere(arranged == volume[z, y, x])
        place = (
            stack.positions[k]
            + row * stack.pixel_spacing[1] * j
            + column * stack.pixel_spacing[0] * i
        )
        np.testing.assert_allclose(place, patient_coordinate(geometry, z, y, x), atol=1e-4)


@pytest.mark.parametrize(("signs", "order"), ORIENTATIONS)
def test_slices_have_radiological_orientation(signs, order):
    stack = slice_stack(oblique_geometry(signs, order))
    row, column = np.array(stack.orientation[:3]), np.array(stack.orientation[3:])
    normal = np.cross(row, column)
    left, posterior, feet = np.eye(3) * [1, 1, -1]
    expected = {2: (left, posterior), 1: (left, feet), 0: (posterior, feet)}[order[2]]
    assert row @ expected[0] > 0.8
    assert column @ expected[1] > 0.8
    # slices advance along the normal by their spacing, also for left-handed axes
    np.testing.assert_allclose(
        np.diff(stack.positions, axis=0), np.tile(normal * stack.slice_spacing, (4, 1)), atol=1e-9
    )
    np.testing.assert_allclose(row @ row, 1, atol=1e-12)
    np.testing.assert_allclose(row @ column, 0, atol=1e-12)


def test_directions_become_orthonormal_around_the_centre():
    skewed = Geometry(
        (5, 6, 8),
        (3e-3, 2e-3, 1e-3),
        (0.01, 0.02, 0.03),
        read_dir=(1.0002, 0.0004, 0.0),
        phase_dir=(0.0, 0.9999, 0.0003),
        slice_dir=(0.0, 0.0, -1.0001),
    )
    affine = patient_affine(skewed)
    directions = affine[:3, :3] / [1, 2, 3]
    np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-12)
    assert np.linalg.det(directions) == pytest.approx(-1)
    np.testing.assert_allclose(affine @ [4, 3, 2, 1], [10, 20, 30, 1])

"""Textured brains: the size of the variation, lesions of known size and contrast."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from mri2qmap.anatomy.lesions import LESIONS, Lesion, draw_lesions, place_lesions
from mri2qmap.anatomy.texture import IRON, IRON_RELAXIVITY, TextureSettings, textured_maps
from mri2qmap.anatomy.tissues import CSF, GREY_MATTER, WHITE_MATTER
from mri2qmap.errors import Mri2QmapError

AFFINE = np.diag([1.0, 1.0, 1.0, 1.0])
WHITE, CORTEX, FLUID, PALLIDUM, SKIN = 2, 3, 24, 13, 511


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    """A ball of white matter with a pallidum, in cortex, fluid and skin."""
    grid = np.ogrid[-40:40, -40:40, -40:40]
    radius = np.sqrt(sum(g.astype(float) ** 2 for g in grid))
    found = np.zeros(radius.shape, np.int16)
    for limit, label in ((39, SKIN), (35, FLUID), (32, CORTEX), (28, WHITE)):
        found[radius < limit] = label
    found[np.sqrt((grid[0] - 14) ** 2 + grid[1] ** 2 + grid[2] ** 2) < 7] = PALLIDUM
    return found


def drawn(labels, seed=0, **changes):
    settings = TextureSettings(**{"lesions": (), "vessels": 0.0, **changes})
    return textured_maps(labels, AFFINE, "ball", settings, seed)


def test_without_strength_tissues_are_uniform(labels):
    maps = drawn(labels, strength=0.0)
    inner = ndimage.binary_erosion(labels == WHITE, iterations=4) & (labels != PALLIDUM)
    inner &= ndimage.distance_transform_edt(labels != PALLIDUM) > 6
    for volume, value in (
        (maps.t1, WHITE_MATTER.t1),
        (maps.t2, WHITE_MATTER.t2),
        (maps.proton_density, WHITE_MATTER.proton_density),
    ):
        np.testing.assert_allclose(volume[inner], value, rtol=1e-4)
    np.testing.assert_allclose(maps.t1[labels == FLUID], CSF.t1, rtol=1e-4)
    assert not maps.proton_density[labels == 0].any()


def test_tissues_vary_as_much_as_the_settings_say(labels):
    flat = drawn(labels, strength=0.0)
    spread = np.zeros((2, 2))
    for seed in range(3):
        maps = drawn(labels, seed, depth=0.0, superficial=0.0)
        for row, label in enumerate((WHITE, CORTEX)):
            where = ndimage.binary_erosion(labels == label)
            for column, (a, b) in enumerate(((maps.t1, flat.t1), (maps.t2, flat.t2))):
                spread[row, column] += np.log(a / b)[where].var() / 3
        assert np.log(maps.t1 / flat.t1)[labels == FLUID].std() == 0
    settings = TextureSettings()
    white = (settings.white_t1, settings.white_t2)
    assert np.sqrt(spread[0]) == pytest.approx(white, rel=0.35)
    # Regions of the cortex differ in T1 by another 3 %.
    assert np.sqrt(spread[1, 0]) == pytest.approx(np.hypot(settings.grey_t1, 0.03), rel=0.35)
    assert np.sqrt(spread[1, 1]) == pytest.approx(settings.grey_t2, rel=0.35)


def test_texture_has_structures_of_several_sizes(labels):
    """A power law: the variation between neighbours is smaller than between distant voxels."""
    change = np.log(drawn(labels, superficial=0.0).t1 / drawn(labels, strength=0.0).t1)
    white = ndimage.binary_erosion(labels == WHITE, iterations=2)

    def difference(step):
        both = white & np.roll(white, step, 1)
        return (change - np.roll(change, step, 1))[both].std()

    near, middle, far = (difference(step) for step in (1, 4, 12))
    assert 0.2 * far < near < 0.9 * middle < far


def test_t1_falls_from_the_surface_of_the_cortex_to_the_white_matter(labels):
    maps = drawn(labels, white_t1=0, grey_t1=0, white_t2=0, grey_t2=0)
    grid = np.ogrid[-40:40, -40:40, -40:40]
    radius = np.sqrt(sum(g.astype(float) ** 2 for g in grid))
    cortex = labels == CORTEX
    outer, inner = (np.log(maps.t1[cortex & zone]).mean() for zone in (radius > 31, radius < 29))
    assert 0.05 < outer - inner < 0.12
    deep, superficial = (
        np.log(maps.t1[(labels == WHITE) & zone]).mean()
        for zone in (radius < 4, (radius > 27) & (radius < 28))
    )
    assert 0.02 < superficial - deep < 0.05


def test_iron_shortens_t2_and_the_border_is_gradual(labels):
    maps = drawn(labels, strength=0.0)
    middle = maps.t2[54, 40, 40]
    tissue = WHITE_MATTER.t2**0.65 * GREY_MATTER.t2**0.35
    assert middle == pytest.approx(1 / (1 / tissue + IRON_RELAXIVITY * IRON[PALLIDUM]), rel=0.05)
    profile = np.log(maps.t2[54, 40, 40:56])
    assert np.abs(np.diff(profile)).max() < 0.6 * (profile[-1] - profile[0])


def test_vessels_are_lines_with_long_t2(labels):
    with_vessels, without = drawn(labels, vessels=25.0), drawn(labels)
    changed = np.abs(with_vessels.t2 / without.t2 - 1) > 0.2
    assert 1e-4 < changed.mean() < 0.05
    assert (with_vessels.t2[changed] > without.t2[changed]).all()
    pieces, count = ndimage.label(changed, np.ones((3, 3, 3)))
    assert count > 3
    assert np.bincount(pieces.ravel())[1:].max() < 1000


def test_the_seed_decides(labels):
    first, again, other = (drawn(labels, seed, lesions=LESIONS) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.t1, again.t1)
    assert first.lesions == again.lesions
    assert not np.array_equal(first.t1, other.t1)


def test_lesions_lie_in_white_matter_apart_from_one_another(labels):
    maps = drawn(labels, lesions=LESIONS)
    assert [lesion.name for lesion in maps.lesions] == [lesion.name for lesion in LESIONS]
    assert maps.lesion_labels is not None
    assert set(np.unique(maps.lesion_labels)) == set(range(len(LESIONS) + 1))
    for number, lesion in enumerate(maps.lesions, start=1):
        where = maps.lesion_labels == number
        assert where.sum() == pytest.approx(np.pi / 6 * lesion.diameter_mm**3, rel=0.4)
        assert (labels[where] == WHITE).all()
        np.testing.assert_allclose(ndimage.center_of_mass(where), lesion.centre, atol=0.3)
        near = ndimage.binary_dilation(where, iterations=2)
        assert set(np.unique(maps.lesion_labels[near])) <= {0, number}
    assert not (maps.white_matter & (maps.lesion_labels > 0)).any()


def test_lesions_have_their_times(labels):
    maps, healthy = drawn(labels, lesions=LESIONS), drawn(labels)
    names = {lesion.name: number for number, lesion in enumerate(maps.lesions, start=1)}

    def inside(name):
        return ndimage.binary_erosion(maps.lesion_labels == names[name])

    bright = inside("hyperintense 8 mm")
    np.testing.assert_allclose(maps.t1[bright], 1.4, rtol=1e-3)
    np.testing.assert_allclose(maps.t2[bright], 0.15, rtol=1e-3)
    faint = inside("+10 % 8 mm")
    np.testing.assert_allclose(maps.t1[faint] / healthy.t1[faint], 1.1, rtol=1e-3)
    np.testing.assert_allclose(maps.t2[inside("bleed 6 mm")], 0.03, rtol=1e-3)
    rim = next(lesion for lesion in maps.lesions if lesion.name == "enhancing rim")
    grid = np.ogrid[tuple(slice(n) for n in maps.t1.shape)]
    distance = np.sqrt(sum((g - c) ** 2 for g, c in zip(grid, rim.centre, strict=True)))
    assert maps.t1[distance < 2].min() > 1.3
    assert maps.t1[(distance > 3.9) & (distance < 4.1)].max() < 0.5


def test_where_there_is_no_room_a_lesion_is_left_out():
    white = np.zeros((20, 20, 20), bool)
    white[8:12, 8:12, 8:12] = True
    small, large = Lesion("small", 3, 1.4, 0.15), Lesion("large", 14, 1.4, 0.15)
    rng = np.random.default_rng(0)
    assert [lesion.name for lesion in place_lesions((large, small), white, (1, 1, 1), rng)] == [
        "small"
    ]
    nowhere = np.zeros_like(white)
    assert place_lesions((small,), white, (1, 1, 1), rng, nowhere) == ()


def test_a_lesion_changes_nothing_outside_of_it():
    maps = tuple(np.full((20, 20, 20), value, np.float32) for value in (0.8, 0.07, 0.7))
    before = [volume.copy() for volume in maps]
    lesion = replace(LESIONS[1], centre=(10.0, 10.0, 10.0))
    labels = draw_lesions((lesion,), maps, (1.0, 1.0, 2.0))
    grid = np.ogrid[-10:10, -10:10, -10:10]
    outside = np.sqrt(grid[0] ** 2 + grid[1] ** 2 + (2 * grid[2]) ** 2) > 5.5
    for volume, old in zip(maps, before, strict=True):
        np.testing.assert_array_equal(volume[outside], old[outside])
    assert not labels[outside].any()
    assert labels.sum() * 2 == pytest.approx(np.pi / 6 * 8**3, rel=0.15)


@pytest.mark.parametrize(
    "change",
    [
        {"strength": -1.0},
        {"white_t1": float("nan")},
        {"wavelengths_mm": (5.0, 2.0)},
        {"lesion_radius_mm": 0.0},
    ],
)
def test_impossible_settings_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        TextureSettings(**change)


def test_labels_without_a_brain_are_refused():
    with pytest.raises(Mri2QmapError, match="no brain"):
        textured_maps(np.full((8, 8, 8), SKIN), AFFINE, "skin")

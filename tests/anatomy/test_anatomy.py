import nibabel as nib
import numpy as np
import pytest
from helpers.phantoms import affine_ras, labels_ras, write_labels

from mri2qmap.anatomy.sources import label_anatomy, load_anatomy
from mri2qmap.anatomy.tissues import (
    BRAINWEB_CLASSES,
    CSF,
    GREY_MATTER,
    MUSCLE,
    TISSUES,
    VESSELS,
    WHITE_MATTER,
)
from mri2qmap.anatomy.voxel_model import (
    Region,
    TissueFractions,
    ball_taper,
    tissue_fractions,
)
from mri2qmap.errors import Mri2QmapError
from mri2qmap.pipeline.geometry import Geometry

FOV = (0.24, 0.24, 0.24)
MATRIX = (24, 24, 24)


def of(found: TissueFractions, tissue) -> np.ndarray:
    return found.fractions[found.tissues.index(tissue)]


@pytest.mark.parametrize("axes", ["RAS", "LIA", "PSR", "ILP"])
def test_a_label_map_is_oriented_in_the_patient(tmp_path, axes):
    anatomy = load_anatomy(str(write_labels(tmp_path / "labels.nii.gz", axes)))
    found = tissue_fractions(anatomy, Region.HEAD, MATRIX, FOV)

    z, y, x = (np.arange(24) - 12 for _ in range(3))
    for tissue, direction, sign in (
        (GREY_MATTER, "x", -1),  # right of the patient; x increases to the left
        (CSF, "y", -1),  # anterior; y increases to posterior
        (VESSELS, "z", 1),  # superior
    ):
        share = of(found, tissue)
        centre = {
            "z": (share.sum((1, 2)) * z).sum(),
            "y": (share.sum((0, 2)) * y).sum(),
            "x": (share.sum((0, 1)) * x).sum(),
        }[direction] / share.sum()
        assert sign * centre > 2
    # LPS: x and y change sign. The grey and white matter end 2 voxels posterior of the brain mask.
    np.testing.assert_allclose(found.geometry.position, (-0.012, 0.020, 0.034), atol=1e-9)


def test_the_result_is_independent_of_the_source_orientation(tmp_path):
    first, second = (
        tissue_fractions(
            load_anatomy(str(write_labels(tmp_path / f"{axes}.nii.gz", axes))),
            Region.BRAIN,
            (12, 16, 20),
            (0.12, 0.24, 0.26),
        )
        for axes in ("RAS", "LIA")
    )
    np.testing.assert_allclose(first.fractions, second.fractions, atol=1e-5)


def test_an_oblique_grid_agrees_with_a_parallel_one():
    """A ball of grey matter in white matter is invariant under rotation."""
    axes = np.meshgrid(*[np.arange(40) - 19.5] * 3)
    labels = np.where(sum(a**2 for a in axes) < 8**2, 3, 2)
    anatomy = label_anatomy(labels, np.diag([2.0, 2.0, 2.0, 1.0]), "ball")
    c, s = np.cos(0.5), np.sin(0.5)
    turn = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) @ [[1, 0, 0], [0, c, s], [0, -s, c]]
    straight, oblique = (
        tissue_fractions(anatomy, Region.HEAD, (10, 10, 10), (0.04, 0.04, 0.04), d)
        for d in (None, turn)
    )
    volumes = [of(found, GREY_MATTER).sum() for found in (straight, oblique)]
    assert volumes[1] == pytest.approx(volumes[0], rel=0.02)
    # Averages over points are exact only away from the surface of the ball.
    difference = np.abs(of(straight, GREY_MATTER) - of(oblique, GREY_MATTER))
    assert difference.max() < 0.25
    assert difference.mean() < 0.02
    np.testing.assert_allclose(oblique.geometry.read_dir, turn[0])


def test_area_averaging_conserves_volume_and_gives_partial_volume():
    anatomy = label_anatomy(labels_ras(), affine_ras(), "phantom")
    coarse = tissue_fractions(anatomy, Region.HEAD, (9, 9, 9), (0.27, 0.27, 0.27))
    for tissue, label in ((WHITE_MATTER, 2), (GREY_MATTER, 3), (MUSCLE, 511)):
        expected = (labels_ras() == label).sum() * 1e-6
        assert of(coarse, tissue).sum() * 0.03**3 == pytest.approx(expected, rel=1e-5)
    assert np.any((coarse.fractions > 0.1) & (coarse.fractions < 0.9))
    assert coarse.fractions.sum(0).max() <= 1 + 1e-6


def test_fractions_of_a_voxel_at_a_border():
    # Grey above white matter; voxels of 20 mm centred on the border contain half of each.
    labels = np.full((8, 8, 8), 2)
    labels[:, :, 4:] = 3
    anatomy = label_anatomy(labels, np.diag([10.0, 10.0, 10.0, 1.0]), "halves")
    found = tissue_fractions(anatomy, Region.HEAD, (4, 4, 4), (0.08, 0.08, 0.08))
    assert of(found, GREY_MATTER)[2, 2, 2] == pytest.approx(0.5, abs=1e-6)
    assert of(found, GREY_MATTER)[3, 2, 2] == pytest.approx(1)
    assert of(found, GREY_MATTER)[1, 2, 2] == pytest.approx(0)
    assert found.proton_density()[2, 2, 2] == pytest.approx((0.85 + 0.75) / 2)
    # Rates averaged over protons.
    t2 = (0.85 + 0.75) / (0.85 / 0.09 + 0.75 / 0.07)
    assert found.t2()[2, 2, 2] == pytest.approx(t2, rel=1e-5)
    assert found.pure(GREY_MATTER)[3, 2, 2]
    assert not found.pure(GREY_MATTER)[2, 2, 2]


def test_regions_exclude_tissue_outside_the_brain():
    anatomy = label_anatomy(labels_ras(), affine_ras(), "phantom")
    head = tissue_fractions(anatomy, Region.HEAD, MATRIX, FOV)
    brain = tissue_fractions(anatomy, Region.BRAIN, MATRIX, FOV)
    assert MUSCLE in head.tissues
    assert MUSCLE not in brain.tissues
    np.testing.assert_array_equal(of(head, GREY_MATTER), of(brain, GREY_MATTER))
    np.testing.assert_array_equal(head.brain, brain.brain)


def test_the_ball_is_full_inside_and_tapered():
    anatomy = label_anatomy(np.full((30, 30, 30), 2), np.diag([5.0, 5.0, 5.0, 1.0]), "solid")
    found = tissue_fractions(anatomy, Region.BALL, (32, 32, 32), (0.064, 0.064, 0.064))
    share = of(found, WHITE_MATTER)
    radius = np.sqrt(sum(i**2 for i in np.meshgrid(*[np.arange(32) - 16] * 3))) * 2e-3
    edge = 0.99 * 0.032
    assert np.all(share[radius < 0.88 * edge - 1e-6] == 1)
    assert np.all(share[radius > edge] == 0)
    middle = np.abs(radius - 0.94 * edge) < 1e-4
    np.testing.assert_allclose(share[middle], 0.5, atol=0.05)


def test_the_ball_in_a_field_of_view_of_110_mm_is_109_mm_wide():
    geometry = Geometry((64, 64, 64), (0.11 / 64,) * 3)
    profile = ball_taper(geometry, 0.99 * 0.055)[32, 32]
    assert np.count_nonzero(profile) * 0.11 / 64 == pytest.approx(0.109, abs=0.0018)


def test_ball_avoids_the_empty_part_of_the_brain():
    labels = np.zeros((40, 40, 40), dtype=int)
    labels[4:36, 4:36, 20:36] = 2
    labels[18:22, 18:22, 4:20] = 16  # a stem that lowers the centre of the bounding box
    anatomy = label_anatomy(labels, np.diag([4.0, 4.0, 4.0, 1.0]), "stem")
    found = tissue_fractions(anatomy, Region.BALL, (16, 16, 16), (0.05, 0.05, 0.05))
    taper = ball_taper(found.geometry, 0.99 * 0.025)
    np.testing.assert_allclose(found.fractions.sum(0), taper, atol=1e-6)


def test_unknown_labels_are_listed():
    labels = labels_ras()
    labels[0, 0, :2] = (999, 1001)
    with pytest.raises(Mri2QmapError, match=r"999, 1001"):
        label_anatomy(labels, affine_ras(), "phantom")


def fuzzy() -> dict[str, np.ndarray]:
    labels = labels_ras()
    return {
        "gm": (labels == 3) * 1.0,
        "wm": np.isin(labels, (2, 30)) * 1.0,
        "csf": (labels == 24) * 1.0,
        "muscles_skin": (labels == 511) * 1.0,
        "skull": (labels == 515) * 1.0,
        "bck": (labels == 0) * 1.0,
    }


def test_folder_of_fuzzy_fractions(tmp_path):
    for name, values in fuzzy().items():
        image = nib.Nifti1Image((values * 255).astype(np.uint8), affine_ras())
        nib.save(image, tmp_path / f"subject04_{name}.nii.gz")
    anatomy = load_anatomy(str(tmp_path))
    assert anatomy.tissues == (CSF, GREY_MATTER, WHITE_MATTER, MUSCLE)
    crisp = tissue_fractions(
        label_anatomy(labels_ras(), affine_ras(), "labels"), Region.BRAIN, MATRIX, FOV
    )
    found = tissue_fractions(anatomy, Region.BRAIN, MATRIX, FOV)
    np.testing.assert_allclose(of(found, GREY_MATTER), of(crisp, GREY_MATTER), atol=1e-6)


def test_fuzzy_fractions_along_the_fourth_axis(tmp_path):
    values = fuzzy()
    order = ["bck", "csf", "gm", "wm", None, None, "muscles_skin", "skull", *[None] * 4]
    assert len(order) == len(BRAINWEB_CLASSES)
    empty = np.zeros(labels_ras().shape)
    stack = np.stack([values[n] if n else empty for n in order], axis=-1).astype(np.float32)
    nib.save(nib.Nifti1Image(stack, affine_ras()), tmp_path / "fuzzy.nii.gz")
    anatomy = load_anatomy(str(tmp_path / "fuzzy.nii.gz"))
    np.testing.assert_array_equal(anatomy.fractions[anatomy.tissues.index(CSF)], values["csf"])
    np.testing.assert_array_equal(
        anatomy.fractions[anatomy.tissues.index(MUSCLE)], values["muscles_skin"]
    )
    np.testing.assert_array_equal(anatomy.brain, np.isin(labels_ras(), (2, 3, 24, 30)))


def broken_file(folder):
    (folder / "a.nii.gz").write_bytes(b"not an image")
    return folder / "a.nii.gz"


def two_dimensional(folder):
    nib.save(nib.Nifti1Image(np.zeros((4, 4), np.uint8), np.eye(4)), folder / "a.nii")
    return folder / "a.nii"


def five_classes(folder):
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 5), np.uint8), np.eye(4)), folder / "a.nii")
    return folder / "a.nii"


def grey_levels(folder):
    image = np.linspace(0, 1, 64, dtype=np.float32).reshape(4, 4, 4)
    nib.save(nib.Nifti1Image(image, np.eye(4)), folder / "a.nii")
    return folder / "a.nii"


def no_brain(folder):
    nib.save(nib.Nifti1Image(np.full((4, 4, 4), 511, np.int16), np.eye(4)), folder / "a.nii")
    return folder / "a.nii"


def unnamed_tissue(folder):
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)), folder / "liver.nii")
    return folder


def different_grids(folder):
    for name, n in (("csf", 4), ("gm", 4), ("wm", 5)):
        image = nib.Nifti1Image(np.ones((n, n, n), np.uint8), np.eye(4))
        nib.save(image, folder / f"{name}.nii")
    return folder


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda folder: folder / "none.nii", "no such file"),
        (lambda folder: folder, "contains no tissue maps"),
        (broken_file, "cannot be read as NIfTI"),
        (two_dimensional, "2 dimensions"),
        (five_classes, "5 tissue classes"),
        (grey_levels, "whole number"),
        (no_brain, "no brain"),
        (unnamed_tissue, "does not contain a tissue"),
        (different_grids, "same 3-D grid"),
    ],
)
def test_bad_anatomies_are_refused(tmp_path, make, expected):
    with pytest.raises(Mri2QmapError, match=expected):
        load_anatomy(str(make(tmp_path)))


@pytest.fixture(scope="module")
def icbm():
    pytest.importorskip("nilearn", reason="nilearn holds the ICBM brain")
    return load_anatomy("icbm", head=True)


def test_icbm_head_has_layers_in_order(icbm):
    found = tissue_fractions(icbm, Region.HEAD, (24, 24, 24), (0.24, 0.24, 0.24))
    assert set(found.tissues) <= set(TISSUES)
    assert found.fractions.sum(0).max() <= 1 + 1e-5
    # From the centre to the skin.
    z, y, x = np.meshgrid(*[np.arange(24) - 12] * 3, indexing="ij")
    radius = np.sqrt(z**2 + y**2 + x**2)
    means = [
        float((radius * of(found, t)).sum() / of(found, t).sum())
        for t in (WHITE_MATTER, GREY_MATTER, MUSCLE)
    ]
    assert means == sorted(means)


def test_icbm_brain_volume_and_symmetry(icbm):
    found = tissue_fractions(icbm, Region.BRAIN, (24, 24, 24), (0.24, 0.24, 0.24))
    litres = sum(of(found, t).sum() for t in (GREY_MATTER, WHITE_MATTER)) * 0.01**3 * 1e3
    assert 1.3 < litres < 1.9
    grey = of(found, GREY_MATTER)
    # The template is symmetric about x = 0, the centre of voxel 12.
    assert found.geometry.position[0] == pytest.approx(0, abs=1e-3)
    np.testing.assert_allclose(grey[:, :, 1:], grey[:, :, :0:-1], atol=0.3)

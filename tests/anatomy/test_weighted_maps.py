"""Maps made from weighted images: tissues get their times, structure stays."""

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from mri2qmap.anatomy.tissues import CSF, GREY_MATTER, WHITE_MATTER
from mri2qmap.anatomy.weighted_maps import guided_filter, tissue_peaks, weighted_maps
from mri2qmap.errors import Mri2QmapError

SHAPE = (60, 60, 60)
T1W, T2W = {"fluid": 40.0, "grey": 110, "white": 165}, {"fluid": 330.0, "grey": 130, "white": 100}


@pytest.fixture
def head(tmp_path):
    """Concentric tissues with noise: the tissue of each voxel, and the two images."""
    grid = np.ogrid[-30:30, -30:30, -30:30]
    radius = np.sqrt(sum(g.astype(float) ** 2 for g in grid))
    tissue = np.select(
        [radius < 7, radius < 20, radius < 25, radius < 27], ["fluid", "white", "grey", "fluid"], ""
    )
    rng = np.random.default_rng(0)
    files = {}
    for name, values, noise in (("t1w", T1W, 6.0), ("t2w", T2W, 4.0)):
        image = np.zeros(SHAPE)
        for kind, value in values.items():
            image[tissue == kind] = value
        image = np.where(tissue != "", np.maximum(image + noise * rng.standard_normal(SHAPE), 1), 0)
        files[name] = tmp_path / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(image.astype(np.float32), np.eye(4)), files[name])
    return tissue, files["t1w"], files["t2w"]


def test_peaks_are_those_of_the_tissues():
    rng = np.random.default_rng(0)
    parts = [rng.normal(m, 8, n) for m, n in ((40, 3000), (110, 9000), (165, 8000))]
    assert tissue_peaks(np.concatenate(parts).astype(np.float32)) == pytest.approx(
        (40, 110, 165), abs=2
    )


@pytest.mark.parametrize("second", [False, True])
def test_tissues_get_their_times(head, second):
    tissue, t1w, t2w = head
    maps = weighted_maps(t1w, t2w if second else None)
    for kind, values in (("white", WHITE_MATTER), ("grey", GREY_MATTER), ("fluid", CSF)):
        where = ndimage.binary_erosion(tissue == kind, iterations=2)
        if kind == "fluid":
            where &= ndimage.binary_erosion(tissue == kind, iterations=3)
        assert np.median(maps.t1[where]) == pytest.approx(values.t1, rel=0.06)
        # Images are linear in the rates; that of fluid is near zero beside those of the others.
        assert 1 / np.median(maps.t2[where]) == pytest.approx(1 / values.t2, rel=0.1, abs=0.4)
        density = np.median(maps.proton_density[where])
        assert density == pytest.approx(values.proton_density, rel=0.03)
    np.testing.assert_array_equal(maps.brain, tissue != "")
    assert maps.white_matter[ndimage.binary_erosion(tissue == "white", iterations=2)].mean() > 0.95
    assert not maps.white_matter[tissue == "fluid"].any()
    assert maps.grey_matter[ndimage.binary_erosion(tissue == "grey")].mean() > 0.8
    assert (maps.t2 <= maps.t1).all()


def test_borders_of_t2_lie_where_those_of_t1_are(head):
    tissue, t1w, t2w = head
    maps = weighted_maps(t1w, t2w)
    white, grey = np.median(maps.t2[tissue == "white"]), np.median(maps.t2[tissue == "grey"])
    line = maps.t2[30, 30, 44:58]  # from white matter to grey matter, whose border is at 50
    middle = (white + grey) / 2
    assert (line[:5] < middle).all()
    assert (line[7:10] > middle).all()


def test_the_guided_filter_removes_noise_and_keeps_borders_of_the_guide():
    rng = np.random.default_rng(0)
    step = np.zeros((24, 24, 24), np.float32)
    step[12:] = 1
    mask = np.ones(step.shape, bool)
    mask[:, :, :4] = False
    noisy = (2 - step + 0.1 * rng.standard_normal(step.shape)).astype(np.float32)
    found = guided_filter(noisy, step, mask, (5, 5, 5), 0.02)
    assert not found[~mask].any()
    error = (found - (2 - step))[mask]
    assert np.std(error) < 0.02
    assert np.abs(found[10:14, 5:-5, 8:-5].mean((1, 2)) - [2, 2, 1, 1]).max() < 0.01
    # A structure that the guide does not have becomes the mean of its window.
    flat = guided_filter(noisy, np.ones_like(step), mask, (5, 5, 5), 0.02)
    assert 1.3 < flat[11:13, 5:-5, 8:-5].mean() < 1.7


def test_intensities_are_mapped_monotonically(head, monkeypatch):
    monkeypatch.setattr("mri2qmap.anatomy.weighted_maps.SMOOTHING_MM", 1e-3)
    _, t1w, _ = head
    image = np.asarray(nib.load(t1w).dataobj)
    t1 = weighted_maps(t1w).t1
    order = np.argsort(image[image > 0])
    assert (np.diff(t1[image > 0][order]) <= 1e-6).all()
    assert t1[image > 0].std() > 0


def test_the_second_image_may_have_another_grid(head, tmp_path):
    _, t1w, t2w = head
    image = nib.load(t2w)
    affine = np.diag([-1.0, 1.0, 1.0, 1.0])
    affine[0, 3] = SHAPE[0] - 1
    flipped = tmp_path / "flipped.nii.gz"
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[::-1], affine), flipped)
    np.testing.assert_allclose(
        weighted_maps(t1w, flipped).t2, weighted_maps(t1w, t2w).t2, rtol=1e-3
    )


def test_wrong_images_are_refused(head, tmp_path):
    _, t1w, _ = head

    def saved(values):
        path = tmp_path / "bad.nii.gz"
        nib.save(nib.Nifti1Image(np.asarray(values, np.float32), np.eye(4)), path)
        return path

    image = np.asarray(nib.load(t1w).dataobj)
    with pytest.raises(Mri2QmapError, match="without its skull"):
        weighted_maps(saved(image + 1))
    with pytest.raises(Mri2QmapError, match="are not apart"):
        weighted_maps(saved((image > 0) * 100.0))
    with pytest.raises(Mri2QmapError, match="they fall"):
        weighted_maps(t1w, t1w)
    with pytest.raises(Mri2QmapError, match="finite volume"):
        weighted_maps(saved(image[0]))

import dataclasses

import nibabel as nib
import numpy as np
import pytest
from helpers.truths import AFFINE, entry, maps_of, small_dictionary, truth_of
from matplotlib.image import imread

from mri2qmap.evaluation.figures import comparison_figure, planes


@pytest.mark.parametrize("axes", ["LPS", "RAS", "PIR", "ILA"])
def test_planes_are_radiological_whatever_the_axes(axes):
    # A marker on the patient's left, in front and on top.
    volume = np.zeros((10, 12, 14), np.float32)  # right, anterior, superior
    volume[2, 9, 11] = 1
    image = nib.Nifti1Image(volume, np.diag([2.0, 3.0, 4.0, 1.0]))
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(axes)
    )
    turned = image.as_reoriented(turn)
    array = np.ascontiguousarray(np.asarray(turned.dataobj).T)
    centre = tuple(int(i) for i in np.argwhere(array)[0])
    axial, coronal, sagittal = planes(array, turned.affine, centre)

    for (picture, aspect, letters), shape, place, ratio, expected in (
        (axial, (12, 10), (12 - 1 - 9, 10 - 1 - 2), 3 / 2, "RLAP"),
        (coronal, (14, 10), (14 - 1 - 11, 10 - 1 - 2), 4 / 2, "RLSI"),
        (sagittal, (14, 12), (14 - 1 - 11, 12 - 1 - 9), 4 / 3, "APSI"),
    ):
        assert picture.shape == shape
        assert tuple(np.argwhere(picture)[0]) == place
        assert aspect == pytest.approx(ratio)
        assert letters == expected


@pytest.mark.parametrize("count", [1, 2])
def test_figure_has_a_panel_for_each_map(tmp_path, count):
    dictionary = small_dictionary()
    truth = truth_of(dictionary, entry(dictionary, 0.75, 0.07), entry(dictionary, 1.25, 0.09))
    results = {f"method {n}": maps_of(truth) for n in range(count)}
    path = tmp_path / "figure.png"
    comparison_figure(path, truth, results, dpi=50)
    picture = imread(path)
    panels = 1 + 2 * count  # the truth, and map and error of each result
    assert picture.shape[1] == pytest.approx(50 * (1.6 * panels + 1), abs=1)
    assert picture[..., :3].std() > 0.05


def test_wrong_maps_change_the_picture(tmp_path):
    dictionary = small_dictionary()
    truth = truth_of(dictionary, entry(dictionary, 0.75, 0.07), entry(dictionary, 1.25, 0.09))
    assert np.array_equal(truth.affine, AFFINE)
    pictures = []
    for factor in (1.0, 1.3):
        maps = dataclasses.replace(maps_of(truth), t1=np.float32(factor) * truth.t1)
        comparison_figure(tmp_path / "figure.png", truth, {"maps": maps}, dpi=50)
        pictures.append(imread(tmp_path / "figure.png"))
    assert np.abs(pictures[0] - pictures[1]).max() > 0.2

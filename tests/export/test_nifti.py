import io

import nibabel as nib
import numpy as np
import pytest
from export.scans import export, nifti, oblique_geometry, random_maps, zero_maps

from mri2qmap.pipeline.items import NiftiVolume

GEOMETRY = oblique_geometry()


@pytest.mark.parametrize(
    ("file", "name", "unit"),
    [
        ("T1map.nii.gz", "t1", "[s]"),
        ("T2map.nii.gz", "t2", "[s]"),
        ("PDmap.nii.gz", "proton_density", "[no units]"),
        ("matchquality.nii.gz", "match_quality", "[no units]"),
        ("T1std.nii.gz", "t1_std", "[s]"),
        ("T2std.nii.gz", "t2_std", "[s]"),
        ("consistency.nii.gz", "consistency", "[no units]"),
    ],
)
def test_maps_in_seconds_with_axes_x_y_z(file, name, unit):
    maps = random_maps(GEOMETRY, optional=True)
    image = nifti(export(maps, dicom="none"), file)
    again = nib.Nifti1Image.from_stream(io.BytesIO(image.to_bytes()))
    truth = getattr(maps, name).abs().numpy().transpose(2, 1, 0)
    np.testing.assert_allclose(again.get_fdata(), truth, rtol=1e-6)
    assert again.get_data_dtype() == np.float32
    assert again.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(again.header.get_zooms(), (1.2, 1.7, 3.1), rtol=1e-6)
    assert unit in again.header["descrip"].tobytes().decode()


def test_display_range_is_in_the_unit_of_the_file():
    image = nifti(export(random_maps(GEOMETRY), dicom="none"), "T1map.nii.gz")
    assert (image.header["cal_min"], image.header["cal_max"]) == (0, 3)


def test_left_handed_axes_keep_their_handedness():
    image = nifti(export(random_maps(oblique_geometry((1, 1, -1)))), "T1map.nii.gz")
    right_handed = nifti(export(random_maps(oblique_geometry())), "T1map.nii.gz")
    assert np.linalg.det(image.get_qform()[:3, :3]) < 0
    assert np.linalg.det(right_handed.get_qform()[:3, :3]) > 0


@pytest.mark.parametrize("matrix", [(1, 6, 8), (5, 6, 8)])
def test_zero_and_single_slice_volumes(matrix):
    items = export(zero_maps(oblique_geometry(matrix=matrix)), dicom="none")
    names = [item.name for item in items if isinstance(item, NiftiVolume)]
    assert names == [
        "T1map.nii.gz",
        "T2map.nii.gz",
        "PDmap.nii.gz",
        "matchquality.nii.gz",
        "T1w.nii.gz",
        "T2w.nii.gz",
        "PDw.nii.gz",
    ]
    for name in names:
        assert nifti(items, name).shape == matrix[::-1]

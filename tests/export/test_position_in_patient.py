"""Position of a marker voxel, at a known patient coordinate, in every form of output."""

import ismrmrd
import numpy as np
import pytest
from export.scans import (
    export,
    nifti,
    oblique_geometry,
    parametric,
    patient_coordinate,
    random_maps,
    series,
)
from highdicom import get_volume_from_series
from highdicom.pm import ParametricMap

from mri2qmap.pipeline.items import ParameterMaps

MARKER = (1, 4, 2)
CASES = {
    "right-handed": ((1, 1, 1), (0, 1, 2)),
    "left-handed": ((1, 1, -1), (0, 1, 2)),
    "rows along the phase direction": ((-1, 1, 1), (1, 0, 2)),
    "sagittal, left-handed": ((1, -1, 1), (2, 1, 0)),
    "coronal": ((-1, -1, 1), (0, 2, 1)),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys(), scope="module")
def phantom(request):
    geometry = oblique_geometry(*request.param)
    maps = random_maps(geometry)
    maps.t1[MARKER] = 4.0
    maps.weighted[2][MARKER] = 5.0
    return maps, export(maps, mrd="both")


def truth(maps: ParameterMaps) -> np.ndarray:
    return patient_coordinate(maps.geometry, *MARKER)


def test_marker_is_not_at_the_centre(phantom):
    maps, _ = phantom
    n = np.array(maps.geometry.matrix)
    mirrored = patient_coordinate(maps.geometry, *(n - 1 - MARKER))
    assert np.abs(truth(maps) - mirrored).max() > 3


@pytest.mark.parametrize("folder", ["T1map", "PDw"])
def test_classic_dicom(phantom, folder):
    maps, items = phantom
    slices = series(items, folder)
    brightest = max(slices, key=lambda dataset: dataset.pixel_array.max())
    row, column = np.argwhere(brightest.pixel_array == brightest.pixel_array.max())[0]
    orientation = np.array(brightest.ImageOrientationPatient, dtype=float)
    between_rows, between_columns = map(float, brightest.PixelSpacing)
    # DICOM PS3.3 equation C.7.6.2.1-1
    found = (
        np.array(brightest.ImagePositionPatient, dtype=float)
        + orientation[:3] * between_columns * column
        + orientation[3:] * between_rows * row
    )
    np.testing.assert_allclose(found, truth(maps), atol=1e-3)


def test_parametric_map(phantom):
    maps, items = phantom
    dataset = parametric(items, "T1map")
    shared = dataset.SharedFunctionalGroupsSequence[0]
    frames = np.frombuffer(dataset.FloatPixelData, "<f4").reshape(
        dataset.NumberOfFrames, dataset.Rows, dataset.Columns
    )
    frame, row, column = np.unravel_index(np.argmax(frames), frames.shape)
    place = dataset.PerFrameFunctionalGroupsSequence[frame].PlanePositionSequence[0]
    orientation = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float)
    between_rows, between_columns = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    found = (
        np.array(place.ImagePositionPatient, dtype=float)
        + orientation[:3] * between_columns * column
        + orientation[3:] * between_rows * row
    )
    np.testing.assert_allclose(found, truth(maps), atol=1e-3)


def test_both_dicom_forms_read_by_highdicom(phantom):
    """An independent reader, which sorts by position, gives the same affine."""
    maps, items = phantom
    classic = get_volume_from_series(series(items, "T1map"))
    floating = ParametricMap.from_dataset(parametric(items, "T1map")).get_volume()
    for volume in (classic, floating):
        index = np.argwhere(volume.array == volume.array.max())
        found = volume.map_indices_to_reference(index)[0]
        np.testing.assert_allclose(found, truth(maps), atol=1e-3)


@pytest.mark.parametrize("form", ["sform", "qform"])
def test_nifti(phantom, form):
    maps, items = phantom
    image = nifti(items, "T1map.nii.gz")
    affine, code = getattr(image, f"get_{form}")(coded=True)
    data = image.get_fdata()
    index = np.unravel_index(np.argmax(data), data.shape)
    right_anterior_superior = (affine @ [*index, 1])[:3]
    assert code == 1
    np.testing.assert_allclose(right_anterior_superior * [-1, -1, 1], truth(maps), atol=1e-3)


@pytest.mark.parametrize("integer", [False, True])
def test_mrd(phantom, integer):
    maps, items = phantom
    (image,) = (
        ismrmrd.Image.from_bytes(item.to_bytes())
        for item in items
        if isinstance(item, ismrmrd.Image) and item.image_series_index == (101 if integer else 121)
    )
    head = image.getHead()
    assert image.data.dtype == (np.uint16 if integer else np.float32)
    _, z, y, x = np.unravel_index(np.argmax(image.data), image.data.shape)
    n = np.array(head.matrix_size)
    spacing = np.array(head.field_of_view) / n
    steps = (np.array([x, y, z]) - n // 2) * spacing
    directions = np.array([head.read_dir, head.phase_dir, head.slice_dir])
    found = np.array(head.position) + steps @ directions
    np.testing.assert_allclose(found, truth(maps), atol=1e-3)
    for name, vector in (
        ("ImageRowDir", head.read_dir),
        ("ImageColumnDir", head.phase_dir),
        ("ImageSliceDir", head.slice_dir),
    ):
        np.testing.assert_allclose([float(c) for c in image.meta[name]], list(vector), atol=1e-6)

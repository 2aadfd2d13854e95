"""The sheet of the report as a DICOM object of `parametric_maps`."""

import json

import numpy as np
import pytest
from export.scans import FRAME_UID, STUDY_UID, export, full_header, minimal_header, reread
from helpers import report_samples
from pydicom.uid import SecondaryCaptureImageStorage

from mri2qmap.export.series_identity import ExportRun
from mri2qmap.parametric_maps import ParametricMapsSettings
from mri2qmap.pipeline.items import DicomObject, Provenance

SECRET = "Lovelace^Ada"


def made_with(**settings) -> Provenance:
    """Of a run whose gadgets have such settings."""
    return Provenance("d" * 64, json.dumps(settings))


def objects(header=None, provenance=None, **settings):
    header, provenance = header or full_header(SECRET), provenance or made_with(parametric_maps={})
    items = export(report_samples.head(), header, provenance, **settings)
    return {item.path: item.dataset for item in items if isinstance(item, DicomObject)}


@pytest.fixture(scope="module")
def all_objects():
    return objects(sheet=True)


@pytest.fixture(scope="module")
def sheet(all_objects):
    return all_objects["report/0001.dcm"]


def test_sheet_is_a_series_of_the_same_study(all_objects, sheet):
    assert sheet.SOPClassUID == SecondaryCaptureImageStorage
    assert sheet.StudyInstanceUID == STUDY_UID
    assert sheet.PatientName == SECRET
    assert "FrameOfReferenceUID" not in sheet  # nobody lays it over the maps
    assert FRAME_UID not in str(sheet)
    others = [dataset for path, dataset in all_objects.items() if not path.startswith("report")]
    assert sheet.SeriesInstanceUID not in {dataset.SeriesInstanceUID for dataset in others}
    assert sheet.SeriesNumber not in {dataset.SeriesNumber for dataset in others}
    assert sheet.SeriesDescription == "Report MRI2Qmap"
    assert "not for diagnostic use" in sheet.ImageComments
    assert sheet.ContentDate == others[0].ContentDate


def test_picture_is_the_sheet_in_colour(sheet):
    picture = reread(sheet).pixel_array
    assert picture.shape == (sheet.Rows, 1240, 3)
    assert picture[0, 0].tolist() == [255, 255, 255]
    assert len(np.unique(picture[::4, ::4].reshape(-1, 3), axis=0)) > 200


def test_same_maps_give_the_same_sheet_whenever_it_is_made(sheet):
    again = objects(sheet=True)["report/0001.dcm"]
    assert reread(again).to_json() == reread(sheet).to_json()


def test_where_it_is_sent_is_not_in_the_sheet(sheet, tmp_path):
    """The object is the same, so a second push of the run is no conflict."""
    given = {"push": "PACS@host:104", "sheet": True, "spool": str(tmp_path)}
    provenance = made_with(parametric_maps=given)
    again = objects(provenance=provenance, sheet=True)["report/0001.dcm"]
    assert again.SOPInstanceUID == sheet.SOPInstanceUID
    assert again.PixelData == sheet.PixelData


def test_sheet_changes_nothing_of_the_maps(all_objects):
    without = objects()
    assert "report/0001.dcm" not in without
    for path, dataset in without.items():
        assert dataset.SOPInstanceUID == all_objects[path].SOPInstanceUID


def test_settings_and_missing_data_change_the_sheet(sheet):
    changed = {"provenance": made_with(toeplitz_cg={"iterations": 7})}
    for more in (changed, {"incomplete": "3 of 9 readouts are missing"}):
        other = objects(sheet=True, **more)["report/0001.dcm"]
        assert other.PixelData != sheet.PixelData
    assert other.SeriesDescription.startswith("PARTIAL ")
    assert "INCOMPLETE SCAN" in other.ImageComments


def test_sheet_of_a_header_that_says_little():
    found = objects(minimal_header(), sheet=True)["report/0001.dcm"]
    assert found.Rows > 500


def test_series_number_is_the_last_of_the_block_of_a_method():
    numbers = [ExportRun(None, method, 100).sheet().number for method in ("MRI2Qmap", "LLR")]
    assert numbers[0] == 139
    assert (numbers[1] - 139) % 40 == 0
    assert numbers[1] != 139
    assert ExportRun(None, series_offset=100, scan_number=5).sheet().number == 5139


def test_sheet_needs_dicom():
    with pytest.raises(ValueError, match="sheet needs DICOM objects, and dicom is none"):
        ParametricMapsSettings(sheet=True, dicom="none")

import pytest
from export.scans import export, full_header, minimal_header, parametric, random_maps, series
from export.test_dicom import GEOMETRY

from mri2qmap.export.acquisition_time import time_attributes
from mri2qmap.pipeline.acquisition_stamp import AcquisitionStamp

STUDY = {"StudyDate": "20240301", "StudyTime": "140509.250000"}
SERIES = {**STUDY, "SeriesDate": "20240302", "SeriesTime": "141000"}


def ticks(hour, minute, second):
    """Time stamp of a Siemens scanner."""
    return AcquisitionStamp(
        acquisition_time_stamp=round((3600 * hour + 60 * minute + second) * 400)
    )


@pytest.mark.parametrize(
    ("attributes", "stamp", "date", "time"),
    [
        (SERIES, ticks(14, 10, 7.5), "20240302", "141007.500000"),
        (SERIES, ticks(14, 9, 50), "20240302", "140950"),
        (SERIES, ticks(15, 10, 0), "20240302", "151000"),
        (STUDY, ticks(17, 0, 0.0025), "20240301", "170000.002500"),
        # another origin or unit
        (SERIES, ticks(15, 10, 0.01), "20240302", "141000"),
        (SERIES, ticks(14, 8, 59), "20240302", "141000"),
        (SERIES, ticks(0, 0, 12), "20240302", "141000"),
        (SERIES, AcquisitionStamp(acquisition_time_stamp=2**32 - 1), "20240302", "141000"),
        (STUDY, ticks(18, 30, 0), "20240301", "140509.250000"),
        # unknown
        (SERIES, AcquisitionStamp(), "20240302", "141000"),
        (SERIES, None, "20240302", "141000"),
        ({**STUDY, "SeriesDate": "20240302"}, None, "20240301", "140509.250000"),
        ({"StudyDate": "20240301", "StudyTime": ""}, ticks(14, 0, 0), "20240301", None),
        ({"StudyTime": "14"}, ticks(14, 0, 1), None, "140001"),
        ({}, ticks(14, 0, 0), None, None),
    ],
)
def test_time_stamp_is_used_if_consistent_with_the_header(attributes, stamp, date, time):
    found = time_attributes(attributes, stamp)
    assert (found.get("AcquisitionDate"), found.get("AcquisitionTime")) == (date, time)
    both = bool(date and time)
    assert found.get("AcquisitionDateTime") == (f"{date}{time}" if both else None)
    assert found.get("ContentDate") == (date if both else None)
    assert found.get("ContentTime") == (time if both else None)


@pytest.mark.parametrize(
    ("stamp", "time"), [(ticks(14, 10, 7.5), "141007.500000"), (None, "141000")]
)
def test_both_dicom_forms_have_the_time(stamp, time):
    items = export(random_maps(GEOMETRY), full_header(), stamp=stamp, mrd="none", nifti=False)
    for dataset in (*series(items, "T1map"), *series(items, "T2w"), parametric(items, "T2map")):
        assert (dataset.AcquisitionDate, dataset.AcquisitionTime) == ("20240301", time)
        assert (dataset.ContentDate, dataset.ContentTime) == ("20240301", time)
        assert dataset.AcquisitionDateTime == f"20240301{time}"
        assert dataset.AcquisitionNumber == 1
        assert "InstanceCreationTime" not in dataset


def test_scan_without_dates_gets_no_date():
    items = export(random_maps(GEOMETRY), minimal_header(), mrd="none")
    for keyword in ("AcquisitionDate", "AcquisitionTime", "ContentDate", "ContentTime"):
        assert keyword not in series(items, "T1map")[0]
    floats = parametric(items, "T1map")  # mandatory there
    assert (floats.ContentDate, floats.ContentTime) == ("19000101", "000000")

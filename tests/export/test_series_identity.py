"""Same numbers, UIDs and texts of a series in DICOM and MRD; marking of incomplete scans."""

import functools
from pathlib import Path

import ismrmrd
import pytest
from export.scans import (
    export,
    full_header,
    masked_maps,
    nifti,
    oblique_geometry,
    parametric,
    random_maps,
    series,
)

from mri2qmap.export.patient import scan_context
from mri2qmap.export.quantity import MAPS, QUANTITIES
from mri2qmap.export.series_identity import ExportRun, Form, scan_number
from mri2qmap.export.volumes import export_volumes
from mri2qmap.pipeline.items import DicomObject, NiftiVolume
from mri2qmap.pipeline.pipeline_file import read_pipeline

MISSING = "1 of 5 readout groups; 30 of 120 frames missing"
PIPELINES = Path(__file__).parents[2] / "pipelines"


@functools.cache
def exported(incomplete="", number=None, **settings):
    header = full_header()
    header.measurementInformation.initialSeriesNumber = number
    maps = random_maps(oblique_geometry(), optional=True)
    return export(maps, header, incomplete=incomplete, mrd="both", **settings)


def images(items):
    """MRD images by series index, as read by a client."""
    return {
        item.image_series_index: ismrmrd.Image.from_bytes(item.to_bytes())
        for item in items
        if isinstance(item, ismrmrd.Image)
    }


@functools.cache
def volumes():
    return export_volumes(random_maps(oblique_geometry(), optional=True), 0.05).volumes


def identities(**shared):
    """All series of an export."""
    run = ExportRun(scan_context(full_header(), "key"), **shared)
    return [run.series(volume, form) for volume in volumes().values() for form in Form]


@pytest.mark.parametrize("incomplete", ["", MISSING])
@pytest.mark.parametrize("form", ["uint16", "float"])
def test_mrd_images_belong_to_the_dicom_series(incomplete, form):
    items = exported(incomplete, number=3)
    found = images(items)
    for quantity in QUANTITIES if form == "uint16" else MAPS:
        if form == "uint16":
            dataset, offset = series(items, quantity)[0], 100
        else:
            dataset, offset = parametric(items, quantity), 120
        image = found[offset + QUANTITIES[quantity].series_number]
        meta = image.meta
        assert meta["SeriesInstanceUID"] == dataset.SeriesInstanceUID
        assert meta["SeriesNumber"] == str(dataset.SeriesNumber)
        assert meta["SeriesDescription"] == dataset.SeriesDescription
        assert meta["SequenceDescription"] == dataset.SeriesDescription
        assert dataset.SeriesNumber == 3000 + image.image_series_index
        assert ". ".join(meta["ImageComments"]).startswith(dataset.ImageComments)
        if form == "uint16":
            assert meta["ImageType"] == list(dataset.ImageType)
            assert meta["DicomImageType"] == "\\".join(dataset.ImageType)
            window = (float(meta["WindowCenter"]), float(meta["WindowWidth"]))
            assert window == pytest.approx((dataset.WindowCenter, dataset.WindowWidth), abs=1)
    groups = {i.meta["SeriesNumberRangeNameUID"] for i in found.values()}
    assert len(groups) == len({i.meta["SeriesInstanceUID"] for i in found.values()}) == 22


@pytest.mark.parametrize(
    ("number", "base"), [(0, 0), (1, 1000), (301, 301_000), (2**31 // 1000, 2_147_483_000)]
)
def test_series_numbers_depend_on_the_number_of_the_scan(number, base):
    found = identities(series_offset=100, scan_number=number)
    indices = {*range(101, 112), *range(121, 132)}
    assert {series.index for series in found} == indices
    assert {series.number for series in found} == {base + index for index in indices}


@pytest.mark.parametrize("number", [2**31 // 1000 + 1, 10**15])
def test_number_too_large_for_dicom_is_not_used(number):
    for identity in identities(series_offset=100, scan_number=number):
        assert identity.number == identity.index


@pytest.mark.parametrize(("number", "expected"), [(None, 0), (0, 0), (-4, 0), ("", 0), (7, 7)])
def test_scan_number(number, expected):
    header = full_header()
    header.measurementInformation.initialSeriesNumber = number
    assert scan_number(header) == expected
    header.measurementInformation = None
    assert scan_number(header) == 0


def test_methods_have_separate_series_numbers():
    methods = {
        read_pipeline(file).nodes[-1].settings.method for file in sorted(PIPELINES.glob("*.xml"))
    }
    assert len(methods) >= 7
    numbers = [
        series.number
        for method in methods
        for series in identities(method=method, series_offset=100, scan_number=3)
    ]
    assert len(set(numbers)) == len(numbers)
    assert min(numbers) > 3100
    assert max(numbers) < 4000


def test_largest_offset_fits_the_image_header():
    for method in ("MRI2Qmap", "MRF-ADMM", "\u20ac"):
        indices = {series.index for series in identities(method=method, series_offset=60_000)}
        assert len(indices) == 22
        assert max(indices) < 2**16


@pytest.mark.parametrize("method", ["MRI2Qmap", "m" * 32, "é" * 32])
def test_all_outputs_of_an_incomplete_scan_are_marked(method):
    items = exported(MISSING, method=method)
    for item in items:
        if isinstance(item, DicomObject):
            dataset = item.dataset
            assert dataset.SeriesDescription.startswith("PARTIAL ")
            assert len(dataset.SeriesDescription.encode()) <= 64
            assert dataset.ImageComments.startswith(f"INCOMPLETE SCAN: {MISSING}. ")
            assert "not for diagnostic use" in dataset.ImageComments
            assert f"INCOMPLETE SCAN: {MISSING}. " in dataset.DerivationDescription
            assert dataset.get("ContentDescription", "PARTIAL").startswith("PARTIAL")
        elif isinstance(item, NiftiVolume):
            header = item.image.header
            assert header["descrip"].tobytes().startswith(b"PARTIAL ")
            assert header["aux_file"].tobytes().startswith(b"PARTIAL")
            (comment,) = header.extensions
            assert comment.get_content() == f"INCOMPLETE SCAN: {MISSING}".encode()
    for image in images(items).values():
        meta = image.meta
        assert meta["mri2qmap_incomplete"] == MISSING
        for name in ("ImageComments", "ImageComment", "GADGETRON_ImageComment"):
            assert meta[name][0] == f"INCOMPLETE SCAN: {MISSING}"
        for name in ("SeriesDescription", "SequenceDescription", "GADGETRON_SeqDescription"):
            assert meta[name].startswith("PARTIAL ")
        assert meta["SequenceDescriptionAdditional"].startswith("PARTIAL_")


def test_outputs_of_a_complete_scan_are_not_marked():
    for item in exported():
        text = item.meta.serialize() if isinstance(item, ismrmrd.Image) else ""
        text += str(item.dataset) if isinstance(item, DicomObject) else ""
        text += str(item.image.header) if isinstance(item, NiftiVolume) else ""
        assert text
        assert "partial" not in text.lower()
        assert "incomplete" not in text.lower()


def test_description_of_missing_readouts_may_contain_any_character():
    items = export(random_maps(oblique_geometry()), incomplete="a\\b\n\0<&é" + "x" * 5000)
    image = next(iter(images(items).values()))
    assert image.meta["mri2qmap_incomplete"].startswith("a/b<&éxxx")
    assert series(items, "T1map")[0].ImageComments.startswith("INCOMPLETE SCAN: a/b<&éxxx")
    assert parametric(items, "T1map").DerivationDescription.endswith("diagnostic use.")
    assert nifti(items, "T1map.nii.gz").header["descrip"].tobytes().startswith(b"PARTIAL T1 map")


def test_masked_voxels_are_padding():
    items = export(masked_maps(), mrd="both", mrd_layout="slices")
    for quantity in QUANTITIES:
        masked = quantity in ("T1map", "T2map", "T1std", "T2std", "consistency")
        for dataset in series(items, quantity):
            assert dataset.get("PixelPaddingValue") == (0 if masked else None)
            assert (dataset.pixel_array == 0).any() == masked
        if quantity in MAPS:
            floating = parametric(items, quantity)
            assert floating.get("FloatPixelPaddingValue") == (0 if masked else None)
    for item in items:
        if isinstance(item, ismrmrd.Image):
            masked = item.meta["Unit"] == "ms" or "CONSISTENCY" in item.meta["DataRole"]
            assert item.meta.get("PixelPaddingValue") == ("0" if masked else None)


def test_zero_is_not_padding_if_it_is_also_a_value():
    maps = masked_maps()
    maps.t1_std[0, 0, 7] = 0.0  # certain
    maps.t2[0, 1, 7] = 0.0001  # less than half a step
    items = export(maps)
    assert [s.PixelPaddingValue for s in series(items, "T1map")] == [0] * 5
    for stem in ("T1std", "T2map"):
        assert not any("PixelPaddingValue" in dataset for dataset in series(items, stem))
        assert "FloatPixelPaddingValue" not in parametric(items, stem)
    unmasked = export(random_maps(oblique_geometry()))
    assert not any("PixelPaddingValue" in dataset for dataset in series(unmasked, "T1map"))


def test_colour_table_is_set_for_relaxation_times_only():
    plain = images(exported())
    for index, image in images(exported(lut="MicroDeltaHotMetal.pal")).items():
        expected = "MicroDeltaHotMetal.pal" if index % 20 in (1, 2, 8, 9) else None
        assert image.meta.get("LUTFileName") == expected
        assert image.meta.get("GADGETRON_ColorMap") == expected
        assert "LUTFileName" not in plain[index].meta

import dataclasses

import ismrmrd
import numpy as np
import pytest
import torch
from export.scans import export, minimal_header, oblique_geometry, random_maps, scan_info

from mri2qmap.errors import Mri2QmapError
from mri2qmap.parametric_maps import ParametricMapsSettings, parametric_maps
from mri2qmap.pipeline.items import DicomObject, NiftiVolume, Tsmi
from mri2qmap.pipeline.progress import Reporter
from mri2qmap.pipeline.scan_header import ScanInfo
from mri2qmap.pipeline.settings import parse_settings

GEOMETRY = oblique_geometry()


def run(items, **settings):
    scan = scan_info(minimal_header())
    return list(parametric_maps(iter(items), scan, ParametricMapsSettings(**settings)))


def paths(items):
    return {item.path for item in items if isinstance(item, DicomObject)}


def test_finished_items_pass_and_the_others_end_here():
    image = ismrmrd.Image.from_array(np.zeros((2, 3, 4), np.float32), transpose=False)
    dicom, nifti = DicomObject(None, "a.dcm"), NiftiVolume(None, "a.nii.gz")
    tsmi = Tsmi(torch.zeros(2, *GEOMETRY.matrix, dtype=torch.complex64), GEOMETRY)
    acquisition = ismrmrd.Acquisition()
    nothing = {"dicom": "none", "mrd": "none", "nifti": False}
    sent = [acquisition, image, tsmi, dicom, random_maps(GEOMETRY), nifti]
    assert run(sent, **nothing) == [image, dicom, nifti]


def test_results_come_when_the_maps_do_not_at_the_end():
    def stream():
        yield random_maps(GEOMETRY)
        raise AssertionError("the maps' results were not taken first")

    scan = scan_info(minimal_header())
    settings = ParametricMapsSettings()
    assert isinstance(next(parametric_maps(stream(), scan, settings)), DicomObject)


def test_a_stream_without_maps_is_an_error():
    with pytest.raises(Mri2QmapError, match=r"without parameter maps.*combined_matching"):
        run([ismrmrd.Acquisition()])


def test_a_second_set_of_maps_is_an_error():
    with pytest.raises(Mri2QmapError, match="second set of parameter maps"):
        run([random_maps(GEOMETRY), random_maps(GEOMETRY)])


@pytest.mark.parametrize(
    ("settings", "folders"),
    [
        (
            {"dicom": "both"},
            {"T1map", "T2map", "PDmap", "matchquality", "T1w", "T2w", "PDw", "parametric"},
        ),
        (
            {"dicom": "classic", "synthetic_images": False},
            {"T1map", "T2map", "PDmap", "matchquality"},
        ),
        ({"dicom": "parametric"}, {"T1w", "T2w", "PDw", "parametric"}),
        ({"dicom": "parametric", "synthetic_images": False}, {"parametric"}),
        ({"dicom": "none"}, set()),
    ],
)
def test_dicom_forms(settings, folders):
    found = paths(export(random_maps(GEOMETRY), mrd="none", nifti=False, **settings))
    assert {path.split("/")[0] for path in found} == folders


@pytest.mark.parametrize(
    ("settings", "images", "niftis"),
    [
        ({}, 7, 7),
        ({"mrd": "both"}, 14, 7),
        ({"mrd": "none"}, 0, 7),
        ({"nifti": False}, 7, 0),
        ({"synthetic_images": False}, 4, 4),
        ({"mrd_layout": "slices"}, 35, 7),
    ],
)
def test_other_forms(settings, images, niftis):
    items = export(random_maps(GEOMETRY), dicom="none", **settings)
    assert sum(isinstance(item, ismrmrd.Image) for item in items) == images
    assert sum(isinstance(item, NiftiVolume) for item in items) == niftis


def test_series_offset_moves_all_series():
    items = export(random_maps(GEOMETRY), mrd="both", series_offset=2000)
    numbers = {i.dataset.SeriesNumber for i in items if isinstance(i, DicomObject)}
    indices = {i.image_series_index for i in items if isinstance(i, ismrmrd.Image)}
    assert numbers == {*range(2001, 2008), *range(2021, 2025)}
    assert indices == {*range(2001, 2008), *range(2021, 2028)}


def test_mask_threshold_is_used():
    maps = random_maps(GEOMETRY)
    maps.proton_density[0] = 0.2
    kept, masked = (
        next(
            i.image
            for i in export(maps, dicom="none", mask_threshold=t)
            if isinstance(i, NiftiVolume)
        )
        for t in (0.05, 0.2)
    )
    assert (kept.get_fdata() > 0).all()
    assert (masked.get_fdata()[:, :, 0] == 0).all()
    assert (masked.get_fdata()[:, :, 1:] > 0).all()


def test_voxels_that_are_not_finite_are_logged():
    lines = []

    class Listener(Reporter):
        def log(self, text: str) -> None:
            lines.append(text)

    scan = scan_info(minimal_header())
    scan = ScanInfo(scan.header, scan.sequence, scan.matrix, scan.voxel_size, report=Listener())
    maps = random_maps(GEOMETRY)
    maps.t2[0, 0, :3] = torch.nan
    list(parametric_maps(iter([maps]), scan, ParametricMapsSettings()))
    assert lines == ["parametric_maps: 3 voxels are not finite and written as 0"]


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("dicom", "enhanced", "classic"),
        ("mrd", "int8", "uint16"),
        ("mrd_layout", "slice", "slices"),
        ("lut", "a/b.pal", "without a path"),
        ("lut", "x" * 65, "at most 64"),
        ("nifti", "perhaps", "true"),
        ("synthetic_images", "2", "true"),
        ("mask_threshold", "-0.1", "at least 0"),
        ("mask_threshold", "1", "below 1"),
        ("mask_threshold", "nan", "number"),
        ("series_offset", "-1", "0 to 60000"),
        ("series_offset", "60001", "0 to 60000"),
        ("series_offset", "1.5", "whole number"),
        ("method", " ", "1 to 32"),
        ("method", "x" * 33, "1 to 32"),
        ("method", "a\\b", "no backslash"),
    ],
)
def test_bad_properties_are_refused_by_name(name, value, allowed):
    with pytest.raises(Mri2QmapError, match=f"(?s){name}.*{allowed}"):
        parse_settings(ParametricMapsSettings, {name: value}, "parametric_maps")


def test_layout_and_colour_table_are_read():
    given = {"mrd_layout": "slices", "lut": "MicroDeltaHotMetal.pal"}
    settings = parse_settings(ParametricMapsSettings, given, "parametric_maps")
    assert (settings.mrd_layout, settings.lut) == ("slices", "MicroDeltaHotMetal.pal")


def test_properties_are_read():
    settings = parse_settings(
        ParametricMapsSettings,
        {"dicom": "classic", "mrd": "uint16", "nifti": "false", "mask_threshold": "0.02"},
        "parametric_maps",
    )
    assert settings == ParametricMapsSettings("classic", "uint16", False, True, 0.02)


def test_a_mask_that_leaves_nothing_is_refused():
    maps = random_maps(GEOMETRY)
    spots = torch.zeros(maps.t1.shape, dtype=torch.complex64)
    spots[::3, ::3, ::3] = 1  # no surroundings reach the threshold
    with pytest.raises(Mri2QmapError, match=r'T1map is zero everywhere: .*mask_threshold="0.9"'):
        export(dataclasses.replace(maps, proton_density=spots), mask_threshold=0.9)

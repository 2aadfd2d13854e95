import dataclasses
import functools
import re
import shutil
import subprocess

import nibabel as nib
import numpy as np
import pydicom
import pytest
from export.scans import (
    FRAME_UID,
    STUDY_UID,
    export,
    full_header,
    masked_maps,
    minimal_header,
    nifti,
    oblique_geometry,
    parametric,
    random_maps,
    reread,
    series,
    zero_maps,
)
from highdicom.pm import ParametricMap

from mri2qmap.export.planes import slice_stack
from mri2qmap.mrsignal.synthesis import SpinEcho
from mri2qmap.pipeline.geometry import Geometry
from mri2qmap.pipeline.items import DicomObject, Provenance

GEOMETRY = oblique_geometry()
MAP_STEMS = ["T1map", "T2map", "PDmap", "matchquality"]
WEIGHTED_STEMS = ["T1w", "T2w", "PDw"]


@pytest.fixture(scope="module")
def items():
    return export(random_maps(GEOMETRY), full_header())


def arranged(tensor):
    return slice_stack(GEOMETRY).arrange(np.abs(tensor.numpy()))


def real_world(dataset):
    """Pixels in the unit, by the real-world value mapping of the data set."""
    (mapping,) = dataset.RealWorldValueMappingSequence
    pixels = dataset.pixel_array.astype(float)
    assert mapping.RealWorldValueFirstValueMapped <= pixels.min()
    assert mapping.RealWorldValueLastValueMapped >= pixels.max()
    return pixels * mapping.RealWorldValueSlope + mapping.RealWorldValueIntercept


@pytest.mark.parametrize(
    ("stem", "name", "factor", "step", "unit", "code", "image_type"),
    [
        ("T1map", "t1", 1e3, 1.0, "ms", "113063", ["DERIVED", "PRIMARY", "T1 MAP"]),
        ("T2map", "t2", 1e3, 1.0, "ms", "113065", ["DERIVED", "PRIMARY", "T2 MAP"]),
        (
            "PDmap",
            "proton_density",
            1.0,
            2.0 / 2900,
            "1",
            "113058",
            ["DERIVED", "PRIMARY", "DENSITY MAP"],
        ),
        (
            "matchquality",
            "match_quality",
            1.0,
            2.5e-4,
            "1",
            "MATCHQUALITY",
            ["DERIVED", "PRIMARY", "OTHER", "MATCH QUALITY"],
        ),
    ],
)
def test_classic_maps(items, stem, name, factor, step, unit, code, image_type):
    truth = arranged(getattr(random_maps(GEOMETRY), name)) * factor
    slices = series(items, stem)
    assert [s.InstanceNumber for s in slices] == [1, 2, 3, 4, 5]
    for dataset, expected in zip(slices, truth, strict=True):
        assert dataset.SOPClassUID == pydicom.uid.MRImageStorage
        assert list(dataset.ImageType) == image_type
        np.testing.assert_allclose(real_world(dataset), expected, atol=0.501 * step)
        (mapping,) = dataset.RealWorldValueMappingSequence
        assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == unit
        assert mapping.MeasurementUnitsCodeSequence[0].CodingSchemeDesignator == "UCUM"
        (quantity,) = mapping.QuantityDefinitionSequence
        assert quantity.ConceptCodeSequence[0].CodeValue == code
        assert "RescaleSlope" not in dataset
        assert dataset.pixel_array.dtype == np.uint16
    windows = {(s.WindowCenter, s.WindowWidth) for s in slices}
    assert len(windows) == 1


@pytest.mark.parametrize(
    ("stem", "name", "code", "step", "words"),
    [
        ("T1std", "t1_std", "113063", 1.0, "T1 standard deviation in ms MRI2Qmap"),
        ("T2std", "t2_std", "113065", 0.1, "T2 standard deviation in 0.1 ms MRI2Qmap"),
    ],
)
def test_standard_deviations_are_coded_as_a_derivation_of_the_quantity(
    stem, name, code, step, words
):
    maps = random_maps(GEOMETRY, optional=True)
    items = export(maps)
    truth = arranged(getattr(maps, name)) * 1e3
    floating = parametric(items, stem)
    np.testing.assert_allclose(ParametricMap.from_dataset(floating).pixel_array, truth, rtol=1e-6)
    shared = floating.SharedFunctionalGroupsSequence[0]
    mappings = [shared.RealWorldValueMappingSequence[0]]
    for dataset, expected in zip(series(items, stem), truth, strict=True):
        np.testing.assert_allclose(real_world(dataset), expected, atol=0.501 * step)
        mappings.append(dataset.RealWorldValueMappingSequence[0])
        assert dataset.SeriesDescription == words
    assert floating.SeriesDescription == words.replace("0.1 ", "")
    for mapping in mappings:
        quantity, derivation = mapping.QuantityDefinitionSequence
        assert quantity.ConceptCodeSequence[0].CodeValue == code
        assert derivation.ConceptNameCodeSequence[0].CodeValue == "121401"
        assert derivation.ConceptCodeSequence[0].CodeValue == "386136009"
        assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "ms"


def test_consistency_has_no_unit_and_a_private_code():
    maps = random_maps(GEOMETRY, optional=True)
    items = export(maps)
    truth = arranged(maps.consistency)
    floating = parametric(items, "consistency")
    np.testing.assert_allclose(ParametricMap.from_dataset(floating).pixel_array, truth, rtol=1e-6)
    shared = floating.SharedFunctionalGroupsSequence[0]
    mappings = [shared.RealWorldValueMappingSequence[0]]
    for dataset, expected in zip(series(items, "consistency"), truth, strict=True):
        np.testing.assert_allclose(real_world(dataset), expected, atol=0.501 / 400)
        assert list(dataset.ImageType) == ["DERIVED", "PRIMARY", "OTHER", "CONSISTENCY"]
        assert dataset.SeriesDescription == "Data-prior inconsistency in 0.0025 MRI2Qmap"
        assert (dataset.WindowCenter, dataset.WindowWidth) == (1000, 2000)
        mappings.append(dataset.RealWorldValueMappingSequence[0])
    for mapping in mappings:
        (quantity,) = mapping.QuantityDefinitionSequence
        assert quantity.ConceptCodeSequence[0].CodeValue == "CONSISTENCY"
        assert quantity.ConceptCodeSequence[0].CodingSchemeDesignator == "99MRI2QMAP"
        assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "1"
        assert mapping.MeasurementUnitsCodeSequence[0].CodingSchemeDesignator == "UCUM"


def test_optional_maps_do_not_change_other_outputs():
    plain = export(random_maps(GEOMETRY), full_header())
    more = export(random_maps(GEOMETRY, optional=True), full_header())
    texts = [str(vars(item)) for item in plain if isinstance(item, DicomObject)]
    assert not any("std" in text or "consistency" in text for text in texts)
    datasets = {i.path: i.dataset for i in more if isinstance(i, DicomObject)}
    for item in plain:
        if isinstance(item, DicomObject):
            assert datasets[item.path] == item.dataset
    assert len(more) == len(plain) + 4 * (GEOMETRY.matrix[0] + 1 + 1 + 1)  # DICOM, MRD, NIfTI


@pytest.mark.parametrize(
    ("stem", "index", "tr", "te"),
    [("T1w", 0, 500, 10), ("T2w", 1, 5000, 100), ("PDw", 2, 5000, 10)],
)
def test_classic_weighted_images(items, stem, index, tr, te):
    truth = arranged(random_maps(GEOMETRY).weighted[index])
    slices = series(items, stem)
    pixels = np.stack([s.pixel_array for s in slices]).astype(float)
    scale = (pixels * truth).sum() / (truth * truth).sum()
    np.testing.assert_allclose(pixels, scale * truth, atol=0.6)
    assert 2900 < pixels.max() <= 4095
    for dataset in slices:
        assert (dataset.RepetitionTime, dataset.EchoTime) == (tr, te)
        assert dataset.ScanningSequence == "SE"
        assert "InversionTime" not in dataset
        assert "RealWorldValueMappingSequence" not in dataset
        assert "SYNTHETIC" in dataset.ImageType


def test_weighted_images_contain_their_echo():
    echoes = (SpinEcho(0.07, 0.0075), SpinEcho(6.0, 0.14), SpinEcho(5.0, 0.01))
    items = export(dataclasses.replace(random_maps(GEOMETRY), echoes=echoes), mrd="none")
    for stem, tr, te in (("T1w", 70, 7.5), ("T2w", 6000, 140), ("PDw", 5000, 10)):
        dataset = series(items, stem)[0]
        assert (dataset.RepetitionTime, dataset.EchoTime) == (tr, te)
        assert f"TR {tr} ms, TE {te} ms" in dataset.DerivationDescription


@pytest.mark.parametrize(
    ("stem", "name", "factor", "unit", "code"),
    [
        ("T1map", "t1", 1e3, "ms", "113063"),
        ("T2map", "t2", 1e3, "ms", "113065"),
        ("PDmap", "proton_density", 1.0, "1", "113058"),
        ("matchquality", "match_quality", 1.0, "1", "MATCHQUALITY"),
    ],
)
def test_parametric_maps(items, stem, name, factor, unit, code):
    dataset = parametric(items, stem)
    truth = arranged(getattr(random_maps(GEOMETRY), name)) * factor
    pixels = np.frombuffer(dataset.FloatPixelData, "<f4").reshape(truth.shape)
    np.testing.assert_allclose(pixels, truth, rtol=1e-6)
    mapped = ParametricMap.from_dataset(dataset).get_frames(apply_real_world_transform=True)
    np.testing.assert_allclose(mapped, truth, rtol=1e-6)
    assert dataset.SOPClassUID == "1.2.840.10008.5.1.4.1.1.30"
    assert dataset.Modality == "MR"
    shared = dataset.SharedFunctionalGroupsSequence[0]
    (mapping,) = shared.RealWorldValueMappingSequence
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == unit
    assert mapping.QuantityDefinitionSequence[0].ConceptCodeSequence[0].CodeValue == code
    assert mapping.RealWorldValueSlope == 1
    assert dataset.DimensionOrganizationType == "3D"


def test_parametric_maps_name_no_source_images(items):
    """The raw data, from which they are made, are no DICOM instances."""
    for stem in MAP_STEMS:
        dataset = parametric(items, stem)
        assert not {"ReferencedSeriesSequence", "SourceImageSequence"} & set(dataset.dir())
        for frame in dataset.PerFrameFunctionalGroupsSequence:
            assert "DerivationImageSequence" not in frame


@pytest.mark.parametrize(
    ("part", "code"), [("BRAIN", "12738006"), ("KNEE", "72696002"), ("", "69536005")]
)
def test_parametric_maps_tell_the_anatomy_of_their_frames(part, code):
    items = export(random_maps(GEOMETRY), full_header(body_part=part))
    shared = parametric(items, "T1map").SharedFunctionalGroupsSequence[0]
    (anatomy,) = shared.FrameAnatomySequence
    assert anatomy.FrameLaterality == "U"
    assert anatomy.AnatomicRegionSequence[0].CodeValue == code


@pytest.mark.parametrize("stem", [*MAP_STEMS, "T2std", "consistency", "receivefield"])
def test_pixels_of_the_classic_series_count_what_the_description_says(stem):
    """Readers without real-world value mapping see the pixels and the description."""
    maps = random_maps(GEOMETRY, optional=True)
    items = export(maps, mask_threshold=0)
    truth = ParametricMap.from_dataset(parametric(items, stem)).pixel_array
    for dataset, expected in zip(series(items, stem), truth, strict=True):
        assert not set("[]()/\\") & set(dataset.SeriesDescription)
        step = re.search(r" in ([0-9.]+)? ?(?:ms)? ?MRI2Qmap$", dataset.SeriesDescription)
        if stem == "PDmap":  # arbitrary units
            assert step is None
            continue
        size = float(step[1] or 1)
        expected = np.minimum(expected, 4095 * size)
        np.testing.assert_allclose(dataset.pixel_array * size, expected, atol=0.501 * size)


@pytest.mark.parametrize("geometry", [GEOMETRY, oblique_geometry((1, 1, -1))])
def test_dcmqi_reads_the_values_at_their_place(geometry, tmp_path):
    if shutil.which("paramap2itkimage") is None:
        pytest.skip("paramap2itkimage (dcmqi) is not installed")
    maps = random_maps(geometry)
    items = export(maps, full_header(), mask_threshold=0)
    for stem in ("T1map", "PDmap"):
        parametric(items, stem).save_as(tmp_path / f"{stem}.dcm", enforce_file_format=True)
        command = ["paramap2itkimage", "--inputDICOM", tmp_path / f"{stem}.dcm"]
        command += ["--outputDirectory", tmp_path, "--prefix", stem, "--outputType", "nii"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        found = nib.load(tmp_path / f"{stem}-pmap.nii.gz")
        ours = nifti(items, f"{stem}.nii.gz")
        factor = 1e3 if stem == "T1map" else 1
        # both in patient coordinates: the value of each voxel of ours at its place in theirs
        places = np.argwhere(np.ones(ours.shape, bool))
        there = nib.affines.apply_affine(np.linalg.inv(found.affine) @ ours.affine, places)
        assert np.abs(there - there.round()).max() < 1e-2
        values = found.get_fdata()[tuple(there.round().astype(int).T)]
        np.testing.assert_allclose(values, factor * ours.get_fdata().ravel(), rtol=1e-5)


def test_all_objects_share_patient_study_and_frame_of_reference(items):
    datasets = [reread(i.dataset) for i in items if isinstance(i, DicomObject)]
    assert len(datasets) == 7 * 5 + 4
    expected = {
        "PatientName": "Lovelace^Ada",
        "PatientID": "ID-0042",
        "StudyInstanceUID": STUDY_UID,
        "FrameOfReferenceUID": FRAME_UID,
        "BodyPartExamined": "BRAIN",
        "Modality": "MR",
        "PatientPosition": "HFS",
    }
    for dataset in datasets:
        assert {keyword: dataset[keyword].value for keyword in expected} == expected
        assert "not for diagnostic use" in dataset.DerivationDescription
        assert "MRI2Qmap" in dataset.SeriesDescription
        purposes = [
            e.PurposeOfReferenceCodeSequence[0].CodeMeaning
            for e in dataset.ContributingEquipmentSequence
        ]
        assert purposes == ["Acquisition Equipment", "Processing Equipment"]
    assert len({dataset.SOPInstanceUID for dataset in datasets}) == len(datasets)
    assert len({dataset.SeriesInstanceUID for dataset in datasets}) == 11
    assert len({dataset.SeriesNumber for dataset in datasets}) == 11


def uids(items):
    datasets = [i.dataset for i in items if isinstance(i, DicomObject)]
    return [(d.StudyInstanceUID, d.SeriesInstanceUID, d.SOPInstanceUID) for d in datasets]


@pytest.mark.parametrize("header", [full_header, minimal_header])
def test_repeated_export_gives_the_same_uids(header):
    first = export(random_maps(GEOMETRY), header())
    # the reconstruction may differ by rounding errors between runs
    again = export(random_maps(GEOMETRY, seed=3), header())
    assert uids(first) == uids(again)


def test_other_provenance_gives_other_uids():
    first, other = (
        uids(export(random_maps(GEOMETRY), full_header(), Provenance(digit * 64))) for digit in "ab"
    )
    for before, after in zip(first, other, strict=True):
        assert before[0] == after[0] == STUDY_UID
        assert before[1] != after[1]
        assert before[2] != after[2]


def test_uids_from_the_content_without_provenance():
    first, again, other = (
        uids(export(random_maps(GEOMETRY, seed=seed), full_header(), None)) for seed in (1, 1, 2)
    )
    assert first == again
    for before, after in zip(first, other, strict=True):
        assert before[1] != after[1]
        assert before[2] != after[2]


@pytest.mark.parametrize("header", [full_header, minimal_header])
def test_repeated_export_gives_the_same_files(header):
    """Also where the header has no dates; the time of the content is mandatory."""

    def contents():
        objects = [i for i in export(random_maps(GEOMETRY), header()) if isinstance(i, DicomObject)]
        return [(i.path, reread(i.dataset).to_json()) for i in objects]

    assert contents() == contents()


@pytest.mark.parametrize(
    ("geometry", "header", "settings"),
    [
        (oblique_geometry((1, 1, -1)), full_header(), {}),
        (GEOMETRY, full_header(name="Hopper^Grace"), {}),
        (GEOMETRY, full_header(), {"method": "MRF-ADMM"}),
        (GEOMETRY, full_header(), {"mask_threshold": 0.1}),
    ],
)
def test_other_scan_or_settings_give_other_uids(items, geometry, header, settings):
    other = uids(export(random_maps(geometry), header, **settings))
    for before, after in zip(uids(items), other, strict=True):
        assert before[0] == after[0] == STUDY_UID
        assert before[1] != after[1]
        assert before[2] != after[2]


VERIFIED = {
    "minimal header": (oblique_geometry(), minimal_header(), random_maps),
    "full header": (oblique_geometry(), full_header(), random_maps),
    "left-handed": (oblique_geometry((1, 1, -1)), full_header(), random_maps),
    "sagittal": (oblique_geometry((1, -1, 1), (2, 1, 0)), minimal_header(), random_maps),
    "one slice": (oblique_geometry(matrix=(1, 6, 8)), full_header(), random_maps),
    "optional maps": (
        oblique_geometry(),
        full_header(),
        functools.partial(random_maps, optional=True),
    ),
    "masked": (oblique_geometry(), full_header(), lambda _: masked_maps()),
    "zero volume": (oblique_geometry(), minimal_header(), zero_maps),
    "odd name": (
        Geometry((3, 4, 5), (1e-3, 1e-3, 1e-3)),
        full_header("Ælfgifu \\ von^Ö=山田^太郎=ü=x", "left/knee"),
        random_maps,
    ),
    "one-component name, paired body part": (
        oblique_geometry(),
        full_header("Mononym", "KNEE"),
        random_maps,
    ),
}


@pytest.mark.parametrize("case", VERIFIED)
def test_dciodvfy_and_dcentvfy_find_no_error(case, tmp_path):
    for tool in ("dciodvfy", "dcentvfy"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} (Debian package dicom3tools) is not installed")
    geometry, header, maps = VERIFIED[case]
    files = []
    incomplete = "frames" if case == "masked" else ""
    for item in export(maps(geometry), header, incomplete=incomplete, sheet=True):
        if isinstance(item, DicomObject):
            path = tmp_path / item.path.replace("/", "_")
            item.dataset.save_as(path, enforce_file_format=True)
            files.append(path)
    first_of_each = [p for p in files if p.stem.endswith("_0001") or "parametric" in p.name]
    assert len(first_of_each) == (20 if case in ("optional maps", "masked") else 12)
    for path in first_of_each:
        result = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
        report = result.stdout + result.stderr
        assert re.search("^(MRImage|ParametricMap|SCImage)", report, re.MULTILINE)
        assert "Error" not in report, f"{path.name}:\n{report}"
    result = subprocess.run(["dcentvfy", *files], capture_output=True, text=True, check=False)
    assert "Error" not in result.stdout + result.stderr


@pytest.mark.parametrize("form", ["explicit", "implicit"])
def test_float_pixels_survive_other_tools(items, form, tmp_path):
    """Dcmtk reads the files in both transfer syntaxes."""
    if shutil.which("dcmconv") is None:
        pytest.skip("dcmconv (Debian package dcmtk) is not installed")
    (item,) = (i for i in items if isinstance(i, DicomObject) and i.path == "parametric/T1map.dcm")
    source, target = tmp_path / "in.dcm", tmp_path / "out.dcm"
    item.dataset.save_as(source, enforce_file_format=True)
    option = "+te" if form == "explicit" else "+ti"
    subprocess.run(["dcmconv", option, source, target], check=True)
    assert pydicom.dcmread(target).FloatPixelData == item.dataset.FloatPixelData


@pytest.mark.parametrize(("place", "tolerance"), [("T1map/", 0.5), ("parametric/T1map", 1e-2)])
def test_dcm2niix_converts_both_forms_without_a_warning(items, place, tolerance, tmp_path):
    """Values, and where the voxels are."""
    if shutil.which("dcm2niix") is None:
        pytest.skip("dcm2niix is not installed")
    source = tmp_path / "in"
    source.mkdir()
    for item in items:
        if isinstance(item, DicomObject) and item.path.startswith(place):
            path = source / item.path.replace("/", "_")
            item.dataset.save_as(path, enforce_file_format=True)
    command = ["dcm2niix", "-f", "found", "-o", tmp_path, source]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    printed = done.stdout + done.stderr
    # Versions of 2022 say so of every file that no scanner wrote.
    printed = re.sub("Warning: Unable to determine manufacturer .*, so conversion", "", printed)
    assert "Warning" not in printed
    assert "Error" not in printed
    found, expected = nib.load(tmp_path / "found.nii"), nifti(items, "T1map.nii.gz")
    to_found = np.linalg.inv(found.affine) @ expected.affine
    voxels = np.indices(expected.shape).reshape(3, -1)
    places = np.rint(to_found[:3, :3] @ voxels + to_found[:3, 3:]).astype(int)
    values = found.get_fdata()[tuple(places)]
    np.testing.assert_allclose(values, 1e3 * expected.get_fdata().ravel(), atol=tolerance)

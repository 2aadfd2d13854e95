import pydicom
import pytest
from export.scans import FRAME_UID, STUDY_UID, full_header, minimal_header, reread
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.config import RAISE
from pydicom.valuerep import validate_value

from mri2qmap.export.patient import code_string, person_name, scan_context, text


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("Lovelace^Ada", "Lovelace^Ada"),
        ("Mononym", "Mononym"),
        ("  padded  ", "padded"),
        ("back\\slash", "back/slash"),
        ("new\nline\ttab\x1b", "newlinetab"),
        ("Müller^Jürgen", "Müller^Jürgen"),
        ("山田^太郎", "山田^太郎"),
        ("a^b^c^d^e^f^g", "a^b^c^d^e"),
        ("A^B=漢=か=x", "A^B=漢=か"),
        ("x" * 100, "x" * 64),
        ("lone\ud800surrogate", "lonesurrogate"),
        ("", ""),
        (None, ""),
    ],
)
def test_person_names(raw, expected):
    assert person_name(raw) == expected


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=200))
def test_any_name_and_text_becomes_valid_dicom(raw):
    name, label, short = person_name(raw), text(raw, 64), text(raw, 16)
    validate_value("PN", name, RAISE)
    validate_value("LO", label, RAISE)
    validate_value("SH", short, RAISE)
    validate_value("CS", code_string(raw), RAISE)
    dataset = pydicom.Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName, dataset.PatientID, dataset.StudyID = name, label, short
    dataset.SOPClassUID = dataset.SOPInstanceUID = "1.2.3"
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    again = reread(dataset)
    assert str(again.PatientName) == name
    assert again.PatientID == label
    assert again.StudyID == short


@pytest.mark.parametrize(
    ("raw", "expected"),
    [("brain", "BRAIN"), ("head/neck", "HEAD NECK"), ("x" * 20, "X" * 16), ("ß", "SS"), ("", "")],
)
def test_code_strings(raw, expected):
    assert code_string(raw) == expected


def test_full_header():
    context = scan_context(full_header(), "key")
    expected = {
        "PatientName": "Lovelace^Ada",
        "PatientID": "ID-0042",
        "PatientBirthDate": "19800229",
        "PatientSex": "F",
        "PatientWeight": 71.5,
        "PatientSize": 1.78,
        "StudyDate": "20240301",
        "StudyTime": "140509.250000",
        "StudyID": "S7",
        "AccessionNumber": "123456",
        "ReferringPhysicianName": "Curie^Marie",
        "StudyDescription": "Research brain",
        "BodyPartExamined": "BRAIN",
        "PatientPosition": "HFS",
        "SeriesDate": "20240301",
        "SeriesTime": "141000",
        "ProtocolName": "mrf_tgas",
        "InstitutionName": "Clinic",
        "StudyInstanceUID": STUDY_UID,
        "FrameOfReferenceUID": FRAME_UID,
    }
    assert {keyword: context.attributes[keyword] for keyword in expected} == expected
    assert context.acquisition["RepetitionTime"] == 12
    assert context.acquisition["EchoTime"] == 0.7
    assert context.acquisition["InversionTime"] == 20
    assert context.acquisition["ScanningSequence"] == ["GR", "IR"]
    assert context.acquisition["MagneticFieldStrength"] == 2.89
    assert context.acquisition["ImagingFrequency"] == pytest.approx(123.2)
    assert "FlipAngle" not in context.acquisition  # it varies
    assert context.scanner["manufacturer"] == "Acme"
    assert context.scanner["station_name"] == "a_station_name_t"


def test_minimal_header():
    context = scan_context(minimal_header(), "key")
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate"):
        assert context.attributes[keyword] == ""
    assert context.attributes["BodyPartExamined"] == "HEAD"
    assert "PatientWeight" not in context.attributes
    assert "InversionTime" not in context.acquisition
    assert context.acquisition["ScanningSequence"] == "GR"
    assert context.acquisition["MagneticFieldStrength"] == 2.89  # from the resonance frequency
    assert context.scanner == {}


@pytest.mark.parametrize("frequency", [0, -5])
def test_invalid_frequency_is_omitted(frequency):
    acquisition = scan_context(minimal_header(frequency), "key").acquisition
    assert "ImagingFrequency" not in acquisition
    assert "MagneticFieldStrength" not in acquisition


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_invalid_weight_is_omitted(weight):
    header = full_header()
    header.subjectInformation.patientWeight_kg = weight
    assert "PatientWeight" not in scan_context(header, "key").attributes


@pytest.mark.parametrize("uid", ["", "not a uid", "1.02.3", "1." * 40 + "1", None])
def test_invalid_study_uid_is_replaced(uid):
    header = full_header()
    header.studyInformation.studyInstanceUID = uid
    derived = scan_context(header, "key").study_uid
    assert pydicom.uid.UID(derived).is_valid
    assert derived != uid
    assert derived == scan_context(header, "another key").study_uid


def test_uids_depend_on_header_key_and_parts():
    first = scan_context(full_header(), "key")
    assert first.uid("a", "b") == scan_context(full_header(), "key").uid("a", "b")
    others = {
        first.uid("a", "b"),
        first.uid("a", "c"),
        first.uid("ab"),
        first.uid("ab", ""),
        scan_context(full_header(), "another").uid("a", "b"),
        scan_context(full_header(name="Other"), "key").uid("a", "b"),
    }
    assert len(others) == 6

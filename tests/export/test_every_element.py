"""Any content of any header element gives DICOM or a refusal before the acquisition."""

import re

import ismrmrd
import pytest
from export.every_element import changed, full_document, full_header, is_text, paths
from export.scans import oblique_geometry, random_maps, reread

from mri2qmap.errors import Mri2QmapError
from mri2qmap.parametric_maps import ParametricMapsSettings, parametric_maps
from mri2qmap.pipeline.header_document import parse_header
from mri2qmap.pipeline.items import DicomObject
from mri2qmap.pipeline.progress import TerminalReporter
from mri2qmap.pipeline.scan_header import ScanInfo

DOCUMENT = full_document()
CONTENTS = ["", "abc", "-7", "0", "1e300"]
PATHS = [
    path for path in paths(DOCUMENT) if not re.search("Limits/(kspace|user|[a-b,d-r,t-z])", path)
]
IN_DICOM = (
    "subjectInformation",
    "studyInformation",
    "measurementInformation",
    "acquisitionSystemInformation",
    "experimentalConditions",
    "sequenceParameters",
)
NEEDED = ("encoding", "sequenceParameters", "acquisitionSystemInformation")
SETTINGS = ParametricMapsSettings(dicom="classic", synthetic_images=False, nifti=False, mrd="none")


class Source:
    """Yields the maps once, and records whether they were requested."""

    def __init__(self):
        self.asked = False

    def __iter__(self):
        self.asked = True
        yield random_maps(oblique_geometry(matrix=(2, 2, 2)))


def export(document, source, report=None):
    """Parse and export a header like a host, without the reconstruction."""
    scan = ScanInfo.from_header(document, report=report)
    return list(parametric_maps(iter(source), scan, SETTINGS))


def test_full_header_is_parsed_like_in_the_ismrmrd_package():
    ours, theirs = parse_header(DOCUMENT), ismrmrd.xsd.CreateFromDocument(DOCUMENT)
    assert ours.studyInformation.accessionNumber == "3"  # as text: leading zeros must remain
    theirs.studyInformation.accessionNumber = "3"
    assert ours == theirs
    assert ours.encoding == full_header().encoding


@pytest.fixture(scope="module")
def seen():
    """Cache of the exported attributes: each distinct header is exported once."""
    return set()


@pytest.mark.parametrize("content", CONTENTS)
def test_any_content_is_accepted_or_refused_before_the_acquisition(content, seen):
    for path in PATHS:
        if content not in ("", "abc") and is_text(DOCUMENT, path):
            continue  # free text is always accepted
        source = Source()
        try:
            scan = ScanInfo.from_header(changed(DOCUMENT, path, content))
        except Mri2QmapError as error:
            message = str(error)
            assert "\n" not in message
            assert path.split("/")[0] in NEEDED, message
            # for limits, lists and sides, the message names the inconsistency
            assert any(name in message for name in path.split("/")), (path, message)
            continue
        known = repr([getattr(scan.header, name) for name in IN_DICOM])
        if known not in seen:
            seen.add(known)
            first = next(parametric_maps(iter(source), scan, SETTINGS))
            assert isinstance(first, DicomObject)
            reread(first.dataset)
            assert source.asked


@pytest.mark.parametrize(
    "path",
    [
        *("subjectInformation/patientWeight_kg", "subjectInformation/patientHeight_m"),
        *("subjectInformation/patientBirthdate", "subjectInformation", "studyInformation"),
        *("studyInformation/studyDate", "studyInformation/studyTime", "measurementInformation"),
        "measurementInformation/patientPosition",
        *("experimentalConditions", "experimentalConditions/H1resonanceFrequency_Hz"),
        *("acquisitionSystemInformation/systemFieldStrength_T", "acquisitionSystemInformation"),
    ],
)
@pytest.mark.parametrize("content", ["", " \t\n"])
def test_empty_element_counts_as_absent(path, content):
    report = TerminalReporter()
    with_empty = ScanInfo.from_header(changed(DOCUMENT, path, content), report=report)
    above, _, name = path.rpartition("/")
    group = with_empty.header
    for part in filter(None, above.split("/")):
        group = getattr(group, part)
    if group is not None:  # a group of empty elements counts as absent
        assert getattr(group, name) is None
    items = list(parametric_maps(iter(Source()), with_empty, SETTINGS))
    assert items
    assert report.lines == []


@pytest.mark.parametrize(
    ("path", "content", "words", "keyword"),
    [
        ("subjectInformation/patientBirthdate", "1980-02-30", ["date"], "PatientBirthDate"),
        ("subjectInformation/patientWeight_kg", "71500", ["grams", "0.1 to 650"], "PatientWeight"),
        ("subjectInformation/patientWeight_kg", "heavy", ["a number"], "PatientWeight"),
        ("subjectInformation/patientHeight_m", "178", ["centimetres"], "PatientSize"),
        ("subjectInformation/patientHeight_m", "1780", ["millimetres"], "PatientSize"),
        ("subjectInformation/patientGender", "X", ["M, F or O"], "PatientSex"),
        ("studyInformation/studyTime", "140509", ["hh:mm:ss"], "StudyTime"),
        ("studyInformation/studyInstanceUID", "1.02.3", ["UID"], None),
        ("measurementInformation/patientPosition", "HFX", ["HFS"], "PatientPosition"),
        ("measurementInformation/frameOfReferenceUID", "x", ["UID"], None),
        ("experimentalConditions/H1resonanceFrequency_Hz", "123", ["MHz"], "ImagingFrequency"),
        ("experimentalConditions/H1resonanceFrequency_Hz", "123200", ["kHz"], "ImagingFrequency"),
        (
            "experimentalConditions/H1resonanceFrequency_Hz",
            "123.2",
            ["a whole number"],
            "ImagingFrequency",
        ),
        ("acquisitionSystemInformation/systemFieldStrength_T", "30000", ["gauss"], None),
    ],
)
def test_invalid_optional_element_is_omitted_with_a_warning(path, content, words, keyword):
    report = TerminalReporter()
    source = Source()
    scan = ScanInfo.from_header(changed(DOCUMENT, path, content), report=report)
    gadget = parametric_maps(iter(source), scan, SETTINGS)
    first = next(gadget)
    (line,) = report.lines
    assert path.rpartition("/")[2] in line
    for word in words:
        assert word in line
    assert f"'{content}'" not in line  # it may be patient data, and the line may be logged
    assert len(content) < 3 or content not in line
    if keyword is not None:
        assert not first.dataset.get(keyword)


def test_warning_precedes_the_first_acquisition():
    report = TerminalReporter()
    source = Source()

    def watched():
        assert len(report.lines) == 1
        yield from source

    document = changed(DOCUMENT, "subjectInformation/patientWeight_kg", "71500")
    scan = ScanInfo.from_header(document, report=report)
    assert list(parametric_maps(watched(), scan, SETTINGS))


def test_accession_number_keeps_zeros_and_letters():
    for number in ("00123", "A-77"):
        document = changed(DOCUMENT, "studyInformation/accessionNumber", number)
        (first, *_) = export(document, Source())
        assert first.dataset.AccessionNumber == number


def test_repeated_element_is_refused_or_reported():
    twice = "<experimentalConditions>"
    document = DOCUMENT.replace("<sequenceParameters>", "<sequenceParameters/><sequenceParameters>")
    assert parse_header(document) == parse_header(DOCUMENT)  # an empty element counts as absent
    again = DOCUMENT[DOCUMENT.index("<sequenceParameters>") :].partition("</sequenceParameters>")
    document = DOCUMENT.replace(
        "<sequenceParameters>", again[0] + again[1] + "<sequenceParameters>"
    )
    with pytest.raises(Mri2QmapError, match="sequenceParameters: it is given 2 times"):
        parse_header(document)
    lines = []
    other = "<experimentalConditions><H1resonanceFrequency_Hz>64000000</H1resonanceFrequency_Hz>"
    document = DOCUMENT.replace(twice, f"{other}</experimentalConditions>{twice}")
    header = parse_header(document, lines.append)
    assert header.experimentalConditions.H1resonanceFrequency_Hz == 64000000
    assert len(lines) == 1
    assert "experimentalConditions" in lines[0]

"""Headers in any encoding and namespace, and values in other units than the schema's."""

import re

import numpy as np
import pytest
from helpers.scans import header, readout, scan_info

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts.message_encoding import encode_message
from mri2qmap.hosts.message_limits import DEFAULT_LIMITS
from mri2qmap.hosts.protocol import Header, read_message
from mri2qmap.pipeline import header_document
from mri2qmap.pipeline.header_document import parse_header
from mri2qmap.pipeline.scan_header import ScanInfo, geometry_from_acquisition
from mri2qmap.pipeline.xml_document import as_utf8, parse_xml

NAME = "Müller^Jürgen"
DOCUMENT = header(
    extra=f"<subjectInformation><patientName>{NAME}</patientName></subjectInformation>"
)
NAMESPACE = 'xmlns="http://www.ismrm.org/ISMRMRD"'


def declared(encoding: str) -> str:
    return DOCUMENT.replace('<?xml version="1.0"?>', f"<?xml version='1.0' encoding='{encoding}'?>")


ENCODED = {
    "UTF-8": DOCUMENT.encode(),
    "UTF-8 with a mark": DOCUMENT.encode("utf-8-sig"),
    "UTF-8 with a mark, declared otherwise": declared("latin-1").encode("utf-8-sig"),
    "UTF-16 with a mark": DOCUMENT.encode("utf-16"),
    "UTF-16, big end first": b"\xfe\xff" + declared("UTF-16").encode("utf-16-be"),
    "UTF-16 without a mark": declared("UTF-16").encode("utf-16-le"),
    "UTF-16, big end first, without a mark": DOCUMENT.encode("utf-16-be"),
    "UTF-16, declared as UTF-8": declared("utf-8").encode("utf-16"),
    "UTF-16 that lost its last zero": DOCUMENT.encode("utf-16-le")[:-1],
    "UTF-32": declared("utf-32").encode("utf-32"),
    "UTF-8, declared as UTF-16": declared("utf-16").encode(),
    "Latin-1": declared("ISO-8859-1").encode("latin-1"),
    "Windows": declared("windows-1252").encode("cp1252"),
}


@pytest.mark.parametrize("name", ENCODED)
@pytest.mark.parametrize("end", [b"", b"\0", b"\0\0", b"\0\0\0\0"])
def test_no_letter_is_lost_whatever_the_encoding(name, end):
    found = parse_header(ENCODED[name] + end)
    assert found == parse_header(DOCUMENT)
    assert found.subjectInformation.patientName == NAME


@pytest.mark.parametrize("name", [name for name in ENCODED if "lost" not in name])
@pytest.mark.parametrize("terminated", [False, True])
def test_a_header_survives_the_protocol_in_any_encoding(name, terminated):
    class Source:
        def __init__(self, content):
            self.content = content

        def read(self, n):
            taken, self.content = self.content[:n], self.content[n:]
            return taken

    sent = Header(ENCODED[name], terminated)
    assert read_message(Source(b"".join(encode_message(sent))), DEFAULT_LIMITS) == sent


def test_a_header_given_as_text_is_not_asked_for_its_encoding():
    for encoding in ("utf-16", "latin-1", "utf-8"):
        assert parse_header(declared(encoding)) == parse_header(DOCUMENT)


def test_what_is_not_utf8_and_says_nothing_is_read_as_latin_1_with_a_warning():
    lines = []
    assert parse_header(DOCUMENT.encode("latin-1"), lines.append) == parse_header(DOCUMENT)
    assert len(lines) == 1
    assert "Latin-1" in lines[0]


def test_any_encoding_has_a_form_without_zero_bytes():
    for document in ENCODED.values():
        assert b"\0" not in as_utf8(document)
        assert parse_xml(as_utf8(document), "header").tag == "ismrmrdHeader"


def prefixed(declaration: str) -> str:
    text = re.sub(r"<(/?)(\w)", r"<\1mr:\2", DOCUMENT)
    return text.replace(NAMESPACE, declaration)


NAMESPACES = {
    "none": DOCUMENT.replace(NAMESPACE, ""),
    "another": DOCUMENT.replace(NAMESPACE, 'xmlns="http://example.org/raw"'),
    "a prefix": prefixed('xmlns:mr="http://www.ismrm.org/ISMRMRD"'),
    "a prefix that stands for nothing": prefixed(""),
    "the root's only": DOCUMENT.replace(
        f"ismrmrdHeader {NAMESPACE}", 'mr:ismrmrdHeader xmlns:mr="http://www.ismrm.org/ISMRMRD"'
    ).replace("</ismrmrdHeader>", "</mr:ismrmrdHeader>"),
}


@pytest.mark.parametrize("name", NAMESPACES)
def test_a_header_is_read_whatever_its_namespace(name):
    assert parse_header(NAMESPACES[name]) == parse_header(DOCUMENT)


def test_an_element_of_a_namespace_of_its_own_is_none_of_ours():
    foreign = '<v:patientID xmlns:v="urn:vendor">secret</v:patientID>'
    document = DOCUMENT.replace("</patientName>", f"</patientName>{foreign}")
    assert parse_header(document) == parse_header(DOCUMENT)


def test_foreign_elements_may_be_nested_deeply():
    deep = "<a>" * 25 + "</a>" * 25
    document = DOCUMENT.replace("</patientName>", f"</patientName>{deep}")
    assert parse_header(document) == parse_header(DOCUMENT)


MANY = " ".join(["30"] * 50)
LONG = {"angles": MANY, "limit": 49}
WRONG_UNITS = {
    "TR in seconds": ({"tr": "0.012", "te": "0.0007"}, ["TR is 0.012 ms", "is it in seconds?"]),
    "TR in microseconds": (
        {"tr": "12000", "te": "700", "ti": "20000"},
        ["TR has a median of 12000 ms", "0.5 to 1000 ms", "is it in microseconds?"],
    ),
    "one TR in seconds": (
        {"tr": "12 12 0.012 12"},
        ["TR of frame 2 is 0.012 ms", "0.5 to 15000", "is it in seconds?"],
    ),
    "one TR of a minute": ({"tr": "12 12 60000 12"}, ["TR of frame 2 is 60000 ms"]),
    "TE in seconds": ({"te": "0.0007"}, ["TE is 0.0007 ms", "is it in seconds?"]),
    "TE in microseconds": ({"te": "700"}, ["TE is 700 ms", "is it in microseconds?"]),
    "TE beyond TR": (
        {"te": "0.7 0.7 15 0.7"},
        ["TE of frame 2 is 15 ms, its TR is 12 ms", "TE must be shorter than TR"],
    ),
    "a negative TE": ({"te": "-1"}, ["TE is -1 ms", "0.01 to 200"]),
    "TI in seconds": ({"ti": "0.02"}, ["TI is 0.02 ms", "is it in seconds?"]),
    "TI in microseconds": ({"ti": "20000"}, ["TI is 20000 ms", "is it in microseconds?"]),
    "TI of half a second in seconds": ({"ti": "0.5"}, ["TI is 0.5 ms", "is it in seconds?"]),
    "TI of 5 ms in microseconds": (
        {"angles": " ".join(["30"] * 500), "limit": 499, "ti": "5000"},
        ["TI is 5000 ms", "3 to 3000 ms", "is it in microseconds?"],
    ),
    "TI beyond the train": (
        {**LONG, "ti": "2000"},
        ["TI is 2000 ms, longer than the train of 50 frames", "600 ms"],
    ),
    "a negative TI": ({"ti": "-3"}, ["TI is -3 ms"]),
    "two turns": ({"angles": "10 20 720 40"}, ["flipAngle_deg of frame 2 is 720", "0 to 180"]),
    "a negative angle": ({"angles": "10 -20 30 40"}, ["flipAngle_deg of frame 1 is -20"]),
    "radians": ({"angles": "0.2 0.4 0.6 1.1"}, ["largest flip angle is 1.1", "in radians?"]),
    "radians of more than a right angle": (
        {"angles": "0.2 3.14 0.6 1.1"},
        ["largest flip angle is 3.14", "in radians?"],
    ),
    "one side ten times as long": (
        {"matrix": "16 16 16", "fov": "70 70 700"},
        ["4.375 x 4.375 x 43.75 mm", "in another unit?"],
    ),
    "metres": ({"fov": "0.192 0.192 0.192"}, ["longest side is 0.192 mm", "is it in metres?"]),
    "centimetres": (
        {"matrix": "16 16 16", "fov": "19.2 19.2 19.2"},
        ["longest side is 19.2 mm", "40 to 2000 mm", "is it in centimetres?"],
    ),
    "centimetres, fine": (
        {"matrix": "160 160 160", "fov": "25.6 25.6 25.6"},
        ["longest side is 25.6 mm", "is it in centimetres?"],
    ),
    "centimetres, a whole body": (
        {"matrix": "200 200 200", "fov": "48 48 48"},
        ["voxel size of 0.24 mm", "is it in centimetres?"],
    ),
    "64 m": ({"fov": "64000 64000 64000"}, ["longest side is 64000 mm", "5 to 2000 mm"]),
    "micrometres": ({"fov": "192000 192000 192000"}, ["is it in micrometres?"]),
    "one side in metres": (
        {"fov": "192 192 0.192"},
        ["fieldOfView_mm.z is 0.192 mm", "voxel size of 0.024 mm", "is it in metres?"],
    ),
}


@pytest.mark.parametrize("name", WRONG_UNITS)
def test_a_value_in_another_unit_is_refused_with_value_range_and_unit(name):
    changes, words = WRONG_UNITS[name]
    with pytest.raises(Mri2QmapError) as caught:
        scan_info(header(**changes))
    for word in ["ISMRMRD header: ", *words]:
        assert word in str(caught.value)


SENSIBLE = {
    "zero echo time": {"tr": "0.9", "te": "0", "ti": "3"},
    "ultra-short echoes": {"angles": MANY, "limit": 49, "tr": "4", "te": "0.03"},
    "echo-planar": {"tr": "120", "te": "60"},
    "a pause of 10 s": {"tr": "12 12 12 10000"},
    "no delay after the inversion": {"ti": "0"},
    "frames without a pulse": {"angles": "0 10 0 90"},
    "a long delay": {"angles": MANY, "limit": 49, "tr": "100", "ti": "2900"},
    "inversions in the train": {"angles": "180 10 20 30"},
    "a phantom": {"matrix": "32 32 32", "fov": "64 64 64"},
    "a head at 11.7 T": {"matrix": "400 400 400", "fov": "200 200 200"},
    "a slab": {"matrix": "256 256 8", "fov": "256 256 24"},
    "a whole body": {"matrix": "160 160 600", "fov": "480 480 1800"},
    "low field": {"matrix": "32 32 16", "fov": "240 240 160"},
}


@pytest.mark.parametrize("name", SENSIBLE)
def test_what_protocols_have_is_taken(name):
    assert scan_info(header(**SENSIBLE[name])).sequence.n_frames >= 4


@pytest.mark.parametrize("position", [(0, 0, 64000), (-3000, 0, 0)])
def test_a_position_outside_of_any_scanner_is_refused(position):
    acquisition = readout(0, 0)
    acquisition.position[:] = position
    with pytest.raises(Mri2QmapError, match=r"position [xz] is -?\d+ mm; -2000 to 2000 mm"):
        geometry_from_acquisition(acquisition, scan_info())


def test_a_bad_value_in_what_the_maps_need_is_refused_with_its_path():
    for change, words in {
        ("<TR>12</TR>", "<TR>12,5</TR>"): ["sequenceParameters.TR", "'12,5'", "a number"],
        ("<x>8</x>", "<x>8.5</x>"): ["encoding.encodedSpace.matrixSize.x", "a whole number"],
        ("<x>16</x>", "<x/>"): ["encoding.encodedSpace.fieldOfView_mm.x", "missing"],
        ("spiral", "round"): ["encoding.trajectory", "'round'", "cartesian"],
        (
            "</contrast>",
            "</contrast><segment><minimum>0</minimum><maximum>-7</maximum></segment>",
        ): ["encodingLimits.segment is 0 to -7", "0 to 65535"],
        ("<TE>0.7</TE>", "<TE> </TE>"): ["sequenceParameters.TE is missing"],
    }.items():
        with pytest.raises(Mri2QmapError) as caught:
            ScanInfo.from_header(header().replace(*change, 1))
        for word in words:
            assert word in str(caught.value)


def test_any_number_of_the_lists_is_looked_at():
    rng = np.random.default_rng(0)
    for frame in rng.integers(0, 50, 5):
        angles = ["30"] * 50
        angles[frame] = "3000"
        with pytest.raises(Mri2QmapError, match=f"frame {frame} is 3000"):
            scan_info(header(angles=" ".join(angles), limit=49))


def strings(*values: str) -> bytes:
    """A header with such user parameters."""
    user = "".join(
        f"<userParameterString><name>n{i}</name><value>{value}</value></userParameterString>"
        for i, value in enumerate(values)
    )
    return header(extra=f"<userParameters>{user}</userParameters>").encode()


def test_texts_are_kept_up_to_a_total(monkeypatch):
    monkeypatch.setattr(header_document, "MOST_TEXT", 1000)
    lines = []
    parsed = parse_header(strings("a" * 600, "b" * 600, "c"), lines.append)
    assert [p.value for p in parsed.userParameters.userParameterString] == ["a" * 600, "c"]
    assert lines == [
        "ISMRMRD header: userParameters.userParameterString[1].value: it has 600 characters; 1000 "
        "of all texts together are kept; it is left out"
    ]


def test_identifiers_kept_as_text_count(monkeypatch):
    monkeypatch.setattr(header_document, "MOST_TEXT", 1000)
    long = f"<studyInformation><accessionNumber>{'1' * 1001}</accessionNumber></studyInformation>"
    assert not parse_header(header(extra=long)).studyInformation.accessionNumber


def test_many_elements_that_are_left_out_are_counted():
    wrong = "<userParameterLong><name>n</name><value>x</value></userParameterLong>"
    lines = []
    document = header(extra=f"<userParameters>{50 * wrong}</userParameters>")
    parse_header(document, lines.append)
    assert len(lines) == header_document.MOST_REPORTED + 1
    assert lines[-1] == "ISMRMRD header: 30 more elements are left out"

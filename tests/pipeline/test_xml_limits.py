"""Large XML documents: real ones pass, cost is linear, and what is beyond the limits is refused."""

import dataclasses
import gc
import sys
import time

import numpy as np
import pytest
from helpers.scans import header

from mri2qmap.errors import Mri2QmapError
from mri2qmap.pipeline.header_document import parse_header, parse_meta
from mri2qmap.pipeline.pipeline_file import parse_pipeline, settings_in
from mri2qmap.pipeline.scan_limits import SCAN_LIMITS
from mri2qmap.pipeline.scan_log import scan_identity
from mri2qmap.pipeline.xml_document import as_utf8, parse_xml, without_terminator
from mri2qmap.pipeline.xml_limits import HEADER, META, PIPELINE, XmlLimits

UNLIMITED = XmlLimits(*[2**40] * len(dataclasses.fields(XmlLimits)))

GROWING = {
    "mixed text": lambda n: "<a>" + "x\n<b/>" * n + "</a>",
    "deep nesting": lambda n: "<a>x" * n + "y</a>" * n,
    "attributes": lambda n: "<a " + " ".join(f"a{i}='v'" for i in range(n)) + "/>",
    "siblings": lambda n: "<a>" + "<b>x</b>" * n + "</a>",
    "comments": lambda n: "<a>" + "<!-- x -->" * n + "</a>",
    "processing instructions": lambda n: "<a>" + "<?x y?>" * n + "</a>",
    "CDATA sections": lambda n: "<a>" + "<![CDATA[x]]>" * n + "</a>",
    "references": lambda n: "<a b='" + "&#120;" * n + "'>" + "&lt;&#x78;\n" * n + "</a>",
    "one text": lambda n: "<a>" + "x" * 8 * n + "</a>",
    "one comment": lambda n: "<a><!--" + "- " * 4 * n + "--></a>",
    "one name": lambda n: "<" + "a" * 8 * n + "/>",
}
"""Documents by a number that their length is proportional to."""


def group(inside: str) -> str:
    return f'<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">{inside}</ismrmrdHeader>'


GROWING_HEADERS = {
    "values": lambda n: header(angles="30 " * n, limit=n - 1),
    "user parameters": lambda n: header(
        extra="<userParameters>"
        + "<userParameterLong><name>a</name><value>b</value></userParameterLong>" * n
        + "</userParameters>"
    ),
    "declared prefixes": lambda n: (
        header().replace(
            "<encoding>",
            "".join(f'<encoding xmlns:p{i}="u{i}">' for i in range(20)) + "<encoding>" * n,
        )[:-17]
        + "</encoding>" * (n + 20)
        + "</ismrmrdHeader>"
    ),
    "elements with declarations": lambda n: (
        "<i:ismrmrdHeader "
        + " ".join(f'xmlns:p{i}="u"' for i in range(n))
        + ' xmlns:i="http://www.ismrm.org/ISMRMRD">'
        + '<i:encoding xmlns:q="v"/>' * n
        + "</i:ismrmrdHeader>"
    ),
    "digits": lambda n: header(tr="1" * 40 * n),
    "digits before a letter": lambda n: header(tr="1" * 40 * n + "x"),
    "white space in the declaration": lambda n: "<?xml " + " " * 100 * n + "?>" + header()[21:],
}


def calls(action, *arguments) -> int:
    """Number of calls of functions of Python and of C; the result or error is dropped."""
    count = 0

    def note(*_) -> None:
        nonlocal count
        count += 1

    sys.setprofile(note)
    try:
        action(*arguments)
    except Mri2QmapError:
        pass
    finally:
        sys.setprofile(None)
    return count


def seconds(action, *arguments) -> float:
    """Least time of the processor in a few tries."""
    found = []
    for _ in range(3):
        gc.collect()
        gc.disable()  # its work depends on all objects of the process
        start = time.process_time()
        try:
            action(*arguments)
        except Mri2QmapError:
            pass
        finally:
            found.append(time.process_time() - start)
            gc.enable()
    return min(found)


def assert_linear(action, document, n: int) -> None:
    """A document 16 times as long costs about 16 times as much; quadratic cost is 256 times."""
    small, large = (document(k).encode() for k in (n, 16 * n))
    assert calls(action, large) <= 18 * calls(action, small) + 100
    assert seconds(action, large) <= 64 * max(seconds(action, small), 1e-3)


@pytest.mark.parametrize("kind", GROWING)
def test_cost_of_parsing_is_linear(kind):
    assert_linear(lambda d: parse_xml(d, "a.xml", UNLIMITED), GROWING[kind], 1000)


@pytest.mark.parametrize("kind", GROWING_HEADERS)
def test_cost_of_reading_a_header_is_linear(kind, monkeypatch):
    monkeypatch.setattr("mri2qmap.pipeline.header_document.HEADER", UNLIMITED)
    assert_linear(parse_header, GROWING_HEADERS[kind], 250)


def test_cost_of_other_documents_is_linear(monkeypatch):
    monkeypatch.setattr("mri2qmap.pipeline.header_document.META", UNLIMITED)
    meta = "<meta><name>{}</name><value>1</value><value>2</value></meta>"
    assert_linear(
        parse_meta,
        lambda n: (
            "<ismrmrdMeta>" + "".join(meta.format(i % 99) for i in range(n)) + "</ismrmrdMeta>"
        ),
        500,
    )
    properties = '<property name="p{}" value="1"/>'
    assert_linear(
        lambda d: settings_in(d, "a.xml"),
        lambda n: (
            "<configuration><version>2</version><stream><external><configuration>"
            + "".join(properties.format(i) for i in range(n))
            + "</configuration></external></stream></configuration>"
        ),
        200,
    )


@pytest.mark.parametrize("function", [without_terminator, as_utf8])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-32-be"])
def test_cost_of_a_long_terminator_is_linear(function, encoding):
    assert without_terminator("<a/>\0\0".encode(encoding)) == "<a/>".encode(encoding)
    assert_linear(function, lambda n: _Bytes(("<a/>" + "\0" * n).encode(encoding)), 100_000)


class _Bytes(bytes):
    """A document that is bytes already."""

    def encode(self) -> bytes:
        return bytes(self)


def test_cost_of_the_name_of_a_scan_is_linear():
    parsed = parse_header(
        header(extra="").replace(
            "<experimentalConditions>",
            "<measurementInformation><measurementID>1</measurementID>"
            "<patientPosition>HFS</patientPosition></measurementInformation><experimentalConditions>",
        )
    )

    def identity(digits: bytes) -> str:
        parsed.measurementInformation.measurementID = digits.decode()
        return scan_identity(b"", parsed)

    assert_linear(identity, lambda n: "1" * n, 4000)
    assert_linear(identity, lambda n: "1_" * n + "x", 2000)


LIMITS = XmlLimits(size=200, depth=3, elements=5, attributes=2, text=10, name=6)
BEYOND = {
    "<a>" + " " * 200 + "</a>": "a.xml: it has 207 bytes of XML; at most 200",
    "<a>\n<a><a><a/></a></a></a>": "a.xml, line 2: there are 4 levels of elements .* at most 3",
    "<a><b/><b/><!----><b/>\n\n<b/></a>": "line 3: there are 6 elements and comments .* at most 5",
    "<a b='' c='' xmlns='u'/>": "there are 3 attributes in one element .* at most 2",
    "<a>1234567<b/>8901</a>": "there are 11 characters in one element .* at most 10",
    "<a b='12345678901'/>": "there are 11 characters in an attribute .* at most 10",
    "<a><!--12345678901--></a>": "there are 11 characters in a comment .* at most 10",
    "<a><bcdefgh/></a>": "there are 7 characters in a name .* at most 6",
    "<a bcdefgh=''/>": "there are 7 characters in a name .* at most 6",
}


@pytest.mark.parametrize("document", BEYOND)
def test_what_is_beyond_a_limit_is_refused(document):
    with pytest.raises(Mri2QmapError, match=BEYOND[document]) as caught:
        parse_xml(document.encode(), "a.xml", LIMITS)
    assert "\n" not in str(caught.value)


def test_what_is_at_the_limits_is_read():
    document = b"<a b='1234567890' c=''>12345<bcdefg><a/></bcdefg>67890<!--1234567890--><b/></a>"
    assert parse_xml(document, "a.xml", LIMITS).text == "1234567890"


@pytest.mark.parametrize(
    ("read", "limits"),
    [
        (parse_header, HEADER),
        (parse_meta, META),
        (lambda d: parse_pipeline(d, "a", "a.xml"), PIPELINE),
    ],
)
def test_every_kind_of_document_has_its_limits(read, limits):
    for document, words in {
        b"<a>" * (limits.depth + 1): f"{limits.depth + 1} levels",
        b"<a>" + b"<b/>" * limits.elements: f"{limits.elements + 1} elements",
        b"<a>" + b"x" * (limits.text + 1) + b"</a>": "characters in one element",
        b"<a>" + b" " * limits.size + b"</a>": f"at most {limits.size} are read",
    }.items():
        with pytest.raises(Mri2QmapError, match=words):
            read(document)


def largest_header() -> str:
    """Every value for each frame, and what converters and sites add, with a wide margin."""
    n = SCAN_LIMITS.frames
    angles = " ".join(f"{a:.6f}" for a in np.linspace(10, 75, n))
    system = "".join(
        f"<coilLabel><coilNumber>{i}</coilNumber><coilName>HeadNeck_64:H{i}</coilName></coilLabel>"
        for i in range(SCAN_LIMITS.coils)
    )
    users = "".join(
        f"<userParameter{kind}><name>sWipMemBlock.alFree[{i}]</name><value>{value}</value>"
        f"</userParameter{kind}>"
        for kind, value in (("Long", "1234567"), ("Double", "1.234567890123e-05"), ("String", "x"))
        for i in range(2000)
    )
    buffers = "".join(
        f"<userParameterBase64><name>SiemensBuffer_{name}</name>"
        f"<value>{'QUJD' * 2**20}</value></userParameterBase64>"
        for name in ("Meas", "Phoenix")
    )
    text = header(
        angles=angles,
        tr=" ".join(["12.125"] * n),
        te=" ".join(["0.7"] * n),
        ti=" ".join(["20"] * n),
        limit=n - 1,
        extra=f"<userParameters>{users}{buffers}</userParameters>",
    )
    return text.replace(
        "<experimentalConditions>",
        f"<acquisitionSystemInformation>{system}</acquisitionSystemInformation>"
        "<experimentalConditions>",
    )


def test_the_largest_headers_of_scanners_are_read_with_a_margin():
    document = largest_header().encode()
    lines = []
    parsed = parse_header(document, lines.append)
    assert len(parsed.sequenceParameters.TR) == SCAN_LIMITS.frames
    assert len(parsed.userParameters.userParameterString) == 2000
    assert [line.partition(":")[2].split(": it has")[0] for line in lines] == [
        " userParameters.userParameterBase64.value",
        " userParameters.userParameterBase64[1].value",
    ]
    elements = document.count(b"</")
    assert 1.2 * elements < HEADER.elements
    assert 1.7 * len(document) < HEADER.size

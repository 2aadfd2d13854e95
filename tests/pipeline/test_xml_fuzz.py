"""Any bytes and any tree of elements give a result or an Mri2QmapError, at a bounded cost."""

import contextlib
import io
import struct
from xml.sax.saxutils import escape, quoteattr

import ismrmrd
import pytest
from helpers.scans import external, header, pipeline_xml
from hosts.test_fuzz import damaged
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline.test_xml_limits import calls

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts.external_node import node_properties
from mri2qmap.hosts.protocol import Header, MessageId, ProtocolError, read_message
from mri2qmap.machine.file_access import INSTALLED_FILES
from mri2qmap.pipeline.header_document import parse_header, parse_meta
from mri2qmap.pipeline.node_options import NodeOptions
from mri2qmap.pipeline.pipeline_file import GADGETS, Pipeline, parse_pipeline, settings_in
from mri2qmap.pipeline.scan_header import ScanInfo
from mri2qmap.pipeline.scan_log import scan_identity
from mri2qmap.pipeline.settings import field_types
from mri2qmap.pipeline.xml_document import Element, as_utf8, parse_xml, xml_bytes

STABLE = settings(max_examples=200, deadline=None, derandomize=True)

META = (
    b"<ismrmrdMeta><meta><name>a</name><value>1</value><value>2</value></meta>"
    b"<meta><name>b</name><value>x</value></meta></ismrmrdMeta>"
)
PIPELINE = pipeline_xml(
    external("toeplitz_cg", prior="low_rank", block="6"), external("pnp_admm", b1_map="b1.nii")
).encode()
NODE = b'<configuration><property name="gadget" value="pnp_admm"/></configuration>'
WORDS = {
    "header": (
        "ismrmrdHeader encoding encodedSpace reconSpace matrixSize fieldOfView_mm x y z trajectory "
        "encodingLimits contrast segment minimum maximum center sequenceParameters TR TE TI "
        "flipAngle_deg userParameters userParameterLong name value subjectInformation patientID "
        "measurementInformation measurementID i:TR experimentalConditions H1resonanceFrequency_Hz"
    ).split(),
    "meta": ["ismrmrdMeta", "meta", "name", "value", "other"],
    "pipeline": (
        "configuration version stream external execute connect property readers reader writers dll"
    ).split(),
}
VALUES = st.one_of(
    st.sampled_from(
        [
            *("1", "2", "-1", "1e999", "nan", "65536", " ", "none"),
            *("9" * 400, "9" * 4300, "1_" * 40, "." * 40),
            *("mri2qmap.hosts.external_node", "python", "reference", "/etc/passwd", "\x7f", "🙂"),
            *GADGETS,
        ]
    ),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=20),
)
NAMES = st.sampled_from(
    ["name", "value", "target", "type", "xmlns", "xmlns:i", "i:a", "encoding", "slot"]
)


@st.composite
def trees(draw, words: list[str], depth: int = 0) -> str:
    """An element of these tags, often of the first one, with others in it."""
    tag = words[0] if depth == 0 and draw(st.integers(0, 9)) else draw(st.sampled_from(words))
    attributes = draw(st.dictionaries(NAMES, VALUES, max_size=3))
    parts = [
        draw(
            st.one_of(
                VALUES.map(escape),
                st.sampled_from(["<!-- a -->", "<?a b?>", "<![CDATA[1]]>", "&#49;", "&amp;", "\0"]),
                *([trees(words, depth + 1)] * 3 if depth < 5 else []),
            )
        )
        for _ in range(draw(st.integers(0, 4)))
    ]
    given_attributes = "".join(f" {k}={quoteattr(v)}" for k, v in attributes.items())
    return f"<{tag}{given_attributes}>{''.join(parts)}</{tag}>"


def documents(kind: str, example: bytes) -> st.SearchStrategy[bytes]:
    encodings = st.sampled_from(["utf-8", "utf-8", "utf-16", "utf-32-be", "latin-1"])
    tree = st.builds(lambda t, e: t.encode(e, "replace"), trees(WORDS[kind]), encodings)
    return st.one_of(tree, damaged(example), st.binary(max_size=200))


def bounded(read, document: bytes):
    """The result of reading a document, or None if it is refused; the cost is checked."""
    results = []

    def once() -> None:
        with contextlib.suppress(Mri2QmapError):
            results.append(read(document))

    assert calls(once) <= 20_000 + 200 * len(document)
    return results[0] if results else None


@pytest.fixture(autouse=True, scope="module")
def imported() -> None:
    """Import gadgets and patterns first: their cost does not count."""
    for _ in range(2):
        ScanInfo.from_header(header())
        settings_in(PIPELINE, "a.xml")
        parse_meta(META)


def test_of_trees_some_are_read():
    """The strategies are not only refused."""
    assert bounded(parse_meta, META) == {"a": ["1", "2"], "b": "x"}
    assert bounded(parse_header, header().encode()) is not None
    assert settings_in(PIPELINE, "a.xml").keys() == {"toeplitz_cg", "pnp_admm"}


@STABLE
@given(documents("pipeline", PIPELINE))
def test_any_document(document):
    root = bounded(lambda d: parse_xml(d, "a.xml"), document)
    assert root is None or isinstance(root, Element)
    if root is not None:
        again = parse_xml(xml_bytes(root), "a.xml")
        assert [e.tag for e in again.children] == [e.tag for e in root.children]
        with contextlib.suppress(ValueError):
            assert as_utf8(as_utf8(document)) == as_utf8(document)


@STABLE
@given(documents("header", header().encode()))
def test_headers(document):
    left_out: list[str] = []
    parsed = bounded(lambda d: parse_header(d, left_out.append), document)
    assert all("\n" not in line and len(line) < 1000 for line in left_out)
    if parsed is not None:
        assert scan_identity(document, parsed).startswith("scan ")
        scan = bounded(lambda _: ScanInfo.from_header(parsed), document)
        assert scan is None or scan.sequence.n_frames >= 2


@STABLE
@given(documents("meta", META))
def test_metadata(document):
    meta = bounded(parse_meta, document)
    assert meta is None or isinstance(meta, ismrmrd.Meta)


@STABLE
@given(documents("pipeline", PIPELINE))
def test_pipelines(document):
    found = bounded(lambda d: parse_pipeline(d, "a", "a.xml", files=INSTALLED_FILES), document)
    assert found is None or isinstance(found, Pipeline)
    known = bounded(lambda d: settings_in(d, "a.xml"), document)
    assert known is None or set(known) <= set(GADGETS)


@STABLE
@given(documents("pipeline", NODE))
def test_configurations_of_nodes(document):
    found = bounded(lambda d: node_properties(d, "a"), document)
    if found is not None:
        options, rest = found
        assert isinstance(options, NodeOptions)
        assert not set(rest) & set(field_types(NodeOptions))


@STABLE
@given(
    st.sampled_from([MessageId.CONFIG_DOCUMENT, MessageId.HEADER]),
    st.one_of(documents("header", header().encode()), st.binary().map(lambda b: b + b"\0" * 9)),
)
def test_documents_in_messages(kind, document):
    class Source(io.BytesIO):
        def read(self, n_bytes: int) -> bytes:
            return super().read(n_bytes)

    source = Source(struct.pack("<HI", kind, len(document)) + document)
    message = read_message(source)
    assert len(message.document) <= len(document) + 3
    assert isinstance(message, Header) == (kind is MessageId.HEADER)


@STABLE
@given(documents("meta", META))
def test_metadata_in_images(document):
    head = ismrmrd.ImageHeader(version=1, data_type=ismrmrd.DATATYPE_FLOAT, channels=1)
    head.matrix_size[:] = (1, 1, 1)
    content = io.BytesIO(
        struct.pack("<H", MessageId.IMAGE)
        + bytes(head)
        + struct.pack("<Q", len(document))
        + document
        + b"\0" * 4
    )
    with contextlib.suppress(ProtocolError):
        assert read_message(content).data.shape == (1, 1, 1, 1)

"""Invalid input raises an Mri2QmapError and no other exception."""

import contextlib

from files.test_scan_files import whole_stream
from helpers.scans import GainSettings, external, header, pipeline_xml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pipeline.test_settings import Settings

from mri2qmap.errors import Mri2QmapError
from mri2qmap.files.scan_files import open_scan
from mri2qmap.pipeline.scan_header import ScanInfo
from mri2qmap.pipeline.settings import parse_settings
from mri2qmap.pipeline.xml_document import parse_xml

HEADER = header().encode()
PIPELINE = pipeline_xml(external("coil_sensitivity", factor=2)).encode()


@st.composite
def damaged(draw, document: bytes) -> bytes:
    """A part of the document replaced by other bytes or by another part."""
    start = draw(st.integers(0, len(document)))
    stop = draw(st.integers(start, min(len(document), start + 60)))
    a, b = sorted(draw(st.tuples(*[st.integers(0, len(document))] * 2)))
    patch = draw(st.one_of(st.binary(max_size=8), st.just(document[a : min(b, a + 60)])))
    return document[:start] + patch + document[stop:]


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.binary(max_size=200), damaged(PIPELINE)))
def test_xml(document):
    with contextlib.suppress(Mri2QmapError):
        parse_xml(document, "fuzz.xml")


@settings(max_examples=150, deadline=None)
@given(damaged(HEADER))
def test_headers(document):
    with contextlib.suppress(Mri2QmapError):
        scan = ScanInfo.from_header(document)
        assert scan.sequence.n_frames >= 2
        assert min(scan.voxel_size) > 0


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(damaged(whole_stream()))
def test_files_of_streams(tmp_path, document):
    path = tmp_path / "scan"
    path.write_bytes(document)
    with contextlib.suppress(Mri2QmapError), open_scan(path) as scan:
        assert len(list(scan.items())) == scan.n_acquisitions + scan.n_waveforms


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(list(Settings.__dataclass_fields__)), st.text(max_size=20))
def test_properties(name, text):
    with contextlib.suppress(Mri2QmapError):
        assert isinstance(parse_settings(Settings, {name: text}, "toy"), Settings)
    with contextlib.suppress(Mri2QmapError):
        assert parse_settings(GainSettings, {"factor": text}, "gain").factor > 0

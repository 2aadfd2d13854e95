"""Reading and writing XML documents."""

import pytest

from mri2qmap.errors import Mri2QmapError
from mri2qmap.pipeline.header_document import parse_meta
from mri2qmap.pipeline.xml_document import Element, parse_xml, xml_bytes
from mri2qmap.pipeline.xml_limits import PIPELINE

DOCUMENT = """<?xml version="1.0"?>
<!-- of the whole --><a x="1 &lt; 2" y='"&#10;'>
  <b>one &amp; two &gt; 3</b><!-- of c --><c/>
  <d> kept as it is
  </d>
  <e><f><g>deep</g></f><!-- the last --></e>
</a>"""


def without_lines(element: Element) -> tuple:
    return (
        element.tag,
        element.attributes,
        element.text if not element.children else element.text.strip(),
        element.comments,
        element.last_comments,
        [without_lines(child) for child in element.children],
    )


def test_what_is_written_is_read_again():
    root = parse_xml(DOCUMENT.encode(), "a.xml")
    assert root.attributes == {"x": "1 < 2", "y": '"\n'}
    assert [root.comments, root.children[1].comments] == [[" of the whole "], [" of c "]]
    assert root.children[3].last_comments == [" the last "]
    written = xml_bytes(root)
    again = parse_xml(written, "a.xml")
    assert without_lines(again) == without_lines(root)
    assert xml_bytes(again) == written


def test_elements_are_found_at_any_depth_in_order():
    root = parse_xml(b"<a><b n='1'><b n='2'/></b><c><b n='3'/></c></a>", "a.xml")
    assert [element.attributes["n"] for element in root.everywhere("b")] == ["1", "2", "3"]


def test_what_is_nested_too_deeply_is_not_written():
    root = element = Element("a")
    for _ in range(PIPELINE.depth - 1):
        element.children.append(Element("a"))
        element = element.children[0]
    assert parse_xml(xml_bytes(root), "a.xml").tag == "a"
    element.children.append(Element("a"))
    with pytest.raises(Mri2QmapError, match="nested deeper than 32 levels"):
        xml_bytes(root)


@pytest.mark.parametrize(
    ("document", "meta"),
    [
        ("", {}),
        ("<ismrmrdMeta/>", {}),
        (
            "<ismrmrdMeta><meta><name>a</name><value>1 &lt; 2</value></meta></ismrmrdMeta>",
            {"a": "1 < 2"},
        ),
        (
            "<ismrmrdMeta><meta><name>a</name><value>1</value><value>2</value></meta>"
            "<meta><name>b</name><value/></meta><meta><name>a</name><value>3</value></meta>"
            "</ismrmrdMeta>",
            {"a": ["1", "2", "3"], "b": None},
        ),
    ],
)
def test_meta_data_of_an_image(document, meta):
    assert parse_meta(document.encode()) == meta
    if document:
        assert parse_meta(document.encode("utf-16")) == meta


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("<meta/>", "<ismrmrdMeta> is expected"),
        ("<ismrmrdMeta><meta/></ismrmrdMeta>", "line 1: <name> is missing"),
        (
            '<!DOCTYPE x [<!ENTITY a "ha">]><ismrmrdMeta><meta><name>a</name><value>&a;</value>'
            "</meta></ismrmrdMeta>",
            "<!DOCTYPE ...> is not allowed|document type",
        ),
    ],
)
def test_other_meta_data_are_refused(document, words):
    with pytest.raises(Mri2QmapError, match=words):
        parse_meta(document.encode())

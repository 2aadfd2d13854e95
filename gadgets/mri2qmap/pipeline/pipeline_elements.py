"""The elements of a pipeline document, down to the nodes of its stream."""

from __future__ import annotations

from mri2qmap.errors import Mri2QmapError
from mri2qmap.pipeline.node_options import SCAN_SECTION, parse_properties
from mri2qmap.pipeline.settings import unknown_name
from mri2qmap.pipeline.xml_document import Element


def stream_of(root: Element, place: str) -> Element:
    """Check the document down to its ``<stream>``, and return that.

    Raises
    ------
    Mri2QmapError
        If it is not a pipeline of format version 2 with one stream that has nodes.
    """
    if root.tag != "configuration":
        raise Mri2QmapError(
            f"{place}, line {root.line}: the root element is <{root.tag}>; a Gadgetron file of "
            "format version 2 starts with <configuration>"
        )
    only_children(root, ("version", SCAN_SECTION, "readers", "writers", "stream"), place)
    versions = [v.text.strip() for v in root.all("version")]
    if versions != ["2"]:
        found = ", ".join(versions) if versions else "none"
        raise Mri2QmapError(f"{place}: <version>2</version> is expected, found: {found}")
    streams = root.all("stream")
    if len(streams) != 1:
        raise Mri2QmapError(f"{place}: one <stream> is expected, found {len(streams)}")
    if not streams[0].children:
        raise Mri2QmapError(f"{place}, line {streams[0].line}: the stream has no gadgets")
    return streams[0]


def external_properties(node: Element, place: str) -> dict[str, str]:
    """Return the properties of a node of the stream.

    Raises
    ------
    Mri2QmapError
        If it has several configurations, or something else than properties in it.
    """
    configurations = node.all("configuration")
    if len(configurations) > 1:
        raise Mri2QmapError(
            f"{place}, line {configurations[1].line}: a node has one <configuration>"
        )
    return parse_properties(configurations[0], place) if configurations else {}


def only_children(element: Element, known: tuple[str, ...], place: str) -> None:
    """Refuse children with other tags than those known.

    Raises
    ------
    Mri2QmapError
        Naming the first one.
    """
    for child in element.children:
        if child.tag not in known:
            raise Mri2QmapError(
                f"{place}, line {child.line}: {unknown_name('element', child.tag, list(known))}"
            )

"""Properties of a node, and those of them that its host reads, not its gadget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.giving_way import give_way
from mri2qmap.pipeline.settings import field_types, former_names, parse_settings
from mri2qmap.pipeline.xml_document import Element


@dataclass(frozen=True)
class NodeOptions:
    """How a gadget runs as an external node of a Gadgetron server.

    They are in the node's ``<configuration>`` with the gadget's own properties, because a Gadgetron
    server passes nothing else of the pipeline file to a node. In process, all but ``gadget`` are
    ignored.

    Attributes
    ----------
    gadget
        Name of the gadget of a ``<connect>`` node; an ``<execute>`` node names it as its target.
    transport
        "value": items pass through the server as a whole. "reference": items stay in the memory of
        the `mri2qmap worker` that serves the next node too, and only a reference passes through the
        server.
    report
        "text": log lines go to the client as text; the ``<external>`` needs a TextReader on slot
        2005 for them. "log": they go to the log of the node.
    silence
        Time without data within a scan after which it is given up [s]; none: the default of
        `mri2qmap.hosts.deadlines.Deadlines`, or ``--silence`` of `mri2qmap worker`. In an
        ``<execute>`` node it is for the gadget that receives the acquisitions.
    """

    FORMER_NAMES: ClassVar[dict[str, str]] = {"hand_over": "transport"}

    gadget: str = ""
    transport: Literal["value", "reference"] = "value"
    report: Literal["log", "text"] = "log"
    silence: float | None = None


SCAN_SECTION = "scan"
"""Element beside the properties of a node that describes the scan, see `ScanProfile`."""


def parse_properties(element: Element, place: str) -> dict[str, str]:
    """Return the properties of a ``<configuration>`` or ``<scan>``, name to value."""
    properties: dict[str, str] = {}
    for child in element.children:
        give_way()
        if child.tag == SCAN_SECTION != element.tag:
            continue
        where = f"{place}, line {child.line}"
        if child.tag != "property" or set(child.attributes) != {"name", "value"}:
            raise Mri2QmapError(
                f'{where}: <property name="..." value="..."/> is expected, found <{child.tag}'
                f"{''.join(f' {k}=' for k in child.attributes)}>"
            )
        name = child.attributes["name"]
        if name in properties:
            raise Mri2QmapError(f'{where}: property "{name}" is given twice')
        properties[name] = child.attributes["value"]
    return properties


_NAMES = frozenset((*field_types(NodeOptions), *former_names([NodeOptions])))


def split_properties(
    properties: Mapping[str, str], gadget: str, place: str = ""
) -> tuple[NodeOptions, dict[str, str]]:
    """Separate the options of the host from the properties of the gadget.

    Raises
    ------
    Mri2QmapError
        For an option with a wrong value.
    """
    options = {name: value for name, value in properties.items() if name in _NAMES}
    rest = {name: value for name, value in properties.items() if name not in _NAMES}
    return parse_settings(NodeOptions, options, gadget, place), rest

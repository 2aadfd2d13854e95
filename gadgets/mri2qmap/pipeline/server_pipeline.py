"""Pipeline files for a Gadgetron server, made from those that run in process."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mri2qmap.pipeline.node_options import parse_properties, split_properties
from mri2qmap.pipeline.pipeline_file import (
    EXTERNAL_MODULE,
    Overrides,
    parse_pipeline,
    pipeline_document,
    pipeline_path,
)
from mri2qmap.pipeline.scan_profile_files import ScanProfileInput
from mri2qmap.pipeline.scan_section import set_scan_sections
from mri2qmap.pipeline.xml_document import Element, parse_xml, xml_bytes

ServerMode = Literal["execute", "connect"]

WORKER_ADDRESS = "127.0.0.1"
WORKER_PORT = 18000
TEXT_SLOT = 2005
"""Identifier of the messages with which a node sends text through the server to its client."""

_GENERATED = "\nGenerated from "
_READERS = (
    ("AcquisitionReader", None),
    ("WaveformReader", None),
    ("ImageReader", None),
    ("TextReader", TEXT_SLOT),
)
_HEADERS: dict[ServerMode, str] = {
    "execute": """\
The Gadgetron server starts a Python process for each gadget; that Python must have mri2qmap. The
readers pass the gadgets' progress lines (slot 2005) on to the client.
""",
    "connect": """\
The Gadgetron server connects to a running mri2qmap worker, which executes all gadgets. Large items
stay in the memory of the worker (transport), so no other gadget may be inserted between nodes with
transport="reference". The readers pass the gadgets' progress lines (slot 2005) on to the client.
""",
}


def server_pipeline(
    name: str | Path,
    mode: ServerMode,
    overrides: Overrides | None = None,
    address: str = WORKER_ADDRESS,
    port: int = WORKER_PORT,
    profile: ScanProfileInput | None = None,
) -> bytes:
    """Return a pipeline document for a Gadgetron server, with the settings of a pipeline file.

    Parameters
    ----------
    name
        See `pipeline_path`. Every node must be a gadget of this project. The file may already be
        one for a server.
    mode
        "execute": the server starts the gadgets; "connect": they run in `mri2qmap worker`.
    overrides
        By gadget: properties that replace those of the file, or are added.
    address, port
        Where the worker listens, as seen from the server.
    profile
        Convention of the scans, if the file has no ``<scan>``. Each node gets a ``<scan>``.

    Raises
    ------
    Mri2QmapError
        For a file that cannot be read or run, see `parse_pipeline`.
    """
    path = pipeline_path(name)
    document = pipeline_document(path, overrides)
    pipeline = parse_pipeline(document, path.stem, str(path), profile=profile)
    gadgets = [node.name for node in pipeline.nodes]
    root = parse_xml(document, str(path))
    header = f"{_GENERATED}{path.name} by mri2qmap pipeline, for-server {mode}.\n\n{_HEADERS[mode]}"
    kept = [comment for comment in root.comments if not comment.startswith(_GENERATED)]
    root.comments = [header, *kept]
    (stream,) = root.all("stream")
    for number, (node, gadget) in enumerate(zip(stream.children, gadgets, strict=True)):
        last = number == len(gadgets) - 1  # its images go to the client
        configuration = next(iter(node.all("configuration")), Element("configuration"))
        properties = parse_properties(configuration, str(path))
        _, own = split_properties(properties, gadget, f"{path}, line {node.line}")
        options = {"report": "text"}
        start = Element("execute", {"name": EXTERNAL_MODULE, "target": gadget, "type": "python"})
        if mode == "connect":
            start = Element("connect", {"address": address, "port": str(port)})
            options = {
                "gadget": gadget,
                **({} if last else {"transport": "reference"}),
                "report": "text",
            }
        settings = [p for p in configuration.all("property") if p.attributes["name"] in own]
        configuration.children = [
            *(Element("property", {"name": k, "value": v}) for k, v in options.items()),
            *settings,
        ]
        node.children = [start, _readers(), *node.all("writers"), configuration]
    set_scan_sections(root, pipeline.scan_profile)
    return xml_bytes(root)


def _readers() -> Element:
    readers = Element("readers")
    for name, slot in _READERS:
        parts = {"dll": "gadgetron_core_readers", "classname": name}
        if slot is not None:
            parts = {"slot": str(slot), **parts}
        children = [Element(tag, text=text) for tag, text in parts.items()]
        readers.children.append(Element("reader", children=children))
    return readers

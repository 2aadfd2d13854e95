"""The pipeline file: Gadgetron XML, format version 2, as a Gadgetron server reads it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import mri2qmap
from mri2qmap.errors import Mri2QmapError
from mri2qmap.stream.items import Item
from mri2qmap.stream.scan_info import ScanInfo
from mri2qmap.stream.settings import parse_settings, unknown_name
from mri2qmap.stream.xml_document import Element, parse_xml

GADGETS = (
    "coil_sensitivity",
    "subspace_compression",
    "toeplitz_cg",
    "pnp_admm",
    "combined_matching",
    "parametric_maps",
)
EXTERNAL_MODULE = "mri2qmap.stream.external"

GadgetFunction = Callable[[Iterator[Item], ScanInfo, Any], Iterator[Item]]


@dataclass(frozen=True)
class GadgetNode:
    """One gadget of a pipeline with its settings."""

    name: str
    function: GadgetFunction
    settings: Any


@dataclass(frozen=True)
class Pipeline:
    """The gadgets in the order in which items pass through them."""

    name: str
    nodes: tuple[GadgetNode, ...]


def load_gadget(name: str) -> tuple[GadgetFunction, type[Any]]:
    """Return the function of a gadget and the class of its settings.

    Gadget ``g`` is the function ``mri2qmap.g.g``; the annotation of its parameter ``settings``
    is the class.
    """
    if name not in GADGETS:
        raise Mri2QmapError(unknown_name("gadget", name, list(GADGETS)))
    function = getattr(importlib.import_module(f"mri2qmap.{name}"), name)
    return function, get_type_hints(function)["settings"]


def pipeline_folders() -> tuple[Path, ...]:
    """Return where pipelines are kept: in the repository, and in the package of a wheel."""
    package = Path(mri2qmap.__file__).resolve().parent
    return (package.parents[1] / "pipelines", package / "_pipelines")


def pipeline_path(name: str | Path) -> Path:
    """Return the file of a pipeline.

    Parameters
    ----------
    name
        A path, or the bare name of one of the project's pipelines, with or without ``.xml``.

    Raises
    ------
    Mri2QmapError
        When there is no such file; it lists the pipelines that come with the project.
    """
    path = Path(name)
    if path.is_file():
        return path
    if path.name == str(name):
        for folder in pipeline_folders():
            for candidate in (folder / path.name, folder / f"{path.name}.xml"):
                if candidate.is_file():
                    return candidate
    known = sorted({p.stem for folder in pipeline_folders() for p in folder.glob("*.xml")})
    raise Mri2QmapError(
        f"pipeline {str(name)!r}: there is no such file, nor a pipeline of that name "
        f"(known: {', '.join(known) or 'none'})"
    )


def read_pipeline(
    name: str | Path, overrides: Mapping[str, Mapping[str, str]] | None = None
) -> Pipeline:
    """Read a pipeline file.

    Parameters
    ----------
    name
        See `pipeline_path`.
    overrides
        By gadget: properties that replace those of the file.

    Raises
    ------
    Mri2QmapError
        For anything in the file that this host would not do as a Gadgetron server does it.
    """
    path = pipeline_path(name)
    try:
        document = path.read_bytes()
    except OSError as error:
        raise Mri2QmapError(f"pipeline {path}: it cannot be read ({error.strerror})") from error
    root = parse_xml(document, str(path))
    stream = _stream(root, str(path))
    overrides = overrides or {}
    used = set()
    nodes = []
    for external in stream.children:
        target = _target(external, str(path))
        place = f"{path}, line {external.line}"
        properties = {**_external_properties(external, str(path)), **overrides.get(target, {})}
        used.add(target)
        function, settings_class = load_gadget(target)
        settings = parse_settings(settings_class, properties, target, place)
        nodes.append(GadgetNode(target, function, settings))
    for gadget in overrides:
        if gadget not in used:
            raise Mri2QmapError(
                f"{path}: {unknown_name('gadget', gadget, [node.name for node in nodes])}, "
                "so its settings cannot be changed"
            )
    return Pipeline(path.stem, tuple(nodes))


def parse_properties(configuration: Element, place: str) -> dict[str, str]:
    """Return the properties of a ``<configuration>`` element, name to value."""
    properties: dict[str, str] = {}
    for child in configuration.children:
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


def _stream(root: Element, place: str) -> Element:
    """Check the document down to its ``<stream>``, and return that."""
    if root.tag != "configuration":
        raise Mri2QmapError(
            f"{place}, line {root.line}: the root element is <{root.tag}>; a Gadgetron file of "
            "format version 2 starts with <configuration>"
        )
    _only_children(root, ("version", "readers", "writers", "stream"), place)
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


def _target(node: Element, place: str) -> str:
    """Return the name of the gadget that a node of the stream runs."""
    where = f"{place}, line {node.line}"
    if node.tag != "external":
        raise Mri2QmapError(
            f"{where}: <{node.tag}> nodes run under a Gadgetron server only; in process, every "
            "node is an <external> one with one of this project's gadgets"
        )
    _only_children(node, ("execute", "connect", "configuration", "readers", "writers"), place)
    if node.all("connect"):
        raise Mri2QmapError(
            f"{where}: <connect> nodes run under a Gadgetron server only; in process, "
            "<execute> is expected"
        )
    executes = node.all("execute")
    if len(executes) != 1:
        raise Mri2QmapError(f"{where}: one <execute> is expected, found {len(executes)}")
    attributes = executes[0].attributes
    expected = {"name": EXTERNAL_MODULE, "type": "python"}
    for key, value in expected.items():
        found = attributes.get(key, "")
        if found != value and not (key == "type" and found.lower() == value):
            raise Mri2QmapError(
                f'{place}, line {executes[0].line}: <execute {key}="{found}">: '
                f'{key}="{value}" is expected; other programs run under a Gadgetron server only'
            )
    target = attributes.get("target", "")
    if target not in GADGETS:
        raise Mri2QmapError(
            f"{place}, line {executes[0].line}: {unknown_name('gadget', target, list(GADGETS))}"
        )
    return target


def _external_properties(node: Element, place: str) -> dict[str, str]:
    configurations = node.all("configuration")
    if len(configurations) > 1:
        raise Mri2QmapError(
            f"{place}, line {configurations[1].line}: a node has one <configuration>"
        )
    return parse_properties(configurations[0], place) if configurations else {}


def _only_children(element: Element, known: tuple[str, ...], place: str) -> None:
    for child in element.children:
        if child.tag not in known:
            raise Mri2QmapError(
                f"{place}, line {child.line}: {unknown_name('element', child.tag, list(known))}"
            )

"""The pipeline file: Gadgetron XML, format version 2, as a Gadgetron server reads it."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.file_access import ANY_FILE, FileAccess
from mri2qmap.machine.folders import pipeline_folders
from mri2qmap.machine.type_hints import type_hints
from mri2qmap.machine.words import shortened
from mri2qmap.pipeline.contradictions import refuse_contradictions
from mri2qmap.pipeline.item_flow import refuse_broken_flow
from mri2qmap.pipeline.items import Item
from mri2qmap.pipeline.node_options import NodeOptions, split_properties
from mri2qmap.pipeline.pipeline_elements import external_properties, only_children, stream_of
from mri2qmap.pipeline.scan_header import ScanInfo
from mri2qmap.pipeline.scan_profile import STANDARD, ScanProfile
from mri2qmap.pipeline.scan_profile_files import ScanProfileInput
from mri2qmap.pipeline.scan_section import chosen_profile, refuse_two_conventions, scan_sections
from mri2qmap.pipeline.settings import (
    former_names,
    parse_settings,
    settings_as_dict,
    unknown_name,
    warn_of_former_name,
    with_present_names,
)
from mri2qmap.pipeline.xml_document import Element, as_utf8, parse_xml, xml_bytes

GADGETS = (
    "coil_sensitivity",
    "subspace_compression",
    "toeplitz_cg",
    "pnp_admm",
    "combined_matching",
    "parametric_maps",
)
EXTERNAL_MODULE = "mri2qmap.hosts.external_node"
FORMER_MODULE = "mri2qmap.stream.external"
"""Its name in files written for earlier versions."""

Overrides = Mapping[str, Mapping[str, str]]
"""Properties that replace those of a pipeline, or are added, by gadget."""

GadgetFunction = Callable[[Iterator[Item], ScanInfo, Any], Iterator[Item]]


@dataclass(frozen=True)
class GadgetNode:
    """One gadget of a pipeline with its settings."""

    name: str
    function: GadgetFunction
    settings: Any


@dataclass(frozen=True)
class Pipeline:
    """The gadgets in the order in which items pass through them, and the convention of scans."""

    name: str
    nodes: tuple[GadgetNode, ...]
    scan_profile: ScanProfile = STANDARD


def load_gadget(name: str) -> tuple[GadgetFunction, type[Any]]:
    """Return the function of a gadget and the class of its settings.

    Gadget ``g`` is the function ``mri2qmap.g.g``; the annotation of its parameter ``settings``
    is the class.
    """
    if name not in GADGETS:
        raise Mri2QmapError(unknown_name("gadget", name, list(GADGETS)))
    function = getattr(importlib.import_module(f"mri2qmap.{name}"), name)
    return function, type_hints(function)["settings"]


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
    if not isinstance(name, str | os.PathLike):
        text = f"a file or the name of a pipeline is expected, got {type(name).__name__}"
        raise Mri2QmapError(f"pipeline: {text} (known: {_known_pipelines()})")
    path = Path(name)
    found = path if os.path.isfile(path) else _project_pipeline(str(name))
    if found is not None:
        return found
    what = "it is not a file" if os.path.exists(path) else "there is no such file"
    raise Mri2QmapError(
        f"pipeline {str(name)!r}: {what}, nor a pipeline of that name (known: {_known_pipelines()})"
    )


def kept_pipeline_path(name: str) -> Path:
    """Return the file of one of the project's pipelines, for a name that a client sent.

    Raises
    ------
    Mri2QmapError
        When there is no pipeline of that name in the pipelines folder; paths are refused.
    """
    found = _project_pipeline(name)
    if found is None:
        text = f"there is no pipeline {shortened(name)!r} here (known: {_known_pipelines()})"
        raise Mri2QmapError(text)
    return found


def _project_pipeline(name: str) -> Path | None:
    if not name or Path(name).name != name:
        return None
    files = (folder / file for folder in pipeline_folders() for file in (name, f"{name}.xml"))
    # false for names that are too long, or have a NUL
    return next((file for file in files if file.suffix == ".xml" and os.path.isfile(file)), None)


def _known_pipelines() -> str:
    known = {p.stem for folder in pipeline_folders() for p in folder.glob("*.xml")}
    return ", ".join(sorted(known)) or "none"


def read_pipeline(
    name: str | Path,
    overrides: Overrides | None = None,
    profile: ScanProfileInput | None = None,
) -> Pipeline:
    """Read a pipeline file.

    Parameters
    ----------
    name
        See `pipeline_path`.
    overrides
        By gadget: properties that replace those of the file.
    profile
        Convention of the scans, if the file has no ``<scan>``; None: that of the file, or the
        standard one.

    Raises
    ------
    Mri2QmapError
        When it cannot be read, and as `parse_pipeline`.
    """
    path = pipeline_path(name)
    return parse_pipeline(pipeline_bytes(path), path.stem, str(path), overrides, profile=profile)


def parse_pipeline(
    document: bytes,
    name: str,
    place: str,
    overrides: Overrides | None = None,
    files: FileAccess = ANY_FILE,
    profile: ScanProfileInput | None = None,
) -> Pipeline:
    """Read a pipeline document.

    Parameters
    ----------
    document
        The XML.
    name, place
        Name of the pipeline, and where it was read, for messages.
    overrides
        By gadget: properties that replace those of the document.
    files
        Files that the document may name.
    profile
        See `read_pipeline`.

    Raises
    ------
    Mri2QmapError
        For anything in the document that this host would not run as a Gadgetron server does, for
        settings that are wrong or contradict each other, and for gadgets in a wrong order.
    """
    overrides = overrides or {}
    nodes = []
    root = parse_xml(document, place)
    for external in stream_of(root, place).children:
        properties = external_properties(external, place)
        target = _target(external, properties, place)
        where = f"{place}, line {external.line}"
        properties = _changed(properties, overrides.get(target, {}), target, where)
        _, own = split_properties(properties, target, where)
        function, settings_class = load_gadget(target)
        settings = parse_settings(settings_class, own, target, where, files)
        nodes.append(GadgetNode(target, function, settings))
    _refuse_unused(overrides, [node.name for node in nodes], place)
    known = {node.name: settings_as_dict(node.settings) for node in nodes}
    refuse_contradictions(known, place, overrides)
    refuse_broken_flow([(node.name, node.settings) for node in nodes], place)
    chosen = chosen_profile(scan_sections(root, place), profile, place, files)
    for node in nodes:
        refuse_two_conventions(chosen, node.settings, f"{place}: gadget {node.name}")
    return Pipeline(name, tuple(nodes), chosen)


def pipeline_document(name: str | Path, overrides: Overrides | None = None) -> bytes:
    """Return the pipeline document to send to a server, with some properties replaced.

    Parameters
    ----------
    name
        See `pipeline_path`. The file may have nodes that only a Gadgetron server runs.
    overrides
        By gadget: properties that replace those of the file, or are added.

    Raises
    ------
    Mri2QmapError
        When it cannot be read, has no node of a gadget whose properties are to be replaced, or has
        settings that contradict each other.
    """
    path = pipeline_path(name)
    content = pipeline_bytes(path)
    root = parse_xml(content, str(path))  # well-formed, and without entities
    if overrides:
        _override(root, overrides, str(path))
        content = xml_bytes(root)
    else:
        content = as_utf8(content)
    known = {g: settings_as_dict(own) for g, own in settings_in(content, str(path)).items()}
    refuse_contradictions(known, str(path), overrides)
    return content


def _override(root: Element, overrides: Overrides, place: str) -> None:
    """Replace properties of a document, or add them."""
    found = []
    for external in root.everywhere("external"):
        configuration = next(iter(external.all("configuration")), Element("configuration"))
        elements = {e.attributes.get("name", ""): e for e in configuration.all("property")}
        properties = {name: e.attributes.get("value", "") for name, e in elements.items()}
        starts = external.all("execute")
        target = starts[0].attributes.get("target", "") if starts else properties.get("gadget", "")
        found.append(target)
        if target not in overrides:
            continue
        if configuration not in external.children:
            external.children.append(configuration)
        table = former_names(_settings_classes(target))
        elements = {table.get(name, name): element for name, element in elements.items()}
        where = f"{place}, line {external.line}"
        for name, value in _changed(properties, overrides[target], target, where).items():
            if name not in elements:
                elements[name] = Element("property")
                configuration.children.append(elements[name])
            elements[name].attributes.update(name=name, value=value)
    _refuse_unused(overrides, found, place)


def _changed(
    properties: Mapping[str, str], changes: Mapping[str, str], gadget: str, where: str
) -> dict[str, str]:
    """Return the properties of a node under their present names, with some replaced."""
    classes = _settings_classes(gadget)
    return {
        **with_present_names(properties, classes, f"{where}: gadget {gadget}"),
        **with_present_names(changes, classes, f"changed settings of gadget {gadget}"),
    }


def _settings_classes(gadget: str) -> list[type[Any]]:
    """Return the classes that the properties of a node are for."""
    return [NodeOptions, *([load_gadget(gadget)[1]] if gadget in GADGETS else [])]


def settings_in(document: bytes, place: str) -> dict[str, Any]:
    """Return the settings of the project's gadgets in a document that is sent to a server.

    Nodes that cannot be read are left out: the server may know gadgets that this program does not.

    Parameters
    ----------
    document
        The XML.
    place
        Where it was read, for messages.

    Raises
    ------
    Mri2QmapError
        When it is not well-formed XML.
    """
    known = {}
    for stream in parse_xml(document, place).all("stream"):
        for external in stream.all("external"):
            with contextlib.suppress(Mri2QmapError):
                properties = external_properties(external, place)
                target = _target(external, properties, place)
                where = f"{place}, line {external.line}"
                _, own = split_properties(properties, target, where)
                known[target] = parse_settings(load_gadget(target)[1], own, target, where)
    return known


def pipeline_bytes(path: Path) -> bytes:
    """Return the content of a pipeline file.

    Raises
    ------
    Mri2QmapError
        When it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise Mri2QmapError(f"pipeline {path}: it cannot be read ({error.strerror})") from error


def _refuse_unused(overrides: Overrides, present: list[str], place: str) -> None:
    for gadget in overrides:
        if gadget in present:
            continue
        text = unknown_name("gadget", gadget, present)
        if gadget in GADGETS:  # it is known, but not here
            text = f'the pipeline has no gadget "{gadget}" (it has: {", ".join(present)})'
        raise Mri2QmapError(f"{place}: {text}, so its settings cannot be changed")


def _target(node: Element, properties: Mapping[str, str], place: str) -> str:
    """Return the name of the gadget that a node of the stream runs."""
    where = f"{place}, line {node.line}"
    if node.tag != "external":
        raise Mri2QmapError(
            f"{where}: <{node.tag}> nodes run under a Gadgetron server only; in process, every "
            "node is an <external> one with one of this project's gadgets"
        )
    only_children(node, ("execute", "connect", "configuration", "readers", "writers"), place)
    starts = [*node.all("execute"), *node.all("connect")]
    if len(starts) != 1:
        raise Mri2QmapError(f"{where}: one <execute> or <connect> is expected, found {len(starts)}")
    start = starts[0]
    where = f"{place}, line {start.line}"
    if start.tag == "connect":
        target = properties.get("gadget", "")
        if not target:
            raise Mri2QmapError(
                f"{where}: the <configuration> of a <connect> node must name the gadget that it "
                f'is, <property name="gadget" value="..."/>, with one of {", ".join(GADGETS)}'
            )
    else:
        for key, values in {
            "name": (EXTERNAL_MODULE, FORMER_MODULE),
            "type": ("python", "Python", "PYTHON"),
        }.items():
            found = start.attributes.get(key, "")
            if found not in values:
                raise Mri2QmapError(
                    f'{where}: <execute {key}="{found}">: {key}="{values[0]}" is expected; other '
                    "programs run under a Gadgetron server only"
                )
        target = start.attributes.get("target", "")
        if start.attributes["name"] == FORMER_MODULE:
            warn_of_former_name(where, "module", FORMER_MODULE, EXTERNAL_MODULE)
    if target not in GADGETS:
        raise Mri2QmapError(f"{where}: {unknown_name('gadget', target, list(GADGETS))}")
    return target

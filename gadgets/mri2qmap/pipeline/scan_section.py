"""The ``<scan>`` of a pipeline document: the convention in which its scans are written.

It stands in the ``<configuration>`` of the document, for `mri2qmap replay` and `mri2qmap serve`. A
Gadgetron server ignores it there, and passes nothing but the ``<configuration>`` of a node to the
node: documents for such a server have it in each of these.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.file_access import ANY_FILE, FileAccess
from mri2qmap.pipeline.node_options import SCAN_SECTION, parse_properties
from mri2qmap.pipeline.scan_profile import STANDARD, ScanProfile
from mri2qmap.pipeline.scan_profile_files import (
    FILE_KEYS,
    ScanProfileInput,
    load_scan_profile,
    profile_of_properties,
    properties_of_profile,
)
from mri2qmap.pipeline.xml_document import Element, parse_xml, xml_bytes

_COUNTERS = {"frame_counter": "contrast", "group_counter": "segment"}
"""Settings of gadgets that receive raw data, which say the same as a profile."""


def scan_sections(root: Element, place: str) -> dict[str, str] | None:
    """Return the properties of the ``<scan>`` of a document or of a node; None if it has none.

    Parameters
    ----------
    root
        The ``<configuration>`` of the document, or that of a node.
    place
        Where it was read, for messages.

    Raises
    ------
    Mri2QmapError
        If there are several that differ.
    """
    first: tuple[int, dict[str, str]] | None = None
    for section in _sections(root):
        properties = parse_properties(section, place)
        first = first or (section.line, properties)
        if properties != first[1]:
            raise Mri2QmapError(
                f"{place}, line {section.line}: this <{SCAN_SECTION}> differs from that in line "
                f"{first[0]}; a scan has one convention: make them alike, or remove one of them"
            )
    return None if first is None else first[1]


def chosen_profile(
    properties: Mapping[str, str] | None,
    given: ScanProfileInput | None,
    place: str,
    files: FileAccess = ANY_FILE,
) -> ScanProfile:
    """Return the profile of a pipeline, or the one that is given instead.

    Parameters
    ----------
    properties
        See `scan_sections`.
    given
        A profile from elsewhere; None: there is none.
    place
        Where the pipeline was read, for messages.
    files
        Files that the properties may name.

    Raises
    ------
    Mri2QmapError
        If there are both, or the profile is wrong.
    """
    if properties is None:
        return STANDARD if given is None else _with_absolute_path(load_scan_profile(given))
    if given is not None:
        raise Mri2QmapError(
            f"{place}: the pipeline has a <{SCAN_SECTION}>, and a scan profile is given too "
            "(--scan-profile, or scan_profile=); give one of them"
        )
    return _with_absolute_path(profile_of_properties(properties, place, files))


def refuse_two_conventions(profile: ScanProfile, settings: Any, where: str) -> None:
    """Refuse settings of a gadget that name counters which the profile replaces.

    Parameters
    ----------
    profile
        The convention of the scan.
    settings
        Settings of a gadget; only those that receive raw data name counters.
    where
        Place and gadget, for messages.

    Raises
    ------
    Mri2QmapError
        Naming the setting.
    """
    if profile.keeps_counters and not profile.trajectory_file:
        return
    for name, standard in _COUNTERS.items():
        value = getattr(settings, name, standard)
        if value != standard:
            raise Mri2QmapError(
                f'{where}: property {name}="{value}", but the scan profile {profile.name} gives '
                f"the counters, and moves them to contrast and segment: remove the property and "
                f'set {name} = "{value}" in the profile'
            )


def set_scan_sections(root: Element, profile: ScanProfile | None) -> None:
    """Put a profile into the ``<configuration>`` of each node of a document.

    Parameters
    ----------
    root
        The document; sections in it are removed.
    profile
        None, or the standard one: nodes get none.
    """
    root.children = [child for child in root.children if child.tag != SCAN_SECTION]
    values = properties_of_profile(profile or STANDARD)
    for external in root.everywhere("external"):
        for configuration in external.all("configuration"):
            kept = [child for child in configuration.children if child.tag != SCAN_SECTION]
            if values:
                properties = [
                    Element("property", {"name": name, "value": value})
                    for name, value in values.items()
                ]
                kept.append(Element(SCAN_SECTION, children=properties))
            configuration.children = kept


def taken_profile(
    document: bytes | None, given: ScanProfileInput | None, place: str
) -> tuple[ScanProfile, bytes | None]:
    """Take the profile out of a document that is sent to a server, as the client converts the scan.

    Parameters
    ----------
    document
        The pipeline; None: the server has one, and its ``<scan>`` does nothing to a scan that says
        that it is converted.
    given
        A profile from elsewhere; None: there is none.
    place
        Where the document was read, for messages.

    Returns
    -------
        The profile, and the document without it.

    Raises
    ------
    Mri2QmapError
        See `chosen_profile`.
    """
    if document is None:
        return chosen_profile(None, given, place), None
    root = parse_xml(document, place)
    properties = scan_sections(root, place)
    profile = chosen_profile(properties, given, place)
    if properties is None:
        return profile, document
    set_scan_sections(root, None)
    return profile, xml_bytes(root)


def _with_absolute_path(profile: ScanProfile) -> ScanProfile:
    """Workers and nodes have other current folders."""
    named = {name: getattr(profile, name) for name in FILE_KEYS}
    return replace(profile, **{n: os.path.abspath(file) for n, file in named.items() if file})


def _sections(root: Element) -> list[Element]:
    """Return the sections of a document and its nodes, or of the configuration of a node."""
    nodes = [
        section
        for external in root.everywhere("external")
        for configuration in external.all("configuration")
        for section in configuration.all(SCAN_SECTION)
    ]
    return [*root.all(SCAN_SECTION), *nodes]

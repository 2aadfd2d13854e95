"""A header with every element of the ISMRMRD schema, and copies with one changed element."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from enum import Enum
from typing import Any, get_args, get_origin, get_type_hints
from xml.etree import ElementTree

import ismrmrd
from xsdata.models.datatype import XmlDate, XmlTime

NAMESPACE = "{http://www.ismrm.org/ISMRMRD}"
FRAMES = 2

_VALUES: dict[str, Any] = {
    "TR": [12.0, 13.0],
    "TE": [0.7, 0.8],
    "TI": [20.0],
    "flipAngle_deg": [10.0, 20.0],
    "H1resonanceFrequency_Hz": 123_200_000,
    "systemFieldStrength_T": 2.89,
    "patientWeight_kg": 71.5,
    "patientHeight_m": 1.78,
    "patientGender": "F",
    "studyInstanceUID": "1.2.826.0.1.3680043.8.498.1.2.3",
    "frameOfReferenceUID": "1.2.826.0.1.3680043.8.498.4.5.6",
    "matrixSize": ismrmrd.xsd.matrixSizeType(x=8, y=8, z=8),
    "fieldOfView_mm": ismrmrd.xsd.fieldOfViewMm(x=192, y=192, z=192),
    "contrast": ismrmrd.xsd.limitType(minimum=0, maximum=FRAMES - 1, center=0),
    "segment": ismrmrd.xsd.limitType(minimum=0, maximum=1, center=0),
}
_BY_TYPE = {
    str: "word",
    int: 3,
    float: 1.5,
    bytes: b"bytes",
    XmlDate: XmlDate(2024, 3, 1),
    XmlTime: XmlTime(14, 5, 9),
}


def full_header() -> ismrmrd.xsd.ismrmrdHeader:
    """Header with a value in every field of every class."""
    header: ismrmrd.xsd.ismrmrdHeader = _filled(ismrmrd.xsd.ismrmrdHeader)
    return header


def full_document() -> str:
    return str(ismrmrd.xsd.ToXML(full_header()))


def paths(document: str) -> list[str]:
    """Paths of all elements below the root; only the first of repeated elements."""
    root = ElementTree.fromstring(document)
    return list(dict.fromkeys(_paths(root, "")))


def is_text(document: str, path: str) -> bool:
    """Return whether the element at `path` contains free text."""
    element = _at(ElementTree.fromstring(document), path)
    return element.text == _BY_TYPE[str]


def changed(document: str, path: str, text: str) -> str:
    """Return the document with the content of the first element at `path` replaced by `text`."""
    ElementTree.register_namespace("", NAMESPACE.strip("{}"))
    root = ElementTree.fromstring(document)
    element = _at(root, path)
    for child in list(element):
        element.remove(child)
    element.text = text
    return ElementTree.tostring(root, encoding="unicode")


def _at(root: ElementTree.Element, path: str) -> ElementTree.Element:
    element = root.find("/".join(NAMESPACE + name for name in path.split("/")))
    assert element is not None
    return element


def _paths(element: ElementTree.Element, above: str) -> Iterator[str]:
    for child in element:
        path = above + child.tag.removeprefix(NAMESPACE)
        yield path
        yield from _paths(child, f"{path}/")


def _filled(kind: type[Any]) -> Any:
    hints = get_type_hints(kind)
    values = {}
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        inner = next((t for t in get_args(hint) if t is not type(None)), hint)
        if field.name in _VALUES:
            values[field.name] = _VALUES[field.name]
            continue
        if dataclasses.is_dataclass(inner):
            value = _filled(inner)
        elif issubclass(inner, Enum):
            value = next(iter(inner))
        else:
            value = _BY_TYPE[inner]
        values[field.name] = [value] if get_origin(hint) is list else value
    return kind(**values)

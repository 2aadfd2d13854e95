"""From ISMRMRD documents, headers and metadata of images, to objects of the `ismrmrd` package.

An element without content counts as absent, and so does a group of such elements. Namespaces need
not be declared: an element is known by its name, unless it belongs to another namespace. Elements
that the maps need must be right; any other that cannot be read is left out and reported.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import re
from collections import ChainMap
from collections.abc import Callable
from enum import Enum
from typing import Any, TypeAlias, get_args, get_origin

import ismrmrd
from xsdata.models.datatype import XmlDate, XmlTime

from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.giving_way import give_way
from mri2qmap.machine.type_hints import type_hints
from mri2qmap.pipeline.xml_document import Element, as_utf8, declares_encoding, parse_xml
from mri2qmap.pipeline.xml_limits import HEADER, META

NAMESPACE = "http://www.ismrm.org/ISMRMRD"

_NEEDED = re.compile(
    r"encoding(\[\d+\])?"
    r"(\.(encodedSpace|reconSpace)(\.\w+)*|\.trajectory"
    r"|\.encodingLimits(\.(contrast|segment)(\.\w+)?)?)?"
    r"|sequenceParameters(\.(TR|TE|TI|flipAngle_deg)(\[\d+\])?)?"
)
"""Elements that the maps need, with correct values."""

_MAY_LACK = ("experimentalConditions", "measurementInformation.patientPosition")
"""Elements that the schema requires; their group is kept without them."""

_AS_TEXT = ("studyInformation.accessionNumber",)
"""Identifiers that are numbers in the schema; converted, they would lose leading zeros."""

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")  # within 64 bits
_FLOAT = re.compile(r"(?i)[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?|[+-]?inf|nan")
_LONGEST_SHOWN = 40
MOST_TEXT = 2**20
"""Characters of all texts together that are kept; texts beyond it are left out. The longest are
protocols of scanners, which the maps do not need."""
MOST_REPORTED = 20
"""Number of elements that are reported one by one as left out."""


def parse_header(
    document: bytes | str, left_out: Callable[[str], None] | None = None
) -> ismrmrd.xsd.ismrmrdHeader:
    """Parse an ISMRMRD XML header.

    Elements that are not in the schema are ignored.

    Parameters
    ----------
    document
        The XML, in any encoding, with or without NUL characters after it.
    left_out
        Called with a line on each element that cannot be read and that the maps do not need.
        Required parts of such elements may be None in the result.

    Raises
    ------
    Mri2QmapError
        When an element that the maps need is missing or cannot be read; it names the element.
    """
    report = left_out or (lambda line: None)
    root = parse_xml(readable_header(document, report), "ISMRMRD header", HEADER)
    space, name = _name(root, ChainMap())
    if name != "ismrmrdHeader":
        raise Mri2QmapError(
            "ISMRMRD header: <ismrmrdHeader> is expected, but the root element is another one"
        )
    own = {space, NAMESPACE, ""}
    content = _Content(root, ChainMap(), own)
    binder = _Binder(report)
    header: ismrmrd.xsd.ismrmrdHeader = binder.group(content, ismrmrd.xsd.ismrmrdHeader, "")
    if binder.unreported:
        report(f"ISMRMRD header: {binder.unreported} more elements are left out")
    return header


def parse_meta(document: bytes) -> ismrmrd.Meta:
    """Parse the metadata of an image; an empty document has none.

    Raises
    ------
    Mri2QmapError
        When it is not such a document.
    """
    meta = ismrmrd.Meta()
    if not document:
        return meta
    root = parse_xml(document, "metadata of an image", META)
    if root.tag != "ismrmrdMeta":
        raise Mri2QmapError(
            "metadata of an image: <ismrmrdMeta> is expected, but the root element is another one"
        )
    values: dict[str, list[str | None]] = {}
    for child in root.all("meta"):
        names = child.all("name")
        if not names:
            raise Mri2QmapError(f"metadata of an image, line {child.line}: <name> is missing")
        values.setdefault(names[0].text, []).extend(v.text or None for v in child.all("value"))
    for name, found in values.items():
        meta[name] = found[0] if len(found) == 1 else found
    return meta


def readable_header(document: bytes | str, report: Callable[[str], None]) -> bytes:
    """Return an ISMRMRD header in an encoding that it declares, or UTF-8.

    Parameters
    ----------
    document
        The XML, as received.
    report
        Called with a line if the encoding had to be guessed.

    Raises
    ------
    Mri2QmapError
        When it is no text.
    """
    if isinstance(document, str):  # a declared encoding no longer applies
        return as_utf8(document.encode("utf-16-le", "surrogatepass"))
    try:
        document = as_utf8(document)
        if not declares_encoding(document):
            document.decode()
    except UnicodeDecodeError as error:
        if document.startswith(b"<"):
            report(
                "ISMRMRD header: it is not UTF-8 and declares no encoding; it is read as Latin-1"
            )
            return document.decode("latin-1").encode()
        raise Mri2QmapError(f"ISMRMRD header: this is not readable XML ({error})") from error
    return document


_Spaces: TypeAlias = ChainMap[str, str]
"""Namespaces by prefix: those of an element, then of the elements around it. Merging them for each
element would take quadratic time."""


@dataclasses.dataclass(frozen=True)
class _Content:
    """An element of the header with the namespaces that are declared around it, by prefix."""

    element: Element
    inherited: _Spaces
    own: set[str]

    def children(self, kind: Any) -> dict[str, list[_Content]]:
        """Return the children with content that belong to such a group, by name."""
        spaces = _spaces(self.element, self.inherited)
        known = _fields(kind)
        found: dict[str, list[_Content]] = {}
        for child in self.element.children:
            give_way()
            if child.tag.rpartition(":")[2] not in known:
                continue
            space, name = _name(child, spaces)
            if space in self.own:
                content = _Content(child, spaces, self.own)
                if not content.empty(known[name].kind):
                    found.setdefault(name, []).append(content)
        return found

    def empty(self, kind: Any) -> bool:
        if dataclasses.is_dataclass(kind):
            return not self.children(kind)
        return not self.element.text.strip()


def _spaces(element: Element, inherited: _Spaces) -> _Spaces:
    declared = {
        key[6:]: value
        for key, value in element.attributes.items()
        if key == "xmlns" or key.startswith("xmlns:")
    }
    return inherited.new_child(declared) if declared else inherited


def _name(element: Element, inherited: _Spaces) -> tuple[str, str]:
    """Return namespace and local name; an undeclared prefix counts as none."""
    prefix, _, name = element.tag.rpartition(":")
    declared = element.attributes.get(f"xmlns:{prefix}" if prefix else "xmlns")
    return inherited.get(prefix, "") if declared is None else declared, name


class _UnreadableError(Exception):
    """An element or a group cannot be read; without arguments, the reason is reported already."""


class _Binder:
    """Creates the objects, and refuses or leaves out elements that cannot be read."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._reported: set[str] = set()
        self._text = MOST_TEXT

    @property
    def unreported(self) -> int:
        """Number of elements that were left out without a line."""
        return max(0, len(self._reported) - MOST_REPORTED)

    def group(self, content: _Content, kind: Any, path: str) -> Any:
        """Return the object of a group of elements.

        Raises
        ------
        _UnreadableError
            When it lacks a required part, and the maps do not need it.
        """
        children = content.children(kind)
        values: dict[str, Any] = {}
        for name, field in _fields(kind).items():
            place = f"{path}.{name}" if path else name
            found = [
                self._value(element, field.kind, f"{place}[{number}]" if number else place)
                for number, element in enumerate(children.get(name, []))
            ]
            found = [value for value in found if value is not None]
            if field.many:
                values[name] = found
            elif found:
                if len(found) > 1:
                    self._refuse_or_report(place, f"it is given {len(found)} times instead of once")
                values[name] = found[0]
            elif field.required:
                values[name] = self._absent(place, field.kind)
        return kind(**values)

    def _value(self, content: _Content, kind: Any, path: str) -> Any:
        """Return the value of an element; None if it is left out."""
        try:
            if dataclasses.is_dataclass(kind):
                return self.group(content, kind, path)
            text = content.element.text
            if kind in (str, bytes) or path in _AS_TEXT:
                self._count(text)
            return text.strip() if path in _AS_TEXT else _converted(text, kind)
        except _UnreadableError as error:
            if error.args:
                # values that the maps do not need may identify the patient: not in the log
                words = error.args if _NEEDED.fullmatch(path) else error.args[-1:]
                self._refuse_or_report(path, ", ".join(words))
            return None

    def _count(self, text: str) -> None:
        """Count a text; _UnreadableError if there is too much of it."""
        if len(text) > self._text:
            raise _UnreadableError(
                f"it has {len(text)} characters; {MOST_TEXT} of all texts together are kept"
            )
        self._text -= len(text)

    def _absent(self, path: str, kind: Any) -> Any:
        """Return a substitute for a required element that is missing."""
        if path in _MAY_LACK:
            return None
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            if not any(field.required for field in _fields(kind).values()):
                return kind()
        if _NEEDED.fullmatch(path):
            raise Mri2QmapError(f"ISMRMRD header: required element {path} is missing")
        if path in self._reported:
            raise _UnreadableError
        raise _UnreadableError(f"its required part {path.rpartition('.')[2]} is missing")

    def _refuse_or_report(self, path: str, reason: str) -> None:
        if _NEEDED.fullmatch(path):
            raise Mri2QmapError(f"ISMRMRD header: {path}: {reason}")
        self._reported.add(path)
        if len(self._reported) <= MOST_REPORTED:
            self._report(f"ISMRMRD header: {path}: {reason}; it is left out")


@dataclasses.dataclass(frozen=True)
class _Field:
    """An element of a group in the schema."""

    many: bool
    kind: Any
    required: bool


def _read_fields(kind: Any) -> dict[str, _Field]:
    """Return the elements that a group, which is a dataclass, can have, by name."""
    hints = type_hints(kind)
    found = {}
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        found[field.name] = _Field(
            many=get_origin(hint) is list,
            kind=next((t for t in get_args(hint) if t is not type(None)), hint),
            required=field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING,
        )
    return found


_fields: Callable[[Any], dict[str, _Field]] = functools.cache(_read_fields)


def _converted(text: str, kind: Any) -> Any:
    """Convert text to a value; _UnreadableError if it is not one of that type."""
    if kind is str:
        return text
    word = text.strip()
    try:
        if kind is int and _INTEGER.fullmatch(word):
            return int(word)
        if kind is float and _FLOAT.fullmatch(word):
            return float(word)
        if kind is bytes:
            return base64.b64decode("".join(word.split()), validate=True)
        if kind in (XmlDate, XmlTime):
            return kind.from_string(word)
        if issubclass(kind, Enum):
            return kind(word)
    except ValueError:
        pass
    shown = word if len(word) <= _LONGEST_SHOWN else f"{word[:_LONGEST_SHOWN]}..."
    raise _UnreadableError(f"it is {' '.join(shown.split())!r}", f"{_described(kind)} is expected")


def _described(kind: Any) -> str:
    if issubclass(kind, Enum):
        return f"one of {', '.join(str(member.value) for member in kind)}"
    return {
        int: "a whole number",
        float: "a number",
        bytes: "text in base 64",
        XmlDate: "a date (YYYY-MM-DD)",
        XmlTime: "a time (hh:mm:ss)",
    }.get(kind, str(kind.__name__))

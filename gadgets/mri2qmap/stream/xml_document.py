"""A small XML reader: line numbers for messages, no document types, no entities."""

from __future__ import annotations

from dataclasses import dataclass, field
from xml.parsers import expat

from mri2qmap.errors import Mri2QmapError


@dataclass
class Element:
    """One XML element; `text` is its character data without that of its children."""

    tag: str
    attributes: dict[str, str]
    line: int
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def all(self, tag: str) -> list[Element]:
        """Return the children called `tag`."""
        return [child for child in self.children if child.tag == tag]


def parse_xml(document: bytes, name: str) -> Element:
    """Parse a document and return its root element.

    Parameters
    ----------
    document
        The XML text; trailing NUL bytes, which some senders add, are ignored.
    name
        File name or the like, for messages.

    Raises
    ------
    Mri2QmapError
        When the document is not well formed, or declares a document type: these are not needed
        here, and entities can make a small file grow without bound or read other files.
    """
    stack: list[Element] = []
    roots: list[Element] = []
    parser = expat.ParserCreate()

    def start(tag: str, attributes: dict[str, str]) -> None:
        element = Element(tag, attributes, parser.CurrentLineNumber)
        (stack[-1].children if stack else roots).append(element)
        stack.append(element)

    def end(tag: str) -> None:
        del tag
        stack.pop()

    def characters(text: str) -> None:
        stack[-1].text += text

    def document_type(*arguments: object) -> None:
        raise Mri2QmapError(
            f"{name}, line {parser.CurrentLineNumber}: a document type (<!DOCTYPE ...>) is not "
            f"allowed here (found: {arguments[0]}); remove it"
        )

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = characters
    parser.StartDoctypeDeclHandler = document_type
    parser.buffer_text = True
    try:
        parser.Parse(document.rstrip(b"\0"), True)
    except expat.ExpatError as error:
        raise Mri2QmapError(
            f"{name}, line {error.lineno}: this is not well-formed XML "
            f"({expat.ErrorString(error.code)})"
        ) from error
    except (ValueError, LookupError) as error:  # an encoding that Python does not know
        raise Mri2QmapError(f"{name}: this is not readable XML ({error})") from error
    return roots[0]

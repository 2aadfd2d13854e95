"""The XML reader and writer of this program.

It keeps line numbers for messages, takes any encoding, and refuses document types and with them
entities. Time and memory are linear in the length of a document, which `XmlLimits` bound.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.giving_way import give_way
from mri2qmap.pipeline.xml_limits import PIPELINE, XmlLimits

_WIDE_BEGINNINGS = (
    (b"\xff\xfe\0\0", "utf-32-le"),
    (b"\0\0\xfe\xff", "utf-32-be"),
    (b"<\0\0\0", "utf-32-le"),
    (b"\0\0\0<", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
    (b"<\0", "utf-16-le"),
    (b"\0<", "utf-16-be"),
)
"""How documents of more than a byte a character begin: with a byte order mark, or with ``<``."""

_UTF8_MARK = b"\xef\xbb\xbf"
_MARK = "\ufeff"
_DECLARED = re.compile(
    rb"""(<\?xml\s[^>]{0,200}?)\s{1,99}encoding\s{0,99}=\s{0,99}["']([A-Za-z0-9._-]{0,99})["']""",
    re.DOTALL,
)
_INDENT = "    "


@dataclass(slots=True)
class Element:
    """One XML element.

    Attributes
    ----------
    tag
        Its name.
    attributes
        Value by name.
    line
        Where it begins in the document; 0 for an element that was not read from one.
    text
        Character data, without that of its children.
    children
        Elements in it.
    comments, last_comments
        Comments directly before it, and those after its last child.
    """

    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    line: int = 0
    text: str = ""
    children: list[Element] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)
    last_comments: list[str] = field(default_factory=list)

    def all(self, tag: str) -> list[Element]:
        """Return the children with this tag."""
        return [child for child in self.children if child.tag == tag]

    def everywhere(self, tag: str) -> Iterator[Element]:
        """Return the elements with this tag at any depth, in the order of the document."""
        waiting = [self]
        while waiting:
            element = waiting.pop()
            if element.tag == tag:
                yield element
            waiting.extend(reversed(element.children))


def without_terminator(document: bytes) -> bytes:
    """Cut off the NUL characters that some senders add, as wide as the document's own.

    In UTF-16 every other byte of plain text is zero: the last of them are no terminator. A
    document that has lost them, as fixed-length strings do, gets them back.
    """
    encoding = _wide_encoding(document)
    kept = len(document.rstrip(b"\0"))
    if encoding is None:
        return document[:kept]
    width = 4 if "32" in encoding else 2
    kept = -(-kept // width) * width  # zero bytes of the last character
    return document[:kept].ljust(kept, b"\0")


def as_utf8(document: bytes) -> bytes:
    """Return the document in an encoding without zero bytes, for C strings and simple readers.

    UTF-16 and UTF-32 become UTF-8, byte order marks go, and so does the declaration of an encoding
    that the document is not in. A document in any other encoding stays as it is.

    Raises
    ------
    ValueError
        When it is not what its first bytes say.
    """
    document = without_terminator(document)
    encoding = _wide_encoding(document)
    if encoding is not None:
        text = document.decode(encoding).removeprefix(_MARK)
        return _without_declaration(text.encode("utf-8"))
    if document.startswith(_UTF8_MARK):
        return _without_declaration(document.removeprefix(_UTF8_MARK))
    declared = _DECLARED.match(document)
    if declared is not None and re.match(rb"(?i)(utf|ucs)-?(16|32)", declared[2]):
        return _without_declaration(document)  # it would begin with zero bytes or a mark
    return document


def declares_encoding(document: bytes) -> bool:
    """Say whether the document names its encoding."""
    return _DECLARED.match(document) is not None


def _wide_encoding(document: bytes) -> str | None:
    return next((name for start, name in _WIDE_BEGINNINGS if document.startswith(start)), None)


def _without_declaration(document: bytes) -> bytes:
    return _DECLARED.sub(rb"\1", document, count=1)


def parse_xml(document: bytes, name: str, limits: XmlLimits = PIPELINE) -> Element:
    """Parse a document and return its root element.

    Parameters
    ----------
    document
        The XML text in any encoding; NUL characters at its end, which some senders add, are
        ignored.
    name
        File name or the like, for messages.
    limits
        Largest extent of the document.

    Raises
    ------
    Mri2QmapError
        When the document is not well formed or beyond the limits, or declares a document type:
        these are not needed here, and entities can make a small file grow without bound or read
        other files.
    """
    if len(document) > limits.size:
        raise Mri2QmapError(
            f"{name}: it has {len(document)} bytes of XML; at most {limits.size} are read"
        )
    builder = _Builder(name, limits)
    try:
        builder.parser.Parse(as_utf8(document), True)
    except expat.ExpatError as error:
        raise Mri2QmapError(
            f"{name}, line {error.lineno}: this is not well-formed XML "
            f"({expat.ErrorString(error.code)})"
        ) from error
    except LookupError as error:
        raise Mri2QmapError(f"{name}: this XML declares an unknown encoding") from error
    except ValueError as error:  # bytes that are not of its encoding
        raise Mri2QmapError(f"{name}: this is not readable XML ({error})") from error
    finally:
        del builder.parser  # it refers to the builder, and would keep the document in memory
    return builder.roots[0]


class _Builder:
    """Makes elements of what the parser finds; refuses what is beyond the limits."""

    def __init__(self, name: str, limits: XmlLimits) -> None:
        self.roots: list[Element] = []
        self.parser = expat.ParserCreate()
        self._name = name
        self._limits = limits
        self._stack: list[Element] = []
        self._texts: list[list[str]] = []
        self._lengths: list[int] = []
        self._comments: list[str] = []
        self._count = 0
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._characters
        self.parser.CommentHandler = self._comment
        self.parser.StartDoctypeDeclHandler = self._document_type
        self.parser.buffer_text = True

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        give_way()
        limits = self._limits
        self._count_one()
        self._bound(len(self._stack) + 1, limits.depth, "levels of elements")
        self._bound(len(attributes), limits.attributes, "attributes in one element")
        for name in (tag, *attributes):
            self._bound(len(name), limits.name, "characters in a name")
        for value in attributes.values():
            self._bound(len(value), limits.text, "characters in an attribute")
        element = Element(
            tag, attributes, self.parser.CurrentLineNumber, comments=self._waiting_comments()
        )
        (self._stack[-1].children if self._stack else self.roots).append(element)
        self._stack.append(element)
        self._texts.append([])
        self._lengths.append(0)

    def _end(self, tag: str) -> None:
        del tag
        element = self._stack.pop()
        self._lengths.pop()
        element.text = "".join(self._texts.pop())
        element.last_comments = self._waiting_comments()

    def _characters(self, text: str) -> None:
        give_way()
        self._texts[-1].append(text)
        self._lengths[-1] += len(text)
        self._bound(self._lengths[-1], self._limits.text, "characters in one element")

    def _comment(self, text: str) -> None:
        give_way()
        self._count_one()
        self._bound(len(text), self._limits.text, "characters in a comment")
        self._comments.append(text)

    def _waiting_comments(self) -> list[str]:
        comments, self._comments = self._comments, []
        return comments

    def _count_one(self) -> None:
        self._count += 1
        self._bound(self._count, self._limits.elements, "elements and comments")

    def _bound(self, value: int, limit: int, what: str) -> None:
        if value > limit:
            raise Mri2QmapError(
                f"{self._name}, line {self.parser.CurrentLineNumber}: there are {value} {what} up "
                f"to here; at most {limit} are read"
            )

    def _document_type(self, *_: object) -> None:
        raise Mri2QmapError(
            f"{self._name}, line {self.parser.CurrentLineNumber}: a document type (<!DOCTYPE ...>) "
            "is not allowed here; remove it"
        )


def xml_bytes(root: Element) -> bytes:
    """Return a document in UTF-8, indented, with a blank line between its larger parts.

    Character data between the children of an element come before them.

    Raises
    ------
    Mri2QmapError
        When elements are nested deeper than any pipeline has them.
    """
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', *_lines(root, 0)]
    return ("\n".join(lines) + "\n").encode("utf-8")


def _lines(element: Element, depth: int) -> Iterator[str]:
    give_way()
    if depth >= PIPELINE.depth:
        raise Mri2QmapError(f"XML: elements are nested deeper than {PIPELINE.depth} levels")
    indent = _INDENT * depth
    yield from _comment_lines(element.comments, indent)
    attributes = "".join(f" {k}={quoteattr(v)}" for k, v in element.attributes.items())
    text = escape(element.text, {"\r": "&#13;"})
    if not element.children and not element.last_comments:
        content = f">{text}</{element.tag}>" if text else "/>"
        yield f"{indent}<{element.tag}{attributes}{content}"
        return
    yield f"{indent}<{element.tag}{attributes}>{text.strip()}"
    for number, child in enumerate(element.children):
        if number and depth < 2 and any(grandchild.children for grandchild in child.children):
            yield ""
        yield from _lines(child, depth + 1)
    yield from _comment_lines(element.last_comments, indent + _INDENT)
    yield f"{indent}</{element.tag}>"


def _comment_lines(comments: Sequence[str], indent: str) -> list[str]:
    # two hyphens must not stand within a comment
    return [f"{indent}<!--{comment.replace('--', '- -')}-->" for comment in comments]

"""PDF files of plain text, written without a library.

Pages are A4, in the Courier fonts that every reader has, so that a line has a known number of
characters; characters that these fonts lack become question marks.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_WIDTH, _HEIGHT = 595, 842  # 1/72 inch
_MARGIN = 56
_CHARACTER = 0.6
"""Width of a character in units of the size of the font."""
_LEADING = 1.25
"""Distance of lines in the same unit."""


@dataclass(frozen=True)
class Paragraph:
    """Text that is wrapped to the width of the page.

    Attributes
    ----------
    text
        The text.
    heading
        Whether it is in bold letters, with space before it.
    size
        Size of the font [1/72 inch].
    indent
        Indent of all lines but the first [characters].
    """

    text: str
    heading: bool = False
    size: int = 10
    indent: int = 0

    def lines(self) -> list[str]:
        """Return the lines; an empty text is an empty line."""
        count = int((_WIDTH - 2 * _MARGIN) / (_CHARACTER * self.size))
        found: list[str] = []
        for part in self.text.splitlines() or [""]:
            hanging = " " * self.indent
            found += textwrap.wrap(part, count, subsequent_indent=hanging) or [""]
        return found


def text_pdf(title: str, paragraphs: Iterable[Paragraph]) -> bytes:
    """Return a PDF file.

    Parameters
    ----------
    title
        Title that readers show; it is not on the pages.
    paragraphs
        What is on the pages.
    """
    pages = list(_pages(paragraphs))
    first = 6  # the objects before are these
    kids = " ".join(f"{first + 2 * number} 0 R" for number in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode(),
        *(
            b"<< /Type /Font /Subtype /Type1 /BaseFont /%s /Encoding /WinAnsiEncoding >>" % font
            for font in (b"Courier", b"Courier-Bold")
        ),
        b"<< /Title (%s) /Producer (mri2qmap) >>" % _escaped(title),
    ]
    for number, content in enumerate(pages):
        objects += [
            (
                f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {_WIDTH} {_HEIGHT}] "
                "/Resources << /Font << /F1 3 0 R /F2 4 0 R >> >> "
                f"/Contents {first + 2 * number + 1} 0 R >>"
            ).encode(),
            b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content),
        ]
    return _file(objects)


def _pages(paragraphs: Iterable[Paragraph]) -> Iterator[bytes]:
    """Yield the drawing commands of each page; there is at least one."""
    lines: list[bytes] = []
    y = float(_HEIGHT - _MARGIN)
    for paragraph in paragraphs:
        step = paragraph.size * _LEADING
        y -= step / 2 if paragraph.heading and lines else 0
        for line in paragraph.lines():
            if y - step < _MARGIN and lines:
                yield b"\n".join(lines)
                lines, y = [], float(_HEIGHT - _MARGIN)
            y -= step
            font = 2 if paragraph.heading else 1
            lines.append(
                b"BT /F%d %d Tf %d %.1f Td (%s) Tj ET"
                % (font, paragraph.size, _MARGIN, y, _escaped(line))
            )
    yield b"\n".join(lines)


def _escaped(text: str) -> bytes:
    content = text.encode("cp1252", "replace")
    for character in (b"\\", b"(", b")"):
        content = content.replace(character, b"\\" + character)
    return content


def _file(objects: list[bytes]) -> bytes:
    """Return the file with these objects, the first of which is the root, the fifth the title."""
    content = bytearray(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")
    places = []
    for number, body in enumerate(objects, start=1):
        places.append(len(content))
        content += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(content)
    content += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    content += b"".join(b"%010d 00000 n \n" % place for place in places)
    content += b"trailer\n<< /Size %d /Root 1 0 R /Info 5 0 R >>\n" % (len(objects) + 1)
    content += b"startxref\n%d\n%%%%EOF\n" % start
    return bytes(content)

"""Pieces of reStructuredText that the generated reference pages are made of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_SPECIAL = re.compile(r"([\\*`|_<>])")
UNDERLINE = re.compile(r"\s*-{3,}\s*$")
"""Line below the title of a section of a docstring."""
_CODE = re.compile(r"(``.+?``|`[^`]+`)")


def escaped(text: str) -> str:
    """Plain text in which no character has a meaning in reStructuredText."""
    return _SPECIAL.sub(r"\\\1", text)


def literal(text: str) -> str:
    """Inline literal; an empty text is shown as two quotation marks."""
    return f"``{text}``" if text else '``""``'


def heading(text: str, level: int = 0) -> str:
    """Section title; the level counts from the section in which the text is placed."""
    return f"{text}\n{'=-~'[level] * len(text)}\n"


def indented(text: str, by: int = 3) -> str:
    """Every line that is not empty, moved to the right."""
    return re.sub(r"(?m)^(?=.)", " " * by, text)


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    widths: Sequence[int] | None = None,
    css_class: str = "settings",
) -> str:
    """List table; a cell may hold paragraphs and lists.

    Parameters
    ----------
    header
        Titles of the columns.
    rows
        Cells of each row, as many as titles.
    widths
        Relative widths of the columns; None leaves them to the browser.
    css_class
        Class of the table, for the style sheet.
    """
    lines = [".. list-table::", "   :header-rows: 1", f"   :class: {css_class}"]
    if widths is not None:
        lines.append(f"   :widths: {' '.join(str(width) for width in widths)}")
    lines.append("")
    for row in [header, *rows]:
        for number, cell in enumerate(row):
            mark = "* - " if number == 0 else "  - "
            lines.append(f"   {mark}{indented(cell, 7).lstrip()}")
    return "\n".join(lines) + "\n"


def without_substitutions(lines: Sequence[str]) -> list[str]:
    """Docstring in which vertical bars, as of ``|PD|``, are plain characters.

    reStructuredText takes ``|name|`` for a substitution, of which docstrings have none. Literal
    blocks, equations and code stay as they are.
    """
    found = []
    block_ends_at: int | None = None
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if line.strip() and block_ends_at is not None and indent <= block_ends_at:
            block_ends_at = None
        if block_ends_at is None:
            if line.rstrip().endswith("::") or line.lstrip().startswith(".. math::"):
                block_ends_at = indent
            pieces = _CODE.split(line)
            pieces[::2] = [piece.replace("|", "\\|") for piece in pieces[::2]]
            line = "".join(pieces)
        found.append(line)
    return found


def with_single_names(lines: Sequence[str]) -> list[str]:
    """Docstring whose "Attributes" have one name each: ``first, second`` becomes two entries."""
    found: list[str] = []
    inside = False
    position = 0
    while position < len(lines):
        line = lines[position]
        position += 1
        if position < len(lines) and UNDERLINE.match(lines[position]):
            inside = line.strip() == "Attributes"
            found += [line, lines[position]]
            position += 1
            continue
        names = re.fullmatch(r"(\w+(?:, \w+)+)", line) if inside else None
        if names is None:
            found.append(line)
            continue
        end = position
        while end < len(lines) and (not lines[end].strip() or lines[end][0].isspace()):
            end += 1
        for name in names[1].split(", "):
            found += [name, *lines[position:end]]
        position = end
    return found

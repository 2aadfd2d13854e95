"""What the process that reconstructs a scan of the queue has written to its log."""

from __future__ import annotations

import re
from pathlib import Path

_ERROR = "mri2qmap: error: "
_WARNING = re.compile(r"\S+ (?:WARNING|ERROR) \[[^\]]*\] (.*)")
"""A line of `LogFormatter` that an operator should see."""


def warnings_of(log: Path, begin: int) -> list[str]:
    """Return what a process has warned of, such as maps that have not reached the PACS."""
    return [found[1] for line in _lines(log, begin) if (found := _WARNING.match(line))]


def last_line(log: Path, begin: int) -> str:
    """Return the error that a process has written to its log, or else its last line.

    It is empty if there is none, for example because the disk was full.
    """
    lines = _lines(log, begin)
    errors = [line for line in lines if line.startswith(_ERROR)]
    return next(reversed(errors or lines), "").removeprefix(_ERROR)


def _lines(log: Path, begin: int) -> list[str]:
    with log.open("rb") as file:
        file.seek(begin)
        return file.read().decode("utf-8", "replace").splitlines()

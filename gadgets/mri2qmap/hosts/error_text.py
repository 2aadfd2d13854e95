"""How errors are told to people at the other end of a connection, and recognised there."""

from __future__ import annotations

import logging
import re

from mri2qmap.errors import GadgetError, Mri2QmapError
from mri2qmap.pipeline.scan_log import printable

MARK = "MRI2Qmap error"
"""What every text of ours that tells of an error begins with, and no other text contains."""
_LOGGED = "_mri2qmap_logged"

_TRACEBACK = re.compile(
    r"^(?:(?:ERROR|CRITICAL) +)?Traceback \(most recent call last\):", re.MULTILINE
)
_ERRORS = {
    "this program": re.compile(MARK),  # anywhere: servers put words of theirs before it
    "Gadgetron": re.compile(r"\A\[[^\]\n]+\] ERROR: "),  # the place, then what was thrown there
    "python-ismrmrd-server": re.compile(r"\A(?:ERROR|CRITICAL) "),  # level of a log line
    "Python": _TRACEBACK,
    "a logger": re.compile(r"\A(?:ERROR|CRITICAL|FATAL):"),
}
"""How texts begin by which servers tell of errors."""
_LONGEST = 2000
"""Characters of a server's text that are shown."""


def reported_error(text: str) -> str | None:
    """Return in one line of what error a server's text tells; None if it tells of none.

    Parameters
    ----------
    text
        As it came. Texts of unknown servers tell of no error.
    """
    text = text.strip()
    if not any(pattern.search(text) for pattern in _ERRORS.values()):
        return None
    if found := _TRACEBACK.search(text):  # what was raised is in the last line
        text = f"{text[: found.start()]} {text.splitlines()[-1]}"
    return printable(" ".join(text.split()))[:_LONGEST]


def client_text(line: str) -> str:
    """Make the text for a client of a log line.

    It ends with a newline: the stock client prints texts one after the other, as they are.
    """
    return f"MRI2Qmap: {printable(line)}\n"


def log_error(logger: logging.Logger, error: BaseException) -> None:
    """Log an error once, however many places it passes by on its way out.

    What is no fault of the program takes one line, anything else has its traceback with it.
    """
    if getattr(error, _LOGGED, False):
        return
    setattr(error, _LOGGED, True)
    cause = None if isinstance(error, Mri2QmapError) else error
    logger.error("%s", error if cause is None else format_error(error), exc_info=cause)


def format_error(error: BaseException, gadget: str | None = None) -> str:
    """Return what a client is told.

    Parameters
    ----------
    error
        What went wrong.
    gadget
        Where, unless the error says so itself.
    """
    text = " ".join(str(error).split()) or "no message"
    if not isinstance(error, Mri2QmapError | GadgetError | ConnectionError):
        text = f"{type(error).__name__}: {text}"
    if gadget is not None and not text.startswith(f"gadget {gadget}"):
        text = f"gadget {gadget}: {text}"
    return f"{MARK}: {printable(text)}"

"""Formatting of errors for the peer, and detection of errors in texts from a server.

Texts for a peer contain no paths of this machine; the log of this program does.
"""

from __future__ import annotations

import logging
import re
from pathlib import PurePosixPath

from mri2qmap.errors import GadgetError, Mri2QmapError
from mri2qmap.machine.words import shortened
from mri2qmap.pipeline.scan_log import printable

ERROR_PREFIX = "MRI2Qmap error"
"""Prefix of every error text of this software; no other text contains it."""
_LOGGED = "_mri2qmap_logged"

_TRACEBACK = re.compile(
    r"^(?:(?:ERROR|CRITICAL) +)?Traceback \(most recent call last\):", re.MULTILINE
)
_ERRORS = {
    "this program": re.compile(ERROR_PREFIX),  # at any position: servers add a prefix of their own
    "Gadgetron": re.compile(r"\A\[[^\]\n]+\] ERROR: "),  # source location, then the exception
    "python-ismrmrd-server": re.compile(r"\A(?:ERROR|CRITICAL) "),  # level of a log line
    "Python": _TRACEBACK,
    "a logger": re.compile(r"\A(?:ERROR|CRITICAL|FATAL):"),
}
"""Patterns of the error texts of known servers."""
_LONGEST = 2000
"""Maximum length of an error text [characters]."""
_ENDS = r"/\n:;()<>\[\]{}|'\""
_FOLDER = rf"(?:[^{_ENDS}]|\([^()/\n]*\)|\[[^\[\]/\n]*\]|\{{[^{{}}/\n]*\}})+"
"""Name of a folder; brackets in pairs only, since a path may stand in brackets."""
_PATHS = (
    re.compile(r"(?<=')/(?P<path>[^'\n]*)(?=')"),
    re.compile(r'(?<=")/(?P<path>[^"\n]*)(?=")'),
    # blanks within, unless in the last part: rather lose words than show a folder
    re.compile(
        rf"(?<![\w.~/-])(?:/|(?<!:)//|/{{3,}})(?P<path>(?=[^\s/,])(?:{_FOLDER}/+)*[^\s,{_ENDS}]*)"
    ),
)
"""Absolute paths in quotation marks, and others; not ``T1/T2``, addresses or relative paths."""


def reported_error(text: str) -> str | None:
    """Return the error that a text from a server reports, in one line; None if it reports none.

    Parameters
    ----------
    text
        Text as received. Error formats of unknown servers are not detected.
    """
    text = text.strip()
    if not any(pattern.search(text) for pattern in _ERRORS.values()):
        return None
    if found := _TRACEBACK.search(text):  # the exception is in the last line
        text = f"{text[: found.start()]} {text.splitlines()[-1]}"
    return printable(" ".join(text.split()))[:_LONGEST]


def client_text(line: str) -> str:
    """Format a log line as a text message for a client.

    The text ends with a newline, because the standard client prints texts without a separator.
    """
    return f"MRI2Qmap: {printable(without_paths(line))}\n"


def without_paths(text: str) -> str:
    """Replace absolute paths, which tell a peer about the disks of this machine, by base names."""
    for pattern in _PATHS:
        text = pattern.sub(lambda found: PurePosixPath(f"/{found['path']}").name or "/", text)
    return text


def log_error(logger: logging.Logger, error: BaseException) -> None:
    """Log an error, unless it has been logged already.

    An `Mri2QmapError` is logged in one line, any other error with its traceback.
    """
    if getattr(error, _LOGGED, False):
        return
    setattr(error, _LOGGED, True)
    cause = None if isinstance(error, Mri2QmapError) else error
    text = error if cause is None else f"{ERROR_PREFIX}: {_described(error)}"
    logger.error("%s", text, exc_info=cause)


def format_error(error: BaseException, gadget: str | None = None) -> str:
    """Format an error in one line for the client.

    Parameters
    ----------
    error
        The error.
    gadget
        Gadget in which it occurred; added if the message does not name it.
    """
    text = without_paths(_described(error))
    if gadget is not None and not text.startswith(f"gadget {gadget}"):
        text = f"gadget {gadget}: {text}"
    return f"{ERROR_PREFIX}: {printable(shortened(text, _LONGEST))}"


def _described(error: BaseException) -> str:
    text = " ".join(str(error).split()) or "no message"
    if isinstance(error, Mri2QmapError | GadgetError | ConnectionError):
        return text
    return f"{type(error).__name__}: {text}"

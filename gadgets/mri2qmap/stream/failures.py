"""How errors are told to people at the other end of a connection, and recognised there."""

from __future__ import annotations

import re

from mri2qmap.errors import Mri2QmapError
from mri2qmap.stream.in_process import GadgetError

MARK = "MRI2Qmap error"
"""What every text that tells of an error begins with, and no other text contains."""

_ERRORS = re.compile(
    rf"{re.escape(MARK)}"
    r"|\A\s*\[[^\]\n]*\] ERROR: "  # Gadgetron: the place, then what was thrown there
    r"|\A\s*(ERROR|CRITICAL)\s"  # python-ismrmrd-server: the level of a log line
    r"|\A\s*Traceback \(most recent call last\)"
)


def tells_of_error(text: str) -> bool:
    """Whether a text that a server sent tells of an error, as far as servers are known."""
    return _ERRORS.search(text) is not None


def failure_text(error: BaseException, gadget: str | None = None) -> str:
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
    return f"{MARK}: {text}"

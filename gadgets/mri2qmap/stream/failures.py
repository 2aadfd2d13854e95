"""How an error is told to people at the other end of a connection."""

from __future__ import annotations

from mri2qmap.errors import Mri2QmapError
from mri2qmap.stream.in_process import GadgetError

MARK = "MRI2Qmap error"
"""What every text that tells of an error begins with, and no other text contains."""


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

"""Exceptions of the package."""

from __future__ import annotations

import traceback


class Mri2QmapError(Exception):
    """Invalid input, settings or environment; the message names the cause and the remedy."""


class GadgetError(Exception):
    """Unexpected exception in a gadget; the original exception is chained."""


class ReportedElsewhereError(Mri2QmapError):
    """The run has ended with an error that the main one of several processes reports.

    The error of this process is chained.
    """


def failing_library(error: BaseException | None) -> str | None:
    """Return the library whose import raised `error` or one of its causes; None if there is none.

    Any exception that the body of a module raises during its import counts, not only ImportError.
    """
    while error is not None:
        if isinstance(error, ImportError) and error.name:
            return error.name.partition(".")[0]
        found = None
        trace = error.__traceback__
        while trace is not None:
            frame = trace.tb_frame
            package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
            if frame.f_code.co_name == "<module>" and package not in ("mri2qmap", "__main__"):
                found = package
            trace = trace.tb_next
        if found is not None:
            return found
        error = error.__cause__
    return None


def clear_frames(error: BaseException | None) -> None:
    """Delete the local variables of the functions that an error has ended: they hold arrays.

    Errors, tracebacks and generators refer to each other, so this memory would only be freed when
    the garbage collector finds the cycle.
    """
    seen = set()  # an error that is raised again may be a cause of its own cause
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__

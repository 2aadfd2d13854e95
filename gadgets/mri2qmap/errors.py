"""Exceptions of the package."""

from __future__ import annotations

import traceback
from collections.abc import Iterator


class Mri2QmapError(Exception):
    """Invalid input, settings or environment; the message names the cause and the remedy."""


class GadgetError(Exception):
    """Unexpected exception in a gadget; the original exception is chained."""


class ReportedElsewhereError(Mri2QmapError):
    """The run has ended with an error that the main one of several processes reports.

    The error of this process is chained.
    """


def with_causes(error: BaseException | None, implicit: bool = False) -> Iterator[BaseException]:
    """Yield an error and its causes, each once: one that is raised again may be its own cause.

    Parameters
    ----------
    error
        The error; None: there is none.
    implicit
        Whether the errors during whose handling another one was raised count as causes.
    """
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (error.__context__ if implicit else None)


def failing_library(error: BaseException | None) -> str | None:
    """Return the library whose import raised `error` or one of its causes; None if there is none.

    Any exception that the body of a module raises during its import counts, not only ImportError.
    """
    for cause in with_causes(error):
        if isinstance(cause, ImportError) and cause.name:
            return cause.name.partition(".")[0]
        found = None
        trace = cause.__traceback__
        while trace is not None:
            frame = trace.tb_frame
            package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
            if frame.f_code.co_name == "<module>" and package not in ("mri2qmap", "__main__"):
                found = package
            trace = trace.tb_next
        if found is not None:
            return found
    return None


def clear_frames(error: BaseException | None) -> None:
    """Delete the local variables of the functions that an error has ended: they hold arrays.

    Errors, tracebacks and generators refer to each other, so this memory would only be freed when
    the garbage collector finds the cycle.
    """
    for cause in with_causes(error, implicit=True):
        traceback.clear_frames(cause.__traceback__)

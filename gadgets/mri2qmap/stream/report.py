"""What a long computation says to whoever waits for it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

from mri2qmap.stream.scan_log import TimedLines

BAR_DELAY = 1.0
"""Seconds of work before a bar appears."""

T = TypeVar("T")


def stage_line(iterable: Iterable[T], description: str, total: int | None) -> str:
    """Say what begins and, where it is known, in how many steps; see `Reporter.progress`."""
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    return f"{description}, {total} steps" if total else description


class Reporter:
    """Takes progress and log lines; this one keeps them to itself."""

    def progress(
        self, iterable: Iterable[T], description: str, total: int | None = None
    ) -> Iterator[T]:
        """Yield the elements of `iterable`, telling how far it has come.

        Parameters
        ----------
        iterable
            What is gone through.
        description
            What is being done, for example ``"ADMM"``.
        total
            Number of elements, where ``len(iterable)`` does not tell.
        """
        del description, total
        return iter(iterable)

    def steps(self, count: int, description: str) -> Callable[..., None]:
        """Tell of so many steps that others take.

        What is returned is to be called after each step, with what it gave, if there is anything.
        """
        marks = iter(self.progress(range(count), description))
        next(marks, None)

        def done(*_: object) -> None:
            next(marks, None)

        return done

    def log(self, text: str) -> None:
        """Take one line that the operator should be able to see."""


def log_of(reporter: Reporter) -> list[str]:
    """Lines that a reporter has kept, each after its time."""
    lines = getattr(reporter, "lines", None)
    return lines.stamped() if isinstance(lines, TimedLines) else []


class TerminalReporter(Reporter):
    """Progress bars on a terminal, log lines when they are asked for.

    A bar appears once its work has taken a second, and only where standard error is a terminal.

    Parameters
    ----------
    verbosity
        0: bars only; 1 and more: log lines too.

    Attributes
    ----------
    lines
        Every line logged, shown or not.
    """

    def __init__(self, verbosity: int = 0) -> None:
        self.verbosity = verbosity
        self.lines = TimedLines()

    def progress(
        self, iterable: Iterable[T], description: str, total: int | None = None
    ) -> Iterator[T]:
        """See `Reporter.progress`."""
        bar = tqdm(
            iterable,
            desc=description,
            total=total,
            delay=BAR_DELAY,
            leave=False,
            dynamic_ncols=True,
            disable=not (sys.stderr is not None and sys.stderr.isatty()),
        )
        with bar:
            yield from bar

    def log(self, text: str) -> None:
        """See `Reporter.log`."""
        self.lines.append(text)
        if self.verbosity >= 1:
            with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or full
                tqdm.write(text, file=sys.stderr)

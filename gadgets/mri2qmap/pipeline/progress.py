"""What a long computation says to whoever waits for it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

from mri2qmap.pipeline.scan_log import RepeatFilter, TimedLines, printable

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

    _repeats: RepeatFilter | None = None

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
        """Take one line that the operator should be able to see.

        Control characters are escaped. Within `collapse_repeats`, lines that differ in numbers only are
        counted after the first ones.
        """
        line = printable(text.strip())
        if self._repeats is None or self._repeats.accepts(line):
            self.emit(line)

    def emit(self, line: str) -> None:
        """Do with a line what this reporter does."""

    @contextlib.contextmanager
    def collapse_repeats(self) -> Iterator[None]:
        """Count repeated lines meanwhile, and tell at the end how many there were."""
        if self._repeats is not None:  # within another one
            yield
            return
        self._repeats = repeats = RepeatFilter()
        try:
            yield
        except BaseException:
            with contextlib.suppress(ConnectionError):  # what ended the scan is to be told
                self._tell(repeats)
            raise
        finally:
            self._repeats = None
        self._tell(repeats)

    def _tell(self, repeats: RepeatFilter) -> None:
        for line in repeats.summary():
            self.emit(line)


def logged_lines(reporter: Reporter) -> list[str]:
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

    def emit(self, line: str) -> None:
        """See `Reporter.emit`."""
        self.lines.append(line)
        if self.verbosity >= 1:
            with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or full
                tqdm.write(line, file=sys.stderr)

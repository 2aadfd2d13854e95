"""Progress and log output of long computations."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar

from mri2qmap.pipeline import progress_bars
from mri2qmap.pipeline.progress_bars import has_bars, progress_bar
from mri2qmap.pipeline.scan_log import RepeatFilter, TimedLines, printable

BAR_DELAY = progress_bars.BAR_DELAY
"""Delay before a progress bar appears, or the line of a stage [s]."""

T = TypeVar("T")


def stage_line(iterable: Iterable[T], description: str, total: int | None) -> str:
    """Return the log line of a new stage, with the number of steps if known."""
    total = number_of_steps(iterable, total)
    return f"{description}, {total} steps" if total else description


def number_of_steps(iterable: Iterable[T], total: int | None) -> int | None:
    """Return the number of steps of a stage; None if it is unknown."""
    return len(iterable) if total is None and isinstance(iterable, Sized) else total


def steps_done(before: int, states: Iterable[object]) -> int:
    """Return how many steps are done after one more, by the numbers of the states after it."""
    return max([before + 1, *(int(getattr(state, "number", 0)) for state in states)])


class Reporter:
    """Receives progress and log lines. The base class discards them."""

    _repeats: RepeatFilter | None = None

    def progress(
        self, iterable: Iterable[T], description: str, total: int | None = None
    ) -> Iterator[T]:
        """Yield the elements of `iterable` and report the progress.

        Parameters
        ----------
        iterable
            Elements to iterate over.
        description
            Name of the computation, for example ``"ADMM"``.
        total
            Number of elements, if `iterable` has no length.
        """
        del description, total
        return iter(iterable)

    def steps(self, count: int, description: str) -> Callable[..., None]:
        """Report the progress of a computation that calls back after each step.

        Parameters
        ----------
        count
            Number of steps.
        description
            Name of the computation.

        Returns
        -------
        Callable
            To be called after each step. A host records the `IterationStatistics` of an ADMM
            iteration that is passed. If its number is larger than that of the steps, the steps
            before it were done in an earlier run.
        """
        marks = iter(self.progress(range(count), description))
        next(marks, None)
        number = 0

        def done(*states: object) -> None:
            nonlocal number
            reached = steps_done(number, states)
            for _ in range(number, reached):
                next(marks, None)
            number = reached

        return done

    def measure(self, **values: float | int | None) -> None:
        """Record numbers that describe the scan or the result, by name, with units in the names.

        This class ignores them; a host adds them to the record of the run, by gadget.
        """

    def log(self, text: str) -> None:
        """Log a line for the operator.

        Control characters are escaped. Within `collapse_repeats`, only the first of the lines that
        differ in numbers only are logged; the others are counted.
        """
        line = printable(text.strip())
        if self._repeats is None or self._repeats.accepts(line):
            self.emit(line)

    def emit(self, line: str) -> None:
        """Output a line; overridden by subclasses."""

    @contextlib.contextmanager
    def collapse_repeats(self) -> Iterator[None]:
        """Count repeated lines while the context is active, and log their number at its end."""
        if self._repeats is not None:  # nested: the outer context counts
            yield
            return
        self._repeats = repeats = RepeatFilter()
        try:
            yield
        except BaseException:
            with contextlib.suppress(ConnectionError):  # the original error must be raised
                self._emit_summary(repeats)
            raise
        finally:
            self._repeats = None
        self._emit_summary(repeats)

    def _emit_summary(self, repeats: RepeatFilter) -> None:
        for line in repeats.summary():
            self.emit(line)


class ForwardingReporter(Reporter):
    """Passes everything on to another reporter, and the states of steps to `state` as well.

    Parameters
    ----------
    report
        Receives progress and log lines.
    """

    def __init__(self, report: Reporter) -> None:
        self._report = report

    def progress(
        self, iterable: Iterable[T], description: str, total: int | None = None
    ) -> Iterator[T]:
        """See `Reporter.progress`."""
        return self._report.progress(iterable, description, total)

    def steps(self, count: int, description: str) -> Callable[..., None]:
        """See `Reporter.steps`."""
        pass_on = self._report.steps(count, description)

        def done(*states: object) -> None:
            pass_on(*states)
            for state in states:
                self.state(state)

        return done

    def measure(self, **values: float | int | None) -> None:
        """See `Reporter.measure`."""
        self._report.measure(**values)

    def state(self, state: object) -> None:
        """Receive the state after a step; overridden by subclasses."""

    def log(self, text: str) -> None:
        """See `Reporter.log`."""
        self._report.log(text)


def logged_lines(reporter: Reporter, first: int = 0) -> list[str]:
    """Return the lines that a reporter has stored, with time stamps, from number `first`."""
    lines = getattr(reporter, "lines", None)
    return lines.stamped(first) if isinstance(lines, TimedLines) else []


class TerminalReporter(Reporter):
    """Progress bars and, optionally, log lines on a terminal.

    A bar appears after `BAR_DELAY`, and only if standard error is a terminal.

    Parameters
    ----------
    verbosity
        0: bars only; 1 or more: bars and log lines.
    stages
        Whether each longer stage is a line where standard error is no terminal.

    Attributes
    ----------
    lines
        All log lines, shown or not.
    """

    def __init__(self, verbosity: int = 0, stages: bool = False) -> None:
        self.verbosity = verbosity
        self._stages = stages
        self.lines = TimedLines()

    def progress(
        self, iterable: Iterable[T], description: str, total: int | None = None
    ) -> Iterator[T]:
        """See `Reporter.progress`."""
        if self._stages and not has_bars():
            yield from _told_if_long(iterable, stage_line(iterable, description, total))
            return
        total = number_of_steps(iterable, total)
        with progress_bar(description, total, delay=BAR_DELAY) as step:
            for element in iterable:
                yield element
                step()

    def emit(self, line: str) -> None:
        """See `Reporter.emit`."""
        self.lines.append(line)
        if self.verbosity >= 1:
            _write(line)


def _told_if_long(iterable: Iterable[T], line: str) -> Iterator[T]:
    """Yield the elements; write the line after a step if `BAR_DELAY` has passed since the start."""
    start, told = time.monotonic(), False
    for element in iterable:
        yield element
        if not told and time.monotonic() - start >= BAR_DELAY:
            _write(line)
            told = True


def _write(line: str) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or disk full
        sys.stderr.write(f"{line}\n")

"""What callers of the API can give as ``progress``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeAlias, TypeVar

from mri2qmap.errors import Mri2QmapError
from mri2qmap.pipeline.progress import Reporter, TerminalReporter
from mri2qmap.pipeline.scan_log import TimedLines

T = TypeVar("T")

ProgressFunction: TypeAlias = Callable[[str, int, int | None], object]
"""Called as ``function(stage, done, total)``: name of the stage, completed steps, number of steps
(None: not known)."""

Progress: TypeAlias = bool | Reporter | ProgressFunction | None
"""How a call reports its progress.

None: bars on standard error where that is a terminal. True: log lines as well. False: nothing. A
function: see `ProgressFunction`. A `Reporter`: it takes progress and log lines.
"""


class QuietReporter(Reporter):
    """Shows nothing.

    Attributes
    ----------
    lines
        Every line logged.
    """

    def __init__(self) -> None:
        self.lines = TimedLines()

    def emit(self, line: str) -> None:
        """See `Reporter.emit`."""
        self.lines.append(line)


class FunctionReporter(QuietReporter):
    """Passes progress to a function and keeps log lines.

    Parameters
    ----------
    function
        Called at the start of each stage, with 0 completed steps, and after each step. What it
        raises ends the run.
    """

    def __init__(self, function: ProgressFunction) -> None:
        super().__init__()
        self._function = function

    def progress(
        self, iterable: Iterable[T], description: str, total: int | None = None
    ) -> Iterator[T]:
        """See `Reporter.progress`."""
        if total is None and isinstance(iterable, Sized):
            total = len(iterable)
        self._function(description, 0, total)
        for done, element in enumerate(iterable, start=1):
            yield element
            self._function(description, done, total)


class ForwardingReporter(QuietReporter):
    """Passes everything on to a reporter that does not store log lines, and stores them.

    Parameters
    ----------
    report
        The other reporter.
    """

    def __init__(self, report: Reporter) -> None:
        super().__init__()
        self._report = report

    def progress(
        self, iterable: Iterable[T], description: str, total: int | None = None
    ) -> Iterator[T]:
        """See `Reporter.progress`."""
        return self._report.progress(iterable, description, total)

    def steps(self, count: int, description: str) -> Callable[..., None]:
        """See `Reporter.steps`."""
        return self._report.steps(count, description)

    def emit(self, line: str) -> None:
        """See `Reporter.emit`."""
        super().emit(line)
        self._report.log(line)


def reporter_of(progress: Progress) -> Reporter:
    """Return the reporter that a caller's ``progress`` stands for; it stores log lines.

    Raises
    ------
    Mri2QmapError
        If it is none of the forms of `Progress`.
    """
    if progress is None or progress is True:
        return TerminalReporter(int(progress is True))
    if progress is False:
        return QuietReporter()
    if isinstance(progress, Reporter):
        stores = isinstance(getattr(progress, "lines", None), TimedLines)
        return progress if stores else ForwardingReporter(progress)
    if callable(progress):
        return FunctionReporter(progress)
    raise Mri2QmapError(
        f"progress: True, False, None, a Reporter or a function is expected, got {progress!r}"
    )


class NewLines(Reporter):
    """Logs lines that a run has not logged: its maps are exported more than once."""

    def __init__(self, report: Reporter) -> None:
        self._report = report
        self._known = set(getattr(report, "lines", ()))

    def emit(self, line: str) -> None:
        """Pass a new line on."""
        if line not in self._known:
            self._report.log(line)

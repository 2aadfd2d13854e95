"""Progress of a computation in a file, for programs that watch it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from mri2qmap.errors import Mri2QmapError
from mri2qmap.pipeline.progress import (
    ForwardingReporter,
    Reporter,
    number_of_steps,
    steps_done,
)
from mri2qmap.pipeline.scan_log import TimedLines

T = TypeVar("T")

_INTERVAL = 0.5
"""Minimum time between two changes of the file [s]."""


class ProgressFile(ForwardingReporter):
    """Passes everything on to another reporter, and keeps the latest step in a JSON file.

    The file has ``stage`` (name of the computation), ``done`` (its completed steps) and ``total``
    (their number, null if unknown). It is replaced as a whole. A disk that fails later does not end
    the computation.

    Parameters
    ----------
    report
        Receives progress and log lines.
    path
        The file; replaced if it exists.

    Attributes
    ----------
    lines
        Log lines of the other reporter.

    Raises
    ------
    Mri2QmapError
        If the file cannot be written.
    """

    def __init__(self, report: Reporter, path: Path) -> None:
        super().__init__(report)
        self.lines = getattr(report, "lines", TimedLines())
        self._path = path
        self._written = -_INTERVAL
        try:
            self._write("starting", 0, None)
        except OSError as error:
            raise Mri2QmapError(
                f"progress file {path}: it cannot be written ({error.strerror}); choose another "
                "place"
            ) from error

    def progress(
        self, iterable: Iterable[T], description: str, total: int | None = None
    ) -> Iterator[T]:
        """See `Reporter.progress`."""
        count = number_of_steps(iterable, total)
        self._note(description, 0, count)
        for done, element in enumerate(super().progress(iterable, description, total), start=1):
            yield element
            self._note(description, done, count)

    def steps(self, count: int, description: str) -> Callable[..., None]:
        """See `Reporter.steps`."""
        pass_on = super().steps(count, description)
        number = 0
        self._note(description, 0, count)

        def done(*states: object) -> None:
            nonlocal number
            number = steps_done(number, states)
            self._note(description, number, count)
            pass_on(*states)

        return done

    def _note(self, stage: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if done and now - self._written < _INTERVAL:
            return
        self._written = now
        try:
            self._write(stage, done, total)
        except OSError:
            return

    def _write(self, stage: str, done: int, total: int | None) -> None:
        part = self._path.with_name(f".{self._path.name}.part")
        content = {"stage": stage, "done": done, "total": total}
        part.write_text(json.dumps(content), encoding="utf-8")
        os.replace(part, self._path)

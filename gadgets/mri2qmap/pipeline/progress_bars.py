"""Progress bars on a terminal; what others write to it meanwhile appears above them.

The bars of all threads are one display, which a thread redraws. Nothing is hidden of the cursor, so
that a process that is killed leaves the terminal as it was.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO, cast

from mri2qmap.machine.streams import Unfailing

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

BAR_DELAY = 1.0
"""Delay before a progress bar appears [s]."""
_PERIOD = 0.25
"""Time between two redraws [s]."""
_MARGIN = 2
"""Room for the ^C that the terminal writes behind the bars [characters]."""
_WIDEST_BAR = 40
_NARROWEST_BAR = 10
"""A bar with less room is left out [characters]."""
_SHORTEST_NAME = 10
"""What is kept of the description before other columns are left out [characters]."""


def has_bars() -> bool:
    """Return whether standard error is a terminal whose lines can be redrawn."""
    redraws = os.environ.get("TERM", "").lower() not in ("dumb", "unknown")
    return redraws and _is_terminal(sys.stderr)


@contextmanager
def progress_bar(
    description: str, total: int | None, done: int = 0, delay: float = BAR_DELAY
) -> Iterator[Callable[[], None]]:
    """Show a bar while the context is active, if standard error is a terminal.

    Parameters
    ----------
    description
        Name of the computation.
    total
        Number of steps; None if it is unknown.
    done
        Steps that were made before; the remaining time is estimated from the others.
    delay
        Delay before it appears [s].

    Yields
    ------
    Callable
        To be called after each step.
    """
    bar = _Bar(description, total, done, delay)
    if not has_bars():
        yield bar.step
        return
    _DISPLAY.add(bar)
    try:
        yield bar.step
    finally:
        bar.ended = True
        _DISPLAY.redraw()


@contextmanager
def bars_end_here() -> Iterator[None]:
    """At the end, remove the bars that appeared in the context.

    An error keeps the generators alive that show bars, by its traceback.
    """
    before = list(_DISPLAY.bars)
    try:
        yield
    finally:
        _DISPLAY.end_all_but(before)


@dataclass(eq=False)
class _Bar:
    """State of a bar, which the computation changes and the display reads."""

    description: str
    total: int | None
    done: int
    delay: float
    ended: bool = False
    start: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._before = self.done
        self._last = self.start

    def step(self) -> None:
        self.done += 1
        self._last = time.monotonic()

    def texts(self) -> tuple[str, str, str]:
        """Return the number of steps, the elapsed time, and the remaining time if it is known."""
        now = time.monotonic()
        count = str(self.done) if self.total is None else f"{self.done}/{self.total}"
        made = self.done - self._before
        left = 0.0
        if self.total is not None and made:
            of_each = (self._last - self.start) / made
            left = of_each * (self.total - self.done) - (now - self._last)
        return count, _clock(now - self.start), f"{_clock(left)} left" if left > 0 else ""


class _Display:
    """The bars of this process.

    It locks itself. A bar may also end in a finaliser, during a redraw of the same thread: that
    redraw goes first.
    """

    def __init__(self) -> None:
        self.bars: list[_Bar] = []
        self._lock = threading.RLock()
        self._drawing = False
        self._live: Live | None = None
        self._console: Console | None = None
        self._above: dict[int, _Above] = {}  # kept: print() of CPython does not own its stream
        self._idle: threading.Event | None = None

    def add(self, bar: _Bar) -> None:
        import rich.live  # noqa: F401 - what is missing is told by the caller, not by the thread

        with self._lock:
            if not self.bars:
                self._idle = threading.Event()
                threading.Thread(target=self._run, args=(self._idle,), daemon=True).start()
            self.bars.append(bar)
        self.redraw()

    def end_all_but(self, kept: Iterable[_Bar]) -> None:
        for bar in self.bars:
            bar.ended = bar.ended or bar not in kept
        self.redraw()

    def redraw(self) -> None:
        with self._lock:
            if self._drawing:
                return
            try:
                self._drawing = True
                self._draw()
            finally:
                self._drawing = False

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Take the bars away for something else that is written to the terminal."""
        with self._lock:
            if self._drawing:
                yield
                return
            try:
                self._drawing = True
                self._hide()
                yield
            finally:
                self._drawing = False
        self.redraw()

    def forget(self) -> None:
        """In a fork: there is no thread, and the display is the parent's."""
        self._lock = threading.RLock()
        self._drawing, self._live, self._idle = False, None, None
        self.bars = []
        self._release_streams()

    def _run(self, idle: threading.Event) -> None:
        while not idle.wait(_PERIOD):
            self.redraw()

    def _draw(self) -> None:
        self.bars = [bar for bar in self.bars if not bar.ended]
        if not self.bars and self._idle is not None:
            self._idle.set()
            self._idle = None
        if not self._due():
            self._hide()
            self._release_streams()
            return
        self._take_streams()
        if any(stream.in_line for stream in self._above.values()):
            return  # as a prompt: what is written next belongs to its line
        if self._live is None:
            from rich.live import Live

            assert self._console is not None
            self._live = Live(
                get_renderable=self._table,
                console=self._console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        self._live.refresh()

    def _due(self) -> list[_Bar]:
        """Return the bars that are old enough to be shown."""
        now = time.monotonic()
        return [bar for bar in self.bars if not bar.ended and now - bar.start >= bar.delay]

    def _hide(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def _take_streams(self) -> None:
        """Stand between the terminal and what writes to it."""
        if self._console is not None:
            return
        stream: Any = sys.stderr
        self._console = _console(stream.stream if isinstance(stream, _Above) else stream)
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if _is_terminal(stream):
                setattr(sys, name, self._above_bars(stream))
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and _is_terminal(handler.stream):
                # without the lock of the handler: its owner may wait for the one of the bars
                handler.stream = self._above_bars(handler.stream)

    def _above_bars(self, stream: Any) -> _Above:
        if isinstance(stream, _Above):  # somebody has kept that of an earlier display
            return self._above.setdefault(id(stream.stream), stream)
        return self._above.setdefault(id(stream), _Above(stream, self))

    def _release_streams(self) -> None:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if isinstance(stream, _Above):
                setattr(sys, name, stream.stream)
        for handler in logging.getLogger().handlers:
            stream = getattr(handler, "stream", None)
            if isinstance(handler, logging.StreamHandler) and isinstance(stream, _Above):
                handler.stream = stream.stream
        for above in self._above.values():
            above.in_line = False
        self._console = None

    def _table(self) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        assert self._console is not None
        table = Table.grid(padding=(0, 1, 0, 0))
        bars = self._due()
        if not bars:
            return table
        cells = [bar.texts() for bar in bars]
        columns = [column for column in zip(*cells, strict=True) if any(column)]
        room = self._console.width - _MARGIN
        room -= sum(max(map(len, column)) + 1 for column in columns)
        while room < _SHORTEST_NAME and len(columns) > 1:  # the elapsed time goes first
            room += max(map(len, columns.pop(1))) + 1
        name = max(1, min(room, max(len(bar.description) for bar in bars)))
        width = min(_WIDEST_BAR, room - name - 1)
        for number, bar in enumerate(bars):
            row: list[Text | ProgressBar] = [Text(bar.description[:name], no_wrap=True)]
            if width >= _NARROWEST_BAR:
                row.append(ProgressBar(bar.total, bar.done, width))
            row += [Text(column[number], no_wrap=True) for column in columns]
            table.add_row(*row)
        return table


class _Above:
    """A stream to the terminal, whose text appears above the bars; all else is that of the stream.

    Attributes
    ----------
    stream
        The stream.
    in_line
        Whether the last line is not complete.
    """

    def __init__(self, stream: Any, display: _Display) -> None:
        self.stream = stream
        self.in_line = False
        self._display = display

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        with self._display.hidden():
            written = int(self.stream.write(text))
            self.stream.flush()
            if text:
                self.in_line = not text.endswith("\n")
        return written

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, OSError, ValueError):
        return False


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    class VisibleCursor(Console):
        def show_cursor(self, show: bool = True) -> bool:
            return False

    return VisibleCursor(
        file=cast(TextIO, Unfailing(stream)),
        force_terminal=True,
        force_interactive=True,
        force_jupyter=False,
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d}"
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


_DISPLAY = _Display()
atexit.register(_DISPLAY.end_all_but, ())
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_DISPLAY.forget)

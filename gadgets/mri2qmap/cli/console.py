"""Standard output and error as they are found: closed, full, or of another encoding."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO


@contextmanager
def standard_streams() -> Iterator[None]:
    """Make standard output and error fit to be written to, for the time of the block.

    Where one of them is closed, what is written goes nowhere; so does what native libraries write,
    which would else end up in the next file that is opened, as that takes the free number.
    Characters that the encoding lacks are escaped. Standard error never raises: what it takes is
    for people, and a run does not fail over it.
    """
    before = sys.stdout, sys.stderr
    with contextlib.ExitStack() as opened:
        _occupy_free_numbers()
        for name in ("stdout", "stderr"):
            if getattr(sys, name) is None:
                nowhere = opened.enter_context(open(os.devnull, "w", encoding="utf-8"))
                setattr(sys, name, nowhere)
            stream = getattr(sys, name)
            if isinstance(stream, io.TextIOWrapper):
                with contextlib.suppress(OSError, ValueError):
                    stream.reconfigure(errors="backslashreplace")
        sys.stderr = Unfailing(sys.stderr)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before


def say(text: str, write: Callable[[str], object] = print) -> None:
    """Write a line that a run does not fail over: its results are elsewhere."""
    try:
        write(text)
        sys.stdout.flush()
    except (OSError, ValueError):
        discard(sys.stdout)


def silence_messages() -> None:
    """Show no log lines and warnings in this process: another one shows them."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")


def discard(stream: TextIO | None) -> None:
    """Let what is written to a stream of the process, and waits in its buffer, go nowhere."""
    if stream is None or not any(stream is own for own in (sys.__stdout__, sys.__stderr__)):
        return  # another program's, as that of a test
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()


class Unfailing:
    """A text stream whose failures are kept to itself; all else is that of the stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, if that is possible."""
        try:
            return self._stream.write(text)
        except (OSError, ValueError):
            discard(self._stream)
        return len(text)

    def flush(self) -> None:
        """Flush, if that is possible."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            discard(self._stream)

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        try:
            return self._stream.isatty()
        except (OSError, ValueError):
            return False


def _occupy_free_numbers() -> None:
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with contextlib.suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free

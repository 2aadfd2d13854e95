"""Streams for people, over whose failures no run fails."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any, TextIO


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

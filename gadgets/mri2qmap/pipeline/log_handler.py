"""Log of a server whose reader may stop to read."""

from __future__ import annotations

import logging
import select
from collections.abc import Iterator
from contextlib import contextmanager

_PATIENCE = 0.1
"""Time for which a line waits until there is room for it in the pipe [s]."""


class DroppingHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Drops lines while nobody reads them, instead of waiting.

    A pipe, for example to the log of a container, holds 64 KiB. If its reader stalls, a program
    that waits for room stalls, too, and with it all scans.
    """

    _dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or count it."""
        try:
            for line in self.format(record).split("\n"):
                self._write(line)
            self.flush()
        except Exception:
            self.handleError(record)

    def _write(self, line: str) -> None:
        if not self._has_room():
            self._dropped += 1
            return
        if self._dropped:
            count, self._dropped = self._dropped, 0
            self.stream.write(f"... {count} lines of the log are lost: nobody read them\n")
            self._write(line)
            return
        self.stream.write(f"{line}{self.terminator}")

    def _has_room(self) -> bool:
        """Return whether a line can be written without waiting for long."""
        try:
            number = self.stream.fileno()
        except (AttributeError, OSError, ValueError):  # not a file of the system
            return True
        poll = select.poll()
        poll.register(number, select.POLLOUT)
        found = poll.poll(0 if self._dropped else 1000 * _PATIENCE)
        # POLLOUT is set if there is room for 4 KiB. Errors of the stream show in the write.
        return bool(found)


@contextmanager
def dropping_log() -> Iterator[None]:
    """Let the handlers of the log that write to streams drop lines while the context is active."""
    root = logging.getLogger()
    before = [h for h in root.handlers if type(h) is logging.StreamHandler]
    after = []
    for handler in before:
        dropping = DroppingHandler(handler.stream)
        dropping.setFormatter(handler.formatter)
        dropping.setLevel(handler.level)
        root.addHandler(dropping)
        root.removeHandler(handler)
        after.append(dropping)
    try:
        yield
    finally:
        for handler, dropping in zip(before, after, strict=True):
            root.removeHandler(dropping)
            root.addHandler(handler)

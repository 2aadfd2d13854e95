"""Log lines of servers and nodes: each says when, of which peer and of which scan."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, SupportsIndex

if TYPE_CHECKING:
    import ismrmrd

_SUBJECT: ContextVar[tuple[str, ...]] = ContextVar("subject", default=())
_MOST_CHARACTERS = 60


def log_about(*words: str) -> None:
    """Add words to what log lines say they are about, in this thread from now on."""
    _SUBJECT.set((*_SUBJECT.get(), *(printable(word)[:_MOST_CHARACTERS] for word in words)))


def scan_identity(document: bytes, header: ismrmrd.xsd.ismrmrdHeader) -> str:
    """Name a scan for logs, without anything of the patient.

    Parameters
    ----------
    document
        The ISMRMRD header as it came. Its digest is the same in all nodes of a scan, and at a
        client whose server passes the header on as it is.
    header
        The same, parsed.
    """
    digest = hashlib.sha256(document.rstrip(b"\0")).hexdigest()[:8]
    measurement = getattr(header.measurementInformation, "measurementID", None)
    return f"scan {digest}" + (f" measurement {measurement}" if measurement else "")


def printable(text: str) -> str:
    """Escape control characters: what a peer sends must not look like lines of the log."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class LogFormatter(logging.Formatter):
    """Time (UTC, ISO 8601), level, subject and message in one line; tracebacks follow it."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s [%(subject)s] %(name)s: %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        """Format the time of a record."""
        return _stamp(datetime.fromtimestamp(record.created, UTC))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Format all but the traceback."""
        record.message = printable(record.message)
        record.subject = " ".join(_SUBJECT.get()) or "-"
        return super().formatMessage(record)


def configure_logging(level: int = logging.INFO) -> None:
    """Let the log of this process, a server or a node, have lines as `LogFormatter` makes them.

    Parameters
    ----------
    level
        Least level of the lines of this program.
    """
    logging.basicConfig()  # no effect where the process has handlers
    for handler in logging.getLogger().handlers:
        handler.setFormatter(LogFormatter())
    logging.getLogger("mri2qmap").setLevel(level)  # other packages would drown it


class TimedLines(list[str]):
    """Lines that remember when they were added."""

    def __init__(self) -> None:
        super().__init__()
        self._times: list[datetime] = []

    def append(self, line: str, /) -> None:
        """Add a line now."""
        self._times.append(datetime.now(UTC))
        super().append(line)

    def extend(self, lines: Iterable[str], /) -> None:
        """Add lines now."""
        for line in lines:
            self.append(line)

    def insert(self, index: SupportsIndex, line: str, /) -> None:
        """Refuse to change the past."""
        raise TypeError("lines can only be added at the end")

    def stamped(self) -> list[str]:
        """All lines, each after its time (UTC, ISO 8601)."""
        return [f"{_stamp(moment)} {line}" for moment, line in zip(self._times, self, strict=True)]


def _stamp(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

"""Log lines of servers and nodes: each says when, of which peer and of which scan."""

from __future__ import annotations

import hashlib
import logging
import re
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, SupportsIndex

if TYPE_CHECKING:
    import ismrmrd

_SUBJECT: ContextVar[tuple[str, ...]] = ContextVar("subject", default=())
_MOST_CHARACTERS = 60
_NUMBER = re.compile(r"(?<!\w)[-+]?(?:\d+(?:[.,:]\d+)*(?:e[-+]?\d+)?|nan\b|inf\b)", re.I)
_SIEMENS_MEASUREMENT = re.compile(r"\d+(?:_\d+)*_(\d+)")
_SHOWN = 3
"""Lines of a kind that are shown; the others are counted."""


def add_log_context(*words: str) -> None:
    """Add words to what log lines say they are about, in this thread from now on."""
    known = _SUBJECT.get()
    new = (printable(word)[:_MOST_CHARACTERS] for word in words)
    _SUBJECT.set((*known, *(word for word in new if word not in known)))


def scan_identity(document: bytes, header: ismrmrd.xsd.ismrmrdHeader | None = None) -> str:
    """Name a scan for logs, without anything of the patient.

    It is the same at the client and in all nodes of a scan, though a Gadgetron server writes the
    header anew for its nodes, with numbers in single precision: it follows from what the header
    says of the measurement, not from its bytes.

    Parameters
    ----------
    document
        The ISMRMRD header as it came.
    header
        The same, parsed; None where it cannot be.
    """
    if header is None:
        return f"scan {_short_digest(document.rstrip(bytes(1)))}"
    number = _measurement(header)
    return f"scan {_short_digest(_essence(header))}" + (f" measurement {number}" if number else "")


def _short_digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:8]


def _essence(header: Any) -> bytes:
    """What tells a scan from others and passes through servers unchanged; nothing of the patient.

    A short digest of a name could be found by trying names.
    """
    study, measurement = header.studyInformation, header.measurementInformation
    parts: list[object] = [
        str(getattr(element, name, None) or "").strip()
        for element, name in (
            (study, "studyInstanceUID"),
            (study, "studyDate"),
            (study, "studyTime"),
            (measurement, "seriesDate"),
            (measurement, "seriesTime"),
            (measurement, "measurementID"),
            (measurement, "protocolName"),
            (measurement, "initialSeriesNumber"),
        )
    ]
    for encoding in header.encoding[:1]:
        size, extent = encoding.reconSpace.matrixSize, encoding.reconSpace.fieldOfView_mm
        parts += [size.x, size.y, size.z, *_single([extent.x, extent.y, extent.z])]
        limits = [getattr(encoding.encodingLimits, name, None) for name in ("contrast", "segment")]
        parts += [None if limit is None else limit.maximum for limit in limits]
    for name in ("TR", "TE", "TI", "flipAngle_deg"):
        parts += [name, *_single(getattr(header.sequenceParameters, name, None) or [])]
    return repr(parts).encode()


def _single(values: Iterable[float]) -> list[bytes]:
    """Bits of numbers in single precision."""
    found = []
    for value in values:
        try:
            found.append(struct.pack("<f", value))
        except OverflowError:
            found.append(b"")
    return found


def _measurement(header: Any) -> str:
    """Return the measurement's number, without identifiers of the patient that some have in it.

    The converter of Siemens files puts the scanner's numbers of patient and study before it.
    """
    number = str(getattr(header.measurementInformation, "measurementID", None) or "").strip()
    number = _SIEMENS_MEASUREMENT.sub(r"\1", number)
    subject = header.subjectInformation
    for name in ("patientID", "patientName"):
        value = str(getattr(subject, name, None) or "").strip().casefold()
        if value and value in number.casefold():
            return ""
    return number


def printable(text: str) -> str:
    """Escape control characters: what a peer sends must not look like lines of the log."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class LogFormatter(logging.Formatter):
    """Time (UTC, ISO 8601), level, subject and message in one line.

    Each line of a traceback, which follows it, begins in the same way: the lines of several scans
    at once mix.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s [%(subject)s] %(name)s: %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        """Format the time of a record."""
        return _stamp(datetime.fromtimestamp(record.created, UTC))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Format all but the traceback."""
        record.message = printable(record.message.strip())
        record.subject = " ".join(_SUBJECT.get()) or "-"
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        first, *rest = super().format(record).split("\n")
        if not rest:
            return first
        message, record.message = record.message, "|"
        head = super().formatMessage(record)
        record.message = message
        return "\n".join([first, *(f"{head} {printable(line)}" for line in rest)])


def configure_logging(level: int = logging.INFO) -> None:
    """Let the log of this process, a server or a node, have lines as `LogFormatter` makes them.

    For programs, not for libraries: it changes the handlers that write to streams.

    Parameters
    ----------
    level
        Least level of the lines of this program.
    """
    logging.basicConfig()  # no effect where the process has handlers
    for handler in logging.getLogger().handlers:
        if type(handler) is logging.StreamHandler:
            handler.setFormatter(LogFormatter())
    logging.getLogger("mri2qmap").setLevel(level)  # other packages would drown it


@contextmanager
def warnings_in_log() -> Iterator[None]:
    """Let the warnings of Python and its libraries be lines of the log meanwhile."""
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)


class RepeatFilter:
    """Counts lines that differ in numbers only, such as those about many acquisitions."""

    def __init__(self) -> None:
        self._count: Counter[str] = Counter()
        self._last: dict[str, str] = {}

    def accepts(self, line: str) -> bool:
        """Whether a line is one of the first of its kind; it is counted if not."""
        kind = _NUMBER.sub("#", line)
        self._count[kind] += 1
        if self._count[kind] <= _SHOWN:
            return True
        self._last[kind] = line
        return False

    def summary(self) -> list[str]:
        """Lines that stand for those that were only counted."""
        return [
            f"... and {self._count[kind] - _SHOWN} more of this kind, the last: {line}"
            for kind, line in self._last.items()
        ]


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
        """All lines, each after its time (UTC, ISO 8601); of many of a kind, the first ones."""
        repeats = RepeatFilter()
        found = [
            f"{_stamp(moment)} {line}"
            for moment, line in zip(self._times, self, strict=True)
            if repeats.accepts(line)
        ]
        return found + [f"{_stamp(self._times[-1])} {line}" for line in repeats.summary()]


def _stamp(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

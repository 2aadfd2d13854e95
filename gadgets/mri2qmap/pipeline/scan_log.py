"""Log lines of servers and nodes, with time, peer and scan."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex

if TYPE_CHECKING:
    import ismrmrd

_CONTEXT: ContextVar[dict[str, str]] = ContextVar("log context", default={})  # noqa: B039 - replaced
SCAN_EVENTS = "mri2qmap.scan_events"
"""Logger of the begin and end of each scan, which are logged at any verbosity."""
LogFormat = Literal["text", "json"]
_MOST_CHARACTERS = 60
_NUMBER = re.compile(r"(?<!\w)[-+]?(?:\d+(?:[.,:]\d+)*(?:e[-+]?\d+)?|nan\b|inf\b)", re.I)
_LAST_NUMBER = re.compile(r"(?<!\d)0*([0-9]{1,4})$")
_SHORT_NUMBER = re.compile(r"(?<!\d)\d{1,4}(?!\d)")
_YEAR_OR_DAY = re.compile(
    r"(19|20)\d\d|(0[1-9]|1[0-2])([0-2]\d|3[01])|([0-2]\d|3[01])(0[1-9]|1[0-2])"
)
_SHOWN = 3
"""Number of similar lines that are logged; further ones are counted."""


def add_log_context(**values: str) -> None:
    """Add values, by what they are, to the context of the log lines of this thread.

    In use are ``peer``, ``session``, ``scan`` and ``gadget``.
    """
    new = {name: printable(value)[:_MOST_CHARACTERS] for name, value in values.items()}
    _CONTEXT.set({**_CONTEXT.get(), **new})


def peer_host() -> str:
    """Return the address, without its port, of the peer for whom this thread works; else empty."""
    return _CONTEXT.get().get("peer", "").rpartition(":")[0]


@contextmanager
def own_log_context(**values: str) -> Iterator[None]:
    """Add values to the context, and forget them and later ones at the end."""
    token = _CONTEXT.set(_CONTEXT.get())
    try:
        add_log_context(**values)
        yield
    finally:
        _CONTEXT.reset(token)


def scan_identity(document: bytes, header: ismrmrd.xsd.ismrmrdHeader | None = None) -> str:
    """Return a name of a scan for logs that contains no patient data.

    The name is derived from the measurement described in the header, not from the bytes of the
    header. It is therefore the same at the client and in all nodes, although a Gadgetron server
    rewrites the header for its nodes with numbers in single precision.

    Parameters
    ----------
    document
        ISMRMRD header as received.
    header
        The parsed header; None if it cannot be parsed.
    """
    if header is None:
        return f"scan {_short_digest(document.rstrip(bytes(1)))}"
    number = _measurement(header)
    return f"scan {_short_digest(_identifying_values(header))}" + (
        f" measurement {number}" if number else ""
    )


def _short_digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:8]


def _identifying_values(header: Any) -> bytes:
    """Return the values that identify a scan and that servers do not change.

    Patient data are excluded: a name could be recovered from a short digest by trying names.
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
    """Return numbers as bytes in single precision."""
    found = []
    for value in values:
        try:
            found.append(struct.pack("<f", value))
        except OverflowError:
            found.append(b"")
    return found


def _measurement(header: Any) -> str:
    """Return the measurement number at the end of the measurement ID; empty unless it is safe.

    The ID is free text. The converter of Siemens files puts the patient and study numbers of the
    scanner, which are longer, before the measurement number; sites put names and dates there. So a
    number is returned if it has at most four digits, is not a date or its last part, and does not
    identify the patient.
    """
    identifier = str(getattr(header.measurementInformation, "measurementID", None) or "").strip()
    found = _LAST_NUMBER.search(identifier)
    if found is None or _YEAR_OR_DAY.fullmatch(found[0]):
        return ""
    if _SHORT_NUMBER.search(identifier[: found.start()]):
        return ""
    number, subject, study = found[1], header.subjectInformation, header.studyInformation
    for element, name in (
        (subject, "patientID"),
        (subject, "patientName"),
        (study, "accessionNumber"),
    ):
        other = str(getattr(element, name, None) or "").strip()
        if number == other.lstrip("0") or (len(number) > 2 and number in other):
            return ""
    return number


def printable(text: str) -> str:
    """Escape control characters, so that texts of a peer cannot imitate log lines."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class LogFormatter(logging.Formatter):
    """Formats a record as one line: time (UTC, ISO 8601), level, context and message.

    Each line of a traceback has the same prefix, because lines of simultaneous scans interleave.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s [%(context)s] %(name)s: %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        """Format the time of a record."""
        return _stamp(datetime.fromtimestamp(record.created, UTC))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Format a record without its traceback."""
        record.message = printable(record.message.strip())
        record.context = " ".join(_CONTEXT.get().values()) or "-"
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


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object in one line.

    Its keys are ``time`` (UTC, ISO 8601), ``level``, those of `add_log_context`, ``logger``,
    ``message``, those of the argument ``extra={"fields": {...}}`` of the call, and ``traceback``.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        content = {
            "time": _stamp(datetime.fromtimestamp(record.created, UTC)),
            "level": record.levelname,
            **_CONTEXT.get(),
            "logger": record.name,
            "message": record.getMessage().strip(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            content["traceback"] = self.formatException(record.exc_info)
        return json.dumps(content, default=str)


def configure_logging(level: int = logging.INFO, log_format: LogFormat = "text") -> None:
    """Set the format and the level of the log of this process, a server or a node.

    For programs, not for libraries: it changes the stream handlers and the level of the root
    logger. The gadgetron package, which starts the nodes of a server, sets that level to DEBUG.

    Parameters
    ----------
    level
        Minimum level of the lines of this package. Begin and end of a scan are always logged.
    log_format
        One line of text for each record, or one JSON object.
    """
    logging.basicConfig()  # no effect where the process has handlers
    formatter = JsonFormatter() if log_format == "json" else LogFormatter()
    for handler in logging.getLogger().handlers:
        if type(handler) is logging.StreamHandler:
            handler.setFormatter(formatter)
    logging.getLogger().setLevel(logging.WARNING)  # other packages log too much below it
    logging.getLogger("mri2qmap").setLevel(level)
    logging.getLogger(SCAN_EVENTS).setLevel(min(level, logging.INFO))


@contextmanager
def warnings_in_log() -> Iterator[None]:
    """Redirect Python warnings to the log while the context is active."""
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)


class RepeatFilter:
    """Counts lines that differ in numbers only, for example lines on many acquisitions."""

    def __init__(self) -> None:
        self._count: Counter[str] = Counter()
        self._last: dict[str, str] = {}

    def accepts(self, line: str) -> bool:
        """Return whether a line is among the first similar ones; otherwise count it."""
        kind = _NUMBER.sub("#", line)
        self._count[kind] += 1
        if self._count[kind] <= _SHOWN:
            return True
        self._last[kind] = line
        return False

    def summary(self) -> list[str]:
        """Return one line for each set of similar lines that were counted."""
        return [
            f"... and {self._count[kind] - _SHOWN} more similar lines, the last: {line}"
            for kind, line in self._last.items()
        ]


class TimedLines(list[str]):
    """List of lines with the times at which they were added."""

    def __init__(self) -> None:
        super().__init__()
        self._times: list[datetime] = []

    def append(self, line: str, /) -> None:
        """Add a line with the current time."""
        self._times.append(datetime.now(UTC))
        super().append(line)

    def extend(self, lines: Iterable[str], /) -> None:
        """Add lines with the current time."""
        for line in lines:
            self.append(line)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle lines together with their times."""
        return _timed_lines, (list(self), self._times)

    def insert(self, index: SupportsIndex, line: str, /) -> None:
        """Raise a TypeError: lines can only be appended."""
        raise TypeError("lines can only be appended")

    def stamped(self, first: int = 0) -> list[str]:
        """Return the lines from `first` with their times (UTC, ISO 8601); similar ones counted."""
        repeats = RepeatFilter()
        found = [
            f"{_stamp(moment)} {line}"
            for moment, line in zip(self._times[first:], self[first:], strict=True)
            if repeats.accepts(line)
        ]
        return found + [f"{_stamp(self._times[-1])} {line}" for line in repeats.summary()]


def _timed_lines(lines: list[str], times: list[datetime]) -> TimedLines:
    found = TimedLines()
    list.extend(found, lines)
    found._times = list(times)
    return found


def _stamp(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

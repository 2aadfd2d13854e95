"""What a service is doing: the scans in progress and in the queue, and the last ones.

The threads of the scans write a few attributes; whoever looks reads them without holding up a scan.
Nothing here is from the part of a header that describes the patient, the study or the site.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

from mri2qmap.machine.words import shortened
from mri2qmap.pipeline.pipeline_file import GADGETS

if TYPE_CHECKING:
    from mri2qmap.hosts.in_process import InProcessHost
    from mri2qmap.pipeline.scan_header import ScanInfo

logger = logging.getLogger(__name__)
T = TypeVar("T")

KEPT = 50
"""Number of finished scans that are kept, and as many that failed."""
_MOST_PARTS = 32
"""Ended nodes of a scan in progress that are kept."""
_LONGEST_NAME = 80
_LONGEST_REASON = 400
_MOST_FINDINGS = 8


class Outcome(StrEnum):
    """How a scan ended, the most serious last."""

    DONE = "done"
    CANCELLED = "cancelled"
    """The peer was gone, or did not send or receive for too long, or the service was stopped."""
    REFUSED = "refused"
    """Its data, header or pipeline are not usable, or there is no memory for it."""
    FAILED = "failed"
    """An error of the program."""


_SEVERITY = {outcome: number for number, outcome in enumerate(Outcome)}


@dataclass(frozen=True)
class Judgement:
    """Traffic light of a run, such as "amber", and its reasons."""

    light: str
    reasons: Sequence[str]


Judge = Callable[[Mapping[str, Any]], Judgement]
"""Judges the record of a run."""


@dataclass(frozen=True)
class _Step:
    """A computation with steps; `total` is None if their number is unknown."""

    name: str
    done: int
    total: int | None


class LiveEntry:
    """A session with a client, or a node of a worker, as it goes on.

    Attributes
    ----------
    number
        Of the session, as in the log.
    peer
        Address of the peer.
    since
        When it began (`time.monotonic`).
    size
        Memory that is requested or reserved [bytes]; 0: not known yet.
    place
        Place in the queue for memory, from 1; 0: it does not wait.
    host
        Runs the gadgets; None before they start.
    stage_seconds
        Computing time of each gadget [s], set at the end.
    sent
        Number of messages with results.
    judge
        Judges the record of the run; None: nobody looks at it.
    judgement
        What `judge` returned.
    """

    def __init__(self, number: int, peer: str, judge: Judge | None) -> None:
        self.number = number
        self.peer = peer
        self.since = time.monotonic()
        self.size = self.place = self.sent = 0
        self.host: InProcessHost | None = None
        self.stage_seconds: dict[str, float] = {}
        self.judge = judge
        self.judgement: Judgement | None = None
        self._facts: dict[str, Any] = {}
        self._scan: Hashable = self
        self._running = False
        self._step: _Step | None = None

    def describe(self, pipeline: str, scan: ScanInfo, of: Hashable | None = None) -> None:
        """Tell what is reconstructed.

        Parameters
        ----------
        pipeline
            Name of the pipeline; empty if only a gadget of it is known.
        scan
            The scan.
        of
            The same for all nodes of a scan; None: this is the whole scan.
        """
        self._scan = self if of is None else of
        self.describe_as(pipeline, scan.matrix, scan.sequence.n_frames)

    def describe_as(self, pipeline: str, matrix: Sequence[int], frames: int) -> None:
        """Tell what is reconstructed, by name, matrix (z, y, x) and number of frames."""
        self._facts = {
            "pipeline": shortened(pipeline, _LONGEST_NAME),
            "matrix": list(matrix[::-1]),
            "frames": frames,
        }

    def queued(self, place: int) -> None:
        """Tell the place in the queue for memory."""
        self.place = place

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count as running, no longer as waiting, while the context is active."""
        self.place, self._running = 0, True
        try:
            yield
        finally:
            self._running = False

    def judge_run(self, record: Mapping[str, Any]) -> None:
        """Let `judge` look at the record of the finished run; a scan does not fail with it."""
        if self.judge is None:
            return
        try:
            self.judgement = self.judge(record)
        except Exception:
            logger.warning("the run could not be judged", exc_info=True)

    def steps(self, iterable: Iterable[T], name: str, total: int | None) -> Iterator[T]:
        """Yield the elements of a computation, and tell how many are done."""
        try:
            self._step = _Step(name, 0, total)
            for done, element in enumerate(iterable, start=1):
                yield element
                self._step = _Step(name, done, total)
        finally:
            self._step = None

    def at_step(self, name: str, done: int, total: int | None) -> None:
        """Tell the step of a computation in another process, which `host` does not run."""
        self._step = _Step(name, done, total)

    def _gadgets(self) -> list[dict[str, Any]]:
        """Return the gadgets with their computing time; the one that works has its step, too."""
        host, step = self.host, self._step
        if host is None:
            if step is None:
                return []
            seconds = time.monotonic() - self.since
            return [{**_gadget("reconstruction", seconds, True), "step": asdict(step)}]
        active, seconds = host.active
        found = []
        for timing in host.timings[1:-1]:
            works = timing.name == active
            gadget = _gadget(timing.name, timing.busy + (seconds if works else 0), works)
            if works and step is not None:
                gadget["step"] = asdict(step)
            found.append(gadget)
        return found

    def _received(self) -> int | None:
        """Return the number of acquisitions and waveforms; None: it takes none from a scanner."""
        host = self.host
        if host is None or host.timings[1].name != GADGETS[0]:
            return None
        return host.timings[0].items_out - (host.provenance is not None)


@dataclass(frozen=True)
class _Ended:
    entry: LiveEntry
    outcome: Outcome
    reason: str


class LiveScans:
    """The scans of a service, in progress and ended. May be used from several threads.

    Attributes
    ----------
    judge
        Judges the record of each run; None: nobody looks at it.
    queued
        Returns scans that wait beside those of open sessions, in the form of `state`.
    """

    def __init__(self) -> None:
        self.judge: Judge | None = None
        self._start = time.monotonic()
        self._lock = threading.Lock()
        self._open: dict[int, LiveEntry] = {}
        self._ended: dict[Hashable, deque[_Ended]] = {}
        self._done: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._failed: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self.queued: Callable[[], list[dict[str, Any]]] = list

    def now(self, moment: float | None = None) -> float:
        """Return the time of a moment (`time.monotonic`; None: now) since the start [s]."""
        return round((time.monotonic() if moment is None else moment) - self._start, 2)

    def begin(self, entry: LiveEntry) -> None:
        """Add a session."""
        with self._lock:
            self._open[entry.number] = entry

    def end(self, entry: LiveEntry, outcome: Outcome | None, reason: str) -> None:
        """Remove a session, and record its scan if it was the last session of it.

        Parameters
        ----------
        entry
            The session.
        outcome, reason
            How it ended, and why; None: it was about no scan.
        """
        entry.host = None  # holds what the scan was
        with self._lock:
            del self._open[entry.number]
            if outcome is None:
                return
            scan = entry._scan
            ended = self._ended.setdefault(scan, deque(maxlen=_MOST_PARTS))
            ended.append(_Ended(entry, outcome, reason))
            if any(other._scan is scan for other in self._open.values()):
                return
            record = self._record(self._ended.pop(scan))
            (self._done if record["outcome"] == Outcome.DONE else self._failed).append(record)

    def state(self) -> dict[str, list[dict[str, Any]]]:
        """Return all scans as JSON values, by what they do.

        ``running`` and ``waiting`` are in the order in which they began and of their places;
        ``done`` and ``failed`` begin with the last one. Times are in seconds, see `now`.
        """
        with self._lock:
            entries = [entry for entry in self._open.values() if entry._facts]
            ended = {scan: list(parts) for scan, parts in self._ended.items()}
            done, failed = list(self._done)[::-1], list(self._failed)[::-1]
        scans: dict[Hashable, list[LiveEntry]] = {}
        for entry in sorted(entries, key=lambda entry: entry.number):
            scans.setdefault(entry._scan, []).append(entry)
        running: list[dict[str, Any]] = []
        waiting: list[dict[str, Any]] = []
        for scan, parts in scans.items():
            state = self._live(parts, [part.entry for part in ended.get(scan, ())])
            (waiting if state["place"] else running).append(state)
        waiting.sort(key=lambda scan: scan["place"])
        waiting += self.queued()
        return {"running": running, "waiting": waiting, "done": done, "failed": failed}

    def _live(self, parts: list[LiveEntry], ended: list[LiveEntry]) -> dict[str, Any]:
        """Return the state of a scan by its sessions that go on, and those that have ended."""
        gadgets = _ended_gadgets(ended)
        gadgets += [gadget for entry in parts for gadget in entry._gadgets()]
        received = (entry._received() for entry in parts)
        return {
            **self._facts([*ended, *parts]),
            "running": any(entry._running for entry in parts),
            "place": max(entry.place for entry in parts),
            "received": next((number for number in received if number is not None), None),
            "gadgets": sorted(gadgets, key=_order),
            "results": sum(entry.sent for entry in (*ended, *parts)),
        }

    def _record(self, parts: Sequence[_Ended]) -> dict[str, Any]:
        """Return what is kept of a scan."""
        entries = [part.entry for part in parts]
        outcome = max((part.outcome for part in parts), key=_SEVERITY.__getitem__)
        # other nodes quote the reason of the first one
        reason = min((part.reason for part in parts if part.reason), key=len, default="")
        judgement = next((e.judgement for e in entries if e.judgement is not None), None)
        facts, ended = self._facts(entries), self.now()
        return {
            **facts,
            "outcome": str(outcome),
            "reason": shortened(reason, _LONGEST_REASON),
            "ended": ended,
            "ended_utc": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            "seconds": round(ended - facts["since"], 1),
            "gadgets": sorted(_ended_gadgets(entries), key=_order),
            "results": sum(entry.sent for entry in entries),
            "light": None if judgement is None else judgement.light,
            "findings": []
            if judgement is None
            else [shortened(text, _LONGEST_REASON) for text in judgement.reasons[:_MOST_FINDINGS]],
        }

    def _facts(self, entries: Sequence[LiveEntry]) -> dict[str, Any]:
        """Return number, peer, begin and what is known of the scan of some sessions."""
        first = min(entries, key=lambda entry: entry.number)
        known = next((entry._facts for entry in entries if entry._facts), {})
        return {
            "number": first.number,
            "peer": first.peer,
            "since": self.now(first.since),
            "memory": max(entry.size for entry in entries),
            **known,
        }


def _gadget(name: str, seconds: float, active: bool = False) -> dict[str, Any]:
    return {"name": name, "active": active, "seconds": round(seconds, 1)}


def _ended_gadgets(entries: Iterable[LiveEntry]) -> list[dict[str, Any]]:
    return [_gadget(name, s) for entry in entries for name, s in entry.stage_seconds.items()]


def _order(gadget: Mapping[str, Any]) -> int:
    """Sorts gadgets as they follow each other in a pipeline; somebody's own come last."""
    name = gadget["name"]
    return GADGETS.index(name) if name in GADGETS else len(GADGETS)

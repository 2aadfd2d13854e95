"""What a server or worker tells its operator: a line when a scan begins and ends, and metrics."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts.error_text import ERROR_PREFIX, format_error
from mri2qmap.hosts.live_scans import Judge, LiveEntry, LiveScans, Outcome
from mri2qmap.machine.cancellation import is_cancellation
from mri2qmap.pipeline.scan_log import SCAN_EVENTS, own_log_context

logger = logging.getLogger(SCAN_EVENTS)

_SECONDS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
"""Upper bounds of the classes of the histograms [s]."""


class GoesOnLaterError(Mri2QmapError):
    """A reconstruction is stopped, and goes on later: it has not failed."""


class ScanEntry(LiveEntry):
    """One scan, or one node of a scan in a worker.

    Parameters
    ----------
    what
        "scan" or "node", for log lines.
    running
        Counts those in progress.
    number, peer, judge
        See `LiveEntry`.

    Attributes
    ----------
    description
        What is reconstructed, without patient data; empty until `begin`.
    """

    def __init__(
        self, what: str, running: Gauge, number: int, peer: str, judge: Judge | None
    ) -> None:
        super().__init__(number, peer, judge)
        self.description = ""
        self._what = what
        self._gauge = running

    @contextmanager
    def begin(self, description: str) -> Iterator[None]:
        """Log that the scan begins; it counts as running while the context is active."""
        self.description = description
        logger.info("%s begins: %s", self._what, description)
        with self._gauge.track_inprogress(), self.running():
            yield


class ServiceRecord:
    """Log lines and metrics of the scans of one server or worker.

    Parameters
    ----------
    what
        "scan" or "node", for log lines and names of metrics.

    Attributes
    ----------
    registry
        The metrics of this service and its process.
    live
        The scans in progress, and the last ones.
    """

    def __init__(self, what: str = "scan") -> None:
        self.registry = CollectorRegistry()
        self.live = LiveScans()
        self._what = what
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        name = f"mri2qmap_{what}"
        self._outcomes = Counter(
            f"{name}s", f"{what}s by outcome", ["outcome"], registry=self.registry
        )
        self._running = Gauge(f"{name}s_running", f"{what}s in progress", registry=self.registry)
        self._seconds = Histogram(
            f"{name}_seconds",
            f"Time from the first to the last message of a {what}",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._stages = Histogram(
            "mri2qmap_stage_seconds",
            "Computing time of a gadget for one scan",
            ["gadget"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        for outcome in Outcome:
            self._outcomes.labels(outcome)  # present from the start, as zero
        ProcessCollector(registry=self.registry)

    def observe(self, values: Mapping[str, tuple[str, Callable[[], float]]]) -> None:
        """Add gauges of values that are asked for when the metrics are read.

        Parameters
        ----------
        values
            Description and function of each value, by its name without the prefix ``mri2qmap_``.
        """
        for name, (description, function) in values.items():
            gauge = Gauge(f"mri2qmap_{name}", description, registry=self.registry)
            gauge.set_function(function)

    @contextmanager
    def session(self, peer: str = "") -> Iterator[ScanEntry]:
        """Record one session: log its end, count it, and number its log lines.

        A session without a description, for example one that only asked a question, is not
        counted.

        Parameters
        ----------
        peer
            Address of the peer.

        Yields
        ------
        ScanEntry
            To be filled.
        """
        start = time.monotonic()
        with self._lock:
            number = next(self._numbers)
        entry = ScanEntry(self._what, self._running, number, peer, self.live.judge)
        self.live.begin(entry)
        with own_log_context(session=f"#{number}"):
            outcome, reason, logged = Outcome.DONE, "", ""
            try:
                yield entry
            except BaseException as error:
                outcome = _outcome(error)
                reason = format_error(error).removeprefix(f"{ERROR_PREFIX}: ")
                # any other error is logged by itself
                alone = isinstance(error, ConnectionError | GoesOnLaterError)
                logged = f": {reason}" if alone else ""
                raise
            finally:
                seconds = time.monotonic() - start
                counts = bool(entry.description) or outcome is not Outcome.DONE
                self.live.end(entry, outcome if counts else None, reason)
                if counts:
                    self._end(entry, outcome, logged, seconds)

    def _end(self, entry: ScanEntry, outcome: Outcome, reason: str, seconds: float) -> None:
        for gadget, busy in entry.stage_seconds.items():
            self._stages.labels(gadget).observe(busy)
        self._outcomes.labels(outcome).inc()
        self._seconds.observe(seconds)
        text = f"{self._what} {outcome} after {seconds:.1f} s, {entry.sent} results sent{reason}"
        fields = {
            "outcome": str(outcome),
            "seconds": round(seconds, 3),
            "results": entry.sent,
            "stage_seconds": {name: round(busy, 3) for name, busy in entry.stage_seconds.items()},
        }
        level = logging.INFO if outcome is Outcome.DONE else logging.WARNING
        logger.log(level, "%s", text, extra={"fields": fields})


def _outcome(error: BaseException) -> Outcome:
    if isinstance(error, ConnectionError | GoesOnLaterError) or is_cancellation(error):
        return Outcome.CANCELLED
    return Outcome.REFUSED if isinstance(error, Mri2QmapError) else Outcome.FAILED

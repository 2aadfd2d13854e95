"""The in-process host: runs the gadgets of a pipeline as a chain of generators.

Items pass from gadget to gadget without a copy and stay on their device. The chain runs in one
thread, so an acquisition is read from the source only when a gadget requests it.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import ismrmrd
import torch

from mri2qmap.errors import GadgetError, Mri2QmapError, clear_frames
from mri2qmap.hosts.gpu_fallback import (
    REMEDY,
    fallbacks,
    free_unused_memory,
    has_maps,
    is_gpu_memory_error,
)
from mri2qmap.hosts.item_spool import ItemSpool
from mri2qmap.hosts.stage_timing import StageTiming
from mri2qmap.machine.cancellation import is_cancellation, raise_if_cancelled
from mri2qmap.pipeline.items import Item, Provenance
from mri2qmap.pipeline.pipeline_file import GadgetNode, Pipeline
from mri2qmap.pipeline.progress import ForwardingReporter, Reporter
from mri2qmap.pipeline.provenance import with_gadget
from mri2qmap.pipeline.scan_header import ScanInfo
from mri2qmap.pipeline.simulation_cost import refuse_long_simulations
from mri2qmap.recon.iteration_statistics import IterationStatistics

logger = logging.getLogger(__name__)

SOURCE = "source"
SINK = "output"
_ASKED_AGAIN = 1e-3  # s


class InProcessHost:
    """Runs a pipeline in this process and measures the time and memory of each gadget.

    Parameters
    ----------
    pipeline
        Gadgets and their settings.
    scan
        Scan header and device.
    start
        Time from which all times are counted (`time.perf_counter`; default: the start of `run`).
    recover
        Whether the scan is reconstructed once more, from its first item, when the memory of the GPU
        is exhausted; see `fallbacks`. `scan` is then the one of the last attempt.
    cpu_allowed
        Whether the CPU may take over then.
    after
        Host whose output this one takes, with the same device.

    Attributes
    ----------
    timings
        `StageTiming` of the source, of each gadget, and of the consumer of the output.
    ready
        Time at which all gadgets were initialised and the first item was requested [s from the
        start].
    last_acquisition
        Time at which the last acquisition left the source [s from the start]; None if there was
        none.
    total
        Duration of the run [s]; set at its end.
    iterations
        `IterationStatistics` of the ADMM of each gadget that has one, by the name of the gadget.
    measured
        Numbers that each gadget has given to `Reporter.measure`, by the name of the gadget.
    provenance
        `Provenance` of the scan, including the gadgets that have received it; None before the last
        acquisition.
    attempts
        Why the scan was reconstructed once more, and how, in words.

    Raises
    ------
    Mri2QmapError
        If the dictionaries of the scan would take hours, see `refuse_long_simulations`.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        scan: ScanInfo,
        start: float | None = None,
        *,
        recover: bool = False,
        cpu_allowed: bool = False,
        after: InProcessHost | None = None,
    ) -> None:
        refuse_long_simulations(scan, pipeline.nodes)
        self.pipeline = pipeline
        self.scan = scan
        self.ready: float | None = None
        self.last_acquisition: float | None = None
        self.total = 0.0
        self.attempts: list[str] = []
        self._recover = recover and scan.device.type == "cuda"
        self._cpu_allowed = cpu_allowed
        self._after = after
        self._begin = start
        self._start = 0.0
        self._switched = self._asked = 0.0
        self._forget_attempt()

    def _forget_attempt(self) -> None:
        """Forget what was measured, before a scan is reconstructed."""
        nodes = self.pipeline.nodes
        self.timings = [
            StageTiming(SOURCE),
            *(StageTiming(n.name) for n in nodes),
            StageTiming(SINK),
        ]
        self.iterations: dict[str, list[IterationStatistics]] = {}
        self.measured: dict[str, dict[str, float | int | None]] = {}
        self.provenance: Provenance | None = None
        self._failed = ""
        self._active = len(self.timings) - 1
        self._rss = _peak_rss()

    @property
    def gadget_seconds(self) -> dict[str, float]:
        """Computing time of each gadget [s]."""
        return {timing.name: timing.busy for timing in self.timings[1:-1]}

    @property
    def active(self) -> tuple[str, float]:
        """Name of the stage that works now, and for how long [s]; for any thread."""
        name, since = self.timings[self._active].name, self._switched
        return name, time.perf_counter() - since if since else 0.0

    def set_last_acquisition(self, moment: float) -> None:
        """Set the time at which the last acquisition arrived over the network.

        Parameters
        ----------
        moment
            Time of arrival (`time.perf_counter`), earlier than the request for the acquisition.
        """
        self.last_acquisition = moment - self._start

    def run(self, items: Iterable[Item]) -> Iterator[Item]:
        """Pass `items` through all gadgets and yield the output of the last one.

        Raises
        ------
        Mri2QmapError
            Errors of the source unchanged, and that of a `Cancellation`; errors of a gadget
            prefixed with its name.
        GadgetError
            If a gadget raises any other exception.
        """
        self._switched = self._asked = time.perf_counter()
        self._start = self._switched if self._begin is None else self._begin
        self._rss = _peak_rss()
        try:
            with self.scan.report.collapse_repeats():
                if self._recover:
                    yield from self._recovering(items)
                else:
                    yield from self._chain(items)
        finally:
            self._switch(len(self.timings) - 1)
            self.total = time.perf_counter() - self._start

    def _chain(self, items: Iterable[Item]) -> Iterator[Item]:
        """Pass items through all gadgets once."""
        stream = self._stage(0, iter(items))
        for number, node in enumerate(self.pipeline.nodes, start=1):
            stream = self._stage(number, self._gadget(node, stream))
        yield from stream

    def _recovering(self, items: Iterable[Item]) -> Iterator[Item]:
        """Pass items through all gadgets, and again if the memory of the GPU is exhausted.

        Nothing leaves before the first maps; after that there is no further attempt.
        """
        following = fallbacks(self.scan, self.pipeline.nodes, self._cpu_allowed)
        with contextlib.closing(ItemSpool(items)) as spool:
            while True:
                held: list[Item] = []
                settled = False
                try:
                    for item in self._chain(spool):
                        held.append(item)
                        if not settled and not has_maps(item):
                            continue
                        settled = True
                        spool.close()
                        yield from held
                        held.clear()
                    yield from held
                    return
                except Exception as error:
                    if not is_gpu_memory_error(error):
                        raise
                    where = f" in gadget {self._failed}" if self._failed else ""
                    problem = f"the memory of the GPU was exhausted{where}"
                    attempt = None if settled or not spool.whole else next(following, None)
                    if attempt is None:
                        raise Mri2QmapError(f"{problem}: {REMEDY}") from error
                    clear_frames(error)
                held.clear()
                self._try_again(*attempt, problem)

    def _try_again(self, scan: ScanInfo, how: str, problem: str) -> None:
        """Prepare another attempt."""
        free_unused_memory(self.scan.device)
        line = f"{problem}; the scan was reconstructed once more {how}"
        self.scan.report.log(f"memory: {line}")
        logger.warning("%s", line)
        self.attempts.append(line)
        self.scan = scan
        self._forget_attempt()

    def _gadget(self, node: GadgetNode, stream: Iterator[Item]) -> Iterator[Item]:
        """Run one gadget and prefix the errors that originate in it with its name."""
        upstream = _Upstream(self._with_provenance(node, stream))
        report = _StatisticsReporter(self.scan.report)
        self.measured[node.name] = report.measured
        try:
            yield from node.function(upstream, replace(self.scan, report=report), node.settings)
            if report.statistics:
                self.iterations[node.name] = report.statistics
                self.scan.report.log(f"{node.name}: {report.statistics[-1]}")
        except Mri2QmapError as error:
            if error is upstream.error or is_cancellation(error):
                raise
            text = str(error).removeprefix(f"{node.name}: ")
            raise Mri2QmapError(f"gadget {node.name}: {text}") from error
        except Exception as error:
            if error is upstream.error or is_cancellation(error):
                raise
            self._failed = node.name
            raise GadgetError(
                f"gadget {node.name} failed: {type(error).__name__}: {error}"
            ) from error

    def _with_provenance(self, node: GadgetNode, stream: Iterator[Item]) -> Iterator[Item]:
        """Record a gadget in the provenance of the scan before the gadget receives it."""
        for item in stream:
            if isinstance(item, Provenance):
                scan = self.scan if self._after is None else self._after.scan
                item = with_gadget(
                    item,
                    node.name,
                    node.settings,
                    scan.device,
                    scan.processes.world_size,
                    scan.spare_memory,
                )
                self.provenance = item
            yield item

    def _stage(self, number: int, stream: Iterator[Item]) -> Iterator[Item]:
        """Yield from `stream`; attribute the time until each item to stage `number`."""
        timing, after = self.timings[number], self.timings[number + 1]
        while True:
            raise_if_cancelled()
            caller = self._active
            self._switch(number)
            if number == 0 and self.ready is None:
                self.ready = self._switched - self._start
            try:
                item = next(stream)
            except StopIteration:
                self._switch(caller)
                return
            except BaseException:
                self._switch(caller)
                raise
            if not isinstance(item, ismrmrd.Acquisition):
                self._synchronise()
            self._switch(caller)
            now = self._switched - self._start
            timing.items_out += 1
            after.items_in += 1
            timing.last_item = now
            if timing.first_item is None:
                timing.first_item = now
            if number == 0 and isinstance(item, ismrmrd.Acquisition):
                self.last_acquisition = now
                for each in self.timings:
                    each.busy_during_scan = each.busy
            yield item

    def _switch(self, stage: int) -> None:
        """Attribute time and memory since the last switch to the active stage; enter `stage`.

        Asking for the memory takes as long as passing some acquisitions on, so it is done once in
        `_ASKED_AGAIN` only: meanwhile not much can have been used.
        """
        now = time.perf_counter()
        timing = self.timings[self._active]
        timing.busy += now - self._switched
        if now - self._asked >= _ASKED_AGAIN or not timing.rss_peak:
            self._asked = now
            rss = _peak_rss()
            timing.rss_growth += rss - self._rss
            timing.rss_peak = self._rss = rss
            if self.scan.device.type == "cuda":
                peak = torch.cuda.max_memory_allocated(self.scan.device)
                timing.gpu_peak = max(timing.gpu_peak or 0, peak)
                torch.cuda.reset_peak_memory_stats(self.scan.device)
        self._switched = now
        self._active = stage

    def _synchronise(self) -> None:
        """Wait for the GPU, so that its time is attributed to the gadget that used it."""
        if self.scan.device.type == "cuda":
            torch.cuda.synchronize(self.scan.device)


class _StatisticsReporter(ForwardingReporter):
    """Collects the statistics of the iterations, and what the gadget measures."""

    def __init__(self, report: Reporter) -> None:
        super().__init__(report)
        self.statistics: list[IterationStatistics] = []
        self.measured: dict[str, float | int | None] = {}

    def measure(self, **values: float | int | None) -> None:
        self.measured.update(values)

    def state(self, state: object) -> None:
        statistics = getattr(state, "statistics", None)
        if isinstance(statistics, IterationStatistics):
            self.statistics.append(statistics)


class _Upstream:
    """Iterator over the items of the stages before a gadget; stores the error that they raise."""

    def __init__(self, stream: Iterator[Item]) -> None:
        self._stream = stream
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        try:
            return next(self._stream)
        except StopIteration:
            raise
        except BaseException as error:
            self.error = error
            raise


def _peak_rss() -> int:
    """Return the peak memory of this process [bytes].

    On Linux, ``ru_maxrss`` is at least that of the process from which this one was started.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_bytes().splitlines():
            if line.startswith(b"VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak_memory() -> bool:
    """Reset the peak memory of this process; return whether the system supports it (Linux)."""
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True

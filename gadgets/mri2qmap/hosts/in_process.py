"""The in-process host: the gadgets of a pipeline as a chain of generators.

Items pass from gadget to gadget as they are, on the device where they are. One thread does
everything, so an acquisition is taken from the source only when the gadgets ask for it.
"""

from __future__ import annotations

import gc
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ismrmrd
import torch

from mri2qmap.errors import GadgetError, Mri2QmapError
from mri2qmap.pipeline.items import Item, Provenance
from mri2qmap.pipeline.pipeline_file import GadgetNode, Pipeline
from mri2qmap.pipeline.provenance import with_gadget
from mri2qmap.pipeline.scan_header import ScanInfo

SOURCE = "source"
SINK = "output"


@dataclass
class StageTiming:
    """What one stage of the chain did; times in seconds from the start of the run.

    Attributes
    ----------
    name
        The gadget, or "source".
    items_in, items_out
        How many items came and went.
    first_item, last_item
        When the first and last item left it; None when there was none.
    busy
        Time spent in it, without that spent waiting for the stage before it.
    rss_growth
        By how many bytes it raised the peak memory of the process.
    rss_peak
        Peak memory of the process until it was last active [bytes].
    gpu_peak
        Largest GPU memory allocated while it was active [bytes]; None without a GPU.
    """

    name: str
    items_in: int = 0
    items_out: int = 0
    first_item: float | None = None
    last_item: float | None = None
    busy: float = 0.0
    rss_growth: int = 0
    rss_peak: int = 0
    gpu_peak: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the account as JSON values, with units in the keys."""
        return {
            "items_in": self.items_in,
            "items_out": self.items_out,
            "first_item_s": rounded(self.first_item),
            "last_item_s": rounded(self.last_item),
            "busy_s": rounded(self.busy),
            "rss_growth_bytes": self.rss_growth,
            "rss_peak_bytes": self.rss_peak,
            "gpu_peak_bytes": self.gpu_peak,
        }


class InProcessHost:
    """Runs a pipeline in this process and keeps account of what each gadget took.

    Parameters
    ----------
    pipeline
        The gadgets.
    scan
        What the header says, and the device.
    start
        Moment that times count from (`time.perf_counter`; default: that of `run`).

    Attributes
    ----------
    accounts
        One for the source, one for each gadget, one for whoever takes the output.
    ready
        When all gadgets had made their preparations and the first item was asked for [s from the
        start].
    last_acquisition
        When the last acquisition left the source [s from the start]; None if there was none.
    total
        Duration of the run, once it is over [s].
    provenance
        Of the scan, with the gadgets that have received it; None before its last acquisition.
    """

    def __init__(self, pipeline: Pipeline, scan: ScanInfo, start: float | None = None) -> None:
        self.pipeline = pipeline
        self.scan = scan
        self.timings = [
            StageTiming(SOURCE),
            *(StageTiming(n.name) for n in pipeline.nodes),
            StageTiming(SINK),
        ]
        self.ready: float | None = None
        self.last_acquisition: float | None = None
        self.total = 0.0
        self.provenance: Provenance | None = None
        self._begin = start
        self._start = 0.0
        self._switched = 0.0
        self._active = len(self.timings) - 1
        self._rss = _peak_rss()

    def set_last_acquisition(self, moment: float) -> None:
        """Say when the last acquisition arrived (`time.perf_counter`), before it was asked for."""
        self.last_acquisition = moment - self._start

    def run(self, items: Iterable[Item]) -> Iterator[Item]:
        """Pass `items` through all gadgets and yield what leaves the last one.

        Raises
        ------
        Mri2QmapError
            From the source as it is; from a gadget with its name in front.
        GadgetError
            When a gadget raises anything else.
        """
        self._switched = time.perf_counter()
        self._start = self._switched if self._begin is None else self._begin
        self._rss = _peak_rss()
        stream = self._stage(0, iter(items))
        for number, node in enumerate(self.pipeline.nodes, start=1):
            stream = self._stage(number, self._gadget(node, stream))
        try:
            with self.scan.report.collapse_repeats():
                yield from stream
        finally:
            self._switch(len(self.timings) - 1)
            self.total = time.perf_counter() - self._start

    def _gadget(self, node: GadgetNode, stream: Iterator[Item]) -> Iterator[Item]:
        """Run one gadget, putting its name on the errors that start in it."""
        upstream = _Upstream(self._with_provenance(node, stream))
        try:
            yield from node.function(upstream, self.scan, node.settings)
        except Mri2QmapError as error:
            if error is upstream.error:
                raise
            text = str(error).removeprefix(f"{node.name}: ")
            raise Mri2QmapError(f"gadget {node.name}: {text}") from error
        except Exception as error:
            if error is upstream.error:
                raise
            raise GadgetError(
                f"gadget {node.name} failed: {type(error).__name__}: {error}"
            ) from error

    def _with_provenance(self, node: GadgetNode, stream: Iterator[Item]) -> Iterator[Item]:
        """Add a gadget to the provenance of the scan before the gadget receives it."""
        for item in stream:
            if isinstance(item, Provenance):
                item = with_gadget(item, node.name, node.settings, self.scan.device)
                self.provenance = item
            yield item

    def _stage(self, number: int, stream: Iterator[Item]) -> Iterator[Item]:
        """Yield from `stream`, booking the time until each item to stage `number`."""
        account, after = self.timings[number], self.timings[number + 1]
        while True:
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
            account.items_out += 1
            after.items_in += 1
            account.last_item = now
            if account.first_item is None:
                account.first_item = now
            if number == 0 and isinstance(item, ismrmrd.Acquisition):
                self.last_acquisition = now
            yield item

    def _switch(self, stage: int) -> None:
        """Book time and memory since the last switch to the active stage; go to `stage`."""
        now = time.perf_counter()
        account = self.timings[self._active]
        account.busy += now - self._switched
        rss = _peak_rss()
        account.rss_growth += rss - self._rss
        account.rss_peak = self._rss = rss
        if self.scan.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.scan.device)
            account.gpu_peak = max(account.gpu_peak or 0, peak)
            torch.cuda.reset_peak_memory_stats(self.scan.device)
        self._switched = now
        self._active = stage

    def _synchronise(self) -> None:
        """Wait for the GPU, so that its time is booked to the gadget that used it."""
        if self.scan.device.type == "cuda":
            torch.cuda.synchronize(self.scan.device)


class _Upstream:
    """Passes items on and remembers the error that came with them, if any."""

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
    """Return the peak memory of this process [bytes]."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak_memory() -> bool:
    """Let the peak memory of this process begin anew; say whether the system (Linux) did so."""
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def rounded(seconds: float | None) -> float | None:
    """Round a time to microseconds; None stays None."""
    return None if seconds is None else round(seconds, 6)

"""Item counts and timing of the stages of a pipeline.

`StageTiming` is measured by the in-process host. `NodeTiming` is the report of an external node. It
is sent as a line of text, because a Gadgetron server relays nothing else to the client.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

_NUMBER = r"(\d+\.\d+|-)"
_LINE = re.compile(
    rf"(\w+): (\d+) items in, (\d+) out; s from its start: ready {_NUMBER}, first item {_NUMBER}, "
    rf"last item {_NUMBER}, last readout {_NUMBER}, end {_NUMBER}, busy {_NUMBER}"
)


@dataclass
class StageTiming:
    """Item counts, time and memory of one stage of an in-process run.

    Times are in seconds from the start of the run.

    Attributes
    ----------
    name
        Name of the gadget, "source" or "output".
    items_in, items_out
        Number of items received and yielded.
    first_item, last_item
        Time at which the first and the last item left the stage; None if there was none.
    busy
        Time spent in the stage, excluding the wait for the stage before it.
    busy_during_scan
        Part of `busy` before the last acquisition left the source.
    rss_growth
        Increase of the peak memory of the process while the stage was active [bytes].
    rss_peak
        Peak memory of the process when the stage was last active [bytes].
    gpu_peak
        Largest GPU memory allocated while the stage was active [bytes]; None without a GPU.
    """

    name: str
    items_in: int = 0
    items_out: int = 0
    first_item: float | None = None
    last_item: float | None = None
    busy: float = 0.0
    busy_during_scan: float = 0.0
    rss_growth: int = 0
    rss_peak: int = 0
    gpu_peak: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the values as JSON values, with units in the keys."""
        return {
            "items_in": self.items_in,
            "items_out": self.items_out,
            "first_item_s": rounded(self.first_item),
            "last_item_s": rounded(self.last_item),
            "busy_s": rounded(self.busy),
            "busy_during_scan_s": rounded(self.busy_during_scan),
            "rss_growth_bytes": self.rss_growth,
            "rss_peak_bytes": self.rss_peak,
            "gpu_peak_bytes": self.gpu_peak,
        }


@dataclass(frozen=True)
class NodeTiming:
    """Item counts and timing of one external node.

    Times are in seconds from the start of the node; None if the event did not occur.

    Attributes
    ----------
    name
        Name of the gadget.
    items_in, items_out
        Number of items received and sent.
    ready_s
        Time at which the gadget requested its first item.
    first_item_s, last_item_s
        Time at which the first and the last item left the gadget.
    last_acquisition_s
        Time at which the last acquisition arrived.
    total_s
        Time at which the gadget ended.
    busy_s
        Computing time, excluding the wait for items.
    """

    name: str
    items_in: int
    items_out: int
    ready_s: float | None
    first_item_s: float | None
    last_item_s: float | None
    last_acquisition_s: float | None
    total_s: float | None
    busy_s: float | None

    def __str__(self) -> str:
        """Return the line of text that `from_line` parses."""
        ready, first, last, readout, total, busy = (
            "-" if time is None else f"{time:.3f}"
            for time in (
                self.ready_s,
                self.first_item_s,
                self.last_item_s,
                self.last_acquisition_s,
                self.total_s,
                self.busy_s,
            )
        )
        return (
            f"{self.name}: {self.items_in} items in, {self.items_out} out; s from its start: "
            f"ready {ready}, first item {first}, last item {last}, last readout {readout}, "
            f"end {total}, busy {busy}"
        )

    @classmethod
    def from_line(cls, line: str) -> NodeTiming | None:
        """Parse a line that contains a timing; return None for any other line."""
        found = _LINE.search(line)
        if found is None:
            return None
        name, items_in, items_out, *times = found.groups()
        ready, first, last, readout, total, busy = (
            None if time == "-" else float(time) for time in times
        )
        return cls(name, int(items_in), int(items_out), ready, first, last, readout, total, busy)

    def as_dict(self) -> dict[str, Any]:
        """Return the values as JSON values."""
        return asdict(self)


def rounded(seconds: float | None) -> float | None:
    """Round a time to microseconds; None stays None."""
    return None if seconds is None else round(seconds, 6)

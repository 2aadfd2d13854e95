"""What a node under a Gadgetron server did and when: a line of text, for people and for run.json.

Text is all that such a server lets through to the client.
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


@dataclass(frozen=True)
class NodeTiming:
    """StageTiming of one gadget; times in seconds from the start of its node, None: it did not happen.

    Attributes
    ----------
    name
        The gadget.
    items_in, items_out
        How many items came and went.
    ready_s
        When it asked for the first item.
    first_item_s, last_item_s
        When the first and last item left it.
    last_acquisition_s
        When the last acquisition arrived.
    total_s
        When it ended.
    busy_s
        How long it worked, without waiting for items.
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
        """The line."""
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
        """Read a line that has an account in it; None for any other."""
        found = _LINE.search(line)
        if found is None:
            return None
        name, items_in, items_out, *times = found.groups()
        ready, first, last, readout, total, busy = (
            None if time == "-" else float(time) for time in times
        )
        return cls(name, int(items_in), int(items_out), ready, first, last, readout, total, busy)

    def as_dict(self) -> dict[str, Any]:
        """Return the account as JSON values."""
        return asdict(self)

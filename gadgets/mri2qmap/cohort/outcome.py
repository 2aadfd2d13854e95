"""What became of each scan of a cohort, and the table of it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mri2qmap.errors import Mri2QmapError
from mri2qmap.storage.atomic import cannot_write, write_text

TABLE = "cohort.csv"
_COLUMNS = ("scan", "state", "seconds", "peak_memory_bytes", "worker", "reason")


@dataclass(frozen=True)
class ScanOutcome:
    """What became of a scan.

    Attributes
    ----------
    scan
        Name of the scan, which is that of its folder.
    state
        ``done``; ``skipped``: an earlier run had made the same folder; ``failed``; ``unfinished``:
        the run ended before the scan did.
    seconds
        Duration on the worker [s], with the start of the libraries; of a skipped scan that of the
        reconstruction alone. None if it is not done.
    peak_memory
        Peak memory of the worker process during the reconstruction [bytes].
    worker
        Address of the last worker.
    reason
        Why it failed.
    started
        When the worker started [s since 1970, on its clock].
    """

    scan: str
    state: Literal["done", "skipped", "failed", "unfinished"]
    seconds: float | None = None
    peak_memory: int | None = None
    worker: str = ""
    reason: str = ""
    started: float | None = None

    @classmethod
    def from_record(cls, scan: str, record: Mapping[str, Any], **more: Any) -> ScanOutcome:
        """Return the outcome of a scan whose folder has the record `record`."""
        peaks = [gadget.get("rss_peak_bytes") for gadget in record.get("gadgets", [])]
        peak = max((peak for peak in peaks if peak), default=None)
        return cls(scan, **{"seconds": record.get("total_s"), "peak_memory": peak, **more})


class CohortTable:
    """The table of a cohort in a CSV file, which each change replaces in one step.

    Rows of scans that this run does not have are kept.

    Parameters
    ----------
    folder
        Folder of the file.
    outcomes
        The scans of this run.

    Raises
    ------
    Mri2QmapError
        If there is a file of that name that is no such table.
    """

    def __init__(self, folder: Path, outcomes: Iterable[ScanOutcome]) -> None:
        self._path = folder / TABLE
        self._rows = {row[0]: row for row in self._read()}
        self._add(outcomes)

    def put(self, outcome: ScanOutcome) -> None:
        """Replace the row of a scan, and write the file."""
        self._add([outcome])
        self.write()

    def write(self) -> None:
        """Write the file.

        Raises
        ------
        Mri2QmapError
            If it cannot be written.
        """
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(self._rows.values())
        try:
            write_text(self._path, text.getvalue())
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def _add(self, outcomes: Iterable[ScanOutcome]) -> None:
        for row in map(_row, outcomes):
            self._rows[row[0]] = row

    def _read(self) -> list[list[str]]:
        try:
            with self._path.open(newline="", encoding="utf-8", errors="backslashreplace") as file:
                header, *rows = csv.reader(file)
        except FileNotFoundError:
            return []
        except (OSError, ValueError, csv.Error) as error:
            raise Mri2QmapError(
                f"{self._path}: it cannot be read as a table ({error}); move it away"
            ) from error
        if tuple(header) != _COLUMNS or any(len(row) != len(header) for row in rows):
            raise Mri2QmapError(
                f"{self._path}: its columns are not those of this program; move it away, or choose "
                "another folder"
            )
        return rows


def summary(outcomes: Iterable[ScanOutcome]) -> str:
    """Lay the outcomes out for people."""
    rows = [("scan", "state", "s", "GiB", "worker", "reason")]
    for outcome in outcomes:
        seconds = "" if outcome.seconds is None else f"{outcome.seconds:.1f}"
        memory = "" if outcome.peak_memory is None else f"{outcome.peak_memory / 2**30:.1f}"
        rows.append((outcome.scan, outcome.state, seconds, memory, outcome.worker, outcome.reason))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if number in (2, 3) else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _row(outcome: ScanOutcome) -> list[str]:
    seconds = "" if outcome.seconds is None else f"{outcome.seconds:.3f}"
    memory = "" if outcome.peak_memory is None else str(outcome.peak_memory)
    cells = [outcome.scan, outcome.state, seconds, memory, outcome.worker, outcome.reason]
    return [cell.encode("utf-8", "backslashreplace").decode() for cell in cells]

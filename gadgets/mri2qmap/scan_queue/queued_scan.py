"""A scan in the queue: a folder with its raw data, its pipeline, its state and its maps."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from mri2qmap.errors import Mri2QmapError
from mri2qmap.files.output_folder import RUN_RECORD
from mri2qmap.machine.networks import network_of
from mri2qmap.machine.words import shortened
from mri2qmap.storage.atomic import atomic_write, cannot_write, is_scratch, remove_scratch, sync
from mri2qmap.storage.written import read_record

RECORD = "queued.json"
SCAN = "scan.mrd"
PIPELINE = "pipeline.xml"
MAPS = "maps"
PROGRESS = "progress.json"
LOG = "reconstruction.log"


class State(StrEnum):
    """Where a scan stands."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class Record:
    """What is kept of a scan in the queue.

    Attributes
    ----------
    number
        Place in the order of arrival, from 1. Clocks may jump.
    scan
        Name of the scan without patient data, see `scan_identity`.
    scan_digest
        See `ScanDigest`.
    pipeline
        Name of the pipeline.
    matrix, frames
        Matrix (z, y, x) and number of frames.
    memory
        Planned memory of the reconstruction [bytes].
    acquisitions
        Number of acquisitions and waveforms.
    peer
        Address of the client.
    received, ended
        Times in UTC, ISO 8601; `ended` is empty until the scan is done or has failed.
    state
        See `State`.
    attempts
        How often the reconstruction was started and broke off by itself.
    reason
        Why it failed, in words for a client.
    """

    number: int
    scan: str
    scan_digest: str
    pipeline: str
    matrix: tuple[int, int, int]
    frames: int
    memory: int
    acquisitions: int
    peer: str
    received: str
    state: State = State.WAITING
    attempts: int = 0
    reason: str = ""
    ended: str = ""


class QueuedScan:
    """A scan in the queue.

    Parameters
    ----------
    folder
        Folder of the scan; its name is the identifier of the scan.

    Attributes
    ----------
    record
        As on the disk.

    Raises
    ------
    Mri2QmapError
        If there is no readable record.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.record = _read(folder / RECORD)

    @property
    def identifier(self) -> str:
        """Short name of the scan with its pipeline, for people and clients."""
        return self.folder.name

    @property
    def network(self) -> str:
        """Address from which it came; of IPv6, the network."""
        return network_of(self.record.peer)

    @property
    def maps(self) -> Path:
        """Folder of the maps, as `mri2qmap replay` makes it."""
        return self.folder / MAPS

    def update(self, **changes: Any) -> None:
        """Change the record, here and on the disk.

        Raises
        ------
        Mri2QmapError
            If it cannot be written.
        """
        record = replace(self.record, **changes)
        write_record(self.folder, record)
        self.record = record

    def end(self, state: State, reason: str = "") -> None:
        """Note that the reconstruction is done or has failed."""
        self.update(state=state, reason=reason, ended=now())

    def wait_again(self) -> None:
        """Let a scan wait whose state could not be written; a restart does the same."""
        if self.record.state is State.RUNNING:
            self.record = replace(self.record, state=State.WAITING)

    def progress(self) -> tuple[str, int, int | None] | None:
        """Return the stage, the steps that are done and their number; None if unknown."""
        try:
            found = json.loads((self.folder / PROGRESS).read_bytes())
            total = found["total"]
            return str(found["stage"]), int(found["done"]), None if total is None else int(total)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def run_record(self) -> dict[str, Any] | None:
        """Return the record of the run that made the maps; None if there is none that is whole.

        Raises
        ------
        OSError
            If it cannot be read: nobody knows whether there are maps.
        """
        try:
            (self.maps / RUN_RECORD).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return read_record(self.maps, RUN_RECORD)

    def remove_saved_state(self) -> bool:
        """Remove the states of the iterations; return whether there were any."""
        folder = self.maps.with_name(f"{MAPS}.resume")
        there = folder.exists()
        shutil.rmtree(folder, ignore_errors=True)
        return there and not folder.exists()

    def remove_unfinished(self) -> None:
        """Remove files that a reconstruction left when it was killed, but not its saved states."""
        for path in self.folder.iterdir():
            if is_scratch(path):
                remove_scratch(path)


def now() -> str:
    """Return the time in UTC, in ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_record(folder: Path, record: Record) -> None:
    """Write the record of a scan; it is on the disk when this returns.

    Raises
    ------
    Mri2QmapError
        If it cannot be written.
    """
    path = folder / RECORD
    try:
        with atomic_write(path) as part:
            part.write_text(json.dumps(asdict(record), indent=2), encoding="utf-8")
        sync(folder)
    except OSError as error:
        raise cannot_write(path, error) from error


def _read(path: Path) -> Record:
    try:
        return _checked(json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError) as error:
        raise Mri2QmapError(
            f"{path}: it cannot be read as the record of a scan in the queue "
            f"({type(error).__name__}: {error}); move {path.parent} away"
        ) from error


def _checked(content: Any) -> Record:
    """Return a record with the values that its file has, if all are there and can be right.

    Raises
    ------
    ValueError
        If they are not; what a file has beside them, as of a later version, is left out.
    """
    if not isinstance(content, dict):
        raise ValueError("no object of JSON")
    for name, fits in _FITS.items():
        if name not in content:
            raise ValueError(f"{name} is missing")
        if not fits(content[name]):
            raise ValueError(f"{name} cannot be {shortened(json.dumps(content[name]))}")
    found = {name: content[name] for name in _FITS}
    z, y, x = found["matrix"]
    return Record(**{**found, "matrix": (z, y, x), "state": State(found["state"])})


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**63


def _is_positive(value: Any) -> bool:
    return _is_count(value, least=1)


def _is_matrix(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(_is_positive, value))


def _is_moment(value: Any) -> bool:
    """Whether it is a time with its zone: times without one cannot be compared with others."""
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except (TypeError, ValueError):
        return False


def _is_state(value: Any) -> bool:
    return _is_text(value) and value in {str(state) for state in State}


_FITS: Mapping[str, Callable[[Any], bool]] = {
    "number": _is_positive,
    "scan": _is_text,
    "scan_digest": _is_text,
    "pipeline": _is_text,
    "matrix": _is_matrix,
    "frames": _is_count,
    "memory": _is_positive,
    "acquisitions": _is_count,
    "peer": _is_text,
    "received": _is_moment,
    "state": _is_state,
    "attempts": _is_count,
    "reason": _is_text,
    "ended": lambda value: value == "" or _is_moment(value),
}
"""Whether a value can be that of a field of `Record`."""

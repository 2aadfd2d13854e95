"""The folder of a queue: scans are received into it, found in it, and removed when they are old."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts.scan_digest import queue_identifier
from mri2qmap.machine.networks import network_of
from mri2qmap.scan_queue.disk_room import DiskRoom
from mri2qmap.scan_queue.queued_scan import (
    QueuedScan,
    Record,
    State,
    now,
    write_record,
)
from mri2qmap.scan_queue.reception import Reception
from mri2qmap.storage.atomic import (
    cannot_write,
    forget_scratch,
    is_scratch,
    note_scratch,
    remove_scratch,
    scratch_name,
    sync,
)
from mri2qmap.storage.result_files import locked

logger = logging.getLogger(__name__)

_ASIDE = ".aside-"
"""In the name of a folder that was put aside."""


class QueueFolder:
    """The scans of a queue, on the disk. May be used from several threads of one process.

    Parameters
    ----------
    path
        The folder; made if necessary, readable by its owner only: raw data contain the header with
        data of the patient.
    most_waiting
        Maximum number of scans that wait or run; those of one address are at most three quarters.
    retention
        Time after which scans that are done or have failed are removed.

    Attributes
    ----------
    disk_failure
        Why nothing is reconstructed, in words for a client, if a disk failed; else empty.
    room
        Room on the disk for what is received.

    Raises
    ------
    Mri2QmapError
        If the folder cannot be used, or another server uses it.
    """

    def __init__(self, path: Path, most_waiting: int, retention: timedelta) -> None:
        self.path = path
        self.most_waiting = most_waiting
        self.retention = retention
        self.changed = threading.Condition()
        self.disk_failure = ""
        self.room = DiskRoom(path)
        self._stack = ExitStack()
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._stack.enter_context(locked(path, wait=False))
            for entry in path.iterdir():
                if is_scratch(entry):  # of a server that was killed; nobody got a receipt for it
                    remove_scratch(entry)
        except BlockingIOError:
            raise Mri2QmapError(
                f"{path}: another server uses this queue; give each one a folder of its own"
            ) from None
        except OSError as error:
            self._stack.close()
            raise cannot_write(path, error) from error
        self._scans: dict[str, QueuedScan] = {}
        self._read: Counter[str] = Counter()
        self._expired: set[str] = set()
        self._receiving: Counter[str] = Counter()  # scans that are received, by network
        self._begun: dict[str, int] = {}  # by network, counts what is reconstructed
        for entry in sorted(path.iterdir()):
            if _ASIDE in entry.name:
                logger.warning("%s was put aside; remove it when nobody needs it", entry)
                continue
            try:
                found = QueuedScan(entry)
            except Mri2QmapError as error:
                logger.warning("%s", error)
                continue
            if found.record.state is State.RUNNING:  # the server was killed
                found.wait_again()  # not on the disk, which may be full
            self._scans[found.identifier] = found

    def close(self) -> None:
        """Let another server use the folder."""
        self._stack.close()

    def scans(self, *states: State) -> list[QueuedScan]:
        """Return the scans, or those in some states, in the order in which they came."""
        with self.changed:
            found = [s for s in self._scans.values() if not states or s.record.state in states]
        return sorted(found, key=lambda scan: scan.record.number)

    def waiting(self) -> list[QueuedScan]:
        """Return the scans that wait, in the order in which they are reconstructed.

        Addresses take turns, beginning with the one that had none for the longest time.
        """
        earlier: Counter[str] = Counter()
        turns = []
        for scan in self.scans(State.WAITING):
            turns.append((earlier[scan.network], self._begun.get(scan.network, 0), scan))
            earlier[scan.network] += 1
        return [scan for _, _, scan in sorted(turns, key=lambda turn: turn[:2])]

    def place(self, scan: QueuedScan) -> int:
        """Return how many scans are before this one, with itself; 0 if it does not wait."""
        waiting = [*self.scans(State.RUNNING), *self.waiting()]
        return waiting.index(scan) + 1 if scan in waiting else 0

    def has_room(self) -> bool:
        """Whether there is room on the disk for maps, or nobody knows."""
        return self.room.suffices()

    def set_state(self, scan: QueuedScan, state: State, reason: str = "") -> None:
        """Change the state of a scan, and tell who waits for it."""
        with self.changed:
            if state in (State.DONE, State.FAILED):
                scan.end(state, reason)
            else:
                scan.update(state=state)
            if state is State.RUNNING:
                self._begun[scan.network] = max(self._begun.values(), default=0) + 1
            self.changed.notify_all()

    @contextmanager
    def receive(
        self,
        header: bytes,
        pipeline: tuple[str, bytes],
        *,
        scan: str,
        matrix: tuple[int, int, int],
        frames: int,
        memory: int,
        peer: str,
    ) -> Iterator[Reception]:
        """Receive a scan; it is in the queue after `Reception.finish`, and else leaves nothing.

        Parameters
        ----------
        header
            ISMRMRD header as sent.
        pipeline
            Name and document of the pipeline.
        scan, matrix, frames, memory, peer
            See `Record`.

        Raises
        ------
        Mri2QmapError
            If the queue or the disk is full, or the scan cannot be written.
        """
        record = Record(0, scan, "", pipeline[0], matrix, frames, memory, 0, peer, now())
        folder = self.path / scratch_name()
        with self._place_for(network_of(peer)):
            note_scratch(folder)
            try:
                reception = Reception(folder, self.room, self.add, header, pipeline[1], record)
                with reception:
                    yield reception
            finally:
                if folder.exists():
                    remove_scratch(folder)

    @contextmanager
    def _place_for(self, network: str) -> Iterator[None]:
        """Keep a place in the queue for a scan that is received."""
        with self.changed:
            there = self.scans(State.WAITING, State.RUNNING)
            number = len(there) + self._receiving.total()
            own = sum(one.network == network for one in there) + self._receiving[network]
            most, most_of_one = self.most_waiting, self.most_waiting - self.most_waiting // 4
            if number >= most:
                raise Mri2QmapError(
                    f"{number} scans are in the queue, which takes {most}: try again later"
                )
            if own >= most_of_one:
                raise Mri2QmapError(
                    f"{own} scans of this address are in the queue, which takes {most}, and "
                    f"{most_of_one} of one address: try again later"
                )
            self._receiving[network] += 1
        try:
            yield
        finally:
            with self.changed:
                self._receiving[network] -= 1

    def add(self, folder: Path, record: Record, pipeline: bytes) -> QueuedScan:
        """Put a received scan into the queue, unless it is in there already.

        A scan that has failed waits once more when it is sent again.
        """
        identifier = queue_identifier(record.scan_digest, pipeline)
        with self.changed:
            known = self._scans.get(identifier)
            if known is not None:
                if known.record.state is State.FAILED:
                    known.update(state=State.WAITING, attempts=0, reason="", ended="")
                self.changed.notify_all()
                return known
            numbers = [scan.record.number for scan in self._scans.values()]
            write_record(folder, replace(record, number=max(numbers, default=0) + 1))
            path = self.path / identifier
            self._make_way(path)
            folder.rename(path)
            try:
                sync(self.path)
                added = QueuedScan(path)
            except BaseException:
                with suppress(OSError):
                    path.rename(folder)  # there is no receipt: nothing may be left
                raise
            forget_scratch(folder)
            self._scans[identifier] = added
            self.changed.notify_all()
            return added

    def _make_way(self, path: Path) -> None:
        """Put a folder aside that is where a scan belongs: nobody knows its record."""
        if not os.path.lexists(path):
            return
        names = (path.with_name(f"{path.name}{_ASIDE}{number}") for number in itertools.count(1))
        aside = next(name for name in names if not os.path.lexists(name))
        path.rename(aside)
        logger.warning(
            "%s holds no scan of the queue that can be read, and was put aside as %s: the scan was "
            "received once more",
            *(path, aside.name),
        )

    def find(
        self, *, scan_digest: str = "", scan: str = "", pipeline: str = "", identifier: str = ""
    ) -> QueuedScan:
        """Return the last scan that was received with these raw data, or else with this name.

        Parameters
        ----------
        scan_digest
            Digest of the raw data; empty if they are unknown.
        scan
            Name of the scan by its header; used if no raw data are the same.
        pipeline
            Only scans with this pipeline; empty: with any.
        identifier
            Only the scan with this identifier; empty: any.

        Raises
        ------
        Mri2QmapError
            If there is none, or if scans with different raw data have this name.
        """
        found = [
            one
            for one in self.scans()
            if pipeline in ("", one.record.pipeline) and identifier in ("", one.identifier)
        ]
        same = [one for one in found if scan_digest and one.record.scan_digest == scan_digest]
        if same:
            return same[-1]
        if not identifier:
            found = [one for one in found if one.record.scan == scan]
        if not found:
            of = f" with pipeline {pipeline}" if pipeline else ""
            raise Mri2QmapError(
                f"{identifier or scan}{of} is not in the queue: send it to the queue first; maps "
                f"are kept for {self.retention.days} days"
            )
        if len({one.record.scan_digest for one in found}) > 1:
            names = ", ".join(f"{one.identifier} ({one.record.received})" for one in found)
            raise Mri2QmapError(
                f"several scans in the queue have this header and different data: {names}; send "
                "the raw data again, or name one of them"
            )
        return found[-1]

    @contextmanager
    def reading(self, scan: QueuedScan) -> Iterator[None]:
        """Keep a scan while its maps are read."""
        with self.changed:
            self._read[scan.identifier] += 1
        try:
            yield
        finally:
            with self.changed:
                self._read[scan.identifier] -= 1

    def remove_expired(self) -> None:
        """Remove scans that ended longer ago than the retention, and that nobody reads.

        Only those are removed that were as old when this was called before: a clock may be wrong
        until it has been set, for example after a start.
        """
        known = {one.identifier: one for one in self.scans(State.DONE, State.FAILED)}
        expired = {name for name, scan in known.items() if self._is_old(scan)}
        for name in expired & self._expired:
            with self.changed:
                if self._read[name]:
                    continue
                removed = self.path / scratch_name()  # the scan may come again meanwhile
                try:
                    known[name].folder.rename(removed)
                except OSError as error:
                    logger.warning("%s cannot be removed from the queue: %s", name, error)
                    continue
                del self._scans[name]
            shutil.rmtree(removed, ignore_errors=True)
            logger.info("%s was removed from the queue: it ended long ago", name)
        self._expired = expired

    def _is_old(self, scan: QueuedScan) -> bool:
        try:
            ended = datetime.fromisoformat(scan.record.ended)
        except ValueError:
            return False
        return datetime.now(UTC) - ended >= self.retention

"""The spool: a folder with the DICOM objects that are to be sent, and what became of each.

The state is an SQLite database, so every change is complete or did not happen, whatever ends the
program. The objects are files in folders, one for each batch. A batch is copied first, and then
recorded in one transaction: files that no row names are what a killed program left, and are removed
by the next one. Locks keep processes apart: of a batch while it is made, of a destination while
objects are sent to it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from mri2qmap.errors import Mri2QmapError
from mri2qmap.pacs.destination import Connection
from mri2qmap.pacs.dicom_files import Identity
from mri2qmap.pacs.entries import Entry, Held, Recorded, State
from mri2qmap.pacs.spool_batch import BATCH, Batch
from mri2qmap.pacs.spool_database import open_database
from mri2qmap.pacs.spool_lock import lock_folder, only_sender
from mri2qmap.pipeline.settings import from_values, settings_as_dict
from mri2qmap.storage.atomic import cannot_write
from mri2qmap.storage.result_files import locked
from mri2qmap.storage.written import digest

KEPT = timedelta(days=30)
"""How long the spool remembers what was sent, so that it is not sent again."""

_FIELDS = "sop_instance, sop_class, syntax, sha256, file, state"


class Spool:
    """What is to be sent, and what was.

    Parameters
    ----------
    folder
        The folder; made, for this user only, if it is not there.

    Raises
    ------
    Mri2QmapError
        If it cannot be made or written, or is of another version.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with self._told():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700)
            self._database = open_database(folder)
            try:
                self._forget_old()
                self._clean()
            except BaseException:
                self._database.close()
                raise

    def __enter__(self) -> Spool:
        """Return the spool."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the database."""
        self._database.close()

    @contextlib.contextmanager
    def batch(self) -> Iterator[Batch]:
        """Collect objects, which `record` takes within this context.

        Raises
        ------
        Mri2QmapError
            If the spool cannot be written.
        """
        with contextlib.ExitStack() as stack:
            with self._told(), locked(self.folder):  # not between `mkdir` and its lock
                batch = Batch.make(self.folder)
                stack.callback(batch.remove_if_unused)
                stack.enter_context(locked(batch.path))
            yield batch

    def record(
        self, batch: Batch, destination: str, connection: Connection | None, again: bool = False
    ) -> Recorded:
        """Record in one transaction that the objects of a batch are to be sent.

        Parameters
        ----------
        batch
            The objects.
        destination
            Where to.
        connection
            How, from now on; None: as before.
        again
            Whether to send also what was sent before, as the same instance.

        Raises
        ------
        Mri2QmapError
            If an object has the SOP Instance UID of another one with other content. Nothing is
            recorded then, nor if the spool cannot be written.
        """
        found: Counter[State | None] = Counter()
        unused = []
        try:
            with self._change():
                self._put_destination(destination, connection)
                for entry in batch.entries:
                    self._refuse_other_content(entry, batch)
                    state, used = self._record(destination, entry, again)
                    found[state] += 1
                    if not used:
                        unused.append(entry)
                batch.keep()
        except Mri2QmapError:
            batch.remove()
            raise
        for entry in unused:
            _remove(entry)
        return Recorded(found[None], found[State.PENDING] + found[State.STORED], found[State.SENT])

    def connection(self, destination: str) -> Connection:
        """Return how the connection to a destination is made; the defaults if it is not known."""
        with self._told():
            row = self._database.execute(
                "SELECT connection FROM destination WHERE name = ?", (destination,)
            ).fetchone()
        return from_values(json.loads(row[0]), Connection) if row else Connection()

    def set_connection(self, destination: str, connection: Connection) -> None:
        """Set how the connection to a destination is made from now on."""
        with self._change():
            self._put_destination(destination, connection)

    def destinations(self) -> list[str]:
        """Return the names of all known destinations."""
        with self._told():
            rows = self._database.execute("SELECT name FROM destination ORDER BY name")
            return [name for (name,) in rows]

    def entries(self, destination: str, *states: State) -> list[Entry]:
        """Return the objects in these states, in the order of their SOP class and UID."""
        marks = ", ".join("?" * len(states))
        with self._told():
            rows = self._database.execute(
                f"SELECT {_FIELDS} FROM object WHERE destination = ? AND state IN ({marks}) "
                "ORDER BY sop_class, sop_instance",
                (destination, *states),
            ).fetchall()
        return [self._entry(row) for row in rows]

    def held(self, destination: str) -> list[Held]:
        """Count the objects of a destination by state, SOP class and reason."""
        with self._told():
            rows = self._database.execute(
                "SELECT state, sop_class, reason, count(*) FROM object WHERE destination = ? "
                "GROUP BY state, sop_class, reason ORDER BY state, sop_class, reason",
                (destination,),
            ).fetchall()
        return [Held(State(state), *rest) for state, *rest in rows]

    def mark(self, destination: str, entry: Entry, state: State, reason: str = "") -> None:
        """Set the state of an object; the file of one that was sent is removed afterwards."""
        with self._change():
            self._set(destination, entry, state, reason)
        if state is State.SENT:
            _remove(entry)

    def problem(self, destination: str) -> tuple[str, str]:
        """Return why the last attempt failed, empty if it did not, and its time."""
        with self._told():
            row = self._database.execute(
                "SELECT problem, tried FROM destination WHERE name = ?", (destination,)
            ).fetchone()
        return row or ("", "")

    def set_problem(self, destination: str, problem: str) -> None:
        """Set why the last attempt failed; empty: it did not."""
        with self._change():
            self._database.execute(
                "UPDATE destination SET problem = ?, tried = ? WHERE name = ?",
                (problem, _now(), destination),
            )

    def discard(self, destination: str, *states: State) -> int:
        """Forget the objects in these states, and remove their files; return how many they were."""
        marks = ", ".join("?" * len(states))
        with self._change():
            count = self._database.execute(
                f"DELETE FROM object WHERE destination = ? AND state IN ({marks})",
                (destination, *states),
            ).rowcount
        with self._told():
            self._clean()
        return count

    def forget(self, destination: str) -> int:
        """Forget a destination and its objects; return how many of them were not sent."""
        count = self.discard(destination, *(state for state in State if state is not State.SENT))
        with self._change():
            self._database.execute("DELETE FROM destination WHERE name = ?", (destination,))
        return count

    @contextlib.contextmanager
    def sending(self, destination: str, patience: float) -> Iterator[None]:
        """Keep other processes from sending to a destination.

        Parameters
        ----------
        destination
            The destination.
        patience
            How long to wait for another process that sends there [s].

        Raises
        ------
        PeerError
            If it takes longer; that process sends what is pending.
        """
        with self._told():
            folder = lock_folder(self.folder, destination)
        with only_sender(folder, patience):
            yield

    def _forget_old(self) -> None:
        oldest = (datetime.now(UTC) - KEPT).isoformat(timespec="seconds")
        with self._change():
            self._database.execute(
                "DELETE FROM object WHERE state = 'sent' AND changed < ?", (oldest,)
            )

    def _clean(self) -> None:
        """Remove files that no row needs, except those of batches that are being made."""
        with locked(self.folder):
            rows = self._database.execute("SELECT file FROM object WHERE state <> 'sent'")
            needed = {name for (name,) in rows}
            for folder in self.folder.glob(f"{BATCH}*"):
                with contextlib.suppress(BlockingIOError, FileNotFoundError), locked(folder, False):
                    names = os.listdir(folder)
                    kept = [name for name in names if f"{folder.name}/{name}" in needed]
                    if not kept:
                        shutil.rmtree(folder, ignore_errors=True)
                        continue
                    for name in set(names).difference(kept):
                        (folder / name).unlink(missing_ok=True)

    def _record(self, destination: str, entry: Entry, again: bool) -> tuple[State | None, bool]:
        """Record an object.

        Returns
        -------
        state
            Its state before; None if it was not to be sent.
        used
            Whether its copy is needed.
        """
        known = self._find(destination, entry.identity.sop_instance)
        state = None if known is None else known.state
        if state is State.SENT and not again:
            return state, False
        if state in (State.REFUSED, State.SENT):
            state = None
        if known is None or not _intact(known):
            self._put(destination, entry)
            return state, True
        if state is None:
            self._set(destination, known, State.PENDING, "")
        return state, False

    def _put_destination(self, name: str, connection: Connection | None) -> None:
        content = json.dumps(settings_as_dict(connection or Connection()))
        if connection is None:
            statement = "INSERT OR IGNORE INTO destination VALUES (?, ?, '', '')"
        else:
            statement = (
                "INSERT INTO destination VALUES (?, ?, '', '') "
                "ON CONFLICT(name) DO UPDATE SET connection = excluded.connection"
            )
        self._database.execute(statement, (name, content))

    def _refuse_other_content(self, entry: Entry, batch: Batch) -> None:
        uid = entry.identity.sop_instance
        row = self._database.execute(
            "SELECT destination, state FROM object WHERE sop_instance = ? AND sha256 <> ? LIMIT 1",
            (uid, entry.sha256),
        ).fetchone()
        if row:
            raise Mri2QmapError(
                f"{batch.source(entry)}: another file with its SOP Instance UID {uid} is {row[1]} "
                f"at {row[0]}, and its content differs: one UID is one object. Nothing was "
                "recorded. If the file was changed, give it a new SOP Instance UID; otherwise "
                "make the maps again"
            )

    def _find(self, destination: str, sop_instance: str) -> Entry | None:
        row = self._database.execute(
            f"SELECT {_FIELDS} FROM object WHERE destination = ? AND sop_instance = ?",
            (destination, sop_instance),
        ).fetchone()
        return None if row is None else self._entry(row)

    def _entry(self, row: Sequence[Any]) -> Entry:
        *uids, sha256, file, state = row
        return Entry(Identity(*uids), sha256, self.folder / file, State(state))

    def _put(self, destination: str, entry: Entry) -> None:
        found = entry.identity
        file = f"{entry.path.parent.name}/{entry.path.name}"
        values = (found.sop_instance, found.sop_class, found.syntax, entry.sha256, file)
        self._database.execute(
            "INSERT OR REPLACE INTO object VALUES (?, ?, ?, ?, ?, ?, 'pending', '', ?)",
            (destination, *values, _now()),
        )

    def _set(self, destination: str, entry: Entry, state: State, reason: str) -> None:
        self._database.execute(
            "UPDATE object SET state = ?, reason = ?, changed = ? "
            "WHERE destination = ? AND sop_instance = ?",
            (state, reason, _now(), destination, entry.identity.sop_instance),
        )

    @contextlib.contextmanager
    def _change(self) -> Iterator[None]:
        """Run the block as one transaction."""
        with self._told():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Turn failures of the disk and of the database into messages."""
        try:
            yield
        except OSError as error:
            raise cannot_write(f"spool {self.folder}", error) from error
        except sqlite3.Error as error:
            raise Mri2QmapError(
                f"spool {self.folder}: it cannot be read or written ({error}); what was recorded "
                "is still there. Make room, wait for other processes, or choose another folder "
                "(--spool)"
            ) from error


def _remove(entry: Entry) -> None:
    """Remove the copy of an object, and the folder of its batch with the last one."""
    with contextlib.suppress(OSError):  # what is left is removed later
        entry.path.unlink(missing_ok=True)
        entry.path.parent.rmdir()


def _intact(entry: Entry) -> bool:
    """Whether the file of an object is as it was recorded."""
    try:
        return digest(entry.path) == entry.sha256
    except OSError:
        return False


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

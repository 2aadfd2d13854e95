"""The database of the spool."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from mri2qmap.errors import Mri2QmapError

DATABASE = "spool.sqlite"
_BUSY = 60.0  # s that a change waits for the changes of other processes
_VERSION = 1
_TABLES = """
CREATE TABLE destination (
    name TEXT PRIMARY KEY, connection TEXT NOT NULL, problem TEXT NOT NULL, tried TEXT NOT NULL);
CREATE TABLE object (
    destination TEXT NOT NULL REFERENCES destination(name) ON DELETE CASCADE,
    sop_instance TEXT NOT NULL, sop_class TEXT NOT NULL, syntax TEXT NOT NULL,
    sha256 TEXT NOT NULL, file TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'stored', 'sent', 'refused')),
    reason TEXT NOT NULL, changed TEXT NOT NULL,
    PRIMARY KEY (destination, sop_instance)) WITHOUT ROWID;
CREATE INDEX object_instance ON object(sop_instance);
CREATE INDEX object_state ON object(destination, state);
"""


def open_database(folder: Path) -> sqlite3.Connection:
    """Open the database of a spool; make it if it is not there.

    Raises
    ------
    Mri2QmapError
        If it is of another version.
    sqlite3.Error
        If it cannot be read or written.
    """
    database = sqlite3.connect(folder / DATABASE, timeout=_BUSY, isolation_level=None)
    try:
        database.execute("PRAGMA foreign_keys = ON")
        database.execute("BEGIN IMMEDIATE")  # two processes may come at once
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version == 0:
            for statement in _TABLES.split(";"):
                database.execute(statement)
            database.execute(f"PRAGMA user_version = {_VERSION}")
        database.execute("COMMIT")
        if version not in (0, _VERSION):
            raise Mri2QmapError(
                f"spool {folder}: it is of another version of this program; send what is in it "
                "with that one, or choose another folder (--spool)"
            )
    except BaseException:
        database.close()
        raise
    return database

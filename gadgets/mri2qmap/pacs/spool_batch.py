"""Objects that are being collected for the spool."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from mri2qmap.errors import Mri2QmapError
from mri2qmap.pacs.dicom_files import identity
from mri2qmap.pacs.entries import Entry
from mri2qmap.storage.atomic import cannot_write, sync
from mri2qmap.storage.written import digest

BATCH = "batch-"
"""Begin of the names of the folders of batches."""


class Batch:
    """Copies of DICOM objects in a folder of the spool.

    They are copies, since another program could change a linked file in place.

    Attributes
    ----------
    path
        The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: dict[str, Entry] = {}
        self._sources: dict[str, str] = {}
        self._kept = False

    @classmethod
    def make(cls, spool: Path) -> Batch:
        """Make the folder of a new batch."""
        path = spool / f"{BATCH}{secrets.token_hex(8)}"
        path.mkdir(mode=0o700)
        return cls(path)

    @property
    def entries(self) -> list[Entry]:
        """The objects, each once."""
        return list(self._entries.values())

    def source(self, entry: Entry) -> str:
        """Return what an object is called in messages."""
        return self._sources[entry.identity.sop_instance]

    def add_file(self, path: Path) -> None:
        """Copy a DICOM file.

        Raises
        ------
        Mri2QmapError
            See `add`.
        """
        self.add(str(path), lambda copy: shutil.copyfile(path, copy))

    def add(self, source: str, write: Callable[[Path], object]) -> None:
        """Add an object.

        Parameters
        ----------
        source
            What it is called in messages.
        write
            Writes it to a path.

        Raises
        ------
        Mri2QmapError
            If it cannot be written, is no DICOM object, or has the SOP Instance UID of another
            one of the batch with other content.
        """
        copy = self.path / f"{len(self._entries):06d}.dcm"
        try:
            write(copy)
            sync(copy)
            sha256 = digest(copy)
        except OSError as error:
            raise cannot_write(f"spool {self.path.parent}: copy of {source}", error) from error
        found = identity(copy, source)
        known = self._entries.get(found.sop_instance)
        if known is None:
            self._entries[found.sop_instance] = Entry(found, sha256, copy)
            self._sources[found.sop_instance] = source
        elif known.sha256 != sha256:
            raise Mri2QmapError(
                f"{source}: it has the SOP Instance UID {found.sop_instance} of "
                f"{self.source(known)}, and another content: one UID is one object. Nothing was "
                "recorded"
            )

    def keep(self) -> None:
        """Sync the folder before its objects are recorded; it then belongs to the spool."""
        sync(self.path)
        sync(self.path.parent)
        self._kept = True

    def remove_if_unused(self) -> None:
        """Remove the folder if its objects were not recorded."""
        if not self._kept:
            self.remove()

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)

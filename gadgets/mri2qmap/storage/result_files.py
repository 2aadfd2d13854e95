"""Files of results in a folder that holds others too, and is added to by several runs."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mri2qmap.errors import Mri2QmapError
from mri2qmap.storage.atomic import atomic_write, cannot_write, write_text
from mri2qmap.storage.written import FILES, digest, read_record, record_bytes

RECORD = "written.json"
"""Lists the files that may be replaced, in the folder where they are."""


class ResultFiles:
    """Files that each run writes anew, unless somebody changed them.

    Parameters
    ----------
    folder
        Where they are; made if it is not there.
    names
        Their names.
    option
        What stands before the folder in messages.

    Raises
    ------
    Mri2QmapError
        If a file is there that this program did not write, or that was changed since, or if the
        folder cannot be written.
    """

    def __init__(self, folder: Path, names: Sequence[str], option: str = "") -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as probe:
                probe.write(b"can this folder be written?")
        except OSError as error:
            raise cannot_write(f"{option}{folder}", error) from error
        self._check_record()
        for name in names:
            if not self._may_replace(name):
                raise Mri2QmapError(
                    f"{folder / name}: it was not written by this program, or was changed since, "
                    "and is not overwritten; move it away, or choose another folder"
                )

    def write(self, name: str, content: Callable[[Path], object] | str) -> None:
        """Write a file, whole or not at all.

        Parameters
        ----------
        name
            One of the names.
        content
            The text, or what writes a file whose path it is given.

        Raises
        ------
        Mri2QmapError
            When it cannot be written, or somebody changed it meanwhile; the new file then has
            another name.
        """
        path = self._folder / name
        try:
            with locked(self._folder):
                mine = self._may_replace(name)
                if not mine:
                    token = f"new-{secrets.token_hex(4)}"
                    path = path.with_name(f"{path.stem}.{token}{path.suffix}")
                if isinstance(content, str):
                    write_text(path, content)
                else:
                    with atomic_write(path) as part:
                        content(part)
                if mine:
                    self._put_record({name: digest(path)})
        except OSError as error:
            raise cannot_write(path, error) from error
        if not mine:
            raise Mri2QmapError(
                f"{self._folder / name}: somebody changed it meanwhile, so the new one is {path}"
            )

    def _listing(self) -> dict[str, str]:
        record = read_record(self._folder, RECORD)
        listing = None if record is None else record.get(FILES)
        return listing if isinstance(listing, dict) else {}

    def _may_replace(self, name: str) -> bool:
        path = self._folder / name
        if not os.path.lexists(path):
            return True
        return path.is_file() and digest(path) == self._listing().get(name)

    def _check_record(self) -> None:
        path = self._folder / RECORD
        if os.path.lexists(path) and read_record(self._folder, RECORD) is None:
            raise Mri2QmapError(
                f"{path}: it was not written by this program, or was changed since; move it away"
            )

    def _put_record(self, new: dict[str, str]) -> None:
        self._check_record()
        path = self._folder / RECORD
        content = record_bytes({FILES: {**self._listing(), **new}})
        with atomic_write(path) as part:
            part.write_bytes(content)


@contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[None]:
    """Keep other runs of this program out of a folder, where its file system can do that.

    Raises
    ------
    BlockingIOError
        If another run is in there and `wait` is false.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EBADF, errno.EINVAL, errno.ENOTSUP):
                raise
        yield
    finally:
        os.close(handle)

"""A hidden folder for what one run at a time has not finished, with a part for each attempt."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
from pathlib import Path
from types import TracebackType

from mri2qmap.errors import Mri2QmapError
from mri2qmap.storage.atomic import cannot_write, note_scratch, remove_scratch

_LOCK = "lock"


class WorkFolder:
    """The hidden folder of a run in the folder of its outputs; a context manager.

    Only one run at a time has it, on all machines whose file system has locks. What a run that was
    killed left in it is removed at the start, everything at the end.

    The processes of a run write below `part`, which only the run makes. A part that was revoked is
    gone for them at once, so it also tells a process whether its work is still wanted.

    Parameters
    ----------
    parent
        Folder of the outputs; made if it is not there, and removed at the end if it is empty.
    name
        Name of the hidden folder.

    Raises
    ------
    Mri2QmapError
        On entry, if another run has it, or it cannot be made.
    """

    def __init__(self, parent: Path, name: str) -> None:
        self._parent = parent
        self.path = parent / name
        self._handle = -1

    def __enter__(self) -> WorkFolder:
        """Take the folder and empty it."""
        missing = [p for p in (self._parent, *self._parent.parents) if not os.path.exists(p)]
        try:
            self._take()
            note_scratch(self.path, missing)
            for entry in self._entries():
                self._remove(entry)
        except BlockingIOError as error:
            raise Mri2QmapError(
                f"output {self._parent}: another run writes there; wait until it ends, or choose "
                "another folder"
            ) from error
        except OSError as error:
            raise cannot_write(f"output {self._parent}", error) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove the folder."""
        try:
            for entry in self._entries():
                self.revoke(entry)
            remove_scratch(self.path)
        finally:
            os.close(self._handle)

    def part(self, name: str) -> Path:
        """Make a part.

        Raises
        ------
        Mri2QmapError
            If it cannot be made.
        """
        path = self.path / name
        try:
            path.mkdir()
        except OSError as error:
            raise cannot_write(f"output {self._parent}", error) from error
        return path

    def revoke(self, part: Path) -> None:
        """Remove a part, also while another process writes to it."""
        gone = self.path / f"gone-{secrets.token_hex(4)}"
        try:
            part.rename(gone)  # whoever writes there does not find it any more
        except OSError:
            gone = part
        self._remove(gone)

    def _take(self) -> None:
        """Lock the folder.

        The lock is that of a file, since network file systems do not lock folders, and it is not
        valid if another run has removed this file in the meantime.
        """
        lock = self.path / _LOCK
        while True:
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            except FileNotFoundError:  # removed since
                continue
            try:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError as error:
                    if error.errno not in (errno.ENOLCK, errno.EINVAL, errno.ENOTSUP):
                        raise
                if os.path.lexists(lock) and os.path.samestat(os.fstat(handle), lock.stat()):
                    self._handle = handle
                    return
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)

    def _entries(self) -> list[Path]:
        """All that is in the folder beside the lock; nothing if somebody removed it."""
        try:
            return [entry for entry in self.path.iterdir() if entry.name != _LOCK]
        except FileNotFoundError:
            return []

    @staticmethod
    def _remove(path: Path) -> None:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

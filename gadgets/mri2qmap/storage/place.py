"""What outputs share that appear complete or not at all and never replace foreign files."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from mri2qmap.errors import Mri2QmapError
from mri2qmap.storage.atomic import (
    forget_scratch,
    note_scratch,
    remove_scratch,
    scratch_name,
    uninterrupted,
    why,
)
from mri2qmap.storage.inputs import as_path, refuse_inputs

_PROBE = b"can this folder be written?\n"


class Place(ABC):
    """Final location of an output, and the hidden location where it is written first.

    Parameters
    ----------
    path
        The output.
    what
        Name of the output in messages.
    inputs
        Names and paths of the inputs, none of which the output may replace or contain.

    Attributes
    ----------
    path
        The output, links resolved.
    partial
        The path to write to. Set by the subclass, as is `_scratch`, the hidden folder to remove.

    Raises
    ------
    Mri2QmapError
        If the output is an input or contains one.
    """

    partial: Path
    _kind: ClassVar[str]
    _scratch: Path

    def __init__(self, path: str | Path, what: str, inputs: Mapping[str, Path] | None) -> None:
        self._what = what
        self._inputs = dict(inputs or {})
        self._kept = False
        self.path = _resolved(path, what)
        refuse_inputs(what, self.path, self._inputs)

    def put_in_place(self) -> None:
        """Move the finished output to its final location.

        Raises
        ------
        Mri2QmapError
            If that is impossible, or what it would replace has changed since the start. The
            finished output is kept then, and the message names its path.
        """
        with uninterrupted():
            try:
                self._move()
            except (OSError, Mri2QmapError) as error:
                text = why(error) if isinstance(error, OSError) else str(error)
                raise Mri2QmapError(
                    f"{self._what} {self.path}: the finished {self._kind} cannot be put in place "
                    f"({text}); it was kept as {self._keep()}"
                ) from error
            forget_scratch(self._scratch)
            self.remove()

    def remove(self) -> None:
        """Remove what is not finished; a finished output that was kept stays."""
        if not self._kept:
            remove_scratch(self._scratch)

    @abstractmethod
    def _move(self) -> None:
        """Move `partial` to `path`, or raise and leave `path` as it was."""

    def _name_to_keep(self, suffix: str) -> Path:
        """Path of a finished output that cannot be put in place."""
        return self.path.with_name(f"{self.path.name}.{suffix}")

    def _keep(self) -> Path:
        """Give the finished output a visible name if possible, and return its path."""
        kept = self._name_to_keep(f"new-{secrets.token_hex(4)}")
        try:
            self.partial.rename(kept)
        except OSError:
            kept, self._kept = self.partial, True
            forget_scratch(self._scratch)
        return kept


def make_scratch_folder(parent: Path, parents: bool = True) -> tuple[Path, int]:
    """Make a hidden folder that only this user may read, and try to write to it.

    Parameters
    ----------
    parent
        Folder to make it in.
    parents
        Whether to make that too if it is missing.

    Returns
    -------
    folder
        The folder; it is removed at the end of the program at the latest.
    mode
        Permissions that an ordinary new folder would have.

    Raises
    ------
    OSError
        When that is impossible; nothing is left then.
    """
    folder = parent / scratch_name()
    note_scratch(folder, [p for p in (parent, *parent.parents) if not os.path.exists(p)])
    try:
        there = next(p for p in (parent, *parent.parents) if os.path.lexists(p))
        if not os.path.isdir(there):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
        if parents:
            parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
        mode = folder.stat().st_mode & 0o7777
        folder.chmod(0o700)
        probe = folder / "probe"
        probe.write_bytes(_PROBE)
        probe.unlink()
    except BaseException:
        remove_scratch(folder)
        raise
    return folder, mode


def check_room(what: str, folder: Path, room: int, largest: int = 0) -> None:
    """Refuse a folder on a disk with too little free space.

    Parameters
    ----------
    what
        Name of the output in messages.
    folder
        The folder.
    room
        Estimated size of the output, in bytes.
    largest
        Estimated size of its largest file, in bytes.

    Raises
    ------
    Mri2QmapError
        If the free space, or the limit on the size of a file, is smaller. An error of the disk
        is its cause.
    """
    state = os.statvfs(folder)
    blocks = state.f_bfree if os.geteuid() == 0 else state.f_bavail
    free = blocks * state.f_frsize
    if state.f_blocks and free < room:
        raise Mri2QmapError(
            f"{what}: there is no room: about {_megabytes(room)} will be written and "
            f"{_megabytes(free)} are free; make room, or write elsewhere"
        ) from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit != resource.RLIM_INFINITY and limit < largest:
        raise Mri2QmapError(
            f"{what}: a file of about {_megabytes(largest)} will be written, and files may have "
            f"{_megabytes(limit)} at most here; raise the limit (ulimit -f)"
        ) from OSError(errno.EFBIG, os.strerror(errno.EFBIG))


def try_name(path: Path) -> None:
    """Check with a similar name that the file system accepts the length and letters of a name.

    Raises
    ------
    OSError
        If it does not.
    """
    like = path.with_name(("-" if path.name.startswith("_") else "_") + path.name[1:])
    with uninterrupted(), contextlib.suppress(FileExistsError):
        like.mkdir()
        like.rmdir()


def _resolved(path: str | Path, what: str) -> Path:
    """Return a path with its links resolved; a circle of links is an error."""
    try:
        return as_path(path, what).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise Mri2QmapError(f"{what} {path}: it cannot be followed ({error})") from error


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.3g} MB"

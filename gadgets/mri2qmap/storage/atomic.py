"""Files that are written completely or not at all, and messages about disks that fail."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mri2qmap.errors import Mri2QmapError

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that end the program: from a user, a supervisor, or a terminal that closes."""
_ADVICE = {
    errno.ENOSPC: "make room, or write elsewhere",
    errno.EDQUOT: "your quota is exhausted: make room, or write elsewhere",
    errno.EFBIG: "files may not be so large here: see ulimit -f and the file system's limit",
    errno.EIO: "the device fails: write elsewhere",
    errno.EROFS: "write elsewhere",
}
DISK_FAILURE = 74
"""Exit code of a command that ended because a disk is full or fails; EX_IOERR of `sysexits.h`."""
_SCRATCH = ".mri2qmap.partial-"
_scratch: dict[Path, list[Path]] = {}
"""Unfinished files and folders, and the parents that were made for each, outermost last."""


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Defer signals that end the program to the end of the block.

    Signals that are ignored stay ignored. Outside the main thread there is nothing to do: Python
    handles signals in the main thread only.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []

    def note(number: int, frame: object) -> None:
        arrived.append(number)

    previous = {}
    try:
        for number in ENDING:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                previous[number] = signal.signal(number, note)
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if arrived:
            signal.raise_signal(arrived[0])


def is_disk_error(error: BaseException) -> bool:
    """Whether an error is a failure of the disk, and not of the program."""
    return isinstance(error, OSError) and error.errno in _ADVICE


def why(error: OSError) -> str:
    """Return the cause of an error of the file system, and advice where there is any."""
    text = error.strerror or str(error) or type(error).__name__
    advice = _ADVICE.get(error.errno or 0)
    return text if advice is None else f"{text}; {advice}"


def cannot_write(what: str | Path, error: OSError) -> Mri2QmapError:
    """Return the error for an output that cannot be written."""
    return Mri2QmapError(f"{what}: it cannot be written ({why(error)})")


def scratch_name() -> str:
    """Return a new hidden name for an unfinished file or folder."""
    return f"{_SCRATCH}{secrets.token_hex(4)}"


def is_scratch(path: Path) -> bool:
    """Whether the name is that of an unfinished file or folder, which a killed program leaves."""
    return path.name.startswith(_SCRATCH)


def note_scratch(path: Path, parents: list[Path] | None = None) -> None:
    """Register an unfinished file or folder, to be removed if the program ends first."""
    _scratch[path] = parents or []


def forget_scratch(path: Path) -> None:
    """Keep a file or folder, and the parents that were made for it."""
    _scratch.pop(path, None)


def remove_scratch(path: Path) -> None:
    """Remove an unfinished file or folder, and empty parents that were made for it."""
    with uninterrupted():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()
        for parent in _scratch.pop(path, []):
            with contextlib.suppress(OSError):  # not made yet, or in use by now
                parent.rmdir()


def remove_all_scratch() -> None:
    """Remove all that is unfinished, at the end of the program."""
    for path in list(_scratch):
        remove_scratch(path)


def sync(path: Path) -> None:
    """Flush a file or folder to the disk, if its file system can do so.

    Raises
    ------
    OSError
        When the disk fails.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:  # with an unusual umask
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(handle)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Write a file completely or not at all.

    The block writes to the hidden file that it receives, which gets the name `path` at the end.
    After an error no new file remains, and an earlier file of that name is unchanged.

    Parameters
    ----------
    path
        Final path of the file.

    Yields
    ------
    Path
        Path to write to, in the same folder.

    Raises
    ------
    OSError
        When it cannot be written.
    """
    scratch = path.with_name(f"{scratch_name()}.part")
    note_scratch(scratch)
    try:
        yield scratch
        sync(scratch)
        with uninterrupted():
            os.replace(scratch, path)
            forget_scratch(scratch)
    finally:
        if scratch in _scratch:
            remove_scratch(scratch)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically; characters that UTF-8 does not have are escaped.

    Raises
    ------
    OSError
        When it cannot be written.
    """
    with atomic_write(path) as part:
        part.write_bytes(text.encode("utf-8", "backslashreplace"))

"""Single files that are whole or not there, and what is said when a disk fails."""

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
"""What a user, a supervisor or a terminal that closes sends."""
_ADVICE = {
    errno.ENOSPC: "make room, or write elsewhere",
    errno.EDQUOT: "your quota is used up: make room, or write elsewhere",
    errno.EFBIG: "files may not be so large here: see ulimit -f and the file system's limit",
    errno.EIO: "the device fails: write elsewhere",
    errno.EROFS: "write elsewhere",
}
_scratch: dict[Path, list[Path]] = {}
"""What is being written, and the folders that were made for it, outermost last."""


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let signals that end the program take effect at the end of the block.

    Signals that are ignored stay ignored. Outside the main thread there is nothing to do: Python
    handles signals in the main thread alone.
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
    """Whether it was the disk that failed, and not the program."""
    return isinstance(error, OSError) and error.errno in _ADVICE


def why(error: OSError) -> str:
    """Say why a file could not be written, and what to do about it."""
    text = error.strerror or str(error) or type(error).__name__
    advice = _ADVICE.get(error.errno or 0)
    return text if advice is None else f"{text}; {advice}"


def cannot_write(what: str | Path, error: OSError) -> Mri2QmapError:
    """Make the error that tells that something could not be written."""
    return Mri2QmapError(f"{what}: it cannot be written ({why(error)})")


def scratch_name() -> str:
    """A name, hidden, for what is not finished yet."""
    return f".mri2qmap.partial-{secrets.token_hex(4)}"


def note_scratch(path: Path, parents: list[Path] | None = None) -> None:
    """Remember a file or folder that is to be removed if the program ends before it is finished."""
    _scratch[path] = parents or []


def forget_scratch(path: Path) -> None:
    """Leave a file or folder where it is, and the folders that were made for it."""
    _scratch.pop(path, None)


def remove_scratch(path: Path) -> None:
    """Remove a file or folder that is not finished, and empty folders that were made for it."""
    with uninterrupted():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()
        for parent in _scratch.pop(path, []):
            with contextlib.suppress(OSError):  # not made yet, or someone else uses it by now
                parent.rmdir()


def remove_all_scratch() -> None:
    """Remove whatever is not finished: for the end of the program."""
    for path in list(_scratch):
        remove_scratch(path)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk, where that can be done.

    Raises
    ------
    OSError
        When the disk fails.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:  # of an unusual umask
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
    """Give the path of a file to write, which takes the name `path` at the end of the block.

    After an error there is nothing new, and a file of that name is as it was.

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
    """Write a text file, whole or not at all; names that are not UTF-8 are escaped.

    Raises
    ------
    OSError
        When it cannot be written.
    """
    with atomic_write(path) as part:
        part.write_bytes(text.encode("utf-8", "backslashreplace"))

"""The size of the dictionaries in the cache folder: a bound, and the removal of the oldest.

A client that sends one sequence after the other has one dictionary kept for each of them. Those
that were not used for the longest time are therefore removed when a new one is written. Compiled
loops are not counted: their number is limited by the program, not by its input.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mri2qmap.machine.words import parsed_size
from mri2qmap.storage.atomic import is_scratch

logger = logging.getLogger(__name__)

SIZE_VARIABLE = "MRI2QMAP_CACHE_SIZE"
"""Environment variable with the largest size of all dictionaries together."""
_DEFAULT = 4 * 2**30
"""The largest size where the variable is not set [bytes]."""
_SHARE_OF_DISK = 10
"""The default is at most the size of the disk divided by this."""
_ABANDONED = 3600.0
"""Age at which an unfinished file is one of a program that was killed [s]."""
_DICTIONARY = re.compile(r"dictionary-[0-9a-f]{24}\.safetensors")


@dataclass(frozen=True)
class _Kept:
    """A dictionary in the cache: when it was used last [ns], and its size [bytes]."""

    used: int
    path: Path
    size: int


def dictionary_file(key: str) -> str:
    """Return the name of the file of a dictionary, by its key of 24 hexadecimal digits."""
    return f"dictionary-{key}.safetensors"


def most_bytes(folder: Path) -> int:
    """Return the largest size of the dictionaries in a cache folder together.

    It is that of `SIZE_VARIABLE`; without it, 4 GiB or a tenth of the disk, whichever is less. A
    variable that is no size is warned about once, and counts as not set.
    """
    text = os.environ.get(SIZE_VARIABLE, "")
    if text:
        size = parsed_size(text)
        if 0 < size < math.inf:
            return int(size)
        _warn_once(text)
    try:
        return min(_DEFAULT, shutil.disk_usage(folder).total // _SHARE_OF_DISK)
    except OSError:
        return _DEFAULT


@functools.cache
def _warn_once(text: str) -> None:
    logger.warning(
        "%s=%s: a positive size such as 2GB or 2GiB is expected; the default is used",
        SIZE_VARIABLE,
        text,
    )


def used_bytes(folder: Path) -> tuple[int, int]:
    """Return the number of dictionaries in a cache folder, and their size together."""
    kept = list(_dictionaries(folder))
    return len(kept), sum(each.size for each in kept)


def note_use(path: Path) -> None:
    """Note that a dictionary is used now, as its time of modification, if that may be changed."""
    with contextlib.suppress(OSError):
        os.utime(path)


def make_room(folder: Path, written: Path) -> None:
    """Remove the dictionaries that were not used for the longest time, until the rest fits.

    Other files are not touched, except those that a killed program has left unfinished. Several
    processes may do this at once.

    Parameters
    ----------
    folder
        The cache folder.
    written
        The file that was just written; it stays.
    """
    _remove_abandoned(folder)
    kept = sorted(_dictionaries(folder), key=lambda each: (each.used, each.path.name))
    total, most = sum(each.size for each in kept), most_bytes(folder)
    removed = 0
    for each in kept:
        if total <= most:
            break
        if each.path == written:
            continue
        try:
            each.path.unlink(missing_ok=True)  # another process may have removed it
        except OSError as error:
            logger.debug("the cached dictionary %s cannot be removed: %s", each.path, error)
            continue
        total -= each.size
        removed += 1
    if removed:
        logger.info("removed %d dictionaries from the cache, the longest unused", removed)


def _dictionaries(folder: Path) -> Iterator[_Kept]:
    """Yield the dictionaries that are in a folder; they may disappear at any time."""
    for path in _files(folder):
        if _DICTIONARY.fullmatch(path.name):
            with contextlib.suppress(OSError):
                found = path.lstat()
                if stat.S_ISREG(found.st_mode):
                    yield _Kept(found.st_mtime_ns, path, found.st_size)


def _remove_abandoned(folder: Path) -> None:
    """Remove unfinished files of programs that were killed."""
    before = time.time() - _ABANDONED
    for path in _files(folder):
        if is_scratch(path):
            with contextlib.suppress(OSError):
                found = path.lstat()
                if stat.S_ISREG(found.st_mode) and found.st_mtime < before:
                    path.unlink()


def _files(folder: Path) -> list[Path]:
    """Return the entries of a folder; none if it cannot be listed."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []

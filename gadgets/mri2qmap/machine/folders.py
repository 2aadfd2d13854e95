"""The one place that says where results are kept between runs.

In this order, the first that a file can be written to:

1. ``$MRI2QMAP_CACHE``
2. ``$XDG_CACHE_HOME/mri2qmap``, where that is an absolute path
3. ``~/.cache/mri2qmap``, where the user has a home
4. a folder of the user's own, ``mri2qmap-UID``, among the temporary files

An empty variable counts as not set. Where none can be written, nothing is kept; that costs time
and never a run.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

_PACKAGE = Path(__file__).resolve().parents[1]
_VARIABLES = ("MRI2QMAP_CACHE", "XDG_CACHE_HOME", "HOME", "TMPDIR", "TEMP", "TMP")


@dataclass(frozen=True)
class CacheChoice:
    """Where results are kept.

    Attributes
    ----------
    folder
        A folder that exists and that a file was written to; None where there is none.
    readable
        Folders that may hold what was kept before, the preferred one first.
    refused
        Why each folder that is preferred to it cannot be used.
    """

    folder: Path | None
    readable: tuple[Path, ...]
    refused: tuple[str, ...]


def cache_folder() -> Path | None:
    """Folder that results are kept in; None where there is none."""
    return cache_choice().folder


def cache_choice() -> CacheChoice:
    """Choose the folder; tried once for each set of values of the environment variables."""
    return _choose(tuple(os.environ.get(name, "") for name in _VARIABLES))


def home_folder() -> Path | None:
    """Home of the user, if there is one that exists.

    Unlike `Path.home` it does not fail for a user that the system does not know, and does not
    believe a variable HOME that names no folder.
    """
    with contextlib.suppress(RuntimeError):
        for home in (os.environ.get("HOME", ""), _home_of_account()):
            if os.path.isabs(home) and os.path.isdir(home):
                return Path(home)
    return None


def _home_of_account() -> str:
    try:
        import pwd

        return pwd.getpwuid(os.getuid()).pw_dir
    except (ImportError, KeyError, AttributeError):
        return "" if hasattr(os, "getuid") else os.path.expanduser("~")


@functools.lru_cache(maxsize=64)
def _choose(values: tuple[str, ...]) -> CacheChoice:
    del values  # read from the environment again; they tell when to choose anew
    readable: list[Path] = []
    refused: list[str] = []
    for candidate in _candidates():
        if isinstance(candidate, str):
            refused.append(candidate)
            continue
        reason = unwritable_reason(candidate)
        if reason is None:
            return CacheChoice(candidate, (*readable, candidate), tuple(refused))
        refused.append(f"{candidate}: {reason}")
        if os.access(candidate, os.R_OK | os.X_OK):
            readable.append(candidate)
    folder, reason = _temporary()
    if folder is None:
        refused.append(reason)
        return CacheChoice(None, tuple(readable), tuple(refused))
    return CacheChoice(folder, (*readable, folder), tuple(refused))


def _candidates() -> Iterator[Path | str]:
    """Folders of choice but for the last, or why there is none."""
    if chosen := os.environ.get("MRI2QMAP_CACHE"):
        yield _expanded(chosen)
    if kept := os.environ.get("XDG_CACHE_HOME"):
        if os.path.isabs(kept):
            yield Path(kept) / "mri2qmap"
        else:
            yield f"XDG_CACHE_HOME={kept}: not an absolute path"
    home = home_folder()
    yield "no home folder" if home is None else home / ".cache" / "mri2qmap"


def _expanded(text: str) -> Path | str:
    """Path that MRI2QMAP_CACHE names; a leading ~ is a home and never the name of a folder."""
    if text.startswith("~"):
        first, _, rest = text.partition("/")
        home = home_folder()
        if first != "~" or home is None:
            return f"MRI2QMAP_CACHE={text}: {first} is no folder that is known"
        return home / rest
    try:
        return Path(text).absolute()
    except OSError:  # there is no current folder
        return f"MRI2QMAP_CACHE={text}: the current folder does not exist"


def unwritable_reason(folder: Path) -> str | None:
    """Make a folder and write a file there; say why that fails, or None."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"mri2qmap")
            file.flush()
    except (OSError, ValueError) as error:  # a NUL in its name
        return getattr(error, "strerror", None) or str(error)
    return None


def _temporary() -> tuple[Path | None, str]:
    """A folder of the user's own among the temporary files, or why there is none.

    Its name is known to all, so another user may have made it to plant files there. It is used
    only if it is a folder (no link), of this user, and closed to all others.
    """
    if not hasattr(os, "getuid"):
        return None, "no folder of one's own among the temporary files on this system"
    try:
        parent = Path(tempfile.gettempdir())
        there = parent.stat()
    except OSError:
        return None, "no folder for temporary files"
    told = [os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")]
    if str(parent) not in (*told, "/tmp", "/var/tmp", "/usr/tmp"):
        return None, "no folder for temporary files"  # Python takes the current one then
    if there.st_mode & stat.S_IWOTH and not there.st_mode & stat.S_ISVTX:
        return None, f"{parent}: any user can rename the folders of others there"
    folder = parent / f"mri2qmap-{os.getuid()}"
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
    except OSError as error:
        return None, f"{folder}: {error.strerror}"
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        return None, f"{folder}: not a folder of this user"
    if found.st_mode & 0o077:
        return None, f"{folder}: open to other users"
    reason = unwritable_reason(folder)
    return (folder, "") if reason is None else (None, f"{folder}: {reason}")


def model_folders() -> tuple[Path, ...]:
    """Folders that hold the project's models."""
    return _PACKAGE.parents[1] / "models", _PACKAGE / "_models"


def pipeline_folders() -> tuple[Path, ...]:
    """Folders that hold the project's pipelines."""
    return _PACKAGE.parents[1] / "pipelines", _PACKAGE / "_pipelines"


def project_file() -> Path:
    """Project file of a source checkout; there may be none."""
    return _PACKAGE.parents[1] / "pyproject.toml"

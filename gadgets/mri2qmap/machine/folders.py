"""The folders of the cache and of the spool, and those of the models and pipelines of the package.

The cache folder is the first writable one of:

1. ``$MRI2QMAP_CACHE``
2. ``$XDG_CACHE_HOME/mri2qmap``, if it is an absolute path
3. ``~/.cache/mri2qmap``, if the user has a home folder
4. ``mri2qmap-UID`` in the folder of temporary files, if it is private to the user

An empty variable counts as not set. If no folder is writable, nothing is cached: runs are slower,
but do not fail. ``$MRI2QMAP_SHIPPED_CACHE`` names a folder that is only read: what `mri2qmap
warm-up` has made for a container image.

The spool, what is to be sent to a PACS, is kept in the first of ``$MRI2QMAP_SPOOL``,
``$XDG_STATE_HOME/mri2qmap/spool`` and ``~/.local/state/mri2qmap/spool`` that is set. If this one
cannot be written, it is an error: elsewhere, what it holds would be forgotten.
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

from mri2qmap.errors import Mri2QmapError

logger = logging.getLogger(__name__)

_PACKAGE = Path(__file__).resolve().parents[1]
CACHE_VARIABLE = "MRI2QMAP_CACHE"
SPOOL_VARIABLE = "MRI2QMAP_SPOOL"
"""Environment variable with the folder of the spool."""
SHIPPED_CACHE_VARIABLE = "MRI2QMAP_SHIPPED_CACHE"
"""Environment variable with the folder of a cache that came with the installation."""
_VARIABLES = (
    *(CACHE_VARIABLE, "XDG_CACHE_HOME", "HOME", "TMPDIR", "TEMP", "TMP"),
    SHIPPED_CACHE_VARIABLE,
)


@dataclass(frozen=True)
class CacheChoice:
    """The cache folder and the alternatives.

    Attributes
    ----------
    folder
        Existing, writable folder; None if there is none.
    readable
        Folders that may contain earlier results, in order of preference.
    refused
        Reasons why folders of higher preference cannot be used.
    """

    folder: Path | None
    readable: tuple[Path, ...]
    refused: tuple[str, ...]


def cache_folder() -> Path | None:
    """Return the cache folder; None if there is none."""
    return cache_choice().folder


def cache_choice() -> CacheChoice:
    """Select the cache folder; cached for each set of values of the environment variables."""
    return _choose(tuple(os.environ.get(name, "") for name in _VARIABLES))


def shipped_cache() -> Path | None:
    """Return the cache that came with the installation; None if there is none."""
    text = os.environ.get(SHIPPED_CACHE_VARIABLE, "")
    return Path(text) if os.path.isabs(text) and os.access(text, os.R_OK | os.X_OK) else None


def home_folder() -> Path | None:
    """Return the home folder of the user, if it exists.

    Unlike `Path.home`, it does not fail for a user without an account, and ignores a variable HOME
    that is not a folder.
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
    del values  # key of the cache; the values are read from the environment again
    readable: list[Path] = []
    refused: list[str] = []
    came = shipped_cache()
    shipped = () if came is None else (came,)
    for candidate in _candidates():
        if isinstance(candidate, str):
            refused.append(candidate)
            continue
        reason = unwritable_reason(candidate)
        if reason is None:
            return CacheChoice(candidate, (*readable, candidate, *shipped), tuple(refused))
        refused.append(f"{candidate}: {reason}")
        if os.access(candidate, os.R_OK | os.X_OK):
            readable.append(candidate)
    folder, reason = _temporary()
    if folder is None:
        refused.append(reason)
        return CacheChoice(None, (*readable, *shipped), tuple(refused))
    return CacheChoice(folder, (*readable, folder, *shipped), tuple(refused))


def _candidates() -> Iterator[Path | str]:
    """Yield the candidates in order of preference, or the reason why a candidate is invalid."""
    yield from _configured(CACHE_VARIABLE, "XDG_CACHE_HOME", ".cache")


def _configured(variable: str, standard: str, in_home: str) -> Iterator[Path | str]:
    """Yield the folders that two environment variables and the home folder determine.

    Parameters
    ----------
    variable
        Variable of this program, with the path itself.
    standard
        Variable of the XDG base directories.
    in_home
        Default of this variable, in the home folder.
    """
    if chosen := os.environ.get(variable):
        yield _expanded(variable, chosen)
    if kept := os.environ.get(standard):
        if os.path.isabs(kept):
            yield Path(kept) / "mri2qmap"
        else:
            yield f"{standard}={kept}: not an absolute path"
    home = home_folder()
    yield "no home folder" if home is None else home / in_home / "mri2qmap"


def _expanded(variable: str, text: str) -> Path | str:
    """Expand the path in a variable; a leading ~ is always a home folder."""
    if text.startswith("~"):
        first, _, rest = text.partition("/")
        home = home_folder()
        if first != "~" or home is None:
            return f"{variable}={text}: the home folder {first} is unknown"
        return home / rest
    try:
        return Path(text).absolute()
    except OSError:  # the current folder was deleted
        return f"{variable}={text}: the current folder does not exist"


def spool_folder() -> Path:
    """Return the folder of the spool; it need not exist.

    Raises
    ------
    Mri2QmapError
        If the folder that the environment names is unknown, or there is no home folder.
    """
    refused = []
    for candidate in _configured(SPOOL_VARIABLE, "XDG_STATE_HOME", ".local/state"):
        if isinstance(candidate, Path):
            return candidate if os.environ.get(SPOOL_VARIABLE) else candidate / "spool"
        if os.environ.get(SPOOL_VARIABLE):
            raise Mri2QmapError(f"spool: {candidate}")
        refused.append(candidate)
    raise Mri2QmapError(
        f"spool: there is no folder for it ({'; '.join(refused)}); set {SPOOL_VARIABLE} to one"
    )


def unwritable_reason(folder: Path, private: bool = False) -> str | None:
    """Create a folder and write a file in it; return the reason if that fails, else None.

    Parameters
    ----------
    folder
        The folder.
    private
        Whether it is made for this user only, if it is not there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700 if private else 0o777)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"mri2qmap")
            file.flush()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        return getattr(error, "strerror", None) or str(error)
    return None


def _temporary() -> tuple[Path | None, str]:
    """Return a private folder in the folder of temporary files, or the reason why there is none.

    Its name is predictable, so another user could create it and place files in it. It is used only
    if it is a folder (not a link), owned by this user, and not accessible to others.
    """
    if not hasattr(os, "getuid"):
        return None, "no private folder for temporary files on this system"
    try:
        parent = Path(tempfile.gettempdir())
        there = parent.stat()
    except OSError:
        return None, "no folder for temporary files"
    set_by_user = [os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")]
    if str(parent) not in (*set_by_user, "/tmp", "/var/tmp", "/usr/tmp"):
        return None, "no folder for temporary files"  # Python returns the current folder then
    if there.st_mode & stat.S_IWOTH and not there.st_mode & stat.S_ISVTX:
        return None, f"{parent}: any user can rename folders of other users (no sticky bit)"
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
        return None, f"{folder}: accessible to other users"
    reason = unwritable_reason(folder)
    return (folder, "") if reason is None else (None, f"{folder}: {reason}")


def model_folders() -> tuple[Path, ...]:
    """Return the folders of the models: that of a source checkout, and that of a wheel."""
    return _PACKAGE.parents[1] / "models", _PACKAGE / "_models"


def pipeline_folders() -> tuple[Path, ...]:
    """Return the folders of the pipelines: that of a source checkout, and that of a wheel."""
    return _PACKAGE.parents[1] / "pipelines", _PACKAGE / "_pipelines"


def project_file() -> Path:
    """Return the path of pyproject.toml in a source checkout; it does not exist in a wheel."""
    return _PACKAGE.parents[1] / "pyproject.toml"

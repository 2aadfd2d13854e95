"""Records that list the files of a folder, and single files that carry their own digest.

What the program wrote is known again by these, and only that is ever replaced or removed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from mri2qmap.errors import Mri2QmapError
from mri2qmap.storage.atomic import why

FILES = "files"
"""Key of a record: SHA-256 of each file of the folder, by its path in the folder."""
SELF = "sha256_without_this_line"
"""Key of a record: SHA-256 of the record without this key."""
MARK = b"\nwritten by mri2qmap, sha256 "
"""Beginning of the last line of a file that carries the digest of all that is before it."""
XML_MARK = b"\n<!-- written by mri2qmap, sha256 "
"""The same in XML, where the line is a comment."""
_MARKS = ((MARK, b"\n"), (XML_MARK, b" -->\n"))
_DIGEST_LETTERS = hashlib.sha256().digest_size * 2
_OTHERWISE = "choose another name, or move it elsewhere"


def digest(path: Path, count: int | None = None) -> str:
    """SHA-256 of a file, or of its first `count` bytes, in hexadecimal."""
    with path.open("rb") as file:
        if count is None:
            return hashlib.file_digest(file, "sha256").hexdigest()
        left, found = count, hashlib.sha256()
        while left and (block := file.read(min(left, 2**20))):
            found.update(block)
            left -= len(block)
    return found.hexdigest()


def listed(folder: Path) -> dict[str, str]:
    """List all files below a folder, for the record that is written last."""
    files = (path for path, info in _entries(folder, folder) if stat.S_ISREG(info.st_mode))
    return {str(path): digest(folder / path) for path in sorted(files)}


def record_bytes(record: Mapping[str, Any]) -> bytes:
    """Return a record as JSON with the digest of itself.

    It never fails over what a record holds: numbers that are not finite become null, objects that
    JSON does not know become text, and names that are not UTF-8 are escaped.
    """
    content = {str(key): _plain(value) for key, value in record.items() if key != SELF}
    content[SELF] = hashlib.sha256(_json_bytes(content)).hexdigest()
    return _json_bytes(content)


def read_record(folder: Path, name: str) -> dict[str, Any] | None:
    """Return the record of a folder as `record_bytes` made it; None if it is not as it was."""
    try:
        record = json.loads((folder / name).read_bytes())
        unchanged = isinstance(record, dict) and _json_bytes(record) == record_bytes(record)
    except (OSError, ValueError, RecursionError):
        return None
    return record if unchanged else None


def own_files(
    folder: Path, name: str, what: str, aside: Collection[str] = (), inputs: Collection[Path] = ()
) -> dict[str, os.stat_result]:
    """Make sure that a folder holds nothing but what its record says was written to it.

    Parameters
    ----------
    folder
        The folder.
    name
        File name of its record.
    what
        Says in messages what the folder is.
    aside
        Names in the folder that are left as they are.
    inputs
        Files that must not be among those of the folder, under whatever name.

    Returns
    -------
    dict
        Paths in the folder of all its files, the record last, and their state.

    Raises
    ------
    Mri2QmapError
        If it holds anything else, or a file that was changed; the message names it.
    """

    def refuse(text: str) -> Mri2QmapError:
        return Mri2QmapError(f"{what} {folder}: {text}")

    if not (folder / name).is_file() or (folder / name).is_symlink():
        raise refuse(
            f"it holds no {name}, so it was not written by this program and is not overwritten; "
            "choose another name"
        )
    record = read_record(folder, name)
    if record is None or not isinstance(record.get(FILES), dict):
        raise refuse(
            f"{name} has no list of the files that were written, or was changed since: it is of "
            "an earlier version or somebody's work, and nothing is overwritten; choose another "
            "name, or remove the folder yourself"
        )
    listing: dict[str, Any] = record[FILES]
    folders = {str(parent) for path in listing for parent in Path(path).parents}
    protected = {_identity(path.stat()): path for path in inputs if path.exists()}
    found: dict[str, os.stat_result] = {}
    try:
        for path, info in _entries(folder, folder, aside):
            key = str(path)
            if key == name:
                continue
            if stat.S_ISDIR(info.st_mode) and key in folders:
                continue
            if not stat.S_ISREG(info.st_mode) or key not in listing:
                raise refuse(
                    f"{key} is not among what this program wrote there, and nothing is "
                    f"overwritten; {_OTHERWISE}"
                )
            if _identity(info) in protected:
                raise refuse(f"{key} is the input {protected[_identity(info)]}; {_OTHERWISE}")
            if digest(folder / key) != listing[key]:
                raise refuse(
                    f"{key} was changed since this program wrote it, and nothing is "
                    f"overwritten; {_OTHERWISE}"
                )
            found[key] = info
        found[name] = (folder / name).lstat()
    except OSError as error:
        text = f"it cannot be looked through ({why(error)}), so nothing is overwritten"
        raise refuse(text) from error
    return found


def same_entries(folder: Path, known: Mapping[str, os.stat_result]) -> bool:
    """Whether a folder holds the files `known`, unchanged since, and no other file."""
    found = {
        str(path): _state(info)
        for path, info in _entries(folder, folder)
        if not stat.S_ISDIR(info.st_mode)
    }
    return found == {path: _state(info) for path, info in known.items()}


def add_mark(path: Path, xml: bool = False) -> None:
    """Append to a file the line that `has_mark` looks for; HDF5 reads the file as before.

    Parameters
    ----------
    path
        The file.
    xml
        Whether it is an XML document: the line is a comment then.

    Raises
    ------
    OSError
        When it cannot be written.
    """
    before, after = _MARKS[xml]
    line = before + digest(path).encode() + after
    with path.open("ab") as file:
        file.write(line)


def has_mark(path: Path) -> bool:
    """Whether a file is as `add_mark` left it."""
    try:
        return any(_has_mark(path, before, after) for before, after in _MARKS)
    except OSError:
        return False


def _has_mark(path: Path, before: bytes, after: bytes) -> bool:
    size = path.stat().st_size - len(before) - _DIGEST_LETTERS - len(after)
    if size < 0:
        return False
    with path.open("rb") as file:
        file.seek(size)
        line = file.read()
    return line.startswith(before) and line == before + digest(path, size).encode() + after


def _entries(
    folder: Path, base: Path, aside: Collection[str] = ()
) -> Iterator[tuple[Path, os.stat_result]]:
    """All that is below a folder: path from `base`, and its own state; links are not followed."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name in aside:
                continue
            info = entry.stat(follow_symlinks=False)
            path = Path(entry.path)
            yield path.relative_to(base), info
            if stat.S_ISDIR(info.st_mode):
                yield from _entries(path, base)


def _identity(info: os.stat_result) -> tuple[int, int]:
    return info.st_dev, info.st_ino


def _state(info: os.stat_result) -> tuple[int, ...]:
    return info.st_size, info.st_mtime_ns


def _json_bytes(content: Mapping[str, Any]) -> bytes:
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)
    # A name that is not UTF-8 holds lone surrogates, which become the escapes of JSON.
    return (text + "\n").encode("utf-8", "backslashreplace")


def _plain(value: Any) -> Any:
    """Return a value that JSON can hold."""
    if isinstance(value, Mapping):
        return {str(key): _plain(element) for key, element in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(element) for element in value]
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, str):
        return str(value)
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # a number of NumPy
        return _plain(value.item())
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return str(value)

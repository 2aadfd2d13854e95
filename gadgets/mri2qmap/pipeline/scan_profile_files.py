"""Scan profiles from TOML files, from the package, and from the ``<scan>`` of a pipeline."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias, get_origin

from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.file_access import ANY_FILE, FileAccess
from mri2qmap.machine.words import shortened
from mri2qmap.pipeline.scan_profile import STANDARD, ScanProfile
from mri2qmap.pipeline.settings import (
    field_types,
    from_values,
    parse_settings,
    property_text,
    settings_as_dict,
)

ScanProfileInput: TypeAlias = str | os.PathLike[str] | ScanProfile
"""A profile, the name of one that comes with the package, or the path of a TOML file."""

BASE = "base"
"""Key of a file or a ``<scan>``: the profile, or its file, whose values the other keys replace."""

FILE_KEYS = ("sequence_file", "trajectory_file")
"""Keys that name a file."""

_FOLDER = Path(__file__).parent / "scan_profiles"
_SUFFIX = ".toml"
_UNNAMED = "own"
"""Name of a `ScanProfile` from Python to which none was given."""
_LARGEST_FILE = 2**20
_MOST_BASES = 8


@cache
def shipped_scan_profiles() -> tuple[str, ...]:
    """Return the names of the profiles that come with the package."""
    return (STANDARD.name, *sorted(path.stem for path in _FOLDER.glob(f"*{_SUFFIX}")))


def shipped_file(name: str) -> Path | None:
    """Return the file of a profile that comes with the package; the standard one has none."""
    return None if name == STANDARD.name else _FOLDER / f"{name}{_SUFFIX}"


def load_scan_profile(given: ScanProfileInput, files: FileAccess = ANY_FILE) -> ScanProfile:
    """Return a scan profile.

    Parameters
    ----------
    given
        See `ScanProfileInput`. An existing file is preferred to a profile of the package.
    files
        Files that may be read.

    Raises
    ------
    Mri2QmapError
        If there is no such profile, the file cannot be read or may not be, a key is unknown or a
        value is of the wrong type, or the values contradict each other.
    """
    if isinstance(given, ScanProfile):
        name = given.name
        if name == STANDARD.name and not given.is_standard:
            name = _UNNAMED
        try:
            return from_values({**settings_as_dict(given), "name": name}, ScanProfile)
        except (Mri2QmapError, ValueError) as error:
            raise Mri2QmapError(f"scan profile {name}: {error}") from error
    if not isinstance(given, str | os.PathLike) or not os.fspath(given):
        raise Mri2QmapError(
            "scan profile: a mri2qmap.ScanProfile, the name of one or the path of a TOML file is "
            f"expected, got {given if given == '' else type(given).__name__!r}"
        )
    path = _path(os.fspath(given), files)
    if path is None:
        return STANDARD
    return _built(_content(path, files, _MOST_BASES), path, files)


def scan_profile_path(given: ScanProfileInput | None) -> Path | None:
    """Return the file of a profile; None if it is none, or comes with the package."""
    if given is None or isinstance(given, ScanProfile) or not os.path.isfile(given):
        return None
    return Path(given)


def profile_of_properties(
    properties: Mapping[str, str], place: str, files: FileAccess = ANY_FILE
) -> ScanProfile:
    """Return the profile of the properties of a ``<scan>``; ``base`` names what they change.

    Parameters
    ----------
    properties
        Value of each property as text.
    place
        Where they were read, for messages.
    files
        Files that the properties may name.

    Raises
    ------
    Mri2QmapError
        See `load_scan_profile`; the message names the place.
    """
    own = dict(properties)
    base = STANDARD
    if BASE in own:
        try:
            base = load_scan_profile(own.pop(BASE), files)
        except Mri2QmapError as error:
            raise Mri2QmapError(f"{place}: section <scan>: {error}") from error
    given = {"name": base.name if not own else "pipeline", **own}
    merged = {**properties_of_profile(base), **given}
    return parse_settings(ScanProfile, merged, "<scan>", place, files, kind="section")


def properties_of_profile(profile: ScanProfile) -> dict[str, str]:
    """Return the properties of a ``<scan>`` that stand for a profile, those of its differences."""
    return {
        name: property_text(value)
        for name in field_types(ScanProfile)
        if (value := getattr(profile, name)) != getattr(STANDARD, name)
    }


def _path(name: str, files: FileAccess) -> Path | None:
    """Return the file of a profile; None for the standard one."""
    if files.everywhere and os.path.isfile(name):
        return Path(name)
    known = shipped_scan_profiles()
    if name in known:
        return shipped_file(name)
    if not files.allows(name):
        raise Mri2QmapError(
            f"scan profile {shortened(name)!r}: a pipeline that came over the network may name "
            f"profiles of the installation ({', '.join(known)}), and files in folders that the "
            "site allows"
        )
    if os.path.isfile(name):
        return Path(name)
    what = "it is not a file" if os.path.exists(name) else "there is no such file"
    raise Mri2QmapError(
        f"scan profile {shortened(name)!r}: {what}, nor a profile of that name (known: "
        f"{', '.join(known)})"
    )


def _content(path: Path, files: FileAccess, bases: int) -> dict[str, Any]:
    """Return the values of a file and its bases; names of files are absolute."""
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise Mri2QmapError(
                f"scan profile {path}: it has more than {_LARGEST_FILE} bytes; a TOML file with "
                "the keys of a scan profile is expected"
            )
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Mri2QmapError(f"scan profile {path}: it cannot be read ({error.strerror})") from error
    except ValueError as error:  # not UTF-8, or not TOML
        raise Mri2QmapError(f"scan profile {path}: this is not TOML ({error})") from error
    for name in FILE_KEYS:
        file = values.get(name)
        if isinstance(file, str) and file:
            values[name] = os.path.join(path.absolute().parent, file)
    base = values.pop(BASE, None)
    if base is None:
        return values
    if not isinstance(base, str) or not base:
        raise Mri2QmapError(f"scan profile {path}: {BASE} is {base!r}; a name or file is expected")
    if not bases:
        raise Mri2QmapError(
            f"scan profile {path}: more than {_MOST_BASES} profiles are based on each other; is "
            "there a circle?"
        )
    if base not in shipped_scan_profiles():
        base = os.path.join(path.absolute().parent, base)
    found = _path(base, files)
    return values if found is None else {**_content(found, files, bases - 1), **values}


def _built(values: dict[str, Any], path: Path, files: FileAccess) -> ScanProfile:
    """Make a profile of the values of a file."""
    lists = [name for name, kind in field_types(ScanProfile).items() if get_origin(kind) is tuple]
    values = {
        # one value may stand for a list
        name: [value] if name in lists and isinstance(value, str | int | float) else value
        for name, value in {"name": path.stem, **values}.items()
    }
    try:
        profile = from_values(values, ScanProfile)
    except (Mri2QmapError, ValueError) as error:
        raise Mri2QmapError(f"scan profile {path}: {error}") from error
    files.check(profile, f"scan profile {path}")
    return profile

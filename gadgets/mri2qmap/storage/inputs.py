"""Outputs that contain an input are refused before anything runs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from mri2qmap.errors import Mri2QmapError

_MOST_LINKS = 40


def as_path(path: object, what: str) -> Path:
    """Return the path that a caller gave.

    Raises
    ------
    Mri2QmapError
        If it is none.
    """
    if not isinstance(path, str | os.PathLike):
        raise Mri2QmapError(f"{what}: a path is expected, got {type(path).__name__}")
    return Path(path)


def refuse_inputs(what: str, output: Path, inputs: Mapping[str, Path]) -> None:
    """Refuse an output that is an input, or a folder that contains one.

    Links are followed, and files are told apart by what they are and not by how they are spelt.

    Parameters
    ----------
    what
        Says in messages what the output is.
    output
        A file or folder to write, there already or not.
    inputs
        What each input is, and where. Those that do not exist are of no concern.

    Raises
    ------
    Mri2QmapError
        If it does.
    """
    for name, path in inputs.items():
        if not os.path.lexists(path):
            continue
        for place in _places(path):
            if _same(place, output):
                raise Mri2QmapError(
                    f"{what} {output}: it is the {name} {path}; choose another name"
                )
            if any(_same(parent, output) for parent in place.parents):
                raise Mri2QmapError(
                    f"{what} {output}: it contains the {name} {path}, which would be lost; choose "
                    "another name"
                )


def lies_in(path: Path, folder: Path) -> bool:
    """Whether a path is a folder or leads into it, whether or not they exist."""
    place, folder = path.resolve(), folder.resolve()
    return any(_same(parent, folder) for parent in (place, *place.parents))


def _same(path: Path, other: Path) -> bool:
    """Whether two paths lead to one thing."""
    if path == other:
        return True
    try:
        return path.samefile(other)
    except OSError:
        return False


def _places(path: Path) -> Iterator[Path]:
    """Where a path leads: itself, each link on the way, and the end; folders are resolved."""
    place = Path(os.path.abspath(path))
    for _ in range(_MOST_LINKS):
        place = place.parent.resolve() / place.name
        yield place
        if not place.is_symlink():
            return
        place = place.parent / os.readlink(place)
        place = Path(os.path.normpath(place)) if ".." not in place.parts else place.resolve()

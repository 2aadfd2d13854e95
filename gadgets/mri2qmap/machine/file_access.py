"""Which files, and which destinations in a network, the settings of a pipeline may name.

Settings that name a file have the type `InputFile`, `ModelFile` or `Path`. A pipeline of this
machine may name any file. One that came over the network may name models of the installation, and
files in the folders that the site allows, and no folder that is written to: the settings that a
class lists in `WRITTEN_TO`. Settings of the type `PushDestination` name a peer that gets the maps;
one that came over the network may only name peers that the site allows.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from enum import Enum, auto
from pathlib import Path
from typing import Annotated, Any, TypeAlias, get_args, get_origin

from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.folders import model_folders, pipeline_folders
from mri2qmap.machine.type_hints import type_hints

FOLDERS_VARIABLE = "MRI2QMAP_ALLOWED_FOLDERS"
"""Environment variable with folders, separated as in PATH."""

DESTINATIONS_VARIABLE = "MRI2QMAP_ALLOWED_PUSH"
"""Environment variable with destinations, separated by commas."""

MODEL_SUFFIX = ".safetensors"


class _Named(Enum):
    FILE = auto()
    MODEL = auto()
    DESTINATION = auto()


InputFile: TypeAlias = Annotated[str, _Named.FILE]
"""Setting that names a file; empty for none."""

ModelFile: TypeAlias = Annotated[str, _Named.MODEL]
"""Setting that names a model of the installation, or a file, see `is_model_path`."""

PushDestination: TypeAlias = Annotated[str, _Named.DESTINATION]
"""Setting that names a destination of DICOM objects; empty for none."""


@dataclass(frozen=True)
class FileAccess:
    """Files and destinations that a pipeline may name.

    Attributes
    ----------
    folders
        Folders whose files it may name, besides those of the models and pipelines of the
        installation. Symbolic links out of them do not count.
    everywhere
        Whether it may name any file and destination.
    destinations
        Destinations that it may name.
    """

    folders: tuple[Path, ...] = ()
    everywhere: bool = False
    destinations: tuple[str, ...] = ()

    def allows(self, name: str | Path) -> bool:
        """Return whether the file may be opened; it need not exist."""
        if self.everywhere:
            return True
        try:
            path = Path(os.path.realpath(name))
        except (OSError, ValueError):  # ValueError: a NUL in the name
            return False
        folders = (*self.folders, *model_folders(), *pipeline_folders())
        return any(path.is_relative_to(os.path.realpath(folder)) for folder in folders)

    def check(self, settings: Any, where: str) -> None:
        """Refuse settings that name other files or destinations.

        Parameters
        ----------
        settings
            A settings dataclass.
        where
            Place and gadget, for messages.

        Raises
        ------
        Mri2QmapError
            The message is the same whether the file exists or not.
        """
        for name in getattr(settings, "WRITTEN_TO", ()):
            if not self.everywhere and getattr(settings, name) is not None:
                raise Mri2QmapError(
                    f"{where}: property {name}: a pipeline that came over the network may not "
                    "choose a folder that is written to"
                )
        for name, file in named_files(settings):
            if not self.allows(file):
                raise Mri2QmapError(
                    f"{where}: property {name}: a pipeline that came over the network may name "
                    "models of the installation, and files in folders that the site allows "
                    f"(at the server --allow-folder, folders in [allow] of its site.toml, or "
                    f"{FOLDERS_VARIABLE}); this file is in none"
                )
        for name, destination in _named(settings, _Named.DESTINATION):
            if not self.everywhere and destination not in self.destinations:
                raise Mri2QmapError(
                    f"{where}: property {name}: a pipeline that came over the network may only "
                    "send to destinations that the site allows (at the server --allow-push, push "
                    f"in [allow] of its site.toml, or {DESTINATIONS_VARIABLE}, spelt in the same "
                    f"way); {destination} is none"
                )


ANY_FILE = FileAccess(everywhere=True)
"""For pipelines of this machine."""

INSTALLED_FILES = FileAccess()
"""For pipelines from elsewhere, unless the site allows more."""


def site_files(folders: Iterable[str | Path] = (), destinations: Iterable[str] = ()) -> FileAccess:
    """Return the files and destinations that pipelines from elsewhere may name at this site.

    Parameters
    ----------
    folders, destinations
        Those besides the ones of the environment variables.

    Raises
    ------
    Mri2QmapError
        If one of `folders` is not a folder.
    """
    for folder in folders:
        if not os.path.isdir(folder):
            raise Mri2QmapError(f"--allow-folder {folder}: it is not a folder of this machine")
    listed = os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep)
    allowed = (*destinations, *os.environ.get(DESTINATIONS_VARIABLE, "").split(","))
    return FileAccess(
        tuple(Path(folder) for folder in (*folders, *listed) if folder),
        destinations=tuple(name.strip() for name in allowed if name.strip()),
    )


def named_files(settings: Any) -> Iterator[tuple[str, str | Path]]:
    """Yield the files that settings name, each with the name of the setting."""
    hints = type_hints(type(settings), marks=True)
    for field in fields(settings):
        value = getattr(settings, field.name)
        kinds = set(_kinds(hints[field.name]))
        if Path in kinds:
            files = value if isinstance(value, tuple) else (value,)
            yield from ((field.name, file) for file in files if isinstance(file, Path))
        elif (_Named.FILE in kinds and value) or (_Named.MODEL in kinds and is_model_path(value)):
            yield field.name, value


def _named(settings: Any, kind: _Named) -> Iterator[tuple[str, str]]:
    """Yield the values of the settings that are marked as `kind` and not empty, by name."""
    hints = type_hints(type(settings), marks=True)
    for field in fields(settings):
        value = getattr(settings, field.name)
        if value and kind in set(_kinds(hints[field.name])):
            yield field.name, value


def is_model_path(name: str) -> bool:
    """Return whether the name of a model is the path of a file, not one of the installation."""
    return name.endswith(MODEL_SUFFIX) or os.sep in name


def _kinds(annotation: Any) -> Iterator[Any]:
    """Yield the types within an annotation, and the marks of `Annotated`."""
    if get_origin(annotation) is None:
        yield annotation
    for argument in get_args(annotation):
        yield from _kinds(argument)

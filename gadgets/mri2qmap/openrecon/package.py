"""The OpenRecon package: a zip file with the saved image and a PDF of the same name.

The names of its files are those of the public build of packages (``neurodesk/openrecon``).
"""

from __future__ import annotations

import json
import shutil
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from mri2qmap.errors import Mri2QmapError
from mri2qmap.openrecon.label import LABEL_NAME, General, Label, Reconstruction
from mri2qmap.openrecon.label_rules import decoded_label, refuse_broken_label
from mri2qmap.openrecon.leaflet import leaflet
from mri2qmap.openrecon.offers import offered_parameters
from mri2qmap.pipeline.settings import from_values
from mri2qmap.storage.atomic import cannot_write, why
from mri2qmap.storage.file_place import FilePlace

_SYSTEM = "linux, amd64"
_LARGEST_DESCRIPTION = 2**20
_LARGEST_DOCUMENT = 2**24
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""Date of the files: a package of the same image is the same."""
Kind = TypeVar("Kind", dict[str, Any], list[Any], str)


@dataclass(frozen=True)
class PackageDescription:
    """What a site changes in the label: a TOML file with these tables.

    Attributes
    ----------
    general, reconstruction
        See `General` and `Reconstruction`.
    """

    general: General = field(default_factory=General)
    reconstruction: Reconstruction = field(default_factory=Reconstruction)


def package_label(description: Path | None = None) -> Label:
    """Return the label of the package.

    Parameters
    ----------
    description
        TOML file of a `PackageDescription`; None: nothing is changed.

    Raises
    ------
    Mri2QmapError
        If the file cannot be read, a key is unknown, or a value breaks a rule of the label.
    """
    given = PackageDescription() if description is None else _description(description)
    return Label(given.general, given.reconstruction, offered_parameters())


def write_package(image: Path, label: Label, folder: Path) -> Path:
    """Write the package of a saved image, and return its path.

    Parameters
    ----------
    image
        Tar file as ``docker save`` writes it, of an image with this label.
    label
        The label.
    folder
        Where the package is written to.

    Raises
    ------
    Mri2QmapError
        If the image is not one that a host can start with this label, or the package exists or
        cannot be written.
    """
    refuse_unfit_image(image, label)
    size = image.stat().st_size
    with (
        _new_file(folder / f"{label.base_name}.zip", size) as place,
        zipfile.ZipFile(place.partial, "w", zipfile.ZIP_DEFLATED) as package,
    ):
        with (
            image.open("rb") as source,
            package.open(_entry(f"{label.base_name}.tar"), "w", force_zip64=True) as target,
        ):
            shutil.copyfileobj(source, target, 2**20)
        package.writestr(_entry(f"{label.base_name}.pdf"), leaflet(label))
    return place.path


def write_leaflet(label: Label, folder: Path) -> Path:
    """Write the document of the package alone, and return its path.

    Raises
    ------
    Mri2QmapError
        If the file exists or cannot be written.
    """
    with _new_file(folder / f"{label.base_name}.pdf") as place:
        place.partial.write_bytes(leaflet(label))
    return place.path


def refuse_unfit_image(image: Path, label: Label) -> None:
    """Refuse a saved image that a host cannot start, or that has another label.

    Raises
    ------
    Mri2QmapError
        Naming what is wrong.
    """
    place = f"saved image {image}"
    try:
        with tarfile.open(image, "r:") as archive:
            config = _configuration(archive, place)
    except (OSError, tarfile.TarError, EOFError) as error:
        reason = why(error) if isinstance(error, OSError) else str(error)
        raise Mri2QmapError(
            f"{place}: a tar file as docker save writes it is expected ({reason})"
        ) from error
    system = config.get("os"), config.get("architecture")
    if system != ("linux", "amd64"):
        raise Mri2QmapError(
            f"{place}: it is for {system[0]}, {system[1]}; linux, amd64 is expected"
        )
    run = _member(config, "config", dict, place)
    encoded = (run.get("Labels") or {}).get(LABEL_NAME)
    if not isinstance(encoded, str):
        raise Mri2QmapError(
            f"{place}: it has no label {LABEL_NAME}; use docker/build_openrecon.sh, which gives it"
        )
    found = decoded_label(encoded, f"{place}: its label")
    refuse_broken_label(found, f"{place}: its label")
    if found != label.document():
        raise Mri2QmapError(
            f"{place}: it has the label of {_title(found)}, and not that of "
            f"{_title(label.document())} as it is now; build the image again"
        )
    port = f"{label.reconstruction.port}/tcp"
    if port not in (run.get("ExposedPorts") or {}):
        raise Mri2QmapError(
            f"{place}: it does not expose the port {port} of its label; set reconstruction.port to "
            "the one on which it listens"
        )


@contextmanager
def _new_file(path: Path, room: int = 0) -> Iterator[FilePlace]:
    """Give the place of a file, which gets its name when the block has ended."""
    if path.exists():
        raise Mri2QmapError(f"output {path}: it exists already; remove it, or give another folder")
    place = FilePlace(path, room=room)
    try:
        yield place
        place.put_in_place()
    except OSError as error:
        raise cannot_write(place.path, error) from error
    finally:
        place.remove()


def _configuration(archive: tarfile.TarFile, place: str) -> dict[str, Any]:
    """Return the configuration of the only image in an archive."""
    manifest = _document(archive, "manifest.json", list, place)
    if len(manifest) != 1 or not isinstance(manifest[0], dict):
        raise Mri2QmapError(f"{place}: it has {len(manifest)} images, one is expected")
    name = _member(manifest[0], "Config", str, place)
    return _document(archive, name, dict, place)


def _document(archive: tarfile.TarFile, name: str, kind: type[Kind], place: str) -> Kind:
    try:
        file = archive.extractfile(name)
        content = None if file is None else file.read(_LARGEST_DOCUMENT)
    except KeyError:
        content = None
    if content is None:
        raise Mri2QmapError(f"{place}: {name} is not in it; save the image with docker save")
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Mri2QmapError(f"{place}: {name}: JSON is expected ({error})") from error
    if not isinstance(found, kind):
        raise Mri2QmapError(f"{place}: {name}: a {kind.__name__} is expected")
    return found


def _member(values: dict[str, Any], key: str, kind: type[Kind], place: str) -> Kind:
    found = values.get(key)
    if not isinstance(found, kind):
        raise Mri2QmapError(f"{place}: its {key} is {found!r}, a {kind.__name__} is expected")
    return found


def _title(document: dict[str, Any]) -> str:
    general = document["general"]
    return f"{general['vendor']} {general['name']['en']} {general['version']}"


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    return entry


def _description(path: Path) -> PackageDescription:
    place = f"description of the package {path}"
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_DESCRIPTION).decode()
        values = tomllib.loads(content)
    except OSError as error:
        raise Mri2QmapError(f"{place}: it cannot be read ({why(error)})") from error
    except (ValueError, RecursionError) as error:
        raise Mri2QmapError(f"{place}: this is not TOML ({error})") from error
    try:
        return from_values(values, PackageDescription)
    except Mri2QmapError as error:
        raise Mri2QmapError(f"{place}: {error}") from error

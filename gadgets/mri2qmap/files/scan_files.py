"""Opening of a raw scan in any type of ISMRMRD file."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from mri2qmap.errors import Mri2QmapError
from mri2qmap.files.mrd_file import MRD_2, MrdFile
from mri2qmap.files.mrd_stream_file import MrdStreamFile, is_mrd_stream
from mri2qmap.pipeline.findings import scan_error
from mri2qmap.pipeline.scan_profile import ScanProfile

ScanFile: TypeAlias = MrdFile | MrdStreamFile

_BEGINNINGS_OF_MRD_2 = (b"yardl", b'{"yardl"')


def open_scan(path: str | Path, group: str | None = None) -> ScanFile:
    """Open a scan; its content, not its name, determines the file type.

    Parameters
    ----------
    path
        ISMRMRD file: HDF5 or a stream.
    group
        Group of an HDF5 file that contains the scan; None: the only group with a scan.

    Raises
    ------
    Mri2QmapError
        If the file is of neither type, or does not contain one complete scan.
    """
    if group is not None and not isinstance(group, str):
        raise Mri2QmapError(f"group: a name is expected, got {type(group).__name__}")
    beginning = _beginning(Path(path))
    if beginning.startswith(_BEGINNINGS_OF_MRD_2):
        raise scan_error("mrd-version-2", str(path), *MRD_2)
    if not is_mrd_stream(beginning):
        return MrdFile(path, group)
    if group is not None:
        raise Mri2QmapError(
            f"group {group}: {path} is an ISMRMRD stream, which has one scan and no groups"
        )
    return MrdStreamFile(path)


def chosen_group(group: str | None, profile: ScanProfile, path: Path | None) -> str | None:
    """Return the group of a file that contains the scan; None: the only group with a scan.

    Parameters
    ----------
    group
        The group that was asked for.
    profile
        Convention of the scan, which may name a group too.
    path
        File of the scan; None: it is in memory, and has no groups.

    Raises
    ------
    Mri2QmapError
        If both name one, and they differ.
    """
    named = profile.dataset or None
    if named is None or path is None:
        return group
    if group is not None and group.strip("/") != named.strip("/"):
        raise Mri2QmapError(
            f"{path}: the group {group!r} was asked for, but the scan profile {profile.name} has "
            f"dataset = {named!r}: give one of them"
        )
    return named


def _beginning(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(16)
    except OSError:
        return b""  # MrdFile reports the error

"""Opening a raw scan, whatever kind of ISMRMRD file it is in."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from mri2qmap.errors import Mri2QmapError
from mri2qmap.files.mrd_file import MRD_2, MrdFile
from mri2qmap.files.mrd_stream_file import MrdStreamFile, is_mrd_stream

ScanFile: TypeAlias = MrdFile | MrdStreamFile

_BEGINNINGS_OF_MRD_2 = (b"yardl", b'{"yardl"')


def open_scan(path: str | Path, group: str | None = None) -> ScanFile:
    """Open a file by what it holds, not by its name.

    Parameters
    ----------
    path
        An ISMRMRD file: HDF5, or a stream.
    group
        The group of an HDF5 file that holds the scan; None: the only one that does.

    Raises
    ------
    Mri2QmapError
        When it is neither, or does not hold one whole scan.
    """
    beginning = _beginning(Path(path))
    if beginning.startswith(_BEGINNINGS_OF_MRD_2):
        raise Mri2QmapError(f"{path}: {MRD_2}")
    if not is_mrd_stream(beginning):
        return MrdFile(path, group)
    if group is not None:
        raise Mri2QmapError(
            f"--group {group}: {path} is an ISMRMRD stream, which is one scan and has no groups"
        )
    return MrdStreamFile(path)


def _beginning(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(16)
    except OSError:
        return b""  # what is wrong with it, the reader of HDF5 files tells

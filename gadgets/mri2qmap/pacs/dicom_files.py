"""DICOM files of output folders, and what identifies the object in each."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mri2qmap.errors import Mri2QmapError

_PREFIX = b"DICM"
_PREAMBLE = 128
_DIRECTORY = "1.2.840.10008.1.3.10"  # Media Storage Directory: DICOMDIR


@dataclass(frozen=True)
class Identity:
    """What identifies a DICOM object, and how it is encoded.

    Attributes
    ----------
    sop_instance, sop_class
        SOP Instance UID and SOP Class UID.
    syntax
        Transfer Syntax UID of the file.
    """

    sop_instance: str
    sop_class: str
    syntax: str


def dicom_files(folders: Iterable[Path]) -> Iterator[Path]:
    """Yield the DICOM files (PS3.10) below folders, without hidden files and DICOMDIR.

    Parameters
    ----------
    folders
        Output folders of runs or of several runs, or any folders with DICOM files; or DICOM files.

    Raises
    ------
    Mri2QmapError
        If a folder does not exist, holds no DICOM file, cannot be read, or a file that is named
        .dcm is none.
    """
    for folder in folders:
        if not os.path.exists(folder):
            raise Mri2QmapError(f"{folder}: there is no such folder")
        found = False
        for path in [folder] if folder.is_file() else _files(folder):
            if _is_dicom(path):
                found = True
                yield path
            elif path.suffix.lower() == ".dcm":
                raise Mri2QmapError(
                    f"{path}: it is no DICOM file (PS3.10), or was cut off; nothing was sent. "
                    "Remove it, or make the folder again"
                )
        if not found:
            raise Mri2QmapError(
                f"{folder}: it holds no DICOM files; a run writes them with parametric_maps.dicom "
                "other than none"
            )


def _files(folder: Path) -> list[Path]:
    """List visible files below a folder, in order."""

    def refuse(error: OSError) -> None:
        raise Mri2QmapError(f"{error.filename}: it cannot be read ({error.strerror})") from error

    found = []
    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(place, name) for name in sorted(names) if not name.startswith(".")]
    return [path for path in found if path.is_file() and path.name.upper() != "DICOMDIR"]


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(_PREAMBLE + len(_PREFIX))[_PREAMBLE:] == _PREFIX
    except OSError as error:
        raise Mri2QmapError(f"{path}: it cannot be read ({error.strerror})") from error


def identity(path: Path, name: str | Path) -> Identity:
    """Read what identifies the object in a DICOM file.

    Parameters
    ----------
    path
        The file.
    name
        What it is called in messages.

    Raises
    ------
    Mri2QmapError
        If it cannot be read as DICOM, lacks a UID, or its file meta information contradicts it.
    """
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    tags = ["SOPClassUID", "SOPInstanceUID"]
    try:
        dataset = dcmread(path, stop_before_pixels=True, specific_tags=tags)
        meta = dataset.file_meta
        found = Identity(
            str(dataset.SOPInstanceUID), str(dataset.SOPClassUID), str(meta.TransferSyntaxUID)
        )
        in_meta = str(meta.MediaStorageSOPInstanceUID), str(meta.MediaStorageSOPClassUID)
    except (InvalidDicomError, AttributeError, ValueError, EOFError) as error:
        raise Mri2QmapError(
            f"{name}: it cannot be read as a DICOM object with SOP class, SOP instance and "
            f"transfer syntax ({type(error).__name__})"
        ) from error
    if in_meta != (found.sop_instance, found.sop_class):
        raise Mri2QmapError(
            f"{name}: its file meta information names another SOP class or SOP instance than its "
            "data set; write the file anew"
        )
    if found.sop_class == _DIRECTORY:
        raise Mri2QmapError(f"{name}: a media directory cannot be stored in a PACS; leave it out")
    return found

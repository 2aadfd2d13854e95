"""NIfTI files in folders."""

from __future__ import annotations

import zlib
from pathlib import Path

from nibabel.filebasedimages import ImageFileError
from nibabel.wrapstruct import WrapStructError

from mri2qmap.errors import Mri2QmapError

NIFTI_SUFFIXES = (".nii.gz", ".nii")
#: Errors that nibabel raises for damaged files and other formats.
NIFTI_ERRORS = (
    OSError, ValueError, TypeError, EOFError, ImageFileError, WrapStructError, zlib.error,
)  # fmt: skip


def nifti_stem(path: Path) -> str:
    """Return the file name without ``.nii`` or ``.nii.gz``."""
    for suffix in NIFTI_SUFFIXES:
        if path.name.endswith(suffix):
            return path.name.removesuffix(suffix)
    return path.name


def nifti_files(folder: Path, what: str, nested: bool = False) -> list[Path]:
    """Return all NIfTI files of a folder, sorted by path.

    Parameters
    ----------
    folder : Path
        Folder to search.
    what : str
        Expected content of the folder, for messages.
    nested : bool
        Whether to search its subfolders too.

    Raises
    ------
    Mri2QmapError
        If the folder does not exist or contains no NIfTI file.
    """
    if not folder.is_dir():
        raise Mri2QmapError(f"{what}: {folder} is not a folder")
    entries = folder.rglob("*") if nested else folder.iterdir()
    files = sorted(
        path
        for path in entries
        if path.name.endswith(NIFTI_SUFFIXES) and not path.name.startswith(".")
    )
    if not files:
        raise Mri2QmapError(
            f"{what}: {folder} contains no NIfTI files ({', '.join(NIFTI_SUFFIXES)})"
        )
    return files

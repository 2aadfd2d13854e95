"""NIfTI files in folders."""

from __future__ import annotations

import zlib
from pathlib import Path

from nibabel.filebasedimages import ImageFileError
from nibabel.wrapstruct import WrapStructError

from mri2qmap.errors import Mri2QmapError

NIFTI_SUFFIXES = (".nii.gz", ".nii")
#: What reading a file that is no NIfTI, or a damaged one, may raise.
NIFTI_ERRORS = (
    OSError, ValueError, TypeError, EOFError, ImageFileError, WrapStructError, zlib.error,
)  # fmt: skip


def nifti_stem(path: Path) -> str:
    """File name without ``.nii`` or ``.nii.gz``."""
    for suffix in NIFTI_SUFFIXES:
        if path.name.endswith(suffix):
            return path.name.removesuffix(suffix)
    return path.name


def nifti_files(folder: Path, what: str, nested: bool = False) -> list[Path]:
    """All NIfTI files of a folder, in the order of their paths.

    Parameters
    ----------
    folder : Path
        Where to look.
    what : str
        What the folder shall hold, for messages.
    nested : bool
        Look into its subfolders too.

    Raises
    ------
    Mri2QmapError
        If there is no such folder, or no NIfTI file in it.
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
        raise Mri2QmapError(f"{what}: {folder} holds no NIfTI files ({', '.join(NIFTI_SUFFIXES)})")
    return files

"""Folders of acquired weighted images: contrast and subject of each file.

Two layouts are supported. Flat: all files in one folder; the subject is the file name without the
contrast (``IXI002-Guys-0828-T1.nii.gz``, ``100307_3T_T2w_SPC1.nii.gz``). Nested: one folder for
each subject, named after it (``100307/T1w.nii.gz``, ``sub-01/anat/sub-01_T1w.nii.gz``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from mri2qmap.anatomy.nifti_files import nifti_files, nifti_stem
from mri2qmap.denoiser.network import CONTRASTS
from mri2qmap.errors import Mri2QmapError

_WORDS = {"t1": "T1w", "t1w": "T1w", "t2": "T2w", "t2w": "T2w", "pd": "PDw", "pdw": "PDw"}
#: Protocol names; they differ between the contrasts of a subject and are ignored.
_PROTOCOL = re.compile(r"(mpr|mprage|spc|space|tse|fse)\d*", re.IGNORECASE)
_SEPARATORS = re.compile(r"([^A-Za-z0-9]+)")


def find_weighted_files(folders: Mapping[str, Path]) -> dict[str, dict[str, Path]]:
    """Find the files of every subject.

    Parameters
    ----------
    folders : mapping
        Contrast (T1w, T2w, PDw) -> folder; contrasts may share a folder. A file that names another
        contrast is ignored, as is a file that names none if others do.

    Returns
    -------
    dict
        Subject -> contrast -> file, both sorted.

    Raises
    ------
    Mri2QmapError
        If a folder is missing or empty, contains no image of its contrast, or contains two files of
        the same contrast and subject.
    """
    found: dict[str, dict[str, Path]] = {}
    for contrast in (name for name in CONTRASTS if name in folders):
        folder, what = folders[contrast], f"{contrast} images"
        files = nifti_files(folder, what, nested=True)
        subjects = _files_of_contrast(files, folder, contrast)
        if not subjects:
            raise Mri2QmapError(
                f"{what}: {folder} contains {len(files)} NIfTI files, none of them {contrast}"
                f" ({files[0].name}, ...); files and subfolders are expected to name the contrast,"
                f" as in SUBJECT-{contrast}.nii.gz or SUBJECT/{contrast}.nii.gz"
            )
        for subject, paths in subjects.items():
            if len(paths) > 1:
                raise Mri2QmapError(
                    f"{what}: {paths[0]} and {paths[1]} both seem to be the {contrast} image of"
                    f" subject {subject}; use a folder with one of them (links are sufficient)"
                )
            found.setdefault(subject, {})[contrast] = paths[0]
    return dict(sorted(found.items()))


def _files_of_contrast(files: list[Path], folder: Path, contrast: str) -> dict[str, list[Path]]:
    """Return subject -> files of a contrast; file names take precedence over folder names."""
    named: dict[str, list[Path]] = {}
    by_folder: dict[str, list[Path]] = {}
    unnamed: dict[str, list[Path]] = {}
    for path in files:
        parents = path.relative_to(folder).parts[:-1]
        own, subject = _split(nifti_stem(path))
        if parents:
            subject = parents[0]
        elif not subject:
            continue
        # The file name takes precedence, then the nearest folder.
        candidates = [own, *(_split(part)[0] for part in reversed(parents))]
        named_contrast = next((word for word in candidates if word), None)
        if own == contrast:
            named.setdefault(subject, []).append(path)
        elif named_contrast == contrast:
            by_folder.setdefault(subject, []).append(path)
        elif named_contrast is None and not parents:
            unnamed.setdefault(subject, []).append(path)
    return {**by_folder, **named} or unnamed


def _split(name: str) -> tuple[str | None, str]:
    """Return the contrast in a name, if any, and the rest of the name."""
    contrast = None
    kept: list[str] = []
    pieces = _SEPARATORS.split(name)
    for separator, word in zip(["", *pieces[1::2]], pieces[::2], strict=True):
        if word.lower() in _WORDS:
            contrast = _WORDS[word.lower()]
        elif not _PROTOCOL.fullmatch(word):
            kept += [separator, word] if kept else [word]
    return contrast, "".join(kept)

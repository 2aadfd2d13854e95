"""BrainWeb and similar models: folders with one map of fractions for each tissue."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mri2qmap.anatomy.fraction_maps import (
    MAP_FORMATS,
    NIFTI,
    TOLERANCE,
    map_format,
    map_stem,
    read_tissue_map,
)
from mri2qmap.anatomy.tissues import (
    AROUND_FAT,
    CSF,
    FILE_TOKENS,
    GREY_MATTER,
    NO_TISSUE_MAP,
    TISSUES,
    WHITE_MATTER,
    Tissue,
)
from mri2qmap.errors import Mri2QmapError

NEEDED_TISSUES = (CSF, GREY_MATTER, WHITE_MATTER)
"""Tissues that a model must contain."""

_SUBJECT = re.compile(r"(subject\d+|phantom_[0-9.]+mm_[a-z0-9]+)_", re.IGNORECASE)
"""Beginning of the names of BrainWeb's files."""
_WORD = re.compile(r"m[+-]s(?![a-z0-9])|[a-z0-9]+")
_ENDINGS = f"{', '.join(MAP_FORMATS)}, each also with .gz"


def find_subjects(folder: Path) -> dict[str, Path]:
    """Find the models in a folder: name -> argument of `map_files`.

    A model is either a subfolder of tissue maps, or the files of the folder itself whose names
    begin with the same BrainWeb subject, such as ``subject04_gm_v.mnc.gz``.

    Raises
    ------
    Mri2QmapError
        If a name occurs in both forms.
    """
    names = _subjects_among(_volumes(folder))
    for entry in _entries(folder):
        if entry.is_dir() and (volumes := _volumes(entry)):
            if entry.name in names:
                raise Mri2QmapError(
                    f"{folder}: {entry.name} exists twice, as a folder and as files "
                    f"{entry.name}_...; remove one of them"
                )
            if any(_words(file) for file in volumes):
                names.add(entry.name)
    return {name: folder / name for name in sorted(names)}


def is_subject(path: Path) -> bool:
    """Whether a path is a model: a folder, or the common beginning of the names of its files."""
    if path.is_dir() or not path.parent.is_dir():
        return path.is_dir()
    return path.name in _subjects_among(_volumes(path.parent))


def belongs_to_subject(file: Path) -> bool:
    """Whether a file is named like one of a BrainWeb subject."""
    return _SUBJECT.match(file.name) is not None and (bool(_words(file)) or not _may_be_map(file))


def map_files(source: Path) -> dict[Path, Tissue]:
    """Return the tissue maps of a model with their tissues, except for maps without signal.

    Parameters
    ----------
    source
        Folder of the maps; or ``FOLDER/SUBJECT`` if the names of the files begin with the subject.

    Raises
    ------
    Mri2QmapError
        If the tissue of a file is unknown, a map occurs twice, grey matter, white matter or CSF is
        missing, or the folder contains several subjects.
    """
    if source.is_dir():
        files = _volumes(source)
        subjects = sorted(_subjects_among(files))
        if len(subjects) > 1:
            raise Mri2QmapError(
                f"anatomy {source}: it contains {len(subjects)} subjects; name one, such as "
                f"{source / subjects[0]} ({', '.join(subjects)})"
            )
    else:
        files = [file for file in _volumes(source.parent) if _subject_of(file) == source.name]
    if not files:
        raise Mri2QmapError(f"anatomy {source}: it contains no tissue maps ({_ENDINGS})")
    found: dict[tuple[str, ...], Path] = {}
    tissues: dict[Path, Tissue] = {}
    for file in files:
        words = _words(file)
        if not words:
            raise Mri2QmapError(
                f"anatomy {file}: its name does not contain a tissue; expected one of "
                f"these words: {', '.join(FILE_TOKENS)}"
            )
        if words in found:
            raise Mri2QmapError(
                f"anatomy {source}: {found[words].name} and {file.name} are the same map; remove "
                "one of them"
            )
        found[words] = file
        tissue = _tissue_of(words)
        if tissue is not None:
            tissues[file] = tissue
    missing = [t.name.replace("_", " ") for t in NEEDED_TISSUES if t not in tissues.values()]
    if missing:
        raise Mri2QmapError(
            f"anatomy {source}: no map of {' and '.join(missing)}; add it (BrainWeb's names: "
            f"csf, gm, wm, ...; {_ENDINGS})"
        )
    return tissues


def read_fractions(
    source: Path,
) -> tuple[tuple[Tissue, ...], NDArray[np.float32], NDArray[np.float64]]:
    """Read the maps of a model, see `map_files`.

    NIfTI files with values above 1 are taken as percentages or integer codes: all values are
    divided by the largest value of any map.

    Returns
    -------
        Tissues; fractions (tissue, i, j, k) float32; homogeneous voxel indices (i, j, k, 1) to
        right-anterior-superior [mm].

    Raises
    ------
    Mri2QmapError
        If a map is missing or unreadable, or the maps differ in grid or scale.
    """
    files = map_files(source)
    tissues = tuple(tissue for tissue in TISSUES if tissue in files.values())
    fractions: NDArray[np.float32] | None = None
    affine = np.eye(4)
    largest = 0.0
    for file, tissue in files.items():
        found = read_tissue_map(file)
        if fractions is None:
            first, affine = file, found.affine
            fractions = np.zeros((len(tissues), *found.values.shape), dtype=np.float32)
        grid = fractions.shape[1:]
        if found.values.shape != grid or not np.allclose(found.affine, affine, atol=1e-3):
            raise Mri2QmapError(
                f"anatomy {file}: its grid {found.values.shape}, first voxel at "
                f"{_position(found.affine)}, differs from that of {first.name}, {grid} at "
                f"{_position(affine)}; all maps must have the same 3-D grid"
            )
        largest = max(largest, float(found.values.max()))
        fractions[tissues.index(tissue)] += found.values
    assert fractions is not None
    if largest > 1 + TOLERANCE:
        if any(map_format(file) != NIFTI for file in files):
            raise Mri2QmapError(
                f"anatomy {source}: the values of its NIfTI maps reach {largest:g}, but MINC and "
                "raw bytes contain fractions from 0 to 1; use one format for all tissues"
            )
        fractions /= np.float32(largest)
    return tissues, fractions, affine


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise Mri2QmapError(f"{folder}: it cannot be listed ({error.strerror})") from error


def _volumes(folder: Path) -> list[Path]:
    """Return the files of a folder that may be tissue maps, sorted by name."""
    return [
        file
        for file in _entries(folder)
        if map_format(file) is not None
        and not file.name.startswith(".")
        and _may_be_map(file)
        and file.is_file()
    ]


def _may_be_map(file: Path) -> bool:
    return not NO_TISSUE_MAP.intersection(_WORD.findall(map_stem(file).lower()))


def _subjects_among(files: list[Path]) -> set[str]:
    return {name for file in files if (name := _subject_of(file)) is not None}


def _subject_of(file: Path) -> str | None:
    """Return the BrainWeb subject in a file name that also contains a tissue."""
    begin = _SUBJECT.match(file.name)
    return begin[1] if begin is not None and _words(file) else None


def _words(file: Path) -> tuple[str, ...]:
    """Return all words of a file name that denote a tissue."""
    return tuple(w for w in _WORD.findall(map_stem(file).lower()) if w in FILE_TOKENS)


def _tissue_of(words: tuple[str, ...]) -> Tissue | None:
    found = [FILE_TOKENS[word] for word in words]
    return AROUND_FAT if AROUND_FAT in found else found[-1]


def _position(affine: NDArray[np.float64]) -> str:
    return f"({', '.join(f'{value:g}' for value in affine[:3, 3])}) mm"

"""Sources of anatomies: the ICBM152 brain, the system phantom, label maps, tissue fractions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mri2qmap.anatomy.anatomy import Anatomy
from mri2qmap.anatomy.brainweb import (
    belongs_to_subject,
    find_subjects,
    is_subject,
    map_files,
    read_fractions,
)
from mri2qmap.anatomy.fraction_maps import NIFTI, TOLERANCE, load_nifti, map_format
from mri2qmap.anatomy.icbm import icbm_anatomy
from mri2qmap.anatomy.nifti_files import NIFTI_SUFFIXES, nifti_stem
from mri2qmap.anatomy.quantitative_maps import (
    QuantitativeMaps,
    is_map_folder,
    map_folder_hash,
    read_quantitative_maps,
)
from mri2qmap.anatomy.system_phantom import system_phantom
from mri2qmap.anatomy.tissues import (
    BRAIN_TISSUES,
    BRAINWEB_CLASSES,
    FIRST_LABEL_OUTSIDE_BRAIN,
    LABEL_TISSUES,
    TISSUES,
    Tissue,
)
from mri2qmap.errors import Mri2QmapError

ICBM, NIST = "icbm", "nist"


def anatomy_path(source: str) -> Path | None:
    """Return the file or folder of an anatomy; None for one that comes with the program."""
    return None if source in (ICBM, NIST) else Path(source)


def load_anatomy(source: str, head: bool = True) -> Anatomy | QuantitativeMaps:
    """Load an anatomy by name or from files.

    Parameters
    ----------
    source
        ``"icbm"``; ``"nist"`` for the system phantom; a NIfTI label map; a 4-D NIfTI file of tissue
        fractions in the order of `BRAINWEB_CLASSES` (with or without background); a folder of
        quantitative maps, see `read_quantitative_maps`; a folder of
        tissue maps, or FOLDER/SUBJECT for the maps of one BrainWeb subject in it, see
        `mri2qmap.anatomy.brainweb.map_files`.
    head
        Whether tissues outside the brain are needed. This affects only the ICBM brain, whose head
        tissues are synthetic.

    Raises
    ------
    Mri2QmapError
        If it cannot be read, or contains unknown labels or files.
    """
    if source == ICBM:
        return icbm_anatomy(head)
    if source == NIST:
        return system_phantom()
    path = Path(source)
    if is_map_folder(path):
        return read_quantitative_maps(path)
    if is_subject(path):
        return fraction_anatomy(*read_fractions(path), path.name)
    if not path.is_file():
        raise Mri2QmapError(
            f"anatomy {source}: no such file or folder; expected '{ICBM}', '{NIST}', a NIfTI label "
            "map, a 4-D NIfTI file of tissue fractions, a folder of T1map, T2map and PDmap, a "
            "folder with one map for each tissue, or FOLDER/SUBJECT if file names begin with "
            "the subject"
        )
    if map_format(path) not in (NIFTI, None):
        raise Mri2QmapError(
            f"anatomy {path}: it contains a single tissue; expected the folder of all maps, or "
            "FOLDER/SUBJECT if file names begin with the subject"
        )
    image = load_nifti(path)
    data, name = np.asarray(image.dataobj), nifti_stem(path)
    if data.ndim == 4:
        return _anatomy_of_classes(data, image.affine, path, name)
    if data.ndim != 3:
        raise Mri2QmapError(f"anatomy {path}: it has {data.ndim} dimensions; expected 3 or 4")
    return label_anatomy(data, image.affine, name)


def find_anatomies(folder: Path, names: Sequence[str] = ()) -> dict[str, Path]:
    """Find the anatomies in a folder: name -> source for `load_anatomy`.

    Parameters
    ----------
    folder
        Folder of NIfTI label maps, files of BrainWeb subjects (``subject04_gm_v.mnc.gz``), folders
        of tissue maps or of quantitative maps, or several of these.
    names
        Names to select, in this order; all if empty.

    Raises
    ------
    Mri2QmapError
        If the folder does not exist, is empty or lacks a name, or a name occurs twice.
    """
    if not folder.is_dir():
        raise Mri2QmapError(f"--labels: {folder} is not a folder")
    if is_map_folder(folder):
        raise Mri2QmapError(
            f"--labels: {folder} is a single anatomy (T1map, T2map, PDmap); name the folder that "
            f"contains it, with --subjects {folder.resolve().name}"
        )
    found = find_subjects(folder)
    for file in sorted(folder.iterdir()):
        if file.name.startswith("."):
            continue
        if is_map_folder(file):
            found[file.name] = file
        elif file.name.endswith(NIFTI_SUFFIXES):
            name = nifti_stem(file)
            if name in found:
                raise Mri2QmapError(
                    f"--labels {folder}: {name} exists twice, as {found[name].name} and "
                    f"{file.name}; remove one of them"
                )
            if not belongs_to_subject(file):
                found[name] = file
    if not found:
        raise Mri2QmapError(
            f"--labels: {folder} contains no label maps ({', '.join(NIFTI_SUFFIXES)}), no folders "
            "of quantitative maps (T1map, T2map, PDmap) and no BrainWeb subjects "
            "(subject04_gm_v.mnc.gz, ..., or one folder for each)"
        )
    if missing := [name for name in names if name not in found]:
        raise Mri2QmapError(
            f"--subjects {' '.join(missing)}: not in {folder}; available: "
            f"{', '.join(sorted(found))}"
        )
    return {name: found[name] for name in names or sorted(found)}


def anatomy_hash(source: str) -> str:
    """Return a hash of the files of an anatomy, to detect changed content; "" if it has no files.

    Raises
    ------
    Mri2QmapError
        If a file cannot be read, or the tissue maps of a model cannot be used.
    """
    path = anatomy_path(source)
    if path is None:
        return ""
    if is_map_folder(path):
        return map_folder_hash(path)
    if path.is_file():
        return hashlib.sha256(_bytes_of(path)).hexdigest()[:12]
    if not is_subject(path):
        return ""
    digest = hashlib.sha256()
    for file in map_files(path):
        digest.update(file.name.encode() + hashlib.sha256(_bytes_of(file)).digest())
    return digest.hexdigest()[:12]


def label_anatomy(labels: NDArray[Any], affine: NDArray[np.float64], name: str) -> Anatomy:
    """Convert a label map (i, j, k) to tissues, see `LABEL_TISSUES`.

    Raises
    ------
    Mri2QmapError
        If it contains unknown labels, or no brain.
    """
    whole = labels.astype(np.int32)
    if not np.array_equal(whole, labels) or whole.min() < 0:
        raise Mri2QmapError(f"anatomy {name}: labels must be whole numbers of 0 or more")
    present = np.flatnonzero(np.bincount(whole.ravel()))
    unknown = [str(label) for label in present if label not in LABEL_TISSUES]
    if unknown:
        raise Mri2QmapError(
            f"anatomy {name}: unknown labels in the label map: "
            f"{', '.join(unknown[:20])}{' ...' if len(unknown) > 20 else ''}; expected labels of a "
            "FreeSurfer subcortical segmentation"
        )
    found = {int(label): LABEL_TISSUES[int(label)] for label in present}
    tissues = tuple(tissue for tissue in TISSUES if tissue in found.values())
    numbers = np.zeros(present[-1] + 1, dtype=np.uint8)
    for label, tissue in found.items():
        numbers[label] = 0 if tissue is None else 1 + tissues.index(tissue)
    classes = numbers[whole]
    brain = (whole > 0) & (whole < FIRST_LABEL_OUTSIDE_BRAIN)
    _require_brain(brain, name)
    return Anatomy(name, tissues, classes, None, brain, np.asarray(affine, dtype=np.float64))


def fraction_anatomy(
    tissues: tuple[Tissue, ...],
    fractions: NDArray[np.float32],
    affine: NDArray[np.float64],
    name: str,
) -> Anatomy:
    """Convert tissue fractions (tissue, i, j, k) to an anatomy. The array is modified and kept.

    Sums above 1 are normalised to 1. The brain is the largest connected component in which CSF,
    grey matter, white matter and vessels fill more than half of each voxel.

    Raises
    ------
    Mri2QmapError
        If there is no brain.
    """
    fractions /= np.maximum(fractions.sum(0), 1)
    inside = sum(fractions[tissues.index(t)] for t in BRAIN_TISSUES if t in tissues)
    pieces, count = ndimage.label(np.asarray(inside) > 0.5)
    _require_brain(np.array([count > 0]), name)
    sizes = np.bincount(pieces.ravel())
    brain = pieces == 1 + int(sizes[1:].argmax())
    return Anatomy(name, tissues, None, fractions, brain, np.asarray(affine, dtype=np.float64))


def _anatomy_of_classes(
    data: NDArray[Any], affine: NDArray[np.float64], path: Path, name: str
) -> Anatomy:
    """Convert fractions (i, j, k, class) in the order of BrainWeb.

    If values exceed 1, they are taken as percentages or integer codes and divided by the largest
    value.
    """
    n_classes = data.shape[3]
    if n_classes not in (len(BRAINWEB_CLASSES), len(BRAINWEB_CLASSES) - 1):
        raise Mri2QmapError(
            f"anatomy {path}: its fourth axis has {n_classes} tissue classes; expected "
            f"BrainWeb's {len(BRAINWEB_CLASSES)}, or {len(BRAINWEB_CLASSES) - 1} without background"
        )
    classes = BRAINWEB_CLASSES[-n_classes:]
    tissues = tuple(tissue for tissue in TISSUES if tissue in classes)
    fractions = np.zeros((len(tissues), *data.shape[:3]), dtype=np.float32)
    for number, tissue in enumerate(classes):
        if tissue is not None:
            fractions[tissues.index(tissue)] += data[..., number]
    if not np.all(np.isfinite(data)) or data.min() < 0:
        raise Mri2QmapError(f"anatomy {path}: tissue fractions must be finite and not negative")
    if data.max() > 1 + TOLERANCE:
        fractions /= np.float32(data.max())
    return fraction_anatomy(tissues, fractions, affine, name)


def _bytes_of(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise Mri2QmapError(f"anatomy {file}: it cannot be read ({error.strerror})") from error


def _require_brain(brain: NDArray[np.bool_], name: str) -> None:
    if not brain.any():
        raise Mri2QmapError(f"anatomy {name}: it contains no brain tissue to centre the scan on")

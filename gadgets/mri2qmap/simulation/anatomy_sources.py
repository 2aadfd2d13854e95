"""Anatomies at their own resolution: the ICBM152 brain, label maps, fuzzy tissue fractions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mri2qmap.denoiser.nifti_files import NIFTI_SUFFIXES, nifti_stem
from mri2qmap.errors import Mri2QmapError
from mri2qmap.simulation.fuzzy_models import (
    belongs_to_subject,
    find_subjects,
    is_subject,
    map_files,
    read_fractions,
)
from mri2qmap.simulation.tissue_maps import NIFTI, TOLERANCE, load_nifti, map_format
from mri2qmap.simulation.tissues import (
    BRAIN_TISSUES,
    BRAINWEB_CLASSES,
    CSF,
    DURA,
    FAT,
    FIRST_LABEL_OUTSIDE_BRAIN,
    GREY_MATTER,
    LABEL_TISSUES,
    MARROW,
    MUSCLE,
    TISSUES,
    WHITE_MATTER,
    Tissue,
)

ICBM, NIST = "icbm", "nist"
HEAD_LAYERS_MM: tuple[tuple[Tissue | None, float], ...] = (
    (CSF, 2.0),
    (DURA, 1.0),
    (None, 2.0),
    (MARROW, 2.0),
    (None, 2.0),
    (FAT, 4.0),
    (MUSCLE, 3.0),
)
"""Layers laid around the ICBM brain, from the inside out; None is compact bone."""


@dataclass(frozen=True)
class Anatomy:
    """Tissue at every source voxel, in one of two forms.

    Attributes
    ----------
    name
        What it is called in headers and records.
    tissues
        The tissues that occur.
    classes
        Number of the tissue, counted from 1, of each voxel (i, j, k) uint8, 0 for no signal; or
        None when `fractions` is given.
    fractions
        Fraction of each tissue (tissue, i, j, k) float32, sum at most 1; or None.
    brain
        Voxels inside the skull (i, j, k), bool.
    affine
        Map from homogeneous voxel indices (i, j, k, 1) to right-anterior-superior [mm].
    """

    name: str
    tissues: tuple[Tissue, ...]
    classes: NDArray[np.uint8] | None
    fractions: NDArray[np.float32] | None
    brain: NDArray[np.bool_]
    affine: NDArray[np.float64]

    def brain_only(self) -> Anatomy:
        """Everything outside the brain emptied (skull-stripped)."""
        classes = None if self.classes is None else self.classes * self.brain
        fractions = None if self.fractions is None else self.fractions * self.brain
        return Anatomy(self.name, self.tissues, classes, fractions, self.brain, self.affine)

    def parenchyma(self) -> NDArray[np.bool_]:
        """Voxels (i, j, k) of mostly grey and white matter inside the skull."""
        matter = [i for i, t in enumerate(self.tissues) if t in (GREY_MATTER, WHITE_MATTER)]
        if self.fractions is not None:
            filled: NDArray[np.bool_] = self.fractions[matter].sum(0) > 0.5
        elif self.classes is not None:
            filled = np.isin(self.classes, [1 + i for i in matter])
        return filled & self.brain

    @property
    def voxel_size_mm(self) -> NDArray[np.float64]:
        """Voxel edge lengths along (i, j, k) [mm]."""
        edges: NDArray[np.float64] = np.linalg.norm(self.affine[:3, :3], axis=0)
        return edges


def load_anatomy(source: str, head: bool = True) -> Anatomy:
    """Load an anatomy by name or from files.

    Parameters
    ----------
    source
        ``"icbm"``; ``"nist"``, the system phantom; a NIfTI file of labels; a 4-D NIfTI file of
        tissue fractions in the order `BRAINWEB_CLASSES` (with or without the background); a
        folder of tissue maps, or FOLDER/SUBJECT for the maps of one BrainWeb subject in it, see
        `mri2qmap.simulation.fuzzy_models.map_files`.
    head
        Whether what lies outside the brain is wanted. Only the ICBM brain makes a difference:
        it has to invent it.

    Raises
    ------
    Mri2QmapError
        If it cannot be read, or holds labels or files of unknown meaning.
    """
    if source == ICBM:
        return icbm_anatomy(head)
    if source == NIST:
        from mri2qmap.simulation.system_phantom import system_phantom

        return system_phantom()
    path = Path(source)
    if is_subject(path):
        return fraction_anatomy(*read_fractions(path), path.name)
    if not path.is_file():
        raise Mri2QmapError(
            f"anatomy {source}: there is no such file or folder; expected '{ICBM}', a NIfTI label "
            "map, a 4-D NIfTI of tissue fractions, a folder of one map a tissue, or "
            "FOLDER/SUBJECT where file names begin with the subject"
        )
    if map_format(path) not in (NIFTI, None):
        raise Mri2QmapError(
            f"anatomy {path}: it holds one tissue at most; expected the folder of all the maps, "
            "or FOLDER/SUBJECT where file names begin with the subject"
        )
    image = load_nifti(path)
    data, name = np.asarray(image.dataobj), nifti_stem(path)
    if data.ndim == 4:
        return _anatomy_of_classes(data, image.affine, path, name)
    if data.ndim != 3:
        raise Mri2QmapError(f"anatomy {path}: it has {data.ndim} dimensions; 3 or 4 expected")
    return label_anatomy(data, image.affine, name)


def find_anatomies(folder: Path, names: Sequence[str] = ()) -> dict[str, Path]:
    """Label maps and fuzzy models in a folder: name -> what `load_anatomy` takes.

    Parameters
    ----------
    folder
        Holds NIfTI label maps, files of BrainWeb subjects (``subject04_gm_v.mnc.gz``), folders of
        tissue maps, or several of these.
    names
        Which of them, in the order wanted; all if empty.

    Raises
    ------
    Mri2QmapError
        If there is no such folder, nothing in it or not what is named, or a name occurs twice.
    """
    if not folder.is_dir():
        raise Mri2QmapError(f"--labels: {folder} is not a folder")
    found = find_subjects(folder)
    for file in sorted(folder.iterdir()):
        if file.name.endswith(NIFTI_SUFFIXES) and not file.name.startswith("."):
            name = nifti_stem(file)
            if name in found:
                raise Mri2QmapError(
                    f"--labels {folder}: {name} is there twice, as {found[name].name} and "
                    f"{file.name}; keep one"
                )
            if not belongs_to_subject(file):
                found[name] = file
    if not found:
        raise Mri2QmapError(
            f"--labels: {folder} holds no label maps ({', '.join(NIFTI_SUFFIXES)}) and no BrainWeb "
            "subjects (subject04_gm_v.mnc.gz ..., or a folder for each)"
        )
    if missing := [name for name in names if name not in found]:
        raise Mri2QmapError(
            f"--subjects {' '.join(missing)}: not in {folder}; it has {', '.join(sorted(found))}"
        )
    return {name: found[name] for name in names or sorted(found)}


def anatomy_hash(source: str) -> str:
    """Hash of the files of an anatomy, to notice others of the same name; "" if it has none.

    Raises
    ------
    Mri2QmapError
        If a file cannot be read, or it stands for tissue maps that cannot be used.
    """
    path = Path(source)
    if path.is_file():
        return hashlib.sha256(_bytes_of(path)).hexdigest()[:12]
    if source in (ICBM, NIST) or not is_subject(path):
        return ""
    digest = hashlib.sha256()
    for file in map_files(path):
        digest.update(file.name.encode() + hashlib.sha256(_bytes_of(file)).digest())
    return digest.hexdigest()[:12]


def label_anatomy(labels: NDArray, affine: NDArray[np.float64], name: str) -> Anatomy:
    """Turn a label map (i, j, k) into tissues, see `LABEL_TISSUES`.

    Raises
    ------
    Mri2QmapError
        If it holds labels of unknown meaning, or no brain.
    """
    whole = labels.astype(np.int32)
    if not np.array_equal(whole, labels) or whole.min() < 0:
        raise Mri2QmapError(f"anatomy {name}: a label is not a whole number of 0 or more")
    present = np.flatnonzero(np.bincount(whole.ravel()))
    unknown = [str(label) for label in present if label not in LABEL_TISSUES]
    if unknown:
        raise Mri2QmapError(
            f"anatomy {name}: it is read as a label map, and these labels have no known tissue: "
            f"{', '.join(unknown[:20])}{' ...' if len(unknown) > 20 else ''}; FreeSurfer's labels "
            "of a subcortical segmentation are expected"
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
    """Turn fuzzy tissue fractions (tissue, i, j, k), which are taken over, into an anatomy.

    Where the sum exceeds 1 it is brought to 1. Brain is where CSF, grey matter, white matter and
    vessels together are the larger part, in one piece.

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


def icbm_anatomy(head: bool = True) -> Anatomy:
    """The average brain ICBM152 (2009, symmetric) at 1 mm, from the files of nilearn.

    The template is an average over 152 people and its T1 image is skull-stripped. Its tissue
    probabilities are squared and normalised again, which undoes some of the blur of the
    averaging; what they leave inside the skull-stripped mask is CSF. With `head`, layers of CSF,
    dura, bone with marrow, fat and skin are laid around the smooth hull of the brain
    (`HEAD_LAYERS_MM`): no anatomy, but a source of signal where a head has it.
    """
    try:
        from nilearn import datasets
    except ImportError as error:
        raise Mri2QmapError(
            f"the ICBM brain needs nilearn ({error}); install it (pip install nilearn) or choose "
            "a label map with --anatomy FILE.nii.gz"
        ) from error
    images = [
        getattr(datasets, f"load_mni152_{kind}template")(resolution=1)
        for kind in ("", "gm_", "wm_")
    ]
    template, grey, white = (np.asarray(i.dataobj, dtype=np.float32) for i in images)
    affine = images[0].affine
    brain = ndimage.binary_fill_holes(template > 0)
    probabilities = np.stack([np.clip(1 - grey - white, 0, 1), grey, white]) * brain
    probabilities = np.maximum(probabilities, 0) ** 2
    probabilities /= np.maximum(probabilities.sum(0), 1e-6)
    fractions = dict(zip((CSF, GREY_MATTER, WHITE_MATTER), probabilities, strict=True))
    if head:
        fractions, brain, affine = _with_head(fractions, brain, affine)
    tissues = tuple(tissue for tissue in TISSUES if tissue in fractions)
    stack = np.stack([fractions[tissue] for tissue in tissues])
    return Anatomy("ICBM152", tissues, None, stack, brain, affine)


def _with_head(
    fractions: dict[Tissue, NDArray[np.float32]],
    brain: NDArray[np.bool_],
    affine: NDArray[np.float64],
) -> tuple[dict[Tissue, NDArray[np.float32]], NDArray[np.bool_], NDArray[np.float64]]:
    """Pad the volume and lay `HEAD_LAYERS_MM` around the hull of the brain."""
    margin = 24
    fractions = {tissue: np.pad(f, margin) for tissue, f in fractions.items()}
    brain = np.pad(brain, margin)
    affine = affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ np.full(3, margin)
    # Distances on a 2 mm grid: eight times fewer voxels, and the hull is smooth anyway.
    coarse = brain[::2, ::2, ::2]
    closing = 8.0
    away = 2 * ndimage.distance_transform_edt(~coarse)
    hull = 2 * ndimage.distance_transform_edt(away < closing) >= closing
    signed = 2 * (ndimage.distance_transform_edt(~hull) - ndimage.distance_transform_edt(hull))
    signed = ndimage.gaussian_filter(signed, 1.0)
    axes = [np.arange(n) / 2 for n in brain.shape]
    distance = _interpolate(signed.astype(np.float32), axes)
    inner = -np.inf
    outer = 0.0
    for tissue, thickness in HEAD_LAYERS_MM:
        outer += thickness
        layer = ((distance > inner) & (distance <= outer) & ~brain).astype(np.float32)
        if tissue is not None:
            fractions[tissue] = np.maximum(fractions.get(tissue, np.float32(0)), layer)
        inner = outer
    return fractions, brain, affine


def _interpolate(volume: NDArray[np.float32], axes: list[NDArray]) -> NDArray[np.float32]:
    """Interpolate linearly at the grid of positions `axes`, one axis after the other."""
    for axis, positions in enumerate(axes):
        low = np.minimum(positions.astype(int), volume.shape[axis] - 2)
        weight = np.minimum(positions - low, 1).astype(np.float32)
        weight = weight.reshape([-1 if i == axis else 1 for i in range(3)])
        volume = volume.take(low, axis) * (1 - weight) + volume.take(low + 1, axis) * weight
    return volume


def _anatomy_of_classes(
    data: NDArray, affine: NDArray[np.float64], path: Path, name: str
) -> Anatomy:
    """Read fuzzy fractions (i, j, k, class) in BrainWeb's order.

    Values above 1 are taken as per cent, 8-bit or other integers: all are divided by the largest.
    """
    n_classes = data.shape[3]
    if n_classes not in (len(BRAINWEB_CLASSES), len(BRAINWEB_CLASSES) - 1):
        raise Mri2QmapError(
            f"anatomy {path}: its fourth axis holds {n_classes} tissue classes; expected "
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
        raise Mri2QmapError(f"anatomy {name}: it holds no brain tissue to centre the scan on")

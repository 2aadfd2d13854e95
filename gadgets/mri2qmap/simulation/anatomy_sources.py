"""Anatomies at their own resolution: the ICBM152 brain, label maps, fuzzy tissue fractions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mri2qmap.denoiser.nifti_files import nifti_files
from mri2qmap.errors import Mri2QmapError
from mri2qmap.simulation.tissues import (
    AROUND_FAT,
    BRAIN_TISSUES,
    BRAINWEB_CLASSES,
    CSF,
    DURA,
    FAT,
    FILE_TOKENS,
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
        tissue fractions in the order `BRAINWEB_CLASSES` (with or without the background); or a
        folder of NIfTI files, one a tissue, whose names tell the tissue (`FILE_TOKENS`).
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
    if path.is_dir():
        return _anatomy_of_folder(path)
    if not path.is_file():
        raise Mri2QmapError(
            f"anatomy {source}: there is no such file or folder; expected '{ICBM}', a NIfTI label "
            "map, a 4-D NIfTI of tissue fractions, or a folder of one NIfTI a tissue"
        )
    image = _load_nifti(path)
    data, name = np.asarray(image.dataobj), _stem(path)
    if data.ndim == 4:
        return _anatomy_of_classes(data, image.affine, path, name)
    if data.ndim != 3:
        raise Mri2QmapError(f"anatomy {path}: it has {data.ndim} dimensions; 3 or 4 expected")
    return label_anatomy(data, image.affine, name)


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
    fractions: dict[Tissue, NDArray[np.float32]], affine: NDArray[np.float64], name: str
) -> Anatomy:
    """Turn fuzzy tissue fractions (i, j, k) each into an anatomy.

    Values above 1 are taken as per cent, 8-bit or other integers: all are divided by the largest.
    Where the sum exceeds 1 it is brought to 1. Brain is where CSF, grey matter, white matter and
    vessels together are the larger part, in one piece.
    """
    tissues = tuple(tissue for tissue in TISSUES if tissue in fractions)
    stack = np.stack([fractions[tissue] for tissue in tissues]).astype(np.float32)
    if not np.all(np.isfinite(stack)) or stack.min() < 0:
        raise Mri2QmapError(f"anatomy {name}: tissue fractions must be finite and not negative")
    if stack.max() > 1.01:
        stack /= stack.max()
    stack /= np.maximum(stack.sum(0), 1)
    inside = sum(stack[tissues.index(t)] for t in BRAIN_TISSUES if t in tissues)
    pieces, count = ndimage.label(np.asarray(inside) > 0.5)
    _require_brain(np.array([count > 0]), name)
    sizes = np.bincount(pieces.ravel())
    brain = pieces == 1 + int(sizes[1:].argmax())
    return Anatomy(name, tissues, None, stack, brain, np.asarray(affine, dtype=np.float64))


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
    except ModuleNotFoundError as error:
        raise Mri2QmapError(
            "the ICBM brain needs nilearn; install it (pip install nilearn) or choose a label map "
            "with --anatomy FILE.nii.gz"
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
    """Read fuzzy fractions (i, j, k, class) in BrainWeb's order."""
    n_classes = data.shape[3]
    if n_classes not in (len(BRAINWEB_CLASSES), len(BRAINWEB_CLASSES) - 1):
        raise Mri2QmapError(
            f"anatomy {path}: its fourth axis holds {n_classes} tissue classes; expected "
            f"BrainWeb's {len(BRAINWEB_CLASSES)}, or {len(BRAINWEB_CLASSES) - 1} without background"
        )
    fractions: dict[Tissue, NDArray[np.float32]] = {}
    for number, tissue in enumerate(BRAINWEB_CLASSES[-n_classes:]):
        if tissue is not None:
            values = data[..., number].astype(np.float32)
            fractions[tissue] = fractions.get(tissue, np.float32(0)) + values
    return fraction_anatomy(fractions, affine, name)


def _anatomy_of_folder(folder: Path) -> Anatomy:
    """Read fuzzy fractions, one file a tissue."""
    files = nifti_files(folder, "anatomy")
    fractions: dict[Tissue, NDArray[np.float32]] = {}
    affine = shape = None
    for file in files:
        tissue = _tissue_of_file(file)
        if tissue is None:
            continue
        image = _load_nifti(file)
        values = np.asarray(image.dataobj, dtype=np.float32)
        if affine is None:
            affine, shape = image.affine, values.shape
        if values.ndim != 3 or values.shape != shape or not np.allclose(image.affine, affine):
            raise Mri2QmapError(
                f"anatomy {file}: its grid {values.shape} is not that of the other files {shape}; "
                "all tissues must lie on the same 3-D grid"
            )
        fractions[tissue] = fractions.get(tissue, np.float32(0)) + values
    if affine is None:
        raise Mri2QmapError(f"anatomy {folder}: no file holds a tissue that gives signal")
    return fraction_anatomy(fractions, affine, folder.name)


def _tissue_of_file(file: Path) -> Tissue | None:
    words = [w for w in re.split(r"[^a-z0-9]+", _stem(file).lower()) if w in FILE_TOKENS]
    if not words:
        raise Mri2QmapError(
            f"anatomy {file}: its name does not tell the tissue; one of these words is expected "
            f"in it: {', '.join(FILE_TOKENS)}"
        )
    found = [FILE_TOKENS[word] for word in words]
    return AROUND_FAT if AROUND_FAT in found else found[-1]


def _require_brain(brain: NDArray[np.bool_], name: str) -> None:
    if not brain.any():
        raise Mri2QmapError(f"anatomy {name}: it holds no brain tissue to centre the scan on")


def _stem(path: Path) -> str:
    return re.sub(r"\.nii(\.gz)?$", "", path.name)


def _load_nifti(path: Path) -> nib.Nifti1Image:
    try:
        image = nib.Nifti1Image.from_filename(path)
        np.asarray(image.dataobj[:1])
    except Exception as error:  # whatever a broken file makes the readers raise
        raise Mri2QmapError(
            f"anatomy {path}: it cannot be read as NIfTI ({' '.join(str(error).split())})"
        ) from error
    if abs(np.linalg.det(image.affine[:3, :3])) < 1e-9:
        raise Mri2QmapError(f"anatomy {path}: its affine is singular")
    return image

"""Files of a small truth, and maps like those written by replay."""

import dataclasses
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from mri2qmap.evaluation.maps import Maps
from mri2qmap.mrsignal.dictionary import Dictionary, DictionarySettings, build_dictionary
from mri2qmap.mrsignal.sequence import default_sequence
from mri2qmap.simulation.truth import Truth

SEQUENCE = default_sequence(60)
SHAPE = (12, 14, 16)
AFFINE = np.array([[-2.0, 0, 0, 10], [0, -3.0, 0, 20], [0, 0, 4.0, -30], [0, 0, 0, 1]])


def small_dictionary() -> Dictionary:
    return build_dictionary(SEQUENCE, DictionarySettings(step=0.2))


def truth_of(dictionary: Dictionary, white: int, grey: int, whole: bool = False) -> Truth:
    """White matter in one half and grey in the other, with the values of two table entries.

    They fill the whole grid, or a block inside it.
    """
    t1, t2, density = (np.zeros(SHAPE, np.float32) for _ in range(3))
    halves = np.zeros((2, *SHAPE), bool)
    block = np.s_[:] if whole else np.s_[2:10, 3:11, 3:13]
    halves[0][block] = True
    halves[1] = halves[0]
    halves[0, :, :, 8:] = False
    halves[1, :, :, :8] = False
    tsmi = np.zeros((dictionary.mrf_atoms.shape[1], *SHAPE), np.complex64)
    for mask, entry, amount in zip(halves, (white, grey), (0.75, 0.85), strict=True):
        t1[mask], t2[mask] = float(dictionary.lut.t1[entry]), float(dictionary.lut.t2[entry])
        density[mask] = amount
        tsmi[:, mask] = amount * np.exp(0.5j) * dictionary.mrf_atoms[entry].numpy()[:, None]
    return Truth(
        t1, t2, density, np.ones(SHAPE, np.float32), halves[0], halves[1], halves.any(0), tsmi,
        SEQUENCE, AFFINE, {},
    )  # fmt: skip


def entry(dictionary: Dictionary, t1: float, t2: float) -> int:
    """Table entry nearest to a tissue."""
    distance = (dictionary.lut.t1 / t1).log() ** 2 + (dictionary.lut.t2 / t2).log() ** 2
    return int(torch.argmin(distance))


def maps_of(truth: Truth, **changes: np.ndarray) -> Maps:
    return dataclasses.replace(
        Maps(truth.t1.copy(), truth.t2.copy(), truth.proton_density.copy()), **changes
    )


def save_maps(folder: Path, maps: Maps, affine: np.ndarray = AFFINE) -> Path:
    (folder / "nifti").mkdir(parents=True)
    for name, volume in (
        ("T1map", maps.t1),
        ("T2map", maps.t2),
        ("PDmap", maps.proton_density),
    ):
        nib.save(nib.Nifti1Image(volume.T, affine), folder / "nifti" / f"{name}.nii.gz")
    return folder

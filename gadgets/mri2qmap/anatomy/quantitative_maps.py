"""Quantitative maps as an anatomy: T1, T2 and proton density of every voxel."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from mri2qmap.anatomy.fraction_maps import load_nifti
from mri2qmap.anatomy.lesions import Lesion
from mri2qmap.errors import Mri2QmapError
from mri2qmap.storage.written import FILES, listed, record_bytes

MAPS = ("T1map", "T2map", "PDmap")
MASKS = ("brain_mask", "white_matter_mask", "grey_matter_mask")
B1_MAP, LESION_MAP, RECORD = "B1map", "lesions", "anatomy.json"

T1_RANGE, T2_RANGE = (0.01, 10.0), (0.001, 5.0)
"""Possible T1 and T2 of tissue [s]; medians outside of them are in another unit."""
_WHITE_T1, _GREY_T1 = (0.5, 1.05), (1.05, 1.9)
"""T1 of white and grey matter at 3 T [s], for maps without masks."""
_MOST_LESIONS = 1000
"""Largest number of labels; a volume with more values is taken for an image."""
_DENSITY = 0.3
"""Proton density, relative to the 99th percentile, above which a voxel belongs to the brain."""

_new_image: Callable[..., nib.Nifti1Image] = nib.Nifti1Image  # without type annotations


@dataclass(frozen=True, eq=False)
class QuantitativeMaps:
    """T1, T2 and proton density of every source voxel. All volumes are (i, j, k).

    Attributes
    ----------
    name
        Name in headers and records.
    t1, t2
        Relaxation times [s], float32; positive where the proton density is.
    proton_density
        Relative to water, float32; 0 where there is no signal.
    brain
        Voxels inside the skull, bool.
    white_matter, grey_matter
        Voxels of the tissue, without lesions, bool.
    affine
        Homogeneous voxel indices (i, j, k, 1) to right-anterior-superior [mm].
    b1
        Relative transmit field, float32; None if it is uniform.
    lesion_labels
        Label of the lesion of each voxel, int16, 0 for none; None without lesions.
    lesions
        The lesions, in the order of their labels, from 1.
    """

    name: str
    t1: NDArray[np.float32]
    t2: NDArray[np.float32]
    proton_density: NDArray[np.float32]
    brain: NDArray[np.bool_]
    white_matter: NDArray[np.bool_]
    grey_matter: NDArray[np.bool_]
    affine: NDArray[np.float64]
    b1: NDArray[np.float32] | None = None
    lesion_labels: NDArray[np.int16] | None = None
    lesions: tuple[Lesion, ...] = ()

    def brain_only(self) -> QuantitativeMaps:
        """Return a skull-stripped copy: no signal outside the brain."""
        return replace(self, proton_density=self.proton_density * self.brain)

    def parenchyma(self) -> NDArray[np.bool_]:
        """Return voxels (i, j, k) of white and grey matter inside the skull."""
        inside: NDArray[np.bool_] = (self.white_matter | self.grey_matter) & self.brain
        return inside

    @property
    def voxel_size_mm(self) -> NDArray[np.float64]:
        """Voxel edge lengths along (i, j, k) [mm]."""
        edges: NDArray[np.float64] = np.linalg.norm(self.affine[:3, :3], axis=0)
        return edges


def is_map_folder(path: Path) -> bool:
    """Whether a folder contains quantitative maps."""
    return path.is_dir() and any(_file(path, name) is not None for name in MAPS[:2])


def read_quantitative_maps(folder: Path) -> QuantitativeMaps:
    """Read an anatomy from a folder of NIfTI volumes.

    ``T1map``, ``T2map`` (in s or ms, recognised by the values) and ``PDmap`` are required, as
    ``.nii`` or ``.nii.gz`` on one grid. ``brain_mask``, ``white_matter_mask``,
    ``grey_matter_mask``, ``B1map`` (relative to the nominal field) and ``lesions`` (labels) are
    read if they are there. Without masks, white and grey matter are distinguished by T1 at 3 T.
    ``lesions`` without the record ``anatomy.json`` are labels from another source: each lesion is
    named after its label, and its size and times are measured on its voxels.

    Raises
    ------
    Mri2QmapError
        If a map is missing, cannot be read, is on another grid, or has impossible values.
    """
    affine: NDArray[np.float64] | None = None
    volumes: dict[str, NDArray[np.float32]] = {}
    for name in (*MAPS, *MASKS, B1_MAP, LESION_MAP):
        file = _file(folder, name)
        if file is None:
            if name in MAPS:
                raise Mri2QmapError(
                    f"anatomy {folder}: it contains no {name}.nii.gz; quantitative maps are "
                    f"{', '.join(MAPS)}"
                )
            continue
        volume, its_affine = _read(file)
        affine = its_affine if affine is None else affine
        if volume.shape != volumes.get("T1map", volume).shape or not np.allclose(
            its_affine, affine, atol=1e-3
        ):
            raise Mri2QmapError(f"anatomy {file}: its grid is not that of T1map")
        volumes[name] = volume
    assert affine is not None
    t1, t2 = (_seconds(volumes[n], limits, folder / n) for n, limits in _LIMITS.items())
    density = volumes["PDmap"]
    if not np.all(np.isfinite(density)) or density.min() < 0 or density.max() == 0:
        raise Mri2QmapError(
            f"anatomy {folder}: PDmap must be finite, not negative, and not zero everywhere"
        )
    density = np.where((t1 > 0) & (t2 > 0), density, 0)
    density = density / np.float32(max(1.0, float(np.percentile(density[density > 0], 99))))
    b1 = volumes.get(B1_MAP)
    if b1 is not None and not (np.all(np.isfinite(b1)) and 0.1 < np.median(b1[density > 0]) < 5):
        raise Mri2QmapError(
            f"anatomy {folder}: B1map must be finite and relative to the nominal field (near 1)"
        )
    t1, t2 = np.where(density > 0, t1, 1), np.where(density > 0, t2, 0.1)
    brain, white, grey = _masks(volumes, t1, density)
    voxel_mm3 = float(abs(np.linalg.det(affine[:3, :3])))
    labels, lesions = _lesions(folder, volumes.get(LESION_MAP), (t1, t2, density), voxel_mm3)
    if labels is not None:
        white, grey = white & (labels == 0), grey & (labels == 0)
    name = folder.resolve().name
    return QuantitativeMaps(name, t1, t2, density, brain, white, grey, affine, b1, labels, lesions)


_LIMITS = {"T1map": T1_RANGE, "T2map": T2_RANGE}


def write_quantitative_maps(
    folder: Path, maps: QuantitativeMaps, record: Mapping[str, Any] | None = None
) -> None:
    """Write the volumes that `read_quantitative_maps` reads into an existing folder.

    Parameters
    ----------
    folder
        Existing, empty folder.
    maps
        What is written.
    record
        Further content of the record ``anatomy.json``.

    Raises
    ------
    OSError
        If a file cannot be written.
    """
    filled = maps.proton_density > 0
    volumes: dict[str, NDArray[Any]] = {
        "T1map": maps.t1 * filled,
        "T2map": maps.t2 * filled,
        "PDmap": maps.proton_density,
        "brain_mask": maps.brain.astype(np.uint8),
        "white_matter_mask": maps.white_matter.astype(np.uint8),
        "grey_matter_mask": maps.grey_matter.astype(np.uint8),
    }
    if maps.b1 is not None:
        volumes[B1_MAP] = maps.b1
    if maps.lesion_labels is not None:
        volumes[LESION_MAP] = maps.lesion_labels
    for name, volume in volumes.items():
        nib.save(_new_image(volume, maps.affine), folder / f"{name}.nii.gz")
    content = {
        "name": maps.name,
        **(record or {}),
        "lesions": [asdict(lesion) for lesion in maps.lesions],
        FILES: listed(folder),
    }
    (folder / RECORD).write_bytes(record_bytes(content))


def map_folder_hash(folder: Path) -> str:
    """Return a hash of the volumes in a folder of quantitative maps.

    Raises
    ------
    Mri2QmapError
        If a file cannot be read.
    """
    digest = hashlib.sha256()
    for name in (*MAPS, *MASKS, B1_MAP, LESION_MAP):
        file = _file(folder, name)
        if file is not None:
            try:
                content = file.read_bytes()
            except OSError as error:
                raise Mri2QmapError(
                    f"anatomy {file}: it cannot be read ({error.strerror})"
                ) from error
            digest.update(file.name.encode() + hashlib.sha256(content).digest())
    return digest.hexdigest()[:12]


def _file(folder: Path, name: str) -> Path | None:
    found = (folder / f"{name}{suffix}" for suffix in (".nii.gz", ".nii"))
    return next((path for path in found if path.is_file()), None)


def _read(file: Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    image = load_nifti(file)
    try:
        volume = np.asarray(image.dataobj, dtype=np.float32)
    except Exception as error:  # readers raise many types for damaged files
        raise Mri2QmapError(f"anatomy {file}: it cannot be read ({error})") from error
    if volume.ndim != 3:
        raise Mri2QmapError(f"anatomy {file}: it has {volume.ndim} dimensions; expected 3")
    return volume, np.asarray(image.affine, dtype=np.float64)


def _seconds(
    values: NDArray[np.float32], limits: tuple[float, float], what: Path
) -> NDArray[np.float32]:
    """Convert a map in s or ms to seconds."""
    if not np.all(np.isfinite(values)) or values.min() < 0 or values.max() == 0:
        raise Mri2QmapError(
            f"anatomy {what}: values must be finite, not negative, and not zero everywhere"
        )
    median = float(np.median(values[values > 0]))
    for unit in (1.0, 1e-3):
        if limits[0] <= median * unit <= limits[1]:
            return np.asarray(np.minimum(values * np.float32(unit), limits[1]), dtype=np.float32)
    raise Mri2QmapError(
        f"anatomy {what}: the median of its values is {median:.4g}; times in s or ms are expected "
        f"({limits[0]:g} to {limits[1]:g} s)"
    )


def _masks(
    volumes: dict[str, NDArray[np.float32]],
    t1: NDArray[np.float32],
    density: NDArray[np.float32],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Masks of brain, white and grey matter, from files or else by density and T1."""
    if "brain_mask" in volumes:
        brain = volumes["brain_mask"] > 0.5
    else:
        brain = density > _DENSITY * np.percentile(density[density > 0], 99)
    if "white_matter_mask" in volumes and "grey_matter_mask" in volumes:
        return (
            brain,
            volumes["white_matter_mask"] > 0.5,
            volumes["grey_matter_mask"] > 0.5,
        )
    white, grey = ((t1 >= low) & (t1 < high) & brain for low, high in (_WHITE_T1, _GREY_T1))
    return brain, white, grey


def _lesions(
    folder: Path,
    labels: NDArray[np.float32] | None,
    parameters: tuple[NDArray[np.float32], ...],
    voxel_mm3: float,
) -> tuple[NDArray[np.int16] | None, tuple[Lesion, ...]]:
    """Labels from 1 without gaps and their lesions: of the record, or else of the volumes."""
    if labels is None:
        return None, ()
    numbers = np.unique(labels[labels != 0])
    if len(numbers) > _MOST_LESIONS or not np.array_equal(numbers, np.abs(np.rint(numbers))):
        raise Mri2QmapError(
            f"anatomy {folder / LESION_MAP}: {len(numbers)} different values were found; labels "
            "are expected: 0 outside of lesions, and a whole positive number for each lesion, at "
            f"most {_MOST_LESIONS} lesions"
        )
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        lesions = tuple(
            Lesion(**{**lesion, "centre": tuple(lesion["centre"])}) for lesion in record["lesions"]
        )
    except FileNotFoundError:
        return (
            np.asarray(np.searchsorted(numbers, labels, side="right") * (labels > 0), np.int16),
            tuple(_measured(number, labels == number, parameters, voxel_mm3) for number in numbers),
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise Mri2QmapError(f"anatomy {folder / RECORD}: it cannot be read ({error})") from error
    if len(numbers) and numbers[-1] > len(lesions):
        raise Mri2QmapError(
            f"anatomy {folder}: {LESION_MAP} contains label {numbers[-1]:.0f}, but {RECORD} lists "
            f"{len(lesions)} lesions; remove {RECORD} if the labels are from another source"
        )
    return labels.astype(np.int16), lesions


def _measured(
    number: float,
    inside: NDArray[np.bool_],
    parameters: tuple[NDArray[np.float32], ...],
    voxel_mm3: float,
) -> Lesion:
    """A lesion described by its voxels: diameter of the ball of its volume, median values."""
    diameter = float(np.cbrt(6 / np.pi * inside.sum() * voxel_mm3))
    t1, t2, density = (float(np.median(volume[inside])) for volume in parameters)
    centre = tuple(float(np.mean(index)) for index in np.nonzero(inside))
    return Lesion(f"lesion {number:.0f}", diameter, t1, t2, density, centre=centre)

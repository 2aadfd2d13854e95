"""Tissue maps, the share of one tissue in every voxel: from MINC, raw bytes or NIfTI."""

from __future__ import annotations

import gzip
import io
from dataclasses import dataclass
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
from nibabel.fileholders import FileHolder
from nibabel.minc2 import Minc2File
from numpy.typing import NDArray

from mri2qmap.errors import Mri2QmapError

MINC, RAW_BYTES, NIFTI = ".mnc", ".rawb", ".nii"
MAP_FORMATS = (MINC, RAW_BYTES, NIFTI)
"""Endings of the files that are read; each may be followed by ``.gz``."""

TOLERANCE = 0.01
"""How far fractions may lie outside 0 to 1."""

AIR_LEVEL = 2.5 / 255
"""What a map may hold in air and still be taken as empty there."""

_SIGN_BIT = 0x80
_GZIP, _HDF5 = b"\x1f\x8b", b"\x89HDF"


@dataclass(frozen=True)
class RawGrid:
    """Grid of a BrainWeb model, which its raw files do not tell.

    Attributes
    ----------
    shape
        Number of voxels (x, y, z); x runs fastest in the file.
    voxel_mm
        Voxel edge length [mm].
    start_mm
        Centre of the first voxel (x, y, z), right-anterior-superior [mm].
    """

    shape: tuple[int, int, int]
    voxel_mm: float
    start_mm: tuple[float, float, float]

    @property
    def affine(self) -> NDArray[np.float64]:
        """Map from homogeneous voxel indices (x, y, z, 1) to right-anterior-superior [mm]."""
        affine = np.diag([self.voxel_mm] * 3 + [1.0])
        affine[:3, 3] = self.start_mm
        return affine


RAW_GRIDS = (
    RawGrid((362, 434, 362), 0.5, (-90.25, -126.25, -72.25)),
    RawGrid((181, 217, 181), 1.0, (-90.0, -126.0, -72.0)),
)
"""BrainWeb's 20 normal brains, and its single normal brain."""


@dataclass(frozen=True)
class TissueMap:
    """Share of one tissue.

    Attributes
    ----------
    values
        (i, j, k) float32, axes nearest to right, anterior and superior; 0 to 1 from MINC and raw
        bytes, as they are in the file, but not negative, from NIfTI.
    affine
        Map from homogeneous voxel indices (i, j, k, 1) to right-anterior-superior [mm].
    """

    values: NDArray[np.float32]
    affine: NDArray[np.float64]


def map_format(path: Path) -> str | None:
    """Return which of `MAP_FORMATS` a file name ends with, ``.gz`` aside; None for others."""
    name = path.name.removesuffix(".gz")
    return next((ending for ending in MAP_FORMATS if name.endswith(ending)), None)


def map_stem(path: Path) -> str:
    """File name without the ending of its format."""
    return path.name.removesuffix(".gz").removesuffix(map_format(path) or "")


def read_tissue_map(path: Path) -> TissueMap:
    """Read the share of one tissue.

    What a map holds in the corners of its grid, which are air, counts as nothing everywhere if it
    is next to nothing: BrainWeb's vessels fill 1/255 of the air.

    Raises
    ------
    Mri2QmapError
        If the file is damaged, has not three axes, or holds what cannot be fractions.
    """
    kind = map_format(path)
    if kind == RAW_BYTES:
        values, affine = _raw_bytes(path)
    elif kind == MINC:
        values, affine = _minc(path)
    else:
        image = load_nifti(path)
        values, affine = np.asarray(image.dataobj, dtype=np.float32), image.affine
    if values.ndim != 3:
        raise Mri2QmapError(f"anatomy {path}: it has {values.ndim} dimensions; 3 expected")
    lowest, highest = float(values.min()), float(values.max())
    if kind == MINC and (lowest < -TOLERANCE or highest > 1 + TOLERANCE):
        raise Mri2QmapError(
            f"anatomy {path}: its values run from {lowest:.4g} to {highest:.4g}; fractions of 0 "
            "to 1 are expected (BrainWeb's fuzzy maps; not the discrete model, nor an image)"
        )
    if kind == MINC:
        values = np.clip(values, 0, 1)
    if not np.all(np.isfinite(values)) or values.min() < 0:
        raise Mri2QmapError(f"anatomy {path}: tissue fractions must be finite and not negative")
    air = _corners(values)
    if 0 < air <= AIR_LEVEL:
        values = np.where(values <= air, np.float32(0), values)
    turn = nib.io_orientation(affine)
    return TissueMap(
        np.ascontiguousarray(nib.apply_orientation(values, turn)),
        affine @ nib.orientations.inv_ornt_aff(turn, values.shape),
    )


def load_nifti(path: Path) -> nib.Nifti1Image:
    """Open a NIfTI file of an anatomy.

    Raises
    ------
    Mri2QmapError
        If it cannot be read, or its affine is singular.
    """
    try:
        image = nib.Nifti1Image.from_filename(path)
        np.asarray(image.dataobj[:1])
    except Exception as error:  # whatever a broken file makes the readers raise
        raise _unreadable(path, "NIfTI", error) from error
    _require_regular(image.affine, path)
    return image


def _raw_bytes(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Fractions (x, y, z) and affine of a file of bytes without a header.

    BrainWeb calls all of them unsigned. Those of the 20 brains are signed, nothing being -128;
    the air in the corners tells.
    """
    content = _content(path, "raw bytes")
    for grid in RAW_GRIDS:
        if np.prod(grid.shape) == len(content):
            break
    else:
        lengths = (
            f"{np.prod(grid.shape)} ({' x '.join(map(str, grid.shape))})" for grid in RAW_GRIDS
        )
        raise Mri2QmapError(
            f"anatomy {path}: it holds {len(content)} bytes; a fuzzy map of BrainWeb as raw bytes "
            f"holds {' or '.join(lengths)}. Is it cut off, or of another format? MINC (.mnc) has a "
            "header"
        )
    codes = np.frombuffer(content, dtype=np.uint8).reshape(grid.shape[::-1]).transpose()
    air = int(_corners(codes))
    signed = (air ^ _SIGN_BIT) < air
    if (air ^ _SIGN_BIT if signed else air) > 255 * AIR_LEVEL:
        raise Mri2QmapError(
            f"anatomy {path}: its corners hold byte {air}; in air a fuzzy map of one tissue holds "
            "0 (or 128, where bytes are signed)"
        )
    return np.divide(codes ^ _SIGN_BIT if signed else codes, 255, dtype=np.float32), grid.affine


def _minc(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Values as the header scales them, and affine, of a MINC 1 or 2 file."""
    content = _content(path, "MINC")
    try:
        if content.startswith(_HDF5):
            # nibabel opens MINC 2 by name only, and so not what was compressed.
            with h5py.File(io.BytesIO(content), "r") as file:
                minc = Minc2File(file)
                values, affine = minc.get_scaled_data(), minc.get_affine()
        else:
            image = nib.Minc1Image.from_file_map({"image": FileHolder(fileobj=io.BytesIO(content))})
            values, affine = np.asarray(image.dataobj), image.affine
    except Exception as error:  # whatever a broken file makes the readers raise
        raise _unreadable(path, "MINC", error) from error
    if affine.shape != (4, 4):
        raise Mri2QmapError(f"anatomy {path}: it has not three axes in space")
    _require_regular(affine, path)
    return values.astype(np.float32), affine


def _content(path: Path, kind: str) -> bytes:
    """All bytes of a file, unpacked if they are packed, whatever its name says."""
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content.startswith(_GZIP) else content
    except Exception as error:  # whatever a broken file makes gzip raise
        raise _unreadable(path, kind, error) from error


def _corners(values: NDArray) -> float:
    """Median of the eight corners of a volume."""
    return float(np.median(values[np.ix_(*[(0, -1)] * 3)]))


def _require_regular(affine: NDArray[np.float64], path: Path) -> None:
    if not abs(np.linalg.det(affine[:3, :3])) >= 1e-9:
        raise Mri2QmapError(f"anatomy {path}: its affine is singular")


def _unreadable(path: Path, kind: str, error: Exception) -> Mri2QmapError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return Mri2QmapError(f"anatomy {path}: it cannot be read as {kind} ({reason})")

"""Readers of tissue maps (fraction of one tissue in every voxel): MINC, raw bytes and NIfTI."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
from nibabel import orientations
from nibabel.fileholders import FileHolder
from nibabel.minc2 import Minc2File
from numpy.typing import NDArray

from mri2qmap.errors import Mri2QmapError

MINC, RAW_BYTES, NIFTI = ".mnc", ".rawb", ".nii"
MAP_FORMATS = (MINC, RAW_BYTES, NIFTI)
"""Supported file name endings; each may be followed by ``.gz``."""

TOLERANCE = 0.01
"""Tolerance of the range of fractions, 0 to 1."""

AIR_LEVEL = 2.5 / 255
"""Largest fraction in air that is treated as zero."""

# Functions of nibabel without type annotations.
_io_orientation: Callable[..., NDArray[np.float64]] = orientations.io_orientation
_apply_orientation: Callable[..., NDArray[np.float32]] = orientations.apply_orientation
_inv_ornt_aff: Callable[..., NDArray[np.float64]] = orientations.inv_ornt_aff
_open_minc2: Callable[[h5py.File], Any] = Minc2File
_open_minc1: Callable[..., nib.Minc1Image] = nib.Minc1Image.from_file_map

_SIGN_BIT = 0x80
_GZIP, _HDF5 = b"\x1f\x8b", b"\x89HDF"


@dataclass(frozen=True)
class RawGrid:
    """Grid of a BrainWeb model; raw files do not contain it.

    Attributes
    ----------
    shape
        Number of voxels (x, y, z); x varies fastest in the file.
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
        """Homogeneous voxel indices (x, y, z, 1) to right-anterior-superior [mm]."""
        affine = np.diag([self.voxel_mm] * 3 + [1.0])
        affine[:3, 3] = self.start_mm
        return affine


RAW_GRIDS = (
    RawGrid((362, 434, 362), 0.5, (-90.25, -126.25, -72.25)),
    RawGrid((181, 217, 181), 1.0, (-90.0, -126.0, -72.0)),
)
"""Grids of BrainWeb's 20 normal brains and of its single normal brain."""


@dataclass(frozen=True)
class TissueMap:
    """Fraction of one tissue.

    Attributes
    ----------
    values
        (i, j, k) float32, axes nearest to right, anterior and superior. Fractions from 0 to 1 for
        MINC and raw bytes; non-negative values as in the file for NIfTI.
    affine
        Homogeneous voxel indices (i, j, k, 1) to right-anterior-superior [mm].
    """

    values: NDArray[np.float32]
    affine: NDArray[np.float64]


def map_format(path: Path) -> str | None:
    """Return the member of `MAP_FORMATS` that a file name (without ``.gz``) ends with, or None."""
    name = path.name.removesuffix(".gz")
    return next((ending for ending in MAP_FORMATS if name.endswith(ending)), None)


def map_stem(path: Path) -> str:
    """Return the file name without the ending of its format."""
    return path.name.removesuffix(".gz").removesuffix(map_format(path) or "")


def read_tissue_map(path: Path) -> TissueMap:
    """Read the map of one tissue.

    The corners of the grid are air. If their median is small but not zero, values up to it are set
    to zero everywhere: BrainWeb's map of vessels contains 1/255 in air.

    Raises
    ------
    Mri2QmapError
        If the file is damaged, is not three-dimensional, or contains values that are not fractions.
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
        raise Mri2QmapError(f"anatomy {path}: it has {values.ndim} dimensions; expected 3")
    lowest, highest = float(values.min()), float(values.max())
    if kind == MINC and (lowest < -TOLERANCE or highest > 1 + TOLERANCE):
        raise Mri2QmapError(
            f"anatomy {path}: its values range from {lowest:.4g} to {highest:.4g}; expected "
            "fractions from 0 to 1 (BrainWeb's fuzzy maps, not the discrete model or an image)"
        )
    if kind == MINC:
        values = np.clip(values, 0, 1)
    if not np.all(np.isfinite(values)) or values.min() < 0:
        raise Mri2QmapError(f"anatomy {path}: tissue fractions must be finite and not negative")
    air = _corners(values)
    if 0 < air <= AIR_LEVEL:
        values = np.where(values <= air, np.float32(0), values)
    turn = _io_orientation(affine)
    return TissueMap(
        np.ascontiguousarray(_apply_orientation(values, turn)),
        affine @ _inv_ornt_aff(turn, values.shape),
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
    except Exception as error:  # readers raise many types for damaged files
        raise _unreadable(path, "NIfTI", error) from error
    _require_regular(image.affine, path)
    return image


def _raw_bytes(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Read fractions (x, y, z) and affine from a file of bytes without a header.

    BrainWeb documents all files as unsigned bytes. Those of the 20 brains are signed, with -128 for
    a fraction of zero; the air in the corners shows which applies.
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
            f"anatomy {path}: it contains {len(content)} bytes; a raw fuzzy map of BrainWeb has "
            f"{' or '.join(lengths)}. Check whether it is truncated or has another format; MINC "
            "files (.mnc) have a header"
        )
    codes = np.frombuffer(content, dtype=np.uint8).reshape(grid.shape[::-1]).transpose()
    air = int(_corners(codes))
    signed = (air ^ _SIGN_BIT) < air
    if (air ^ _SIGN_BIT if signed else air) > 255 * AIR_LEVEL:
        raise Mri2QmapError(
            f"anatomy {path}: the bytes in its corners are {air}; in air, a fuzzy map of one "
            "tissue contains 0 (128 for signed bytes)"
        )
    return np.divide(codes ^ _SIGN_BIT if signed else codes, 255, dtype=np.float32), grid.affine


def _minc(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Read the values, scaled as in the header, and the affine of a MINC 1 or 2 file."""
    content = _content(path, "MINC")
    try:
        if content.startswith(_HDF5):
            # nibabel opens MINC 2 only by file name, which excludes compressed files.
            with h5py.File(io.BytesIO(content), "r") as file:
                minc = _open_minc2(file)
                values, affine = minc.get_scaled_data(), minc.get_affine()
        else:
            image = _open_minc1({"image": FileHolder(fileobj=io.BytesIO(content))})
            values, affine = np.asarray(image.dataobj), image.affine
    except Exception as error:  # readers raise many types for damaged files
        raise _unreadable(path, "MINC", error) from error
    if affine.shape != (4, 4):
        raise Mri2QmapError(f"anatomy {path}: it does not have three spatial axes")
    _require_regular(affine, path)
    return values.astype(np.float32), affine


def _content(path: Path, kind: str) -> bytes:
    """Return the content of a file, decompressed if it is a gzip file whatever its name."""
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content.startswith(_GZIP) else content
    except Exception as error:  # gzip raises many types for damaged files
        raise _unreadable(path, kind, error) from error


def _corners(values: NDArray[Any]) -> float:
    """Return the median of the eight corners of a volume."""
    return float(np.median(values[np.ix_(*[(0, -1)] * 3)]))


def _require_regular(affine: NDArray[np.float64], path: Path) -> None:
    if not abs(np.linalg.det(affine[:3, :3])) >= 1e-9:
        raise Mri2QmapError(f"anatomy {path}: its affine is singular")


def _unreadable(path: Path, kind: str, error: Exception) -> Mri2QmapError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return Mri2QmapError(f"anatomy {path}: it cannot be read as {kind} ({reason})")

"""Measured map of the transmit field (B1+) from a NIfTI file, resampled to the grid of the scan.

The file contains the relative field, 1 where the actual flip angles equal the nominal ones, on any
grid. Its affine defines its position in the patient. A value of 0 marks a voxel without a
measurement, as in masked maps.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from mri2qmap.errors import Mri2QmapError
from mri2qmap.mrsignal.dictionary import Dictionary, load_dictionary
from mri2qmap.mrsignal.field_dictionary import B1_RANGE, load_field_dictionary
from mri2qmap.mrsignal.matching_settings import MatchingSettings
from mri2qmap.pipeline.geometry import Geometry
from mri2qmap.pipeline.items import Tsmi
from mri2qmap.pipeline.scan_header import ScanInfo

if TYPE_CHECKING:
    import nibabel as nib

_LEAST_VOLUME_MM3 = 1e-6
"""Minimum volume of a voxel [mm^3]; a smaller one indicates an invalid affine."""


@dataclass(frozen=True)
class B1Map:
    """Map of the relative transmit field on its own grid.

    Attributes
    ----------
    path
        Path of the file, for messages.
    values
        Relative field (x, y, z), 0 where it was not measured.
    affine
        Voxel indices (x, y, z, 1) to right-anterior-superior [mm].
    """

    path: str
    values: NDArray[np.float32]
    affine: NDArray[np.float64]

    def on_grid(self, geometry: Geometry) -> tuple[NDArray[np.float32], float]:
        """Resample the map to the grid of a scan.

        The map is interpolated trilinearly between voxel centres. Voxels without a measurement and
        those outside the field of view of the file get the value of the nearest measured voxel. The
        field is assumed to be smooth: a finer grid of the file is not averaged.

        Parameters
        ----------
        geometry
            Grid of the scan.

        Returns
        -------
        field
            Relative field (z, y, x).
        outside
            Fraction of the voxels outside the field of view of the file.

        Raises
        ------
        Mri2QmapError
            If the map and the scan do not overlap.
        """
        from scipy.ndimage import map_coordinates  # slow import, only needed here

        to_map = np.linalg.inv(self.affine) @ geometry.affine_ras_mm
        z, y, x = np.indices(geometry.matrix, dtype=np.float64)
        index = np.tensordot(to_map[:3, :3], np.stack([x, y, z]), 1)
        index += to_map[:3, 3, None, None, None]
        size = np.array(self.values.shape)[:, None, None, None]
        inside = ((index >= -0.5) & (index <= size - 0.5)).all(0)
        if not inside.any():
            here = _centre(self.affine, self.values.shape)
            there = _centre(geometry.affine_ras_mm, geometry.matrix[::-1])
            raise Mri2QmapError(
                f"b1_map {self.path}: the map does not overlap the scan: its centre is at {here}, "
                f"that of the scan at {there} mm (right, anterior, superior); does the map belong "
                "to this scan, and is its affine in scanner coordinates?"
            )
        field = map_coordinates(self._filled(), index, order=1, mode="nearest")
        return field.clip(*B1_RANGE).astype(np.float32), 1 - float(inside.mean())

    def _filled(self) -> NDArray[np.float32]:
        """Return the values; voxels without a measurement get that of the nearest measured one."""
        from scipy.ndimage import distance_transform_edt

        missing = self.values == 0
        if not missing.any():
            return self.values
        spacing = np.linalg.norm(self.affine[:3, :3], axis=0)
        nearest = distance_transform_edt(
            missing, sampling=spacing, return_distances=False, return_indices=True
        )
        filled: NDArray[np.float32] = self.values[tuple(nearest)]
        return filled


def read_b1_map(path: str) -> B1Map:
    """Read and check a map.

    Raises
    ------
    Mri2QmapError
        If the file does not exist, is not a NIfTI volume or has no position in the patient; if a
        value is not finite, or neither 0 nor within `B1_RANGE`.
    """
    import nibabel as nib

    name = f"b1_map {path}"
    if not os.path.isfile(path):  # False for any odd name
        raise Mri2QmapError(
            f"{name}: the file does not exist; a NIfTI volume of the relative transmit field is "
            "expected on the machine where the gadget runs"
        )
    try:
        image = nib.load(path)
        if not isinstance(image, nib.Nifti1Image):
            raise TypeError(f"it is a {type(image).__name__}")
        values = np.asarray(image.dataobj)
    except Exception as error:  # the readers raise various types for damaged files
        raise Mri2QmapError(f"{name}: it cannot be read as NIfTI ({error})") from error
    if values.dtype.kind not in "iuf":
        raise Mri2QmapError(f"{name}: its data type is {values.dtype}; real numbers are expected")
    shape = values.shape
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != 3 or not values.size:
        raise Mri2QmapError(f"{name}: its shape is {shape}; one volume (x, y, z) is expected")
    return B1Map(path, _checked(values.astype(np.float32), name), _affine(image, name))


def _affine(image: nib.Nifti1Image, name: str) -> NDArray[np.float64]:
    header: Any = image.header
    if header["sform_code"] == 0 and header["qform_code"] == 0:
        raise Mri2QmapError(
            f"{name}: its header does not define its position in the patient (sform_code and "
            "qform_code are 0); convert it from DICOM with its orientation"
        )
    unit = header.get_xyzt_units()[0]
    if unit not in ("mm", "unknown"):
        raise Mri2QmapError(f"{name}: its unit of length is {unit}; mm is expected")
    affine = np.asarray(image.affine, dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine)) < _LEAST_VOLUME_MM3:
        raise Mri2QmapError(f"{name}: its affine is not finite or not invertible")
    return affine


def _checked(values: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    if not np.isfinite(values).all():
        raise Mri2QmapError(
            f"{name}: {np.count_nonzero(~np.isfinite(values))} values are not finite; set voxels "
            "without a measurement to 0"
        )
    measured = values[values != 0]
    if not measured.size:
        raise Mri2QmapError(f"{name}: it is 0 everywhere")
    low, high = B1_RANGE
    wrong = np.count_nonzero((measured < low) | (measured > high))
    if wrong:
        median = float(np.median(measured))
        hint = (
            f"the median is {median:g}: is the map in per cent, or a flip angle in degrees? Divide "
            "it by the value of the nominal field"
            if not low <= median <= high
            else "set voxels without a measurement, and those with noise only, to 0"
        )
        raise Mri2QmapError(
            f"{name}: {wrong} of {measured.size} values ({measured.min():g} to "
            f"{measured.max():g}) are outside the range of {low:g} to {high:g}, where 1 is the "
            f"nominal field; {hint}"
        )
    return values


def _centre(affine: NDArray[np.float64], shape: tuple[int, ...]) -> str:
    centre = affine[:3, :3] @ ((np.array(shape) - 1) / 2) + affine[:3, 3]
    return f"({', '.join(f'{coordinate:.0f}' for coordinate in centre)})"


def dictionary_loader(
    scan: ScanInfo, settings: MatchingSettings, gadget: str
) -> Callable[[Tsmi], Dictionary]:
    """Return a function that loads the dictionary for a TSMI.

    A B1 map is read immediately, so that errors are reported before the acquisition. Its atoms are
    computed when the TSMI arrives, because they need the position of the scan.

    Parameters
    ----------
    scan
        Sequence, device and reporter.
    settings
        Matching settings of the gadget.
    gadget
        Name of the gadget, for the log.

    Raises
    ------
    Mri2QmapError
        If the map cannot be used.
    """
    field = read_b1_map(settings.b1_map) if settings.b1_map else None

    def load(tsmi: Tsmi) -> Dictionary:
        chosen = settings.dictionary(len(tsmi.tsmi))
        if field is None:
            return load_dictionary(scan.sequence, chosen, scan.device, scan.report.progress)
        values, outside = field.on_grid(tsmi.geometry)
        scan.report.log(
            f"{gadget}: B1 from {values.min():.2f} to {values.max():.2f}; {100 * outside:.0f} % of "
            "the voxels are outside the map and get the value of the nearest voxel"
        )
        return load_field_dictionary(
            scan.sequence, chosen, torch.from_numpy(values), scan.device, scan.report.progress
        )

    return load

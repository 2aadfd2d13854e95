"""The maps of a report: in the unit that people read, in steps of the last digit that is shown."""

from __future__ import annotations

import base64
import gzip
import math
from collections.abc import Iterable
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from mri2qmap.export.nifti import nifti_affine
from mri2qmap.export.quantity import Quantity
from mri2qmap.export.volumes import QuantityVolume
from mri2qmap.report.colours import GREY, LIPARI, NAVIA

EMBEDDED_BYTES = 96 * 2**20
"""Most that the volumes of one report may add to the page [bytes]."""
_MOST_STEPS = 2**16 - 1
_FOUR_DIGITS = 9999
_BRIGHT = 99.5
"""Percentile of a volume in arbitrary units that is the upper limit of its display window."""
_SCANNER_COORDINATES = 1


@dataclass(frozen=True)
class _Style:
    """Label, unit, digits after the point, table of colours and window of a quantity.

    None stands for four digits, and for the window of DICOM or that of the data.
    """

    label: str
    unit: str
    decimals: int | None = None
    colours: str = GREY
    window: tuple[float, float] | None = None


_STYLES = {
    Quantity.T1: _Style("T1", "ms", 0, LIPARI),
    Quantity.T2: _Style("T2", "ms", 1, NAVIA),
    Quantity.PROTON_DENSITY: _Style("PD", "a.u."),
    Quantity.T1_STD: _Style("T1 standard deviation", "ms", 1),
    Quantity.T2_STD: _Style("T2 standard deviation", "ms", 2),
    Quantity.CONSISTENCY: _Style("Data against prior", "x noise", 2),
    Quantity.MATCH_QUALITY: _Style("Match quality", "", 4),
    Quantity.T1W: _Style("Synthetic T1w", "a.u."),
    Quantity.T2W: _Style("Synthetic T2w", "a.u."),
    Quantity.PDW: _Style("Synthetic PDw", "a.u."),
    Quantity.RECEIVE_FIELD: _Style("Receive field", "x mean", 3),
}
"""In the order in which they are shown."""


@dataclass(frozen=True)
class ReportVolume:
    """One volume, its axes those of the voxel grid closest to right, anterior and superior.

    Attributes
    ----------
    name
        Stem of its file names, such as ``T1map``.
    label, unit
        For people; the unit is empty for a number without one.
    steps
        Values in units of `step`, uint16 (right, anterior, superior).
    step
        One step, a power of ten [`unit`]. It is one in the last digit that is shown.
    decimals
        Digits after the point.
    window
        Display range [`unit`].
    colours
        Name of the table of colours.
    affine
        Voxel indices (right, anterior, superior, 1) to coordinates (RAS) [mm].
    """

    name: str
    label: str
    unit: str
    steps: NDArray[np.uint16]
    step: float
    decimals: int
    window: tuple[float, float]
    colours: str
    affine: NDArray[np.float64]

    def values(self) -> NDArray[np.float64]:
        """Return the values (right, anterior, superior) [`unit`]."""
        return self.steps.astype(np.float64) * self.step

    def text(self, value: float) -> str:
        """Return a value with the digits that are shown, without the unit."""
        return f"{value:.{self.decimals}f}"

    def nifti(self) -> bytes:
        """Return the volume as a compressed NIfTI file of 16-bit integers with scale."""
        header = nib.Nifti1Header()
        header.set_data_dtype(np.uint16)
        header.set_data_shape(self.steps.shape)
        header.set_sform(self.affine, code=_SCANNER_COORDINATES)
        header.set_qform(self.affine, code=_SCANNER_COORDINATES)
        header.set_xyzt_units(xyz="mm")
        header.set_slope_inter(self.step, 0)
        header["magic"] = b"n+1"
        header["vox_offset"] = 352
        header["cal_min"], header["cal_max"] = self.window
        head: bytes = header.binaryblock + bytes(4)
        return gzip.compress(head + self.steps.tobytes(order="F"), 6, mtime=0)


def report_volumes(volumes: Iterable[QuantityVolume]) -> list[ReportVolume]:
    """Return volumes for a report, in the order in which they are shown.

    Parameters
    ----------
    volumes
        Finished volumes, as `mri2qmap.export.volumes.export_volumes` makes them.
    """
    by_quantity = {volume.quantity: volume for volume in volumes}
    return [_converted(by_quantity[q], style) for q, style in _STYLES.items() if q in by_quantity]


def embedded(volumes: Iterable[ReportVolume], most: int = EMBEDDED_BYTES) -> dict[str, str]:
    """Return base64 of the NIfTI files of the volumes, by name, as far as there is room.

    Parameters
    ----------
    volumes
        The most important ones first: one that does not fit is left out, with all after it.
    most
        Most characters of all together.
    """
    found: dict[str, str] = {}
    room = most
    for volume in volumes:
        text = base64.b64encode(volume.nifti()).decode()
        room -= len(text)
        if room < 0:
            break
        found[volume.name] = text
    return found


def _converted(volume: QuantityVolume, style: _Style) -> ReportVolume:
    values = volume.in_unit().astype(np.float64).transpose(2, 1, 0)
    affine = nifti_affine(volume.geometry)
    turn = nib.orientations.io_orientation(affine)
    values = nib.orientations.apply_orientation(values, turn)
    affine = affine @ nib.orientations.inv_ornt_aff(turn, volume.geometry.matrix[::-1])
    largest = float(values.max())
    exponent = _exponent(largest, style.decimals)
    step = 10.0**exponent
    steps = np.minimum(np.rint(values / step), _MOST_STEPS).astype(np.uint16)
    return ReportVolume(
        name=str(volume.quantity),
        label=style.label,
        unit=style.unit,
        steps=steps,
        step=step,
        decimals=max(0, -exponent),
        window=style.window or volume.spec.window or (0.0, _upper(values)),
        colours=style.colours,
        affine=affine,
    )


def _exponent(largest: float, decimals: int | None) -> int:
    """Return the power of ten of a step, so that the largest value has at most 16 bits."""
    if not largest > 0:
        return -(decimals or 0)
    if decimals is None:
        return math.ceil(math.log10(largest / _FOUR_DIGITS))
    return max(math.ceil(math.log10(largest / _MOST_STEPS)), -decimals)


def _upper(values: NDArray[np.float64]) -> float:
    """Return the upper limit of the display window of a volume in arbitrary units."""
    found = float(np.percentile(values[values > 0], _BRIGHT)) if (values > 0).any() else 1.0
    digits = 1 - math.floor(math.log10(found))
    return round(found, digits)

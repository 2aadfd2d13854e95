"""Identification of a series by numbers, UIDs and texts, the same in DICOM and MRD."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

import mri2qmap
from mri2qmap.export.acquisition_time import time_attributes
from mri2qmap.export.patient import ScanContext, text
from mri2qmap.export.quantity import FLOAT_SERIES, QUANTITIES, Quantity
from mri2qmap.export.volumes import QuantityVolume
from mri2qmap.pipeline.acquisition_stamp import AcquisitionStamp
from mri2qmap.pipeline.items import FIELD_KEPT, FIELD_REMOVED

NOT_FOR_DIAGNOSIS = "Research use only, not for diagnostic use"
PARTIAL = "PARTIAL"
DEFAULT_METHOD = "MRI2Qmap"

_SERIES_OF_A_METHOD = 40
_METHODS = 22
_SERIES_OF_A_SCAN = 1000
_LARGEST_NUMBER = 2**31 - 1
_MAX_INCOMPLETE = 200
_FIELD_STATEMENTS = {
    FIELD_REMOVED: "; the receive field, estimated from PD and T1, is removed",
    FIELD_KEPT: "; it contains the receive field",
}


class Form(StrEnum):
    """The two forms of a volume, each a separate series; the value is part of its UIDs."""

    INTEGER = "classic"
    FLOAT = "parametric"


@dataclass(frozen=True)
class SeriesIdentity:
    """One series: a quantity in one form.

    Attributes
    ----------
    quantity
        Quantity of the series.
    index
        ``image_series_index`` of its MRD images.
    number
        DICOM SeriesNumber.
    uid
        SeriesInstanceUID.
    description
        SeriesDescription with the method and what the pixels count, such as ``in 0.1 ms``; without
        brackets, which end up in file names. It begins with `PARTIAL` if the scan is incomplete.
    short
        Name of the quantity, which hosts append to their own description.
    image_type
        Values of ImageType.
    comments
        ImageComments, in order of importance.
    derivation
        DerivationDescription.
    """

    quantity: Quantity
    index: int
    number: int
    uid: str
    description: str
    short: str
    image_type: tuple[str, ...]
    comments: tuple[str, ...]
    derivation: str


@dataclass(frozen=True)
class SheetIdentity:
    """The series of the sheet of the report: its number, description and comments."""

    number: int
    description: str
    comments: tuple[str, ...]


@dataclass(frozen=True)
class ExportRun:
    """Attributes shared by all series of one export.

    Attributes
    ----------
    context
        Patient, study and UIDs.
    method
        Name of the reconstruction method. It determines series numbers and descriptions.
    series_offset
        Offset of all series numbers.
    scan_number
        Number that the scanner assigned to the series (``initialSeriesNumber`` in the header); 0
        if unknown.
    stamp
        Time and table position of the scan; None if unknown.
    incomplete
        Description of the missing readouts, written to all outputs; empty for a complete scan.
    provenance
        Digest of the `Provenance` of the maps; empty if unknown.
    """

    context: ScanContext
    method: str = DEFAULT_METHOD
    series_offset: int = 0
    scan_number: int = 0
    stamp: AcquisitionStamp | None = None
    incomplete: str = ""
    provenance: str = ""

    def __post_init__(self) -> None:
        # restrict the text to characters that XML and DICOM allow
        object.__setattr__(self, "incomplete", text(self.incomplete, _MAX_INCOMPLETE))

    def series(self, volume: QuantityVolume, form: Form) -> SeriesIdentity:
        """Return the identity of the series of a volume.

        Each method has a block of 40 indices after `series_offset`, so that two reconstructions of
        a scan do not collide. SeriesNumber is the index plus 1000 times `scan_number`, which avoids
        the numbers of the scanner and those that vendors derive from them (multiples of 100). If
        the sum exceeds the largest number in DICOM, SeriesNumber is the index.
        """
        spec = volume.spec
        index = series_index(volume.quantity, form, self.method, self.series_offset)
        partial = f"{PARTIAL} " if self.incomplete else ""
        unit = spec.step if form is Form.INTEGER else spec.unit.value.removeprefix("1")
        return SeriesIdentity(
            quantity=volume.quantity,
            index=index,
            number=self._number(index),
            uid=self.context.uid(form, volume.quantity),
            description=text(
                f"{partial}{spec.label}{f' in {unit}' if unit else ''} {self.method}", 64
            ),
            short=f"{partial}{volume.quantity}".replace(" ", "_"),
            image_type=("DERIVED", "PRIMARY", *spec.image_type),
            comments=(*self._warning, NOT_FOR_DIAGNOSIS),
            derivation=text(self._derivation(volume), 1024),
        )

    def sheet(self) -> SheetIdentity:
        """Return the identity of the series with the sheet of the report, the last of its block."""
        index = self.series_offset + _SERIES_OF_A_METHOD * (_method_block(self.method) + 1) - 1
        partial = f"{PARTIAL} " if self.incomplete else ""
        return SheetIdentity(
            number=self._number(index),
            description=text(f"{partial}Report {self.method}", 64),
            comments=(*self._warning, NOT_FOR_DIAGNOSIS),
        )

    def _number(self, index: int) -> int:
        number = _SERIES_OF_A_SCAN * max(self.scan_number, 0) + index
        return number if number <= _LARGEST_NUMBER else index

    @cached_property
    def times(self) -> Mapping[str, str]:
        """Known date and time of acquisition and content by DICOM keyword."""
        return time_attributes(self.context.attributes, self.stamp)

    @property
    def _warning(self) -> tuple[str, ...]:
        return (incomplete_warning(self.incomplete),) if self.incomplete else ()

    def _derivation(self, volume: QuantityVolume) -> str:
        """Return the DerivationDescription of a volume."""
        spec = volume.spec
        what = "3D MR fingerprinting"
        if volume.echo is None:
            how = f"{spec.label}, estimated by dictionary matching from {what}"
        else:
            tr, te = volume.echo.milliseconds()
            how = (
                f"{spec.label} spin-echo magnitude image (TR {tr:g} ms, TE {te:g} ms), "
                f"synthesised from T1, T2 and PD maps of {what}"
            )
        how += _FIELD_STATEMENTS.get(volume.receive_field, "")
        made = f"reconstruction {self.method}, software mri2qmap {mri2qmap.__version__}"
        return ". ".join((*self._warning, f"{how}; {made}", NOT_FOR_DIAGNOSIS)) + "."


def series_index(quantity: Quantity, form: Form, method: str, series_offset: int) -> int:
    """Return the ``image_series_index`` of a quantity in one form, see `ExportRun.series`."""
    first = series_offset + _SERIES_OF_A_METHOD * _method_block(method)
    form_offset = FLOAT_SERIES if form is Form.FLOAT else 0
    return first + QUANTITIES[quantity].series_number + form_offset


def incomplete_warning(incomplete: str) -> str:
    """Return the warning for outputs of an incomplete scan."""
    return f"INCOMPLETE SCAN: {incomplete}"


def scan_number(header: Any) -> int:
    """Return the ``initialSeriesNumber`` of an ISMRMRD header; 0 if it has none."""
    number = getattr(header.measurementInformation, "initialSeriesNumber", None)
    return number if isinstance(number, int) and number > 0 else 0


def _method_block(method: str) -> int:
    """Return the block of series numbers of a method: 0 for the default, else from its name."""
    if method == DEFAULT_METHOD:
        return 0
    return 1 + zlib.crc32(method.encode()) % (_METHODS - 1)

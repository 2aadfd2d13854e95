"""What tells a series from others: numbers, UIDs and texts, the same in DICOM and MRD."""

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

NOT_FOR_DIAGNOSIS = "Research use only, not for diagnostic use"
PARTIAL = "PARTIAL"
DEFAULT_METHOD = "MRI2Qmap"

_SERIES_OF_A_METHOD = 30
_METHODS = 30
_SERIES_OF_A_SCAN = 1000
_LARGEST_NUMBER = 2**31 - 1
_MAX_INCOMPLETE = 200


class Form(StrEnum):
    """The two forms of a volume, each a series of its own; the value is part of its UIDs."""

    INTEGER = "classic"
    FLOAT = "parametric"


@dataclass(frozen=True)
class SeriesIdentity:
    """One series: a quantity in one form.

    Attributes
    ----------
    quantity
        What it shows.
    index
        ``image_series_index`` of its MRD images.
    number
        DICOM SeriesNumber.
    uid
        SeriesInstanceUID.
    description
        SeriesDescription, which names the unit and the method; it begins with `PARTIAL` where
        the scan is incomplete.
    short
        The quantity's name where the host has a description of its own.
    image_type
        Values of ImageType.
    comments
        ImageComments, the most important first.
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
class ExportRun:
    """What all series of one export share.

    Attributes
    ----------
    context
        Patient, study and UIDs.
    method
        Name of the reconstruction. Methods other than the default have series numbers and
        descriptions of their own.
    series_offset
        Added to all series numbers.
    scan_number
        The scanner's number of the series that was scanned (the header's
        ``initialSeriesNumber``); 0 where it is not known.
    stamp
        Time and table position of the scan; None where they are not known.
    incomplete
        What is missing of the scan, empty where nothing is. All that is written says so.
    provenance
        Digest of what the maps are made from, see `Provenance`; empty where it is not known.
    """

    context: ScanContext
    method: str = DEFAULT_METHOD
    series_offset: int = 0
    scan_number: int = 0
    stamp: AcquisitionStamp | None = None
    incomplete: str = ""
    provenance: str = ""

    def __post_init__(self) -> None:
        # it goes into XML and DICOM
        object.__setattr__(self, "incomplete", text(self.incomplete, _MAX_INCOMPLETE))

    def series(self, volume: QuantityVolume, form: Form) -> SeriesIdentity:
        """Identify the series of a volume.

        Each method has a block of 30 indices after `series_offset`, so that two reconstructions
        of a scan differ. A scan has 1000 numbers: SeriesNumber is the index plus 1000 times
        `scan_number`, which keeps clear of the scanner's own and of what vendors derive from
        them (hundreds). Where that exceeds what DICOM can hold, SeriesNumber is the index.
        """
        spec = volume.spec
        index = series_index(volume.quantity, form, self.method, self.series_offset)
        number = _SERIES_OF_A_SCAN * max(self.scan_number, 0) + index
        partial = f"{PARTIAL} " if self.incomplete else ""
        unit = f" [{spec.unit.value}]" if spec.unit.value != "1" else ""
        return SeriesIdentity(
            quantity=volume.quantity,
            index=index,
            number=number if number <= _LARGEST_NUMBER else index,
            uid=self.context.uid(form, volume.quantity),
            description=text(f"{partial}{spec.label}{unit} {self.method}", 64),
            short=f"{partial}{volume.quantity}".replace(" ", "_"),
            image_type=("DERIVED", "PRIMARY", *spec.image_type),
            comments=(*self._warning, NOT_FOR_DIAGNOSIS),
            derivation=text(self._derivation(volume), 1024),
        )

    @cached_property
    def times(self) -> Mapping[str, str]:
        """Date and time of acquisition and content by DICOM keyword, as far as known."""
        return time_attributes(self.context.attributes, self.stamp)

    @property
    def _warning(self) -> tuple[str, ...]:
        return (incomplete_warning(self.incomplete),) if self.incomplete else ()

    def _derivation(self, volume: QuantityVolume) -> str:
        """Say in words how a volume came about."""
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
        made = f"reconstruction {self.method}, software mri2qmap {mri2qmap.__version__}"
        return ". ".join((*self._warning, f"{how}; {made}", NOT_FOR_DIAGNOSIS)) + "."


def series_index(quantity: Quantity, form: Form, method: str, series_offset: int) -> int:
    """Return ``image_series_index`` of a quantity in one form, see `ExportRun.series`."""
    first = series_offset + _SERIES_OF_A_METHOD * _method_block(method)
    form_offset = FLOAT_SERIES if form is Form.FLOAT else 0
    return first + QUANTITIES[quantity].series_number + form_offset


def incomplete_warning(incomplete: str) -> str:
    """Say of a product that its scan was not complete."""
    return f"INCOMPLETE SCAN: {incomplete}"


def scan_number(header: Any) -> int:
    """Return ``initialSeriesNumber`` of an ISMRMRD header, 0 where it has none."""
    number = getattr(header.measurementInformation, "initialSeriesNumber", None)
    return number if isinstance(number, int) and number > 0 else 0


def _method_block(method: str) -> int:
    """Block of series numbers of a method, 0 for the default, else by its name."""
    if method == DEFAULT_METHOD:
        return 0
    return 1 + zlib.crc32(method.encode()) % (_METHODS - 1)

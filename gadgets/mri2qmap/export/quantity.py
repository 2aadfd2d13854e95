"""Table of the exported quantities and their coding in DICOM, MRD and NIfTI."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from mri2qmap.mrsignal.synthesis import Contrast

MAX_STORED = 4095
"""Largest stored integer, at which values saturate (12 bits, supported by every viewer)."""


class Quantity(StrEnum):
    """The exported quantities; the value is the stem of file names."""

    T1 = "T1map"
    T2 = "T2map"
    PROTON_DENSITY = "PDmap"
    MATCH_QUALITY = "matchquality"
    T1W = "T1w"
    T2W = "T2w"
    PDW = "PDw"
    T1_STD = "T1std"
    T2_STD = "T2std"
    CONSISTENCY = "consistency"
    RECEIVE_FIELD = "receivefield"


class Code(NamedTuple):
    """A coded concept, with the first fields of `pydicom.sr.coding.Code`.

    This table is needed where no DICOM is written, and pydicom takes time to load.
    """

    value: str
    scheme_designator: str
    meaning: str


@dataclass(frozen=True)
class QuantitySpec:
    """Coding of one quantity.

    Attributes
    ----------
    label
        Human-readable name, the first part of the series description.
    unit
        UCUM code of the unit in DICOM and MRD.
    to_unit
        Factor from the internal unit (seconds or dimensionless) to `unit`.
    code
        Code of the quantity (from DICOM CID 7180 if available); None for weighted images.
    image_type
        Values 3 and following of ImageType.
    flavor
        Value 3 of ImageType in a Parametric Map: one of `highdicom.pm.ImageFlavorValues`.
    series_number
        Series number of the integer form; that of the float form is larger by `FLOAT_SERIES`.
    steps_per_unit
        Stored integers per `unit`; None: determined from the data.
    window
        Display range (low, high) in `unit`; None: determined from the data.
    role
        Second value of the MRD DataRole; that of Gadgetron if it defines one.
    contrast
        Contrast of a synthesised image; None for a map.
    derivation
        Modifier of `code` if the map is a statistic of the quantity, as in the measurements of
        structured reports (DICOM CID 7464).
    """

    label: str
    unit: Code
    to_unit: float
    code: Code | None
    image_type: tuple[str, ...]
    flavor: str
    series_number: int
    steps_per_unit: float | None
    window: tuple[float, float] | None
    role: str
    contrast: Contrast | None = None
    derivation: Code | None = None

    @property
    def step(self) -> str:
        """Size of a stored integer with its unit, for example ``0.1 ms``; empty if unknown."""
        if self.steps_per_unit is None:
            return ""
        size = f"{1 / self.steps_per_unit:g}"
        unit = "" if self.unit.value == "1" else self.unit.value
        return unit if unit and size == "1" else f"{size} {unit}".strip()

    @property
    def is_map(self) -> bool:
        """Whether this is a map of a quantity; otherwise, it is a weighted image."""
        return self.contrast is None


FLOAT_SERIES = 20
"""Difference between the series numbers of float and integer forms."""

_MILLISECOND = Code("ms", "UCUM", "millisecond")
_NO_UNITS = Code("1", "UCUM", "no units")
_T1 = Code("113063", "DCM", "T1")
_T2 = Code("113065", "DCM", "T2")


def _weighted(contrast: Contrast, flavor: str, number: int) -> QuantitySpec:
    return QuantitySpec(
        label=f"Synthetic {contrast}",
        unit=_NO_UNITS,
        to_unit=1.0,
        code=None,
        image_type=("OTHER", contrast.upper(), "SYNTHETIC"),
        flavor=flavor,
        series_number=number,
        steps_per_unit=None,
        window=None,
        role=contrast.upper(),
        contrast=contrast,
    )


def _standard_deviation(
    time: str,
    code: Code,
    flavor: str,
    number: int,
    steps_per_unit: float,
    window: tuple[float, float],
) -> QuantitySpec:
    return QuantitySpec(
        label=f"{time} standard deviation",
        unit=_MILLISECOND,
        to_unit=1e3,
        code=code,
        image_type=("OTHER", f"{time} STD DEV"),
        flavor=flavor,
        series_number=number,
        steps_per_unit=steps_per_unit,
        window=window,
        role=f"{time}STD",
        derivation=Code("386136009", "SCT", "Standard Deviation"),
    )


QUANTITIES: Mapping[Quantity, QuantitySpec] = {
    Quantity.T1: QuantitySpec(
        label="T1 map",
        unit=_MILLISECOND,
        to_unit=1e3,
        code=_T1,
        image_type=("T1 MAP",),
        flavor="T1",
        series_number=1,
        steps_per_unit=1.0,
        window=(0.0, 3000.0),
        role="T1",
    ),
    Quantity.T2: QuantitySpec(
        label="T2 map",
        unit=_MILLISECOND,
        to_unit=1e3,
        code=_T2,
        image_type=("T2 MAP",),
        flavor="T2",
        series_number=2,
        steps_per_unit=1.0,
        window=(0.0, 200.0),
        role="T2",
    ),
    Quantity.PROTON_DENSITY: QuantitySpec(
        label="PD map",
        unit=_NO_UNITS,
        to_unit=1.0,
        code=Code("113058", "DCM", "Proton Density"),
        image_type=("DENSITY MAP",),
        flavor="PROTON_DENSITY",
        series_number=3,
        steps_per_unit=None,
        window=None,
        role="PD",
    ),
    Quantity.MATCH_QUALITY: QuantitySpec(
        label="Match quality",
        unit=_NO_UNITS,
        to_unit=1.0,
        code=Code(
            "MATCHQUALITY", "99MRI2QMAP", "Normalised inner product of signal and matched atom"
        ),
        image_type=("OTHER", "MATCH QUALITY"),
        flavor="VOLUME",
        series_number=4,
        steps_per_unit=4000.0,
        window=(0.98, 1.0),
        role="MATCHQUALITY",
    ),
    Quantity.T1W: _weighted(Contrast.T1W, "T1", 5),
    Quantity.T2W: _weighted(Contrast.T2W, "T2", 6),
    Quantity.PDW: _weighted(Contrast.PDW, "PROTON_DENSITY", 7),
    Quantity.T1_STD: _standard_deviation(
        "T1", _T1, "T1", 8, steps_per_unit=1.0, window=(0.0, 300.0)
    ),
    Quantity.T2_STD: _standard_deviation(
        "T2", _T2, "T2", 9, steps_per_unit=10.0, window=(0.0, 20.0)
    ),
    Quantity.CONSISTENCY: QuantitySpec(
        label="Data-prior inconsistency",
        unit=_NO_UNITS,
        to_unit=1.0,
        # DICOM codes z-scores (CID 226) only for a measurement within a population
        code=Code("CONSISTENCY", "99MRI2QMAP", "Data minus result with priors, in units of noise"),
        image_type=("OTHER", "CONSISTENCY"),
        flavor="VOLUME",
        series_number=10,
        steps_per_unit=400.0,
        window=(0.0, 5.0),
        role="CONSISTENCY",
    ),
    Quantity.RECEIVE_FIELD: QuantitySpec(
        label="Receive field",
        unit=_NO_UNITS,
        to_unit=1.0,
        code=Code("RECEIVEFIELD", "99MRI2QMAP", "Receive sensitivity relative to its mean"),
        image_type=("OTHER", "RECEIVE FIELD"),
        flavor="VOLUME",
        series_number=11,
        steps_per_unit=400.0,
        window=(0.0, 2.0),
        role="RECEIVEFIELD",
    ),
}

UNCERTAINTY = (Quantity.T1_STD, Quantity.T2_STD)
"""Maps of `combined_matching.uncertainty`."""
OPTIONAL = (*UNCERTAINTY, Quantity.CONSISTENCY, Quantity.RECEIVE_FIELD)
"""Maps that are there only where settings ask for them."""
MAPS = tuple(quantity for quantity, spec in QUANTITIES.items() if spec.is_map)
RECEIVED = (Quantity.PROTON_DENSITY, Quantity.T1W, Quantity.T2W, Quantity.PDW)
"""Quantities that are proportional to the receive field unless it has been removed."""
WEIGHTED = tuple(quantity for quantity, spec in QUANTITIES.items() if not spec.is_map)

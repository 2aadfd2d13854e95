"""Published relaxation times of white and grey matter of healthy adults, by field strength."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Tissue = Literal["white matter", "grey matter"]
Time = Literal["T1", "T2"]

FIELD_TOLERANCE = 0.1
"""Largest relative difference of a scanner's field strength from one of the table: scanners that
are called 1.5 T and 3 T have 1.494 T and 2.89 T."""
_UNSTATED = 0.1
"""Standard deviation, relative to the mean, where a study states none."""

_WRIGHT = "Wright et al., MAGMA 21:121 (2008), MPRAGE"
_COX = "Cox and Gowland, Magn Reson Med 64:1440 (2010), GESSE"
_WANSAPURA = "Wansapura et al., J Magn Reson Imaging 9:531 (1999)"
_MA = "Ma et al., Nature 495:187 (2013), fingerprinting with bSSFP"
_JIANG = "Jiang et al., Magn Reson Med 74:1621 (2015), fingerprinting with FISP"
_ROONEY = "Rooney et al., Magn Reson Med 57:308 (2007)"
_BARTHA = "Bartha et al., Magn Reson Med 47:742 (2002), CP-LASER"


@dataclass(frozen=True)
class Study:
    """Mean and standard deviation over people [ms] of one study; None: not stated."""

    mean: float
    deviation: float | None
    citation: str


STUDIES: Mapping[tuple[float, Time, Tissue], tuple[Study, ...]] = {
    (1.5, "T1", "white matter"): (Study(646, 32, _WRIGHT), Study(685, 33, _MA)),
    (1.5, "T1", "grey matter"): (Study(1197, 134, _WRIGHT), Study(1180, 104, _MA)),
    (1.5, "T2", "white matter"): (Study(80, None, _COX), Study(65, 4, _MA)),
    (1.5, "T2", "grey matter"): (
        Study(87, None, f"{_COX}, frontal"),
        Study(80, None, f"{_COX}, occipital"),
        Study(97, 5.9, _MA),
    ),
    (3.0, "T1", "white matter"): (
        Study(838, 50, _WRIGHT),
        Study(832, 10, _WANSAPURA),
        Study(781, 61, _JIANG),
    ),
    (3.0, "T1", "grey matter"): (
        Study(1607, 112, _WRIGHT),
        Study(1331, 13, _WANSAPURA),
        Study(1193, 65, _JIANG),
    ),
    (3.0, "T2", "white matter"): (
        Study(71, None, _COX),
        Study(79.6, 0.6, _WANSAPURA),
        Study(65, 6, _JIANG),
    ),
    (3.0, "T2", "grey matter"): (
        Study(76, None, f"{_COX}, frontal"),
        Study(68, None, f"{_COX}, occipital"),
        Study(110, 2, _WANSAPURA),
        Study(109, 11, _JIANG),
    ),
    (7.0, "T1", "white matter"): (Study(1126, 97, _WRIGHT), Study(1220, 36, _ROONEY)),
    (7.0, "T1", "grey matter"): (Study(1939, 149, _WRIGHT), Study(2132, 103, _ROONEY)),
    (7.0, "T2", "white matter"): (Study(47, None, _COX), Study(45.9, 1.9, _BARTHA)),
    (7.0, "T2", "grey matter"): (
        Study(47, None, f"{_COX}, frontal"),
        Study(46, None, f"{_COX}, occipital"),
        Study(55.0, 4.1, _BARTHA),
    ),
}
"""By field strength [T], relaxation time and tissue; all in vivo."""

FIELDS = sorted({field for field, _, _ in STUDIES})


@dataclass(frozen=True)
class PublishedRange:
    """Range in which a mean over a tissue is expected [ms], and the studies that it is from."""

    low: float
    high: float
    citations: tuple[str, ...]

    def holds(self, value: float) -> bool:
        """Whether a value [ms] is in the range."""
        return self.low <= value <= self.high


def nearest_field(field_strength: float | None) -> float | None:
    """Return the field strength of the table [T] that a scanner is taken for; None: none of them.

    Parameters
    ----------
    field_strength
        That of the scanner [T]; None: unknown.
    """
    if field_strength is None:
        return None
    nearest = min(FIELDS, key=lambda field: abs(field - field_strength))
    return nearest if abs(nearest - field_strength) <= FIELD_TOLERANCE * nearest else None


def published_range(field: float, time: Time, tissue: Tissue) -> PublishedRange:
    """Return the range from two standard deviations below the lowest mean to two above the highest.

    Parameters
    ----------
    field
        One of `FIELDS` [T].
    time, tissue
        Which relaxation time, and of what.
    """
    studies = STUDIES[field, time, tissue]
    margins = [
        2 * (_UNSTATED * study.mean if study.deviation is None else study.deviation)
        for study in studies
    ]
    return PublishedRange(
        min(s.mean - m for s, m in zip(studies, margins, strict=True)),
        max(s.mean + m for s, m in zip(studies, margins, strict=True)),
        tuple(dict.fromkeys(study.citation for study in studies)),
    )

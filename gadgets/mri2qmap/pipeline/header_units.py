"""Plausible ranges of the values in a header; a value outside them is probably in another unit."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mri2qmap.pipeline.findings import Findings, ScanError, scan_error


@dataclass(frozen=True)
class Range:
    """Range of plausible values.

    Attributes
    ----------
    low, high
        Smallest and largest value.
    unit
        Unit of the values.
    others
        Units that are used by mistake, with the factors that convert them to `unit`.
    """

    low: float
    high: float
    unit: str
    others: Mapping[str, float] = field(default_factory=dict)

    def contains(self, value: float) -> bool:
        """Return whether the value is in the range; NaN is not."""
        return self.low <= value <= self.high

    def expectation(self, value: float) -> str:
        """Describe the expected range and the probable unit of an invalid value."""
        middle = math.sqrt(max(self.low, 1e-3 * self.high) * self.high)
        fitting = {
            unit: abs(math.log(value * factor / middle))
            for unit, factor in self.others.items()
            if value > 0 and self.contains(value * factor)
        }
        text = f"{self.low:g} to {self.high:g} {self.unit} are expected"
        if fitting:
            text += f"; is it in {min(fitting, key=lambda unit: fitting[unit])}?"
        return text


_TIMES = {"seconds": 1e3, "microseconds": 1e-3}

TR_MS = Range(0.5, 15_000, "ms", _TIMES)
"""From zero-echo-time sequences to a recovery delay of 10 s."""

USUAL_TR_MS = Range(0.5, 1_000, "ms", _TIMES)
"""Range of the median TR: from fast gradient echoes to echo-planar readouts."""

TE_MS = Range(0.01, 200, "ms", _TIMES)
"""From ultra-short echo time to echo-planar readouts; 0 is allowed, too."""

TI_MS = Range(3, 3_000, "ms", _TIMES)
"""From the duration of an adiabatic inversion to 3 s. The ratio of the bounds is 1000, so no value
is plausible in two units."""

FLIP_ANGLE_DEG = Range(0, 180, "degrees", {"tenths of a degree": 0.1})
"""A flip angle above 180 degrees is equivalent to a smaller one."""

LARGEST_FLIP_ANGLE_DEG = Range(3.2, 180, "degrees", {"radians": math.degrees(1)})
"""Range of the largest flip angle of a train; the lower bound exceeds pi, to detect radians."""

_LENGTHS = {"metres": 1e3, "centimetres": 10.0, "micrometres": 1e-3}

FIELD_OF_VIEW_MM = Range(5, 2_000, "mm", _LENGTHS)
"""Range of the longest side: from a small phantom to a whole body."""

VOXEL_MM = Range(0.3, 100, "mm", _LENGTHS)
"""From the finest resolution at ultra-high field to test scans of 8 voxels per side."""

LARGE_FIELD_OF_VIEW_MM = Range(40, 2_000, "mm", _LENGTHS)
COARSE_VOXEL_MM = 1.6
"""Finer voxels in a field of view below `LARGE_FIELD_OF_VIEW_MM` indicate centimetres."""

MOST_ANISOTROPIC = 9
"""Largest ratio of two sides of a voxel; a larger one indicates a side in another unit."""

POSITION_MM = Range(-2_000, 2_000, "mm", {"micrometres": 1e-3})
"""Position of the centre of the field of view relative to the isocentre."""

DWELL_US = Range(0.01, 10_000, "us", {"seconds": 1e6, "milliseconds": 1e3, "nanoseconds": 1e-3})
"""Time of one sample of a readout: from 100 MHz to 100 Hz of bandwidth."""

RESONANCE_HZ = Range(1e6, 1.2e9, "Hz", {"MHz": 1e6, "kHz": 1e3})
"""Proton resonance at 0.025 to 28 T."""

FIELD_T = Range(0.02, 30, "T", {"gauss": 1e-4, "millitesla": 1e-3, "Hz": 1 / 42.577e6})
"""From portable scanners to the strongest magnets."""

WEIGHT_KG = Range(0.1, 650, "kg", {"grams": 1e-3})
"""From a small phantom to the heaviest patients."""

HEIGHT_M = Range(0.2, 2.8, "m", {"centimetres": 1e-2, "millimetres": 1e-3})
"""From preterm infants to the tallest patients."""


def check_times(
    tr: Sequence[float],
    te: Sequence[float],
    ti: float,
    n_frames: int,
    place: str,
    findings: Findings,
) -> None:
    """Refuse implausible sequence times.

    Parameters
    ----------
    tr, te
        One time, or one per frame [ms].
    ti
        Inversion time [ms].
    n_frames
        Number of frames.
    place
        Name of the header element, for messages.
    findings
        Takes the errors of each time.

    Raises
    ------
    Mri2QmapError
        If `findings` stops at a time out of range; the message names the value, the range and the
        probable unit.
    """
    before = len(findings.errors)
    findings.attempt(_check_tr, tr, f"{place}.TR")
    findings.attempt(_check_each, te, TE_MS, "te", f"{place}.TE", True)
    findings.attempt(_check_each, [ti], TI_MS, "ti", f"{place}.TI", True)
    if len(findings.errors) == before:
        findings.attempt(_check_te_within_tr, tr, te, place)
        findings.attempt(_check_train, tr, ti, n_frames, f"{place}.TI")


def _check_tr(tr: Sequence[float], place: str) -> None:
    _check_each(tr, TR_MS, "tr", place)
    median = statistics.median(tr)
    if not USUAL_TR_MS.contains(median):
        raise _error(
            "tr-range",
            place,
            f" has a median of {median:g} ms",
            USUAL_TR_MS.expectation(median),
            "write it in ms",
        )


def _check_te_within_tr(tr: Sequence[float], te: Sequence[float], place: str) -> None:
    for frame in range(max(len(tr), len(te))):
        repetition, echo = tr[frame % len(tr)], te[frame % len(te)]
        if echo >= repetition:
            raise _error(
                "te-not-within-tr",
                f"{place}.TE",
                f" of frame {frame} is {echo:g} ms, its TR is {repetition:g} ms",
                "TE must be shorter than TR",
                "are both in the same unit?",
            )


def _check_train(tr: Sequence[float], ti: float, n_frames: int, place: str) -> None:
    train = sum(tr) * (n_frames if len(tr) == 1 else 1)
    if ti > train:
        raise _error(
            "ti-beyond-train",
            place,
            f" is {ti:g} ms, longer than the train of {n_frames} frames ({train:g} ms)",
            "the time from the inversion to the first excitation is expected",
            "is it in microseconds?",
        )


def check_flip_angles(degrees: Sequence[float], place: str) -> None:
    """Refuse implausible flip angles.

    Parameters
    ----------
    degrees
        One flip angle, or one per frame [degrees].
    place
        Name of the header element, for messages.

    Raises
    ------
    Mri2QmapError
        If an angle is out of range; the message names the value, the range and the probable unit.
    """
    _check_each(degrees, FLIP_ANGLE_DEG, "flip-angle", place)
    largest = max(degrees)
    if not LARGEST_FLIP_ANGLE_DEG.contains(largest):
        raise _error(
            "flip-angle-range",
            place,
            f": the largest flip angle is {largest:g} degrees",
            LARGEST_FLIP_ANGLE_DEG.expectation(largest),
            "write it in degrees",
        )


def check_extent(sides: Sequence[float], matrix: Sequence[int], place: str) -> None:
    """Refuse implausible fields of view and voxel sizes.

    Parameters
    ----------
    sides
        Field of view (x, y, z) [mm].
    matrix
        Number of voxels (x, y, z).
    place
        Name of the header element, for messages.

    Raises
    ------
    Mri2QmapError
        If a size is out of range; the message names the value, the range and the probable unit.
    """
    longest = max(sides)
    voxel_sizes = [side / voxels for side, voxels in zip(sides, matrix, strict=True)]
    fine = min(voxel_sizes) < COARSE_VOXEL_MM
    allowed = LARGE_FIELD_OF_VIEW_MM if fine else FIELD_OF_VIEW_MM
    if not allowed.contains(longest):
        kind = f" with voxels of {min(voxel_sizes):g} mm" if fine else ""
        raise _error(
            "field-of-view-range",
            place,
            f": its longest side is {longest:g} mm{kind}",
            allowed.expectation(longest),
            "write it in mm",
        )
    for axis, side, size in zip("xyz", sides, voxel_sizes, strict=True):
        if not VOXEL_MM.contains(size):
            raise _error(
                "voxel-size-range",
                f"{place}.{axis}",
                f" is {side:g} mm, which gives a voxel size of {size:g} mm",
                f"for a voxel, {VOXEL_MM.expectation(size)}",
                "correct the field of view [mm] or the matrix",
            )
    if max(voxel_sizes) > MOST_ANISOTROPIC * min(voxel_sizes):
        sizes = " x ".join(f"{size:g}" for size in voxel_sizes)
        raise _error(
            "voxel-anisotropic",
            place,
            f": the voxel size is {sizes} mm (x, y, z)",
            f"one side is more than {MOST_ANISOTROPIC} times another",
            "is one of the sides in another unit?",
        )


def check_position(position: Sequence[float], place: str) -> None:
    """Refuse a position (x, y, z) [mm] outside any scanner.

    Raises
    ------
    Mri2QmapError
        If it is out of range; the message names the value, the range and the probable unit.
    """
    for axis, value in zip("xyz", position, strict=True):
        if not POSITION_MM.contains(value):
            raise _error(
                "position-range",
                place,
                f": position {axis} is {value:g} mm",
                POSITION_MM.expectation(abs(value)),
                "write it in mm",
            )


def _check_each(
    values: Sequence[float], allowed: Range, name: str, place: str, zero: bool = False
) -> None:
    for number, value in enumerate(values):
        if not allowed.contains(value) and not (zero and value == 0):
            which = f" of frame {number}" if len(values) > 1 else ""
            raise _error(
                f"{name}-range",
                place,
                f"{which} is {value:g} {allowed.unit}",
                allowed.expectation(value),
                f"write it in {allowed.unit}",
            )


def _error(code: str, place: str, what: str, why: str, advice: str) -> ScanError:
    """Return the error of an element; `what` continues the name of the element."""
    where, _, element = place.rpartition(": ")
    return scan_error(code, where, element + what, why, advice)

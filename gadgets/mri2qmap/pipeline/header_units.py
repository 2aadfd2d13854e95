"""Plausible ranges of the values in a header; a value outside them is probably in another unit."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mri2qmap.errors import Mri2QmapError


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
    tr: Sequence[float], te: Sequence[float], ti: float, n_frames: int, place: str
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

    Raises
    ------
    Mri2QmapError
        If a time is out of range; the message names the value, the range and the probable unit.
    """
    _check_each(tr, TR_MS, f"{place}.TR")
    median = statistics.median(tr)
    if not USUAL_TR_MS.contains(median):
        raise Mri2QmapError(
            f"{place}.TR has a median of {median:g} ms; {USUAL_TR_MS.expectation(median)}"
        )
    _check_each(te, TE_MS, f"{place}.TE", zero=True)
    _check_each([ti], TI_MS, f"{place}.TI", zero=True)
    for frame in range(max(len(tr), len(te))):
        repetition, echo = tr[frame % len(tr)], te[frame % len(te)]
        if echo >= repetition:
            raise Mri2QmapError(
                f"{place}.TE of frame {frame} is {echo:g} ms, its TR is {repetition:g} ms; TE must "
                "be shorter than TR: are both in the same unit?"
            )
    train = sum(tr) * (n_frames if len(tr) == 1 else 1)
    if ti > train:
        raise Mri2QmapError(
            f"{place}.TI is {ti:g} ms, longer than the train of {n_frames} frames ({train:g} ms); "
            "the time from the inversion to the first excitation is expected: is it in "
            "microseconds?"
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
    _check_each(degrees, FLIP_ANGLE_DEG, place)
    largest = max(degrees)
    if not LARGEST_FLIP_ANGLE_DEG.contains(largest):
        raise Mri2QmapError(
            f"{place}: the largest flip angle is {largest:g} degrees; "
            f"{LARGEST_FLIP_ANGLE_DEG.expectation(largest)}"
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
        raise Mri2QmapError(
            f"{place}: its longest side is {longest:g} mm{kind}; {allowed.expectation(longest)}"
        )
    for axis, side, size in zip("xyz", sides, voxel_sizes, strict=True):
        if not VOXEL_MM.contains(size):
            raise Mri2QmapError(
                f"{place}.{axis} is {side:g} mm, which gives a voxel size of {size:g} mm; for a "
                f"voxel, {VOXEL_MM.expectation(size)}"
            )
    if max(voxel_sizes) > MOST_ANISOTROPIC * min(voxel_sizes):
        sizes = " x ".join(f"{size:g}" for size in voxel_sizes)
        raise Mri2QmapError(
            f"{place}: the voxel size is {sizes} mm (x, y, z), and one side is more than "
            f"{MOST_ANISOTROPIC} times another; is one of the sides in another unit?"
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
            raise Mri2QmapError(
                f"{place}: position {axis} is {value:g} mm; {POSITION_MM.expectation(abs(value))}"
            )


def _check_each(values: Sequence[float], allowed: Range, place: str, *, zero: bool = False) -> None:
    for number, value in enumerate(values):
        if not allowed.contains(value) and not (zero and value == 0):
            which = f" of frame {number}" if len(values) > 1 else ""
            raise Mri2QmapError(
                f"{place}{which} is {value:g} {allowed.unit}; {allowed.expectation(value)}"
            )

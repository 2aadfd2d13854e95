"""Ranges of the numbers in a header; outside of them, the unit is most likely another one."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mri2qmap.errors import Mri2QmapError


@dataclass(frozen=True)
class Range:
    """Values that a number can have.

    Attributes
    ----------
    low, high
        The smallest and the largest.
    unit
        In which they are.
    others
        Units that are taken by mistake, with what turns a value in them into one in `unit`.
    """

    low: float
    high: float
    unit: str
    others: Mapping[str, float] = field(default_factory=dict)

    def contains(self, value: float) -> bool:
        """Say whether the value is in the range; NaN is not."""
        return self.low <= value <= self.high

    def expectation(self, value: float) -> str:
        """Say what is expected, and in which unit the value may be instead."""
        middle = math.sqrt(max(self.low, 1e-3 * self.high) * self.high)
        fitting = {
            unit: abs(math.log(value * factor / middle))
            for unit, factor in self.others.items()
            if value > 0 and self.contains(value * factor)
        }
        text = f"{self.low:g} to {self.high:g} {self.unit} are expected"
        if fitting:
            text += f"; is it given in {min(fitting, key=lambda unit: fitting[unit])}?"
        return text


_TIMES = {"seconds": 1e3, "microseconds": 1e-3}

TR_MS = Range(0.5, 15_000, "ms", _TIMES)
"""From zero echo time to a pause of 10 s for recovery."""

USUAL_TR_MS = Range(0.5, 1_000, "ms", _TIMES)
"""Of most frames: gradient echoes of 4 ms to echo-planar trains."""

TE_MS = Range(0.01, 200, "ms", _TIMES)
"""From ultra-short to echo-planar; 0 is allowed too."""

TI_MS = Range(3, 3_000, "ms", _TIMES)
"""An adiabatic inversion takes longer than the least; no train waits for the most. The bounds are a
thousand apart, so that no time fits in two units."""

FLIP_ANGLE_DEG = Range(0, 180, "degrees", {"tenths of a degree": 0.1})
"""Beyond 180 a pulse does what a smaller one does."""

LARGEST_FLIP_ANGLE_DEG = Range(3.2, 180, "degrees", {"radians": math.degrees(1)})
"""Of the whole train; a train that stays below gives no signal, and none of radians is above."""

_LENGTHS = {"metres": 1e3, "centimetres": 10.0, "micrometres": 1e-3}

FIELD_OF_VIEW_MM = Range(5, 2_000, "mm", _LENGTHS)
"""Of the longest side: from a small phantom to several stations of a whole body."""

VOXEL_MM = Range(0.3, 100, "mm", _LENGTHS)
"""From the finest at 7 T and more to test scans of 8 voxels a side."""

LARGE_FIELD_OF_VIEW_MM = Range(40, 2_000, "mm", _LENGTHS)
COARSE_VOXEL_MM = 1.6
"""Finer voxels in a smaller field of view: that is a head or body in centimetres."""

MOST_ANISOTROPIC = 9
"""Ratio of the sides of a voxel: thick slabs stay below, a side in another unit is above."""

POSITION_MM = Range(-2_000, 2_000, "mm", {"micrometres": 1e-3})
"""From the isocentre, of the centre of the field of view."""

RESONANCE_HZ = Range(1e6, 1.2e9, "Hz", {"MHz": 1e6, "kHz": 1e3})
"""Protons at 0.025 to 28 T."""

FIELD_T = Range(0.02, 30, "T", {"gauss": 1e-4, "millitesla": 1e-3, "Hz": 1 / 42.577e6})
"""From portable scanners to the strongest magnets."""

WEIGHT_KG = Range(0.1, 650, "kg", {"grams": 1e-3})
"""From a small phantom to the heaviest of men."""

HEIGHT_M = Range(0.2, 2.8, "m", {"centimetres": 1e-2, "millimetres": 1e-3})
"""From premature babies to the tallest of men."""


def check_times(
    tr: Sequence[float], te: Sequence[float], ti: float, n_frames: int, place: str
) -> None:
    """Refuse times that no fingerprinting sequence has.

    Parameters
    ----------
    tr, te
        One time or one a frame [ms].
    ti
        Inversion time [ms].
    n_frames
        Number of frames.
    place
        Where they were read, for messages.

    Raises
    ------
    Mri2QmapError
        It names the value, the range and the likely unit.
    """
    _check_each(tr, TR_MS, f"{place}.TR")
    median = statistics.median(tr)
    if not USUAL_TR_MS.contains(median):
        raise Mri2QmapError(
            f"{place}.TR is {median:g} ms in most frames; {USUAL_TR_MS.expectation(median)}"
        )
    _check_each(te, TE_MS, f"{place}.TE", zero=True)
    _check_each([ti], TI_MS, f"{place}.TI", zero=True)
    for frame in range(max(len(tr), len(te))):
        repetition, echo = tr[frame % len(tr)], te[frame % len(te)]
        if echo >= repetition:
            raise Mri2QmapError(
                f"{place}.TE of frame {frame} is {echo:g} ms, its TR {repetition:g} ms; TE must be "
                "shorter than TR: are both in the same unit?"
            )
    train = sum(tr) * (n_frames if len(tr) == 1 else 1)
    if ti > train:
        raise Mri2QmapError(
            f"{place}.TI is {ti:g} ms, longer than the train of {n_frames} frames that follows it, "
            f"{train:g} ms; the time from the inversion to the first excitation is expected: is it "
            "given in microseconds?"
        )


def check_flip_angles(degrees: Sequence[float], place: str) -> None:
    """Refuse flip angles that no train has, one or one a frame.

    Raises
    ------
    Mri2QmapError
        It names the value, the range and the likely unit.
    """
    _check_each(degrees, FLIP_ANGLE_DEG, place)
    largest = max(degrees)
    if not LARGEST_FLIP_ANGLE_DEG.contains(largest):
        raise Mri2QmapError(
            f"{place}: the largest flip angle is {largest:g} degrees; "
            f"{LARGEST_FLIP_ANGLE_DEG.expectation(largest)}"
        )


def check_extent(sides: Sequence[float], matrix: Sequence[int], place: str) -> None:
    """Refuse fields of view and voxels of a size that no scan of a body or phantom has.

    Parameters
    ----------
    sides
        Field of view (x, y, z) [mm].
    matrix
        Number of voxels (x, y, z).
    place
        Where they were read, for messages.

    Raises
    ------
    Mri2QmapError
        It names the value, the range and the likely unit.
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
                f"{place}.{axis} is {side:g} mm, that of a voxel {size:g} mm; for a voxel "
                f"{VOXEL_MM.expectation(size)}"
            )

    if max(voxel_sizes) > MOST_ANISOTROPIC * min(voxel_sizes):
        sizes = " x ".join(f"{size:g}" for size in voxel_sizes)
        raise Mri2QmapError(
            f"{place}: its voxels have {sizes} mm (x, y, z), and one side is more than "
            f"{MOST_ANISOTROPIC} times another; is one of the sides given in another unit?"
        )


def check_position(position: Sequence[float], place: str) -> None:
    """Refuse a position (x, y, z) [mm] that is outside of any scanner.

    Raises
    ------
    Mri2QmapError
        It names the value, the range and the likely unit.
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

"""Pulses of a Pulseq file: flip angle, phase and centre."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mri2qmap.errors import Mri2QmapError
from mri2qmap.pulseq.content import PULSE_USES, TIMED_BLOCKS, PulseqContent
from mri2qmap.pulseq.shapes import shape_samples

_RASTER = 1e-6
"""Raster time of pulses before version 1.4 [s]."""
_PLATEAU = 0.99999
"""Part of the largest magnitude from which on a sample belongs to the peak."""
_SMALL = 1e-3
"""Part of the largest magnitude below which the phase of a sample does not count."""
_STRAIGHT = 0.01
"""Largest sine of the angle between samples of a pulse that is not modulated."""


@dataclass(frozen=True)
class Pulse:
    """A pulse.

    Attributes
    ----------
    number, line
        Its number in section [RF], and the line.
    flip_angle
        On resonance [degrees].
    phase
        Phase of the rotation axis at the centre, without that of frequency offsets [rad].
    center, end
        From the beginning of the block [s].
    modulated
        Whether its phase changes within the pulse by other than half turns, so that its flip angle
        is not that of the area.
    use
        Letter of section [RF]; "" before version 1.5.
    """

    number: int
    line: int
    flip_angle: float
    phase: float
    center: float
    end: float
    modulated: bool
    use: str


def read_pulse(content: PulseqContent, number: int, place: str) -> Pulse:
    """Return a pulse.

    The flip angle is 360 degrees times the magnitude of the integral of the complex amplitude [Hz]
    over time. The centre is that of the file since version 1.5, before that the middle of the
    samples of largest magnitude.

    Parameters
    ----------
    content
        The file.
    number
        Number of the pulse.
    place
        What names it, for messages.

    Raises
    ------
    Mri2QmapError
        If it or one of its shapes is missing, or these do not belong together.
    """
    event = content.event("RF", number, place)
    own_place = content.at("RF", event.line)
    amplitude, magnitude_id, phase_id, *others = event.values
    time_id = others.pop(0) if content.since(TIMED_BLOCKS) else 0.0
    stored_center = others.pop(0) * 1e-6 if content.since(PULSE_USES) else None
    delay, phase_offset = others[0] * 1e-6, others[-1]
    magnitude = shape_samples(content, magnitude_id, own_place)
    cycles = shape_samples(content, phase_id, own_place) if phase_id else 0 * magnitude
    raster = content.raster("RadiofrequencyRasterTime", _RASTER)
    if time_id:
        times = np.asarray(raster * shape_samples(content, time_id, own_place), np.float64)
    else:
        times = np.asarray((np.arange(len(magnitude)) + 0.5) * raster, np.float64)
    if not len(magnitude) == len(cycles) == len(times):
        raise Mri2QmapError(
            f"{own_place}: its shapes have {len(magnitude)}, {len(cycles)} and {len(times)} "
            "samples of magnitude, phase and time; one number is expected: write the file again"
        )
    if magnitude.min() < -_STRAIGHT or magnitude.max() > 1 + _STRAIGHT:
        raise Mri2QmapError(
            f"{own_place}: the magnitude shape {magnitude_id:g} reaches from {magnitude.min():.3g} "
            f"to {magnitude.max():.3g}; 0 to 1 are expected: write the file again"
        )
    if delay < 0 or times[0] < 0 or np.any(np.diff(times) < 0):
        raise Mri2QmapError(
            f"{own_place}: its delay is negative, or its times are not in order: write the file "
            "again"
        )
    duration = float(times[-1]) if time_id else len(magnitude) * raster
    samples = magnitude * np.exp(2j * np.pi * cycles)
    weights = _trapezoid_weights(times) if time_id else np.full(len(times), raster)
    area = complex(np.sum(weights * samples)) * amplitude
    center = _peak(magnitude, times) if stored_center is None else stored_center
    if not 0 <= center <= duration + raster:
        raise Mri2QmapError(
            f"{own_place}: its centre is {1e6 * center:g} us after its beginning, its duration "
            f"{1e6 * duration:g} us: write the file again"
        )
    return Pulse(
        number=number,
        line=event.line,
        flip_angle=360 * abs(area),
        phase=phase_offset + float(np.angle(area)),
        center=delay + center,
        end=delay + duration,
        modulated=_is_modulated(samples),
        use=event.use,
    )


def _trapezoid_weights(times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weights of samples in an integral of straight lines between them."""
    steps = np.diff(times, prepend=times[0], append=times[-1])
    return (steps[:-1] + steps[1:]) / 2


def _peak(magnitude: NDArray[np.float64], times: NDArray[np.float64]) -> float:
    found = np.flatnonzero(magnitude >= _PLATEAU * magnitude.max())
    return float(times[found[0]] + times[found[-1]]) / 2


def _is_modulated(samples: NDArray[np.complex128]) -> bool:
    size = np.abs(samples)
    largest = int(np.argmax(size))
    if size[largest] == 0:
        return False
    turned = samples * np.conj(samples[largest]) / size[largest]
    counted = size > _SMALL * size[largest]
    return bool(np.any(np.abs(turned.imag[counted]) > _STRAIGHT * size[counted]))

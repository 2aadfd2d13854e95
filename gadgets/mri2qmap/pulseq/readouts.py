"""Readouts of a Pulseq file: when they pass the centre of k-space."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mri2qmap.errors import Mri2QmapError
from mri2qmap.pulseq.content import Block, PulseqContent
from mri2qmap.pulseq.file import MOST_SAMPLES
from mri2qmap.pulseq.gradients import Gradients

_SAME = 1e-4
"""Part of the extent of a readout by which samples of one distance from the centre may differ."""
_NEAR, _FAR = 0.05, 0.5
"""Parts of the extent: a readout that is near the centre, far from it and near again passes it
twice."""


class Readout(NamedTuple):
    """Timing of a readout.

    Attributes
    ----------
    begin, end
        Of the first and the last sample, from the beginning of the block [s].
    dwell
        Time of a sample [s].
    samples
        Their number.
    phase
        Of the receiver [rad].
    """

    begin: float
    end: float
    dwell: float
    samples: int
    phase: float


def read_readout(content: PulseqContent, number: int, place: str) -> Readout:
    """Return a readout.

    Parameters
    ----------
    content
        The file.
    number
        Number of the event in [ADC].
    place
        What names it, for messages.

    Raises
    ------
    Mri2QmapError
        If it is missing or invalid.
    """
    event = content.event("ADC", number, place)
    samples, dwell, delay, *others = event.values
    if not 1 <= samples <= MOST_SAMPLES or samples != int(samples) or dwell <= 0 or delay < 0:
        raise Mri2QmapError(
            f"{content.at('ADC', event.line)}: a readout of {samples:g} samples of {dwell:g} ns "
            f"with a delay of {delay:g} us; 1 to {MOST_SAMPLES} samples, a positive dwell time and "
            "no negative delay are expected: write the file again"
        )
    begin, duration = delay * 1e-6, samples * dwell * 1e-9
    phase = others[3] if len(others) > 2 else others[1]  # without the part in rad/MHz
    return Readout(begin, begin + duration, dwell * 1e-9, int(samples), phase)


def center_time(
    readout: Readout,
    block: Block,
    before: NDArray[np.float64],
    rotation: NDArray[np.float64] | None,
    gradients: Gradients,
    place: str,
) -> tuple[float, float]:
    """Return when a readout is nearest to the centre of k-space.

    It is the time of the sample whose distance is least, or the middle of neighbouring samples of
    the same distance.

    Parameters
    ----------
    readout
        The readout.
    block
        Its block.
    before
        Position in k-space at the beginning of the block (3,) [1/m].
    rotation
        See `Gradients.moments`.
    gradients
        Of the file.
    place
        The block, for messages.

    Returns
    -------
    time
        From the beginning of the block [s].
    extent
        Largest distance from the centre of k-space [1/m].

    Raises
    ------
    Mri2QmapError
        If the position does not change, or is near the centre more than once.
    """
    steps = np.arange(readout.samples) + 0.5
    times = np.asarray(readout.begin + steps * readout.dwell, np.float64)
    position = before + gradients.moments(block, times, rotation, place)
    distance = np.linalg.norm(position, axis=1)
    extent = float(distance.max())
    beyond = np.sqrt(np.maximum(distance**2 - distance.min() ** 2, 0))  # without a partition
    reach = float(beyond.max())
    if not np.isfinite(reach) or reach <= _SAME * max(extent, 1.0):
        raise Mri2QmapError(
            f"{place}: there is no gradient during the readout, which passes no centre of k-space: "
            "is it the sequence of the scan?"
        )
    passes = _passes(beyond / reach)
    if passes > 1:
        raise Mri2QmapError(
            f"{place}: the readout passes the centre of k-space {passes} times; the signal model "
            "has one echo time for a frame: end the readout after the first, or give flip_angles "
            "and times in the profile instead of the file"
        )
    near = distance <= distance.min() + _SAME * reach
    first = int(np.argmax(near))
    others = np.flatnonzero(~near[first:])
    last = first + int(others[0]) - 1 if len(others) else len(near) - 1
    return float(times[first] + times[last]) / 2, extent


def _passes(part: NDArray[np.float64]) -> int:
    """Return how often parts of the extent (samples,) are near zero, with others in between."""
    marks = np.where(part < _NEAR, 1, np.where(part > _FAR, -1, 0))
    marks = marks[marks != 0]
    return int(np.count_nonzero(np.diff(marks, prepend=-1) == 2))

"""Shapes of pulses and gradients, decompressed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mri2qmap.errors import Mri2QmapError
from mri2qmap.pulseq.content import TIMED_BLOCKS, PulseqContent, StoredShape


def shape_samples(content: PulseqContent, number: float, place: str) -> NDArray[np.float64]:
    """Return the samples of a shape (num_samples,).

    Parameters
    ----------
    content
        The file.
    number
        Number of the shape.
    place
        What names it, for messages.

    Raises
    ------
    Mri2QmapError
        If the file does not have it, or it has other than `num_samples` samples.
    """
    stored = content.shapes.get(int(number)) if number == int(number) else None
    if stored is None:
        raise Mri2QmapError(
            f"{place}: it names shape {number:g}, which section [SHAPES] does not have: the file "
            "is damaged or was truncated; write it again"
        )
    own_place = f"{content.at('SHAPES', stored.line)}: shape {number:g}"
    if len(stored.samples) == stored.num_samples and content.since(TIMED_BLOCKS):
        return np.array(stored.samples)
    return np.cumsum(_derivative(stored, own_place))


def _derivative(stored: StoredShape, place: str) -> NDArray[np.float64]:
    """Expand runs: two equal numbers are followed by how many more of them there are."""
    values, counts = [], []
    samples = stored.samples
    at = total = 0
    while at < len(samples):
        value, count = samples[at], 1
        at += 1
        if at < len(samples) and samples[at] == value:
            more = samples[at + 1] if at + 1 < len(samples) else -1.0
            if not 0 <= more == int(more):
                raise Mri2QmapError(
                    f"{place}: after two equal numbers, that of further repetitions is missing, or "
                    f"is {more:g}: the file is damaged or was truncated; write it again"
                )
            count, at = 2 + int(more), at + 2
        values.append(value)
        counts.append(count)
        total += count
        if total > stored.num_samples:
            break
    if total != stored.num_samples:
        found = f"more than {stored.num_samples}" if total > stored.num_samples else str(total)
        raise Mri2QmapError(
            f"{place}: it has {found} samples when it is decompressed, but num_samples is "
            f"{stored.num_samples}: the file is damaged or was truncated; write it again"
        )
    return np.repeat(values, counts)

"""Gradients of a Pulseq file: their moments, which are positions in k-space."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mri2qmap.errors import Mri2QmapError
from mri2qmap.pulseq.content import PULSE_USES, TIMED_BLOCKS, Block, Event, PulseqContent
from mri2qmap.pulseq.shapes import shape_samples

_RASTER = 10e-6
"""Raster time of gradients before version 1.4 [s]."""
_MOST_KEPT = 2**21
"""Corners of gradients that are kept."""


class _Waveform(NamedTuple):
    """A gradient as straight lines between its corners, zero before and after them.

    Attributes
    ----------
    times
        Of the corners, from the beginning of the block (corners,) [s].
    values
        (corners,) [Hz/m].
    moments
        Integral up to each corner (corners,) [1/m].
    """

    times: NDArray[np.float64]
    values: NDArray[np.float64]
    moments: NDArray[np.float64]

    def moment(self, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the integral up to the times (n,) [1/m]."""
        last = len(self.times) - 1
        times = np.clip(times, self.times[0], self.times[-1])
        corner = np.searchsorted(self.times, times, "right") - 1
        after = times - self.times[corner]
        following = np.minimum(corner + 1, last)
        step = self.times[following] - self.times[corner]
        rise = self.values[following] - self.values[corner]
        slope = np.divide(rise, step, out=np.zeros_like(rise), where=step > 0)
        return self.moments[corner] + self.values[corner] * after + 0.5 * slope * after**2


class Gradients:
    """Moments of the gradients of blocks.

    Parameters
    ----------
    content
        The file.
    """

    def __init__(self, content: PulseqContent) -> None:
        self._content = content
        self._raster = content.raster("GradientRasterTime", _RASTER)
        self._kept: dict[int, _Waveform] = {}
        self._corners = 0

    def moments(
        self,
        block: Block,
        times: NDArray[np.float64],
        rotation: NDArray[np.float64] | None,
        place: str,
    ) -> NDArray[np.float64]:
        """Return the integrals of the three gradients from the beginning of a block.

        Parameters
        ----------
        block
            The block.
        times
            From its beginning (n,) [s].
        rotation
            Matrix (3, 3) that turns the gradients of the block; None: they are not turned.
        place
            The block, for messages.

        Returns
        -------
            (n, 3), x, y, z [1/m].

        Raises
        ------
        Mri2QmapError
            If a gradient or its shape is missing or invalid.
        """
        found = np.zeros((len(times), 3))
        for axis, number in enumerate((block.gx, block.gy, block.gz)):
            if number:
                found[:, axis] = self._waveform(number, place).moment(times)
        return found if rotation is None else found @ rotation.T

    def end(self, block: Block, place: str) -> float:
        """Return when the last gradient of a block ends, from its beginning [s]."""
        numbers = [number for number in (block.gx, block.gy, block.gz) if number]
        return max((float(self._waveform(n, place).times[-1]) for n in numbers), default=0.0)

    def _waveform(self, number: int, place: str) -> _Waveform:
        if number not in self._kept:
            waveform = self._read(number, place)
            if self._corners + len(waveform.times) > _MOST_KEPT:
                self._kept.clear()
                self._corners = 0
            self._kept[number] = waveform
            self._corners += len(waveform.times)
        return self._kept[number]

    def _read(self, number: int, place: str) -> _Waveform:
        content = self._content
        trapezoid = content.events.get("TRAP", {}).get(number)
        section = "GRADIENTS" if trapezoid is None else "TRAP"
        event = trapezoid or content.event(section, number, place)
        own_place = content.at(section, event.line)
        if trapezoid is not None:
            amplitude, *parts = event.values
            steps = 1e-6 * np.array([parts[3], *parts[:3]])
            times, values = np.cumsum(steps), amplitude * np.array([0.0, 1.0, 1.0, 0.0])
        else:
            times, values = self._arbitrary(event, own_place)
        if times[0] < 0 or np.any(np.diff(times) < 0):
            raise Mri2QmapError(
                f"{own_place}: its times are negative or not in order: write the file again"
            )
        areas = np.diff(times) * (values[1:] + values[:-1]) / 2
        return _Waveform(times, values, np.concatenate([[0.0], np.cumsum(areas)]))

    def _arbitrary(
        self, event: Event, place: str
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return times [s] and values [Hz/m] of the corners of a line of [GRADIENTS]."""
        content, raster = self._content, self._raster
        amplitude, *others = event.values
        edges = (others.pop(0), others.pop(0)) if content.since(PULSE_USES) else None
        shape_id, delay = others[0], others[-1] * 1e-6
        time_id = others[1] if content.since(TIMED_BLOCKS) else 0.0
        values = amplitude * shape_samples(content, shape_id, place)
        if time_id > 0:
            times = shape_samples(content, time_id, place) * raster
            if len(times) != len(values):
                raise Mri2QmapError(
                    f"{place}: its shapes have {len(values)} values and {len(times)} times; one "
                    "number is expected: write the file again"
                )
            return delay + times, values
        if edges is None:  # straight on from the two outer samples
            inner = values[[1, -2]] if len(values) > 1 else values[[0, 0]]
            first, last = values[[0, -1]] + (values[[0, -1]] - inner) / 2
        else:
            first, last = edges
        count = len(values)
        half = time_id == -1.0  # a sample at each half of the raster
        steps = 0.5 * np.arange(1, count + 1) if half else np.arange(count) + 0.5
        times = np.asarray(steps * raster, np.float64)
        end = (count + 1) / 2 * raster if half else count * raster
        return (
            delay + np.concatenate([[0.0], times, [end]]),
            np.concatenate([[first], values, [last]]),
        )

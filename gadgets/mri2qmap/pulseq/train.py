"""The train of a Pulseq file: an inversion, then one excitation and readout for each frame."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mri2qmap.errors import Mri2QmapError
from mri2qmap.mrsignal.sequence import Sequence
from mri2qmap.pulseq.content import TIMED_BLOCKS, Block, PulseqContent
from mri2qmap.pulseq.extensions import (
    BlockExtensions,
    block_extensions,
    refuse_unknown_extensions,
)
from mri2qmap.pulseq.file import read_content
from mri2qmap.pulseq.gradients import Gradients
from mri2qmap.pulseq.pulses import Pulse, read_pulse
from mri2qmap.pulseq.readout_groups import Frame, ReadoutGroups
from mri2qmap.pulseq.readouts import Readout, center_time, read_readout

_RASTER = 10e-6
_TOLERANCE = 1e-7
"""By which events may end after their block, as their times are rounded [s]."""
_MOST_SAMPLES = 2**26
"""Samples of all readouts whose position in k-space is computed."""
_INVERSION = (170.0, 190.0)
"""Flip angles of an inversion pulse [degrees]."""
_USES = {"r": "refocusing", "s": "saturation", "p": "preparation", "o": "other"}
_INSTEAD = "give flip_angles and times in the profile instead of the file"
_NEGLECT = f"if its effect can be neglected, {_INSTEAD}"


@dataclass(frozen=True)
class PulseqTrain:
    """The train that a Pulseq file plays.

    Attributes
    ----------
    sequence
        Flip angles and times of a readout group.
    version
        Of the file format, "1.5.1".
    groups
        How often the train is played.
    """

    sequence: Sequence
    version: str
    groups: int


def read_train(path: str, most_frames: int) -> PulseqTrain:
    """Read the train of a Pulseq file.

    Frames are the excitations after an inversion pulse, each with one readout. TR is the time from
    the centre of a pulse to that of the next, and in the last frame of a group that of the frame
    before. TE is the time from the centre of the pulse to the sample nearest to the centre of
    k-space. TI is the time from the centre of the inversion pulse to that of the first excitation.
    Readouts before the first pulse are noise scans.

    Parameters
    ----------
    path
        The file.
    most_frames
        Frames that a readout group may have.

    Raises
    ------
    Mri2QmapError
        If the file cannot be read, or plays something else than such trains, all alike.
    """
    content = read_content(path)
    refuse_unknown_extensions(content)
    player = _Player(content, most_frames)
    for number in range(content.n_blocks):
        player.play(content.block(number))
    sequence, groups = player.groups.finish()
    return PulseqTrain(sequence, ".".join(map(str, content.version)), groups)


class _Player:
    """Plays blocks one after the other.

    Attributes
    ----------
    groups
        What has been played.
    """

    def __init__(self, content: PulseqContent, most_frames: int) -> None:
        self._content = content
        self._gradients = Gradients(content)
        self._pulses: dict[int, Pulse] = {}
        self._durations: dict[tuple[int, ...], float] = {}
        self._time = 0.0
        self._position = np.zeros(3)
        self._centers: dict[tuple[object, ...], tuple[float, float]] = {}
        self._samples = 0
        self._path: list[object] = []
        self.groups = ReadoutGroups(content.path, most_frames)

    def play(self, block: Block) -> None:
        """Play a block.

        Raises
        ------
        Mri2QmapError
            If its events are invalid, or do not fit the train.
        """
        content = self._content
        place = content.at("BLOCKS", block.line)
        pulse = self._pulse(block.rf, place) if block.rf else None
        readout = read_readout(content, block.adc, place) if block.adc else None
        extensions = block_extensions(content, block)
        duration = self._duration(block, pulse, readout, place)
        if extensions.waits:
            self.groups.wait(f"{place}: {extensions.waits}")
        begin = 0.0
        self._path.append(block[:-1])
        if pulse is not None:
            if extensions.shims:
                raise Mri2QmapError(
                    f"{place}: its pulse has amplitudes of its own in each transmit channel "
                    f"(RF_SHIMS), so that its flip angle is not known: {_INSTEAD}"
                )
            self._play_pulse(pulse, block, extensions, place)
            begin = pulse.center
        if readout is not None:
            if pulse is not None and readout.begin < pulse.end:
                raise Mri2QmapError(
                    f"{place}: the readout begins before the pulse of its block ends: {_INSTEAD}"
                )
            self._play_readout(readout, block, extensions, begin, place)
        self._position += self._moment(block, (begin, math.inf), extensions, place)
        self._time += duration

    def _play_pulse(
        self, pulse: Pulse, block: Block, extensions: BlockExtensions, place: str
    ) -> None:
        time = self._time + pulse.center
        moment = self._position + self._moment(block, (0.0, pulse.center), extensions, place)
        if self._is_inversion(pulse, place):
            self.groups.invert(time, place)
        else:
            frame = Frame(time, pulse.flip_angle, pulse.phase, place)
            self.groups.excite(frame, float(np.linalg.norm(moment)))
        self._position = np.zeros(3)
        self._path = [block[:-1]]

    def _play_readout(
        self,
        readout: Readout,
        block: Block,
        extensions: BlockExtensions,
        begin: float,
        place: str,
    ) -> None:
        if self.groups.is_noise_scan():
            return
        key = tuple(self._path)
        if key not in self._centers:
            self._samples += readout.samples
            if self._samples > _MOST_SAMPLES:
                raise Mri2QmapError(
                    f"{place}: up to here there are more than {_MOST_SAMPLES} samples of different "
                    "readouts: write one readout group to a file of its own"
                )
            start = self._position - self._moment(block, (0.0, begin), extensions, place)
            self._centers[key] = center_time(
                readout, block, start, extensions.rotation, self._gradients, place
            )
        center, extent = self._centers[key]
        time = self._time + center
        self.groups.read(time, extent, readout.phase, readout.dwell, place)

    def _moment(
        self,
        block: Block,
        times: tuple[float, float],
        extensions: BlockExtensions,
        place: str,
    ) -> NDArray[np.float64]:
        """Return the moment (3,) [1/m] of the gradients of a block between two times."""
        if not (block.gx or block.gy or block.gz):
            return np.zeros(3)
        moments = self._gradients.moments(block, np.array(times), extensions.rotation, place)
        return np.asarray(moments[1] - moments[0])

    def _pulse(self, number: int, place: str) -> Pulse:
        if number not in self._pulses:
            self._pulses[number] = read_pulse(self._content, number, place)
        return self._pulses[number]

    def _is_inversion(self, pulse: Pulse, place: str) -> bool:
        """Return whether a pulse inverts; if not, it excites.

        Before version 1.5, the file does not say it, and the flip angle does.
        """
        own_place = self._content.at("RF", pulse.line)
        if pulse.use in _USES:
            raise Mri2QmapError(
                f"{place}: its pulse has the use '{pulse.use}' ({_USES[pulse.use]}); the signal "
                f"model has one inversion pulse, then excitations only: {_NEGLECT}"
            )
        inverts = _INVERSION[0] <= pulse.flip_angle <= _INVERSION[1]
        if pulse.use == "i":
            if not inverts and not pulse.modulated:
                raise Mri2QmapError(
                    f"{own_place}: the inversion pulse has a flip angle of {pulse.flip_angle:.4g} "
                    f"degrees; 180 are expected by the signal model: {_INSTEAD}"
                )
            return True
        if pulse.modulated:
            raise Mri2QmapError(
                f"{own_place}: the phase changes within the pulse (adiabatic or multi-band), so "
                "that its flip angle is not known: if it is an inversion pulse, write the file in "
                "version 1.5 with the use of the pulse; else " + _INSTEAD
            )
        return pulse.use != "e" and inverts

    def _duration(
        self, block: Block, pulse: Pulse | None, readout: Readout | None, place: str
    ) -> float:
        """Return the duration of a block [s]; its events must not be longer."""
        key = block[:6]
        if key not in self._durations:
            ends = [self._gradients.end(block, place)]
            ends += [event.end for event in (pulse, readout) if event is not None]
            if self._content.since(TIMED_BLOCKS):
                raster = self._content.raster("BlockDurationRaster", _RASTER)
                duration = block.duration * raster
                if max(ends) > duration + _TOLERANCE:
                    raise Mri2QmapError(
                        f"{place}: the block takes {1e6 * duration:g} us, its events "
                        f"{1e6 * max(ends):g} us: write the file again"
                    )
            else:
                if block.duration:
                    delay = self._content.event("DELAYS", block.duration, place)
                    ends.append(1e-6 * delay.values[0])
                duration = max(ends)
            self._durations[key] = duration
        return self._durations[key]

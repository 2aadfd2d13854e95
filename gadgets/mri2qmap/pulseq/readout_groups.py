"""Readout groups of a Pulseq file, compared with each other and with the signal model."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise

from mri2qmap.errors import Mri2QmapError
from mri2qmap.mrsignal.sequence import Sequence

_SAME_TIME = 1e-6
"""By which times of readout groups may differ [s]."""
_SAME_ANGLE = 0.01
"""By which flip angles of readout groups may differ [degrees]."""
_SAME_PHASE = 0.01
"""By which phases may differ [rad]; files have six digits of them."""
_BALANCED = 0.05
"""Largest moment of the gradients of a TR that counts as balanced, as a part of the extent of the
readout in k-space."""
_INSTEAD = "give flip_angles and times in the profile instead of the file"
_NEGLECT = f"if its effect can be neglected, {_INSTEAD}"


@dataclass
class Frame:
    """An excitation and its readout.

    Attributes
    ----------
    time
        Of the centre of the pulse [s].
    flip_angle
        [degrees].
    phase
        Of the pulse [rad].
    place
        Its block, for messages.
    echo_time
        TE [s]; None: there is no readout yet.
    extent
        Of the readout in k-space [1/m].
    receiver_phase
        [rad].
    dwell
        Time of a sample [s].
    """

    time: float
    flip_angle: float
    phase: float
    place: str
    echo_time: float | None = None
    extent: float = 0.0
    receiver_phase: float = 0.0
    dwell: float = 0.0


@dataclass
class _Group:
    """A readout group: time of its inversion [s] and place, and its frames."""

    inversion: float
    place: str
    frames: list[Frame] = field(default_factory=list)

    def numbers(self) -> list[tuple[float, float, float]]:
        """Return flip angle [degrees], TR and TE [s] of each frame."""
        times = [frame.time for frame in self.frames]
        steps = [later - earlier for earlier, later in pairwise(times)]
        steps.append(steps[-1])
        return [
            (frame.flip_angle, step, frame.echo_time or 0.0)
            for frame, step in zip(self.frames, steps, strict=True)
        ]


class ReadoutGroups:
    """Takes pulses and readouts in the order in which they are played.

    Parameters
    ----------
    path
        The file, for messages.
    most_frames
        Frames that a group may have.
    """

    def __init__(self, path: str, most_frames: int) -> None:
        self._path = path
        self._most_frames = most_frames
        self._group: _Group | None = None
        self._first: _Group | None = None
        self._count = 0
        self._wait = ""

    def is_noise_scan(self) -> bool:
        """Return whether a readout belongs to no train: there was no pulse yet."""
        return self._group is None

    def wait(self, why: str) -> None:
        """Note that a time is not known before the sequence is played; refused within a train."""
        if self._group is not None:
            self._wait = why

    def invert(self, time: float, place: str) -> None:
        """Begin a readout group.

        Raises
        ------
        Mri2QmapError
            If the one before has no frames, or differs from the first.
        """
        self._end_group(place)
        self._group = _Group(time, place)
        self._wait = ""

    def excite(self, frame: Frame, moment: float) -> None:
        """Begin a frame.

        Parameters
        ----------
        frame
            Its excitation.
        moment
            Of the gradients since the pulse before [1/m].

        Raises
        ------
        Mri2QmapError
            If there was no inversion, the frame before has no readout, or the train is balanced.
        """
        if self._group is None:
            raise Mri2QmapError(
                f"{frame.place}: it excites with {frame.flip_angle:.4g} degrees before any "
                "inversion pulse; the signal model begins with an inversion: is it the sequence of "
                f"the scan? If the scanner plays the inversion, {_INSTEAD}"
            )
        self._refuse_waiting()
        frames = self._group.frames
        if frames:
            self._refuse_without_readout(frames[-1])
            if moment < _BALANCED * frames[-1].extent:
                raise Mri2QmapError(
                    f"{frame.place}: the gradients since the excitation before are balanced (bSSFP)"
                    "; the signal model is that of unbalanced gradients (FISP): there is none for "
                    "this sequence"
                )
        if len(frames) == self._most_frames:
            raise Mri2QmapError(
                f"{frame.place}: the readout group has more than {self._most_frames} frames: is "
                "there an inversion pulse before each train?"
            )
        frames.append(frame)
        self._refuse_phases(frames)

    def read(self, time: float, extent: float, phase: float, dwell: float, place: str) -> None:
        """Take a readout.

        Parameters
        ----------
        time
            When it is at the centre of k-space [s].
        extent
            How far it goes [1/m].
        phase
            Of the receiver [rad].
        dwell
            Time of a sample [s].
        place
            Its block, for messages.

        Raises
        ------
        Mri2QmapError
            If there was no excitation, or it has a readout already.
        """
        assert self._group is not None, "a readout without a pulse before it is a noise scan"
        self._refuse_waiting()
        frames = self._group.frames
        if not frames:
            raise Mri2QmapError(
                f"{place}: it reads between the inversion pulse and the first excitation; the "
                f"signal model has one readout after each excitation: {_NEGLECT}"
            )
        frame = frames[-1]
        if frame.echo_time is not None:
            raise Mri2QmapError(
                f"{place}: it is the second readout of an excitation (multi-echo); the signal "
                f"model has one: {_INSTEAD}, and leave the other echoes out of the scan"
            )
        frame.echo_time = time - frame.time
        frame.extent, frame.receiver_phase, frame.dwell = extent, phase, dwell
        self._refuse_phases(frames)

    def finish(self) -> tuple[Sequence, int]:
        """Return the sequence of a group, and how many there are.

        Raises
        ------
        Mri2QmapError
            If there is none, or the last one is not complete or differs from the first.
        """
        if self._group is None:
            raise Mri2QmapError(
                f"{self._path}: no block has a pulse (sections [BLOCKS] and [RF]): is it the "
                "sequence of the scan?"
            )
        self._end_group(f"{self._path}: end of the file")
        first = self._first
        assert first is not None, "a group has ended"
        angles, repetition_times, echo_times = zip(*first.numbers(), strict=True)
        try:
            sequence = Sequence(
                tuple(math.radians(angle) for angle in angles),
                repetition_times,
                echo_times,
                first.frames[0].time - first.inversion,
            )
        except ValueError as error:
            raise Mri2QmapError(f"{self._path}: {error}: {_INSTEAD}") from error
        return sequence, self._count

    def _end_group(self, place: str) -> None:
        group = self._group
        if group is None:
            return
        if not group.frames:
            raise Mri2QmapError(
                f"{place}: no excitation follows the inversion pulse of {group.place}; the signal "
                f"model has one inversion pulse before each train: {_NEGLECT}"
            )
        self._refuse_without_readout(group.frames[-1])
        if len(group.frames) == 1:
            raise Mri2QmapError(
                f"{group.place}: one excitation follows the inversion pulse; a train of at least "
                "two frames is expected: is it the sequence of the scan?"
            )
        self._count += 1
        if self._first is None:
            self._first = group
        else:
            self._refuse_another(group, self._first)

    def _refuse_another(self, group: _Group, first: _Group) -> None:
        """Refuse a group that is not like the first."""
        own, other = group.numbers(), first.numbers()
        what = ""
        if len(own) != len(other):
            what = f"it has {len(own)} frames, the first {len(other)}"
        else:
            ti, first_ti = (g.frames[0].time - g.inversion for g in (group, first))
            if abs(ti - first_ti) > _SAME_TIME:
                what = f"TI is {1e3 * ti:.4f} ms, in the first {1e3 * first_ti:.4f} ms"
        for frame, (mine, its) in enumerate(zip(own, other, strict=False)):
            if what:
                break
            if abs(mine[0] - its[0]) > _SAME_ANGLE:
                what = f"frame {frame} has {mine[0]:.4g} degrees, in the first {its[0]:.4g}"
            for name, index, most in (("TR", 1, 0.0), ("TE", 2, group.frames[frame].dwell)):
                if abs(mine[index] - its[index]) > most + _SAME_TIME:
                    what = (
                        f"{name} of frame {frame} is {1e3 * mine[index]:.4f} ms, in the first "
                        f"{1e3 * its[index]:.4f} ms"
                    )
        if what:
            raise Mri2QmapError(
                f"{group.place}: readout group {self._count - 1} is not like the first: {what}; "
                "one dictionary needs the same train in all groups: write one group to a file of "
                "its own if only one was played, or reconstruct them separately"
            )

    def _refuse_waiting(self) -> None:
        if self._wait:
            raise Mri2QmapError(
                f"{self._wait}, within a train, whose times are therefore not known: {_INSTEAD}"
            )

    def _refuse_without_readout(self, frame: Frame) -> None:
        if frame.echo_time is None:
            raise Mri2QmapError(
                f"{frame.place}: no readout follows this excitation of {frame.flip_angle:.4g} "
                "degrees before the next pulse or the end; the signal model has one readout after "
                f"each excitation, and neither dummy pulses nor refocusing: {_NEGLECT}"
            )

    def _refuse_phases(self, frames: list[Frame]) -> None:
        """Refuse RF spoiling, and a receiver that does not follow the phase of the pulses.

        A phase that grows by the same step with each pulse is that of another frequency, on which a
        train with unbalanced gradients does not depend.
        """
        if len(frames) > 2 and frames[-1].echo_time is None:
            before, middle, own = (frame.phase for frame in frames[-3:])
            if _turn(own - 2 * middle + before) > _SAME_PHASE:
                raise Mri2QmapError(
                    f"{frames[-1].place}: the phase of the pulses does not grow by the same step "
                    "(RF spoiling); the signal model has pulses of one phase: there is none for "
                    "this sequence"
                )
        if len(frames) > 1 and frames[-1].echo_time is not None:
            one, two = frames[-2:]
            step = two.phase - one.phase
            if _turn(step) > _SAME_PHASE and (
                _turn(two.receiver_phase - one.receiver_phase - step) > _SAME_PHASE
            ):
                raise Mri2QmapError(
                    f"{two.place}: the phase of the pulse changes by {_turn(step):.3g} rad, that "
                    "of the receiver does not follow: the maps would be wrong; write a sequence "
                    "whose readouts have the phase of their pulses"
                )


def _turn(phase: float) -> float:
    """Return how far a phase is from a whole turn [rad]."""
    return abs(math.remainder(phase, 2 * math.pi))

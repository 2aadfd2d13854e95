"""From a scan in any convention to one in the convention of this program.

This is the only place where a `ScanProfile` acts: checks, gadgets and files see standard scans.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import ismrmrd
import numpy as np
from numpy.typing import NDArray

from mri2qmap.errors import Mri2QmapError
from mri2qmap.pipeline.acquisition_kinds import ENCODING_SPACE, acquisition_name, is_imaging
from mri2qmap.pipeline.counters import COUNTERS, counter, set_counter
from mri2qmap.pipeline.items import Item
from mri2qmap.pipeline.reading_turns import reading_turn
from mri2qmap.pipeline.scan_header import ScanInfo
from mri2qmap.pipeline.scan_limits import SCAN_LIMITS
from mri2qmap.pipeline.scan_profile import STANDARD, ScanProfile
from mri2qmap.pipeline.standard_header import is_marked, standard_header
from mri2qmap.pipeline.standard_trajectory import Partitions, StandardTrajectory


def standard_scan(header: bytes, profile: ScanProfile) -> tuple[bytes, ScanConversion]:
    """Convert the header of a scan; return it, and the conversion of the acquisitions.

    Parameters
    ----------
    header
        ISMRMRD header as received.
    profile
        The convention of the scan. If the header says that the scan is converted already, nothing
        is converted again.

    Raises
    ------
    Mri2QmapError
        If the header contradicts the profile, see `standard_header`.
    """
    if profile.is_standard:
        return header, ScanConversion(profile)
    with reading_turn(header):
        if is_marked(header):
            return header, ScanConversion(STANDARD, converted_before=True)
        partitions = None
        if profile.missing_axis is not None:
            partitions = Partitions.of(profile, header)
        return standard_header(header, profile), ScanConversion(profile, partitions)


class ScanConversion:
    """Conversion of the acquisitions of a scan to the standard convention.

    Parameters
    ----------
    profile
        The convention of the acquisitions.
    partitions
        Partitions of a stack of trajectories; None if the trajectories are not one.
    converted_before
        Whether the scan was in another convention.

    Attributes
    ----------
    profile
        As given.
    encoding_space
        Encoding of the received acquisitions that is reconstructed.
    """

    def __init__(
        self,
        profile: ScanProfile,
        partitions: Partitions | None = None,
        converted_before: bool = False,
    ) -> None:
        self.profile = profile
        self.encoding_space = profile.encoding
        self._partitions = partitions
        self._converted_before = converted_before

    def items(self, items: Iterator[Item], scan: ScanInfo) -> Iterator[Item]:
        """Convert acquisitions as they arrive; other items, and a standard scan, pass unchanged.

        Parameters
        ----------
        items
            The scan as received.
        scan
            Header in the standard convention, parsed.

        Raises
        ------
        Mri2QmapError
            As soon as an acquisition, or the scan as a whole, contradicts the profile.
        """
        if self._converted_before:
            scan.report.log("the header says that the scan is converted: it is not again")
        if self.profile.is_standard:
            yield from items
            return
        scan.report.log(described(self.profile))
        counters = None if self.profile.keeps_counters else _StandardCounters(self.profile, scan)
        trajectory = None
        if not self.profile.keeps_trajectory:
            trajectory = StandardTrajectory(self.profile, scan, self._partitions)
        number = imaging = 0
        for item in items:
            if not isinstance(item, ismrmrd.Acquisition):
                yield item
                continue
            acquisition = _in_encoding(item, self.encoding_space)
            if is_imaging(acquisition):
                head, name = acquisition.getHead(), acquisition_name(number)
                data, stored = self._signed(acquisition), acquisition.traj
                frame, group = int(head.idx.contrast), int(head.idx.segment)
                if counters is not None:
                    frame, group = counters.convert(head.idx, name)
                if trajectory is not None:
                    stored = trajectory.convert(acquisition, (frame, group, imaging), name)
                    head.trajectory_dimensions = 3
                acquisition = ismrmrd.Acquisition(head, data, stored)
                imaging += 1
            number += 1
            yield acquisition
        if counters is not None:
            counters.finish()

    def _signed(self, acquisition: ismrmrd.Acquisition) -> NDArray[np.complex64]:
        """Return the samples with the sign that the receiver gave them."""
        name, data = self.profile.sign_counter, np.asarray(acquisition.data)
        return -data if name is not None and counter(acquisition.idx, name) % 2 else data


def described(profile: ScanProfile) -> str:
    """Return a log line on what is converted; later messages use the names of the result."""
    parts = [f"scan profile {profile.name}"]
    if not profile.keeps_counters:
        parts += [
            f"frames from {_source(profile.frame_counter)} to idx.contrast",
            f"readout groups from {_source(profile.group_counter)} to idx.segment",
        ]
    if not profile.keeps_trajectory:
        source = "a file" if profile.trajectory_file else "the acquisitions"
        parts.append(
            f"trajectory from {source} in {profile.trajectory_units}, columns "
            f"{' '.join(profile.trajectory_axes)}"
        )
    if profile.sequence_file:
        parts.append("flip angles and times from a Pulseq file")
    if profile.sign_counter is not None:
        parts.append(f"readouts with an odd idx.{profile.sign_counter} get the opposite sign")
    if profile.encoding:
        parts.append(f"encoding {profile.encoding} becomes the first one")
    return "; ".join(parts)


def _source(name: str) -> str:
    return "the order of arrival" if name == "arrival" else f"idx.{name}"


def _in_encoding(acquisition: ismrmrd.Acquisition, chosen: int) -> ismrmrd.Acquisition:
    """Exchange the chosen encoding space and the first one, as in the header."""
    exchanged = {chosen: ENCODING_SPACE, ENCODING_SPACE: chosen}
    space = acquisition.encoding_space_ref
    if not chosen or space not in exchanged:
        return acquisition
    head = acquisition.getHead()
    head.encoding_space_ref = exchanged[space]
    return ismrmrd.Acquisition(head, acquisition.data, acquisition.traj)


class _StandardCounters:
    """Moves frame and readout group to ``contrast`` and ``segment``."""

    def __init__(self, profile: ScanProfile, scan: ScanInfo) -> None:
        self._profile = profile
        self._n_frames = scan.sequence.n_frames
        self._frames_of_group: Counter[int] = Counter()
        self._groups_of_frame: Counter[int] = Counter()
        self._arrived = 0
        self._seen: dict[int, int] = {}
        used = (profile.frame_counter, profile.group_counter)
        ignored = profile.ignored_counters
        standard = ("contrast", "segment")
        self._replaced = [name for name in standard if name not in (*used, *ignored)]
        self._cleared = [n for n in (*used, *ignored) if n not in ("arrival", *standard)]
        self._varying: set[str] = set()
        self._first: tuple[int, ...] | None = None

    def convert(self, idx: ismrmrd.EncodingCounters, name: str) -> tuple[int, int]:
        """Change the counters of an imaging acquisition; return frame and readout group."""
        self._note(idx, name)
        frame, group = self._place(idx, name)
        for each in self._cleared:
            set_counter(idx, each, 0)
        idx.contrast, idx.segment = frame, group
        self._seen[group] = self._seen.get(group, 0) + 1
        self._arrived += 1
        return frame, group

    def finish(self) -> None:
        """Refuse a group counter that does not tell readouts of one frame apart."""
        own = self._profile.group_counter
        if own == "arrival" or len(self._seen) > 1 or self._arrived <= self._n_frames:
            return
        others = sorted(self._varying - set(self._cleared))
        advice = " or ".join(f"group_counter = {other!r}" for other in [*others, "arrival"])
        raise Mri2QmapError(
            f"{self._where()}: the group counter idx.{own} is the same in all {self._arrived} "
            f"imaging acquisitions, although they are {self._arrived / self._n_frames:.3g} for "
            f"each of {self._n_frames} frames: it does not count the readout groups; try {advice}"
        )

    def _note(self, idx: ismrmrd.EncodingCounters, name: str) -> None:
        """Note which counters vary, and refuse those that would be lost."""
        values = tuple(counter(idx, each) for each in COUNTERS)
        first = self._first = self._first or values
        if values != first:
            self._varying |= {c for c, a, b in zip(COUNTERS, values, first, strict=True) if a != b}
        lost = [each for each in self._replaced if each in self._varying]
        if lost:
            raise Mri2QmapError(
                f"{self._where()}: {name}: idx.{lost[0]} is {counter(idx, lost[0])}, in the first "
                f"imaging acquisition {first[COUNTERS.index(lost[0])]}; a counter that is neither "
                "frame_counter nor group_counter must not change, or the readouts are of several "
                f"scans: does {lost[0]} count the frames or the groups? If it means nothing, add "
                "it to ignored_counters"
            )

    def _place(self, idx: ismrmrd.EncodingCounters, name: str) -> tuple[int, int]:
        profile = self._profile
        if profile.group_counter == profile.frame_counter == "arrival":
            group, frame = divmod(self._arrived, self._n_frames)
        elif profile.frame_counter == "arrival":
            group = self._counted(idx, "group", name)
            frame = self._frames_of_group[group]
            self._frames_of_group[group] += 1
        else:
            frame = self._counted(idx, "frame", name)
            if profile.group_counter == "arrival":
                group = self._groups_of_frame[frame]
                self._groups_of_frame[frame] += 1
            else:
                group = self._counted(idx, "group", name)
        if group >= SCAN_LIMITS.groups:
            raise Mri2QmapError(
                f"{self._where()}: {name}: it would belong to readout group {group}; at most "
                f"{SCAN_LIMITS.groups} are supported"
            )
        if frame >= self._n_frames:
            raise Mri2QmapError(self._beyond(idx, name, frame))
        return frame, group

    def _counted(self, idx: ismrmrd.EncodingCounters, what: str, name: str) -> int:
        """Return the number of a frame or group, from 0."""
        own, first = (getattr(self._profile, key) for key in (f"{what}_counter", f"first_{what}"))
        value = counter(idx, own) - int(first)
        if value < 0:
            raise Mri2QmapError(
                f"{self._where()}: {name}: idx.{own} is {counter(idx, own)}, less than "
                f"first_{what} = {first}: give the value in the first {what}"
            )
        return value

    def _beyond(self, idx: ismrmrd.EncodingCounters, name: str, frame: int) -> str:
        profile, n_frames = self._profile, self._n_frames
        if profile.frame_counter == "arrival":
            return (
                f"{self._where()}: {name}: it is readout {frame} of its group, but there are flip "
                f"angles for {n_frames} frames: frame_counter = 'arrival' needs one readout of "
                "each frame in a group; is group_counter right?"
            )
        hint = "give a flip angle for each frame, or the counter of the frames"
        if frame == n_frames and not profile.first_frame:
            hint += "; if it counts from 1, set first_frame = 1"
        value = counter(idx, profile.frame_counter)
        return (
            f"{self._where()}: {name}: idx.{profile.frame_counter} is {value}, frame {frame} "
            f"counted from 0, but there are flip angles for {n_frames} frames: {hint}"
        )

    def _where(self) -> str:
        return f"scan profile {self._profile.name}"

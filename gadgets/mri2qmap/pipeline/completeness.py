"""Completeness of a scan: readouts received, compared with those that the header announces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import ismrmrd
import numpy as np
from numpy.typing import NDArray

from mri2qmap.pipeline.acquisition_kinds import acquisition_name
from mri2qmap.pipeline.acquisition_policy import AcquisitionPolicy, counter_limits
from mri2qmap.pipeline.buffer_sizes import most_readouts
from mri2qmap.pipeline.counters import CounterName, counter
from mri2qmap.pipeline.findings import scan_error
from mri2qmap.pipeline.scan_header import ScanInfo
from mri2qmap.pipeline.scan_limits import SCAN_LIMITS
from mri2qmap.pipeline.settings import set_also

MOST_RANGES = 5
"""Maximum number of ranges in a message."""
LEAST_SHARE_OF_FRAMES = 0.5
"""Minimum fraction of the frames for a reconstruction of an incomplete scan."""


class Completeness:
    """Record of the readouts of a scan.

    Parameters
    ----------
    scan
        Scan header.
    policy
        Meaning of the counters.

    Raises
    ------
    Mri2QmapError
        If the limits of the frame counter in the header contradict the number of frames.
    """

    def __init__(self, scan: ScanInfo, policy: AcquisitionPolicy) -> None:
        self._scan = scan
        self._policy = policy
        self._n_frames = scan.sequence.n_frames
        self._shots = policy.shot_counters
        self._groups = None
        if policy.group_counter != "arrival":
            self._groups = counter_limits(scan, policy.group_counter)
        self._received: dict[tuple[int, ...], int] = {}
        self._most_readouts = most_readouts(scan)
        self._received_groups: set[int] = set()
        self._arrivals: Counter[int] = Counter()
        frames = counter_limits(scan, policy.frame_counter)
        if frames is not None and frames != range(self._n_frames):
            raise scan_error(
                "frame-count",
                "ISMRMRD header",
                f"the number of frames is inconsistent (sequenceParameters: {self._n_frames}, "
                f"encodingLimits.{policy.frame_counter}: {frames[0]} to {frames[-1]})",
                f"frames are counted from 0 by idx.{policy.frame_counter}",
                "correct the header, or "
                f"{set_also('coil_sensitivity.frame_counter=...')}, the counter of frames",
            )

    def add(self, acquisition: ismrmrd.Acquisition, number: int) -> tuple[int, int]:
        """Record an imaging acquisition; return its frame and readout group.

        Parameters
        ----------
        acquisition
            The acquisition.
        number
            Number of acquisitions before it.

        Raises
        ------
        Mri2QmapError
            If the frame or group is outside the limits in the header, or the readout is a
            duplicate.
        """
        name = acquisition_name(number)
        frame_counter, group_counter = self._policy.frame_counter, self._policy.group_counter
        idx = acquisition.idx
        frame = counter(idx, frame_counter)
        if frame >= self._n_frames:
            raise scan_error(
                "frame-out-of-range",
                name,
                f"it belongs to frame {frame} (idx.{frame_counter}), but the header describes "
                f"{self._n_frames} frames, 0 to {self._n_frames - 1}",
                "sequenceParameters must describe every frame",
                "add the missing flip angles; if another counter counts the frames, or they count "
                "from 1, say so in a scan profile (--scan-profile), or "
                f"{set_also('coil_sensitivity.frame_counter=...')}",
            )
        if group_counter == "arrival":
            group = self._arrivals[frame]
            self._arrivals[frame] += 1
            if group >= SCAN_LIMITS.groups:
                raise scan_error(
                    "too-many-groups",
                    name,
                    f"frame {frame} has more than {SCAN_LIMITS.groups} readouts",
                    "each of them is a readout group",
                    "send a scan of fewer groups",
                )
        else:
            group = counter(idx, group_counter)
        if self._groups is not None and group not in self._groups:
            raise scan_error(
                "group-out-of-range",
                name,
                f"it belongs to readout group {group} (idx.{group_counter}), but the header "
                f"announces {_ranges(self._groups)} (encodingLimits.{group_counter})",
                "the acquisition and the header are of different scans",
                "send the acquisitions with their own header",
            )
        key = (group, frame, *(counter(idx, c) for c in self._shots))
        if key in self._received:
            raise scan_error(
                "duplicate-readout",
                name,
                f"frame {frame} (idx.{frame_counter}) of readout group {group} "
                f"({self._group_source()}) was already received as "
                f"{acquisition_name(self._received[key])}, with the same {', '.join(self._shots)}",
                "the acquisition is a duplicate, or the stream contains two scans",
                "send each scan separately, or "
                f"{set_also('coil_sensitivity.group_counter=...')}, the counter of readout groups "
                "(arrival: each readout of a frame starts the next group)",
            )
        self._received[key] = number
        self._count(group, name)
        return frame, group

    @property
    def groups(self) -> int:
        """Number of readout groups of which a readout was received."""
        return len(self._received_groups)

    def missing(self) -> str:
        """Describe the missing readouts; an empty string if the scan is complete."""
        groups = self._groups or range(1 + max((key[0] for key in self._received), default=-1))
        present = sorted(self._received_groups)
        counts = {group: np.zeros(self._n_frames, np.int64) for group in present}
        for group, frame, *_ in self._received:
            counts[group][frame] += 1
        frames = sum(counts.values(), np.zeros(self._n_frames, np.int64))
        parts = [
            self._whole_frames(frames),
            self._whole_groups([g for g in groups if g not in counts], len(groups)),
            *_frames_of_groups(counts, frames),
            _uneven(counts),
            *(self._values(name) for name in self._shots),
        ]
        return "; ".join(part for part in parts if part)

    def refuse_missing(self, missing: str) -> None:
        """Refuse an incomplete scan, unless the policy accepts it and enough frames are present.

        Parameters
        ----------
        missing
            Description of the missing readouts.

        Raises
        ------
        Mri2QmapError
            If the scan is refused; the message contains `missing`.
        """
        frames = len({key[1] for key in self._received})
        if self._policy.incomplete == "refuse":
            raise scan_error(
                "incomplete",
                "",
                f"the scan is incomplete, or the header describes another scan: {missing} "
                f"({len(self._received)} imaging acquisitions were received)",
                "all that the header announces is expected",
                "send the whole scan; for partial maps, marked as such, "
                f"{set_also('coil_sensitivity.incomplete=warn')}",
            )
        if frames < LEAST_SHARE_OF_FRAMES * self._n_frames:
            raise scan_error(
                "too-incomplete",
                "",
                f"the scan is too incomplete to reconstruct: {missing}",
                "at least half of the frames are required",
                "send the whole scan",
            )

    def _count(self, group: int, name: str) -> None:
        """Refuse more readouts than supported; every frame of a group counts, to bound tables."""
        self._received_groups.add(group)
        count = max(len(self._received), self._n_frames * len(self._received_groups))
        if count > self._most_readouts:
            raise scan_error(
                "too-many-readouts",
                name,
                f"with it the scan has {len(self._received)} readouts in "
                f"{len(self._received_groups)} groups of {self._n_frames} frames",
                f"at most {self._most_readouts} readouts are supported: "
                f"{SCAN_LIMITS.unannounced}, or four times as many as encodingLimits.segment "
                f"announces, up to {SCAN_LIMITS.readouts}",
                "announce the readout groups in encodingLimits.segment",
            )

    def _group_source(self) -> str:
        source = self._policy.group_counter
        return "by order of arrival" if source == "arrival" else f"idx.{source}"

    def _whole_frames(self, frames: NDArray[np.int64]) -> str:
        missing = np.flatnonzero(frames == 0).tolist()
        if not missing:
            return ""
        return (
            f"{len(missing)} of the {self._n_frames} frames in the header are not in the data "
            f"(idx.{self._policy.frame_counter} {_ranges(missing)})"
        )

    def _whole_groups(self, missing: list[int], total: int) -> str:
        if not missing:
            return ""
        return (
            f"{len(missing)} of {total} readout groups are not in the data "
            f"({self._group_source()} {_ranges(missing)})"
        )

    def _values(self, name: CounterName) -> str:
        """Describe announced values of a shot counter that are missing.

        Many headers give limits for counters that their acquisitions do not use. K-space steps are
        checked only if they vary and all frames have the same steps.
        """
        limits = counter_limits(self._scan, name)
        column = 2 + self._shots.index(name)
        of_frames: dict[int, set[int]] = {}
        for key in self._received:
            of_frames.setdefault(key[1], set()).add(key[column])
        values = set().union(*of_frames.values())
        if limits is None or not values <= set(limits):
            return ""
        if name not in self._policy.merged_counters:
            usual = Counter(frozenset(v) for v in of_frames.values()).most_common(1)[0][0]
            if len(values) == 1 or usual != values:
                return ""
        missing = sorted(set(limits) - values)
        if not missing:
            return ""
        return (
            f"{len(missing)} of {len(limits)} values of idx.{name} are not in the data "
            f"({_ranges(missing)})"
        )


def _frames_of_groups(
    counts: dict[int, NDArray[np.int64]], frames: NDArray[np.int64]
) -> Iterable[str]:
    """Describe frames that are missing in some groups; groups that lack the same are combined."""
    alike: dict[tuple[int, ...], list[int]] = {}
    for group, count in counts.items():
        lacking = tuple(np.flatnonzero((count == 0) & (frames > 0)).tolist())
        if lacking:
            alike.setdefault(lacking, []).append(group)
    for number, (lacking, groups) in enumerate(alike.items()):
        if number == MOST_RANGES:
            yield f"frames missing in {len(alike) - number} further sets of readout groups"
            return
        yield (
            f"frame{'s' * (len(lacking) > 1)} {_ranges(lacking)} missing in readout "
            f"group{'s' * (len(groups) > 1)} {_ranges(groups)}"
        )


def _uneven(counts: dict[int, NDArray[np.int64]]) -> str:
    """Describe frames of groups with fewer or more readouts than most."""
    found = Counter(n for count in counts.values() for n in count[count > 0].tolist())
    if len(found) < 2:
        return ""
    usual = max(found, key=lambda n: (found[n], n))
    others = sorted(n for n in found if n != usual)
    return (
        f"{sum(found[n] for n in others)} frames of readout groups have "
        f"{' or '.join(str(n) for n in others[:MOST_RANGES])} readouts, most have {usual}"
    )


def _ranges(numbers: Iterable[int]) -> str:
    """Format ascending numbers as ranges, for example "1 to 4, 7"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    words = [str(a) if a == b else f"{a} to {b}" for a, b in runs[:MOST_RANGES]]
    return ", ".join(words) + (", ..." if len(runs) > MOST_RANGES else "")

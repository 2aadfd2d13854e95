"""What a scan looks like, in the keys of a scan profile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import ismrmrd
import numpy as np
from numpy.typing import NDArray

from mri2qmap.pipeline.acquisition_kinds import is_noise_scan, is_of_other_kind
from mri2qmap.pipeline.counters import COUNTERS, counter
from mri2qmap.pipeline.header_document import parse_header
from mri2qmap.pipeline.header_parameters import read_grid
from mri2qmap.pipeline.items import Item
from mri2qmap.pipeline.scan_profile import STANDARD
from mri2qmap.pipeline.scan_profile_files import (
    BASE,
    load_scan_profile,
    shipped_scan_profiles,
)
from mri2qmap.pipeline.settings import settings_as_dict
from mri2qmap.pipeline.trajectory_units import STANDARD_UNIT, Grid, fitting_units

SuggestedValue = str | int | tuple[str, ...]

_FRAME_COUNTERS = (
    "contrast",
    "repetition",
    "set",
    "average",
    "phase",
    "kspace_encode_step_1",
    "kspace_encode_step_2",
    *(c for c in COUNTERS if c.startswith("user_")),
    "slice",
)
"""In the order in which they are tried; readouts of one position have one slice."""
_SUGGESTED = (
    *("encoding", "frame_counter", "first_frame", "group_counter", "first_group"),
    *("trajectory_units", "trajectory_axes", "partition_counter", "trajectory_file", "flip_angles"),
)
"""Keys that data can suggest."""
_LONGEST_GROUP = 2**13
_SHORTEST_GROUP = 16
"""Values that a counter of frames has at the least if the header does not say how many."""


@dataclass(frozen=True)
class ScanProfileSuggestion:
    """A key of a scan profile, with the value that the data suggest.

    Attributes
    ----------
    key
        Field of `ScanProfile`.
    value
        Its value; None if only the user knows it.
    reason
        What the data look like.
    """

    key: str
    value: SuggestedValue | None
    reason: str

    @property
    def toml(self) -> str:
        """The line for a file; with ``...`` for what only the user knows."""
        if self.value is None:
            return f"{self.key} = ..."
        if isinstance(self.value, tuple):
            return f"{self.key} = [{', '.join(map(_quoted, self.value))}]"
        return f"{self.key} = {_quoted(self.value)}"

    def __str__(self) -> str:
        return f"{self.reason}: try --scan-profile with {self.toml}"


def suggest_scan_profile(
    header: bytes | str | ismrmrd.xsd.ismrmrdHeader, items: Iterable[Item]
) -> tuple[ScanProfileSuggestion, ...]:
    """Propose what to write into a scan profile, from the data of a scan as received.

    Parameters
    ----------
    header
        ISMRMRD header, as XML or parsed. Its sequence may be missing or incomplete.
    items
        The scan, or its beginning: at least the first readout group. They are read once; of each,
        only the extent of its trajectory and its counters are kept.

    Returns
    -------
        A suggestion for each key in which the scan differs from the standard convention, as far as
        the data show it; none for a standard scan.

    Raises
    ------
    Mri2QmapError
        If the header cannot be read, or has no matrix or field of view.
    """
    seen = ReceivedReadouts()
    for item in items:
        seen.add(item)
    return seen.suggestions(header)


@dataclass(frozen=True)
class ShippedBase:
    """Profiles of the package that agree with suggestions, and the suggestions that they lack.

    Attributes
    ----------
    names
        The profiles, which agree with the data equally well.
    rest
        What is to be added to one of them.
    """

    names: tuple[str, ...]
    rest: tuple[ScanProfileSuggestion, ...]

    @property
    def toml(self) -> str:
        """The line for a file."""
        return f"{BASE} = {_quoted(self.names[0])}"


def shipped_base(
    suggestions: Sequence[ScanProfileSuggestion], header: bytes | str
) -> ShippedBase | None:
    """Find the profiles of the package that the suggestions equal or extend.

    Of a profile, the keys count that data can suggest; each must be suggested with its value, or
    without one. Of several profiles, those with most such keys are taken.

    Parameters
    ----------
    suggestions
        Those for a scan.
    header
        Its header: a profile with the name of the scanner's vendor comes first.
    """
    values = {suggestion.key: suggestion.value for suggestion in suggestions}
    found: dict[str, int] = {}
    for name in shipped_scan_profiles():
        profile, standard = (settings_as_dict(p) for p in (load_scan_profile(name), STANDARD))
        own = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in profile.items()
            if key in _SUGGESTED and value != standard[key]
        }
        if own and all(key in values and values[key] in (None, own[key]) for key in own):
            found[name] = len(own)
    if not found:
        return None
    system = parse_header(header).acquisitionSystemInformation
    vendor = str(getattr(system, "systemVendor", None) or "").lower()
    names = sorted(
        (name for name, count in found.items() if count == max(found.values())),
        key=lambda name: not vendor.startswith(name.partition("_")[0]),
    )
    inherited = settings_as_dict(load_scan_profile(names[0]))
    standard = settings_as_dict(STANDARD)
    rest = (s for s in suggestions if inherited[s.key] == standard[s.key])
    return ShippedBase(tuple(names), tuple(rest))


class ReceivedReadouts:
    """The imaging acquisitions of a scan as received, as far as they suggest a profile.

    Of each, only the extent of its trajectory and its counters are kept.
    """

    def __init__(self) -> None:
        self._spaces: dict[int, _Readouts] = {}

    def add(self, item: Item) -> None:
        """Look at an item of the scan; those that are no imaging acquisitions do not count."""
        if isinstance(item, ismrmrd.Acquisition):
            if not (is_noise_scan(item) or is_of_other_kind(item)):
                space = int(item.encoding_space_ref)
                self._spaces.setdefault(space, _Readouts()).add(item)

    def suggestions(
        self, header: bytes | str | ismrmrd.xsd.ismrmrdHeader
    ) -> tuple[ScanProfileSuggestion, ...]:
        """Return the suggestions for the items so far, see `suggest_scan_profile`."""
        parsed = header if isinstance(header, ismrmrd.xsd.ismrmrdHeader) else parse_header(header)
        spaces = self._spaces
        if not spaces:
            return ()
        found: list[ScanProfileSuggestion] = []
        chosen = STANDARD.encoding
        if chosen not in spaces:
            chosen = max(spaces, key=lambda space: (spaces[space].count, -space))
            count = spaces[chosen].count
            reason = f"no imaging acquisition is of encoding 0, {count} are of {chosen}"
            found.append(ScanProfileSuggestion("encoding", chosen, reason))
        readouts = spaces[chosen]
        found += readouts.counter_suggestions(_frames_in_header(parsed))
        found += readouts.trajectory_suggestions(Grid(*read_grid(parsed, chosen)))
        return tuple(found)


@dataclass
class _Readouts:
    """What is kept of the imaging acquisitions of an encoding."""

    count: int = 0
    values: dict[str, set[int]] = field(default_factory=lambda: {c: set() for c in COUNTERS})
    dimensions: Counter[int] = field(default_factory=Counter)
    extent: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))

    def add(self, acquisition: ismrmrd.Acquisition) -> None:
        self.count += 1
        for name, values in self.values.items():
            values.add(counter(acquisition.idx, name))
        dimensions = int(acquisition.trajectory_dimensions)
        self.dimensions[dimensions] += 1
        kept = slice(
            acquisition.discard_pre, acquisition.number_of_samples - acquisition.discard_post
        )
        trajectory = acquisition.traj[kept]
        if dimensions in (2, 3) and len(trajectory) and np.all(np.isfinite(trajectory)):
            own = np.abs(trajectory.astype(np.float64)).max(axis=0)
            self.extent[:dimensions] = np.maximum(self.extent[:dimensions], own)

    def counter_suggestions(self, n_frames: int | None) -> list[ScanProfileSuggestion]:
        """Return what the counters of frames and groups should be."""
        found: list[ScanProfileSuggestion] = []
        frames = self._frame_counter(n_frames)
        if frames is None:
            name, count = str(STANDARD.frame_counter), n_frames
            if n_frames and self._constant(name) and self.count % n_frames == 0:
                name = "arrival"
                reason = f"no counter has {n_frames} values, one for each flip angle"
                found.append(ScanProfileSuggestion("frame_counter", name, reason))
        else:
            name, first, count = frames
            what = f"idx.{name} has the values {first} to {first + count - 1}"
            if name != STANDARD.frame_counter:
                found.append(
                    ScanProfileSuggestion("frame_counter", name, f"{what}, like the frames")
                )
            if first != STANDARD.first_frame:
                found.append(ScanProfileSuggestion("first_frame", first, what))
            if n_frames != count:
                reason = f"{what}, but the header has no flip angle for each"
                found.append(ScanProfileSuggestion("flip_angles", None, reason))
        if count:
            found += self._group_suggestions(name, count)
        return found

    def trajectory_suggestions(self, images: Grid) -> list[ScanProfileSuggestion]:
        """Return where the trajectories should be, and in which unit."""
        found: list[ScanProfileSuggestion] = []
        ((dimensions, _),) = self.dimensions.most_common(1)
        if dimensions not in (2, 3):
            reason = "the imaging acquisitions have no trajectory of two or three columns"
            return [ScanProfileSuggestion("trajectory_file", None, reason)]
        if dimensions == 2:
            reason = "the trajectories have two columns, like a stack"
            found.append(ScanProfileSuggestion("trajectory_axes", ("x", "y"), reason))
            counted = not self._constant("kspace_encode_step_2")
            partitions = "kspace_encode_step_2" if counted else None
            found.append(ScanProfileSuggestion("partition_counter", partitions, reason))
        units = fitting_units(self.extent, images)
        if units and units[0] != STANDARD_UNIT:
            reached = float(self.extent.max())
            reason = f"the trajectories reach {reached:.4g}; these look like {units[0]}"
            found.append(ScanProfileSuggestion("trajectory_units", units[0], reason))
        return found

    def _constant(self, name: str) -> bool:
        return len(self.values[name]) == 1

    def _frame_counter(self, n_frames: int | None) -> tuple[str, int, int] | None:
        """Return the counter that looks like the frames, its first value and their number."""
        candidates = []
        for name in _FRAME_COUNTERS:
            values = self.values[name]
            first, count = min(values), len(values)
            if max(values) - first + 1 == count and first in (0, 1):
                candidates.append((name, first, count))
        for found in candidates:
            if found[2] == n_frames:
                return found
        if n_frames is not None and n_frames > 1:
            return None
        plausible = [c for c in candidates if _SHORTEST_GROUP <= c[2] <= _LONGEST_GROUP]
        return max(plausible, key=lambda candidate: candidate[2], default=None)

    def _group_suggestions(self, frames: str, count: int) -> list[ScanProfileSuggestion]:
        groups = self.count // count
        present = self.values[STANDARD.group_counter]
        if groups < 2 or (len(present) > 1 and frames != STANDARD.group_counter):
            return []
        reason = (
            f"there are {self.count} imaging acquisitions of {count} frames, but idx.segment does "
            "not count readout groups"
        )
        for name in ("set", "kspace_encode_step_2", "kspace_encode_step_1", *COUNTERS):
            values = self.values[name]
            if name != frames and len(values) == groups:
                found = [ScanProfileSuggestion("group_counter", name, reason)]
                if min(values) == 1:
                    what = f"idx.{name} has the values 1 to {max(values)}"
                    found.append(ScanProfileSuggestion("first_group", 1, what))
                return found
        if any(not self._constant(step) for step in self.values if "step" in step):
            return []  # the readouts of a frame differ in a k-space step
        return [ScanProfileSuggestion("group_counter", "arrival", reason)]


def _frames_in_header(header: ismrmrd.xsd.ismrmrdHeader) -> int | None:
    """Return how many frames the header describes; None if it does not."""
    parameters = header.sequenceParameters
    if parameters is not None:
        longest = max(len(parameters.flipAngle_deg), len(parameters.TR))
        if longest > 1:
            return longest
    limits = header.encoding[0].encodingLimits if header.encoding else None
    contrast = None if limits is None else limits.contrast
    echoes = 0 if parameters is None else len(parameters.TE)
    longest = max(echoes, 0 if contrast is None else contrast.maximum + 1)
    return longest if longest >= _SHORTEST_GROUP else None  # fewer may be echoes


def _quoted(value: SuggestedValue) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value)

"""What the counters of acquisitions mean, and which scans are taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import ismrmrd

from mri2qmap.pipeline.pipeline_file import Pipeline
from mri2qmap.pipeline.scan_header import ScanInfo

CounterName = Literal[
    "kspace_encode_step_1",
    "kspace_encode_step_2",
    "average",
    "slice",
    "contrast",
    "phase",
    "repetition",
    "set",
    "segment",
    "user_0",
    "user_1",
    "user_2",
    "user_3",
    "user_4",
    "user_5",
    "user_6",
    "user_7",
]
COUNTERS: tuple[CounterName, ...] = get_args(CounterName)
STEPS: tuple[CounterName, ...] = ("kspace_encode_step_1", "kspace_encode_step_2")
"""Counters that may take any value: they tell several readouts of one frame and group apart."""
SCAN_COUNTERS: tuple[CounterName, ...] = (
    "average",
    "slice",
    "contrast",
    "phase",
    "repetition",
    "set",
    "segment",
)
"""Counters that must not change within a scan unless the policy says what they count."""


@dataclass(frozen=True, kw_only=True)
class AcquisitionPolicy:
    """How the checks read the headers of acquisitions.

    The settings of a gadget that takes raw data inherit from it.

    Attributes
    ----------
    frame_counter
        Counter of the time frames, of those in the ``idx`` of an acquisition header.
    group_counter
        Counter of the readout groups, each with an inversion of its own; "arrival": the n-th
        readout of a frame belongs to group n.
    merged_counters
        Counters, such as average, set or repetition, all of whose values belong to the one scan
        and are reconstructed together. Any other that changes within a scan is refused.
    incomplete
        What to do with a scan that lacks readouts which its header promises: "refuse" it, or
        "warn", reconstruct what there is, and mark the maps as partial.
    position_tolerance
        By how much position and table position may change within a scan [m].
    orientation_tolerance
        By how much a component of a direction vector may change within a scan.
    """

    frame_counter: CounterName = "contrast"
    group_counter: CounterName | Literal["arrival"] = "segment"
    merged_counters: tuple[CounterName, ...] = ()
    incomplete: Literal["refuse", "warn"] = "refuse"
    position_tolerance: float = 1e-4
    orientation_tolerance: float = 1e-3

    def __post_init__(self) -> None:
        if self.frame_counter == self.group_counter:
            raise ValueError(
                f"frame_counter and group_counter are both {self.frame_counter}; one counter "
                "cannot count frames and readout groups"
            )
        for name in ("frame_counter", "group_counter"):
            if getattr(self, name) in self.merged_counters:
                raise ValueError(
                    f"merged_counters has {getattr(self, name)}, which is the {name} too"
                )
        if len(set(self.merged_counters)) < len(self.merged_counters):
            raise ValueError("merged_counters has a counter twice")
        for name, most in (("position_tolerance", 1.0), ("orientation_tolerance", 2.0)):
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(
                    f"{name} must lie between 0 and {most:g}, got {getattr(self, name)}"
                )

    @property
    def fixed_counters(self) -> tuple[CounterName, ...]:
        """Counters whose change within a scan would go unexplained."""
        known = (self.frame_counter, self.group_counter, *self.merged_counters)
        return tuple(name for name in SCAN_COUNTERS if name not in known)

    @property
    def shot_counters(self) -> tuple[CounterName, ...]:
        """Counters that tell the readouts of one frame and group apart."""
        steps = tuple(s for s in STEPS if s not in (self.frame_counter, self.group_counter))
        return steps + tuple(m for m in self.merged_counters if m not in steps)


def pipeline_policy(pipeline: Pipeline) -> AcquisitionPolicy:
    """Return the policy of the first gadget of a pipeline that takes raw data.

    It is the default one where none does.
    """
    for node in pipeline.nodes:
        if isinstance(node.settings, AcquisitionPolicy):
            return node.settings
    return AcquisitionPolicy()


def counter(idx: ismrmrd.EncodingCounters, name: str) -> int:
    """Value of a counter of an acquisition header."""
    if name.startswith("user_"):
        return int(idx.user[int(name[len("user_") :])])
    return int(getattr(idx, name))


def counter_limits(scan: ScanInfo, name: str) -> range | None:
    """Values that the header promises for a counter; None where it does not say.

    ``encodingLimits`` of the first encoding; what no 16-bit counter can count is no promise.
    """
    limits = scan.header.encoding[0].encodingLimits
    limit = getattr(limits, name.replace("encode_step", "encoding_step"), None)
    if limit is None or not 0 <= limit.minimum <= limit.maximum < 2**16:
        return None
    return range(limit.minimum, limit.maximum + 1)

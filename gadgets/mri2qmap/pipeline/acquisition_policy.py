"""Meaning of the acquisition counters, and treatment of incomplete scans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mri2qmap.pipeline.counters import SCAN_COUNTERS, STEPS, CounterName, limits_name
from mri2qmap.pipeline.pipeline_file import Pipeline
from mri2qmap.pipeline.scan_header import ScanInfo


@dataclass(frozen=True, kw_only=True)
class AcquisitionPolicy:
    """Interpretation of the acquisition headers.

    Base class of the settings of gadgets that receive raw data.

    Attributes
    ----------
    frame_counter
        Field of the acquisition header's ``idx`` that counts the time frames.
    group_counter
        Field of ``idx`` that counts the readout groups, each of which follows one inversion;
        "arrival": the n-th readout of a frame belongs to group n.
    merged_counters
        Counters, such as average, set or repetition, whose values all belong to the scan and are
        reconstructed together. A change of any other counter within a scan is refused.
    incomplete
        Treatment of a scan without some of the readouts that its header announces: "refuse" it, or
        "warn", reconstruct the available data and mark the maps as partial.
    position_tolerance
        Largest change of position and table position within a scan [m].
    orientation_tolerance
        Largest change of a component of a direction vector within a scan.
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
                f"frame_counter and group_counter are both {self.frame_counter}; frames and "
                "readout groups need different counters"
            )
        for name in ("frame_counter", "group_counter"):
            if getattr(self, name) in self.merged_counters:
                raise ValueError(
                    f"merged_counters contains {getattr(self, name)}, which is also the {name}"
                )
        if len(set(self.merged_counters)) < len(self.merged_counters):
            raise ValueError("merged_counters contains a counter twice")
        for name, most in (("position_tolerance", 1.0), ("orientation_tolerance", 2.0)):
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(
                    f"{name} must lie between 0 and {most:g}, got {getattr(self, name)}"
                )

    @property
    def fixed_counters(self) -> tuple[CounterName, ...]:
        """Counters that must not change within a scan."""
        known = (self.frame_counter, self.group_counter, *self.merged_counters)
        return tuple(name for name in SCAN_COUNTERS if name not in known)

    @property
    def shot_counters(self) -> tuple[CounterName, ...]:
        """Counters that distinguish the readouts of one frame and group."""
        steps = tuple(s for s in STEPS if s not in (self.frame_counter, self.group_counter))
        return steps + tuple(m for m in self.merged_counters if m not in steps)


def pipeline_policy(pipeline: Pipeline) -> AcquisitionPolicy:
    """Return the policy of the first gadget that receives raw data, or the default policy."""
    for node in pipeline.nodes:
        if isinstance(node.settings, AcquisitionPolicy):
            return node.settings
    return AcquisitionPolicy()


def counter_limits(scan: ScanInfo, name: str) -> range | None:
    """Return the values of a counter that the header announces; None if it announces none.

    They are the ``encodingLimits`` of the first encoding. Limits beyond 16 bits are ignored.
    """
    limits = scan.header.encoding[0].encodingLimits
    limit = getattr(limits, limits_name(name), None)
    if limit is None or not 0 <= limit.minimum <= limit.maximum < 2**16:
        return None
    return range(limit.minimum, limit.maximum + 1)

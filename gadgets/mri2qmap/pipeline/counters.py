"""The counters of acquisition headers, the fields of ``idx``."""

from __future__ import annotations

from typing import Literal, get_args

import ismrmrd

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
"""Counters that may have any value: they distinguish readouts of one frame and group."""
SCAN_COUNTERS: tuple[CounterName, ...] = (
    "average",
    "slice",
    "contrast",
    "phase",
    "repetition",
    "set",
    "segment",
)
"""Counters that must not change within a scan unless the policy defines their meaning."""


def counter(idx: ismrmrd.EncodingCounters, name: str) -> int:
    """Return the value of a counter of an acquisition header."""
    if name.startswith("user_"):
        return int(idx.user[int(name[len("user_") :])])
    return int(getattr(idx, name))


def set_counter(idx: ismrmrd.EncodingCounters, name: str, value: int) -> None:
    """Set the value of a counter of an acquisition header."""
    if name.startswith("user_"):
        idx.user[int(name[len("user_") :])] = value
    else:
        setattr(idx, name, value)


def limits_name(name: str) -> str:
    """Return the element of ``encodingLimits`` with the limits of a counter."""
    return name.replace("encode_step", "encoding_step")

"""Words in messages, and sizes as words."""

from __future__ import annotations

import math

_UNITS: dict[str, int] = {
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("kMGT", start=1)},
    **{f"{prefix}iB": 1024**power for power, prefix in enumerate("kMGT", start=1)},
    "B": 1,  # the last: the others end with it
}


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is 1."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def shortened(text: str, most: int = 80) -> str:
    """Return a text that someone gave, without what is beyond `most` characters."""
    return text if len(text) <= most else f"{text[:most]}..."


def parsed_size(text: str) -> float:
    """Return the bytes of a size such as 16GB, 16GiB, 123456B or 16, which are GiB; else NaN."""
    unit = next((unit for unit in _UNITS if text.endswith(unit)), "")
    try:
        return float(text.removesuffix(unit)) * _UNITS[unit or "GiB"]
    except ValueError:
        return math.nan

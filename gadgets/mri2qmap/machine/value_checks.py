"""Range checks for the fields of settings and parameters; NaN passes none of them.

Each function takes a dataclass instance and names of its fields, and raises a ValueError that names
the field, what is allowed and the value. They are for ``__post_init__``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral
from typing import Any, get_args

_SMALLEST, _LARGEST = 1e-12, 1e12
MOST_ITERATIONS = 1_000
"""Maximum number of iterations of an algorithm, far beyond what any needs."""


def refuse_unless_counts(owner: object, *names: str, least: int = 1, most: int = 2**31 - 1) -> None:
    """Require whole numbers from `least` to `most`."""
    _refuse_unless_whole(least, most, owner, names)


def refuse_unless_seeds(owner: object, *names: str) -> None:
    """Require whole numbers from 0 to 2^63 - 1."""
    _refuse_unless_whole(0, 2**63 - 1, owner, names)


def refuse_unless_positive(owner: object, *names: str) -> None:
    """Require numbers above 0, of a size with which single precision can calculate."""
    _refuse_unless(lambda v: 0 < v < math.inf, "positive", owner, names)
    allowed = f"between {_SMALLEST:g} and {_LARGEST:g}"
    _refuse_unless(lambda v: _SMALLEST <= v <= _LARGEST, allowed, owner, names)


def refuse_unless_not_negative(owner: object, *names: str) -> None:
    """Require numbers of 0 or more, of a size with which single precision can calculate."""
    _refuse_unless(lambda v: 0 <= v < math.inf, "0 or more", owner, names)
    _refuse_unless(lambda v: v <= _LARGEST, f"at most {_LARGEST:g}", owner, names)


def refuse_unless_below_one(owner: object, *names: str) -> None:
    """Require numbers of at least 0 and below 1."""
    _refuse_unless(lambda v: 0 <= v < 1, "at least 0 and below 1", owner, names)


def refuse_unless_fractions(owner: object, *names: str) -> None:
    """Require numbers above 0 and up to 1."""
    _refuse_unless(lambda v: 0 < v <= 1, "above 0 and up to 1", owner, names)


def refuse_unless_one_of(owner: object, name: str, choices: Any) -> None:
    """Require one of the values of a ``Literal``."""
    known = get_args(choices)
    _refuse_unless(lambda v: v in known, f"one of {', '.join(known)}", owner, (name,))


def _refuse_unless_whole(least: int, most: int, owner: object, names: tuple[str, ...]) -> None:
    allowed = f"a whole number from {least} to {most}"
    _refuse_unless(
        lambda v: isinstance(v, Integral) and least <= int(v) <= most, allowed, owner, names
    )


def _refuse_unless(
    fits: Callable[[Any], bool], allowed: str, owner: object, names: tuple[str, ...]
) -> None:
    for name in names:
        value = getattr(owner, name)
        if not fits(value):
            raise ValueError(f"{name} must be {allowed}, got {value!r}")

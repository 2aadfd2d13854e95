"""Long work in Python that lets other threads go first.

One thread that is busy in Python delays each short step of all others by the switch interval of the
interpreter, so that a scan beside it takes many times as long. Pauses prevent it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from mri2qmap.machine.cancellation import raise_if_cancelled

_WORK = 1e-3
"""Time of work until a pause [s]."""
_PAUSE = 3e-3
"""Length of a pause [s]."""


class _Pace:
    def __init__(self) -> None:
        self.pause_at = time.perf_counter() + _WORK


_ACTIVE: ContextVar[_Pace | None] = ContextVar("giving way", default=None)


@contextmanager
def giving_way() -> Iterator[None]:
    """Let `give_way` pause in this thread: three quarters of the time are left to others."""
    token = _ACTIVE.set(_Pace())
    try:
        yield
    finally:
        _ACTIVE.reset(token)


def gives_way() -> bool:
    """Return whether `giving_way` is active in this thread."""
    return _ACTIVE.get() is not None


def give_way() -> None:
    """Pause if it is time to; to be called in each step of a loop.

    Does nothing, in a fraction of a microsecond, except within `giving_way`.

    Raises
    ------
    BaseException
        The error with which the computation of this thread is cancelled; see `raise_if_cancelled`.
    """
    pace = _ACTIVE.get()
    if pace is not None and time.perf_counter() >= pace.pause_at:
        raise_if_cancelled()
        time.sleep(_PAUSE)
        pace.pause_at = time.perf_counter() + _WORK

"""Cancellation of a computation by another thread.

A client disconnects, another process of the run fails, a server is stopped: whoever notices it does
so in a thread of its own, while the computation is busy. An exception that is raised into a thread
from outside can get lost, for example in a finaliser. Therefore, long computations look by
themselves whether they are cancelled, at least every second. A single call of a library, such as
one Fourier transform, cannot be left early.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_ACTIVE: ContextVar[tuple[Cancellation, ...]] = ContextVar("active cancellations", default=())


class Cancellation:
    """Whether a computation is cancelled, and the error that it then raises.

    `cancel` may be called from any thread, at any time, and more than once: the first error counts.
    """

    def __init__(self) -> None:
        self._error: BaseException | None = None
        self._lock = threading.Lock()

    @property
    def error(self) -> BaseException | None:
        """The reason; None if the computation is not cancelled."""
        return self._error

    def cancel(self, error: BaseException) -> None:
        """Let the computation raise `error` when it looks the next time."""
        with self._lock:
            self._error = self._error or error

    @contextmanager
    def active(self, alone: bool = False) -> Iterator[None]:
        """Let `raise_if_cancelled` of this thread heed this object.

        Parameters
        ----------
        alone
            Whether those that are already active are not heeded meanwhile.
        """
        token = _ACTIVE.set((self,) if alone else (*_ACTIVE.get(), self))
        try:
            yield
        finally:
            _ACTIVE.reset(token)


def is_cancellation(error: BaseException) -> bool:
    """Whether an error is the one with which the computation of this thread is cancelled."""
    return any(cancellation.error is error for cancellation in _ACTIVE.get())


def may_be_cancelled() -> bool:
    """Whether a `Cancellation` is active in this thread."""
    return bool(_ACTIVE.get())


def raise_if_cancelled() -> None:
    """Raise the error of the computation if it has been cancelled.

    Costs less than a microsecond. To be called in each step of a loop that may last longer than a
    second, in the thread that entered `Cancellation.active` or in the context of one, see
    `contextvars.copy_context`; in other threads it has no effect.

    Raises
    ------
    BaseException
        The error that was given to `Cancellation.cancel`.
    """
    for cancellation in _ACTIVE.get():
        if cancellation.error is not None:
            raise cancellation.error

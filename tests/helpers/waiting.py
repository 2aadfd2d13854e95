"""What tests use in place of sleeping: conditions, events and a clock of their own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mri2qmap.pipeline.memory_budget import MemoryBudget

DEADLINE = 30
"""Seconds until a test that waits fails; no test that passes takes them."""


def eventually(condition: Callable[[], bool], what: str, seconds: float = DEADLINE) -> None:
    """Wait until a condition holds, and fail with `what` if it never does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.005)


class Clock:
    """Stands in for the module `time`: time passes only when someone sleeps."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return time.monotonic()  # the clock of the connection

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class WatchedBudget(MemoryBudget):
    """Memory to share, with an event that is set once some of it is held."""

    def __init__(self, total: int, patience: float) -> None:
        super().__init__(total, patience)
        self.held = threading.Event()

    @contextmanager
    def share(self, *args, **options) -> Iterator[None]:
        with super().share(*args, **options):
            self.held.set()
            yield

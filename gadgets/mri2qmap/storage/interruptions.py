"""Signals that end the program wait while files change their places."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What a user, a supervisor or a terminal that closes sends."""


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let signals that end the program take effect at the end of the block.

    Signals that are ignored stay ignored. Outside the main thread there is nothing to do: Python
    handles signals in the main thread alone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []

    def note(number: int, frame: object) -> None:
        arrived.append(number)

    previous = {}
    try:
        for number in ENDING:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                previous[number] = signal.signal(number, note)
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if arrived:
            signal.raise_signal(arrived[0])

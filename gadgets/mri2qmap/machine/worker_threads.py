"""Compiled loops on several threads, without OpenMP.

The threads of an OpenMP runtime wait for each other after every loop, mostly spinning. torch, numba
and FINUFFT each have such a runtime. If another process needs one of the cores, every loop takes as
long as its slowest thread. Here, threads take small pieces of a loop until none is left, and sleep
otherwise.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch

_PIECES_PER_THREAD = 8

_lock = threading.Lock()
_executors: dict[int, ThreadPoolExecutor] = {}
"""Executors by process: the threads of a parent process do not exist in its forks."""


def run_in_threads(loop: Callable[..., object], *arguments: object, n_steps: int) -> None:
    """Run a loop in pieces on as many threads as torch uses.

    Between two pieces, the caller handles signals.

    Parameters
    ----------
    loop
        Called with the arguments, the first step of a piece and the one after its last. It should
        release the interpreter lock, and the result must not depend on the order of the pieces.
    arguments
        First arguments of the loop.
    n_steps
        Number of steps.

    Raises
    ------
    Exception
        The first error of the loop. Other pieces may have been computed or not.
    """
    n_threads = min(torch.get_num_threads(), max(n_steps, 1))
    pieces = _Pieces(n_steps, -(-n_steps // (_PIECES_PER_THREAD * n_threads)))

    def work() -> None:
        try:
            for start, stop in pieces:
                loop(*arguments, start, stop)
        except BaseException:
            pieces.stop()
            raise

    helpers = [_executor().submit(work) for _ in range(n_threads - 1)]
    try:
        work()
    finally:
        pieces.stop()
        # A helper that has not begun, because other loops occupy the threads, is not needed.
        errors = [helper.exception() for helper in helpers if not helper.cancel()]
    for error in errors:
        if error is not None:
            raise error


class _Pieces(Iterator[tuple[int, int]]):
    """Pieces of a loop, each of which is given to one thread."""

    def __init__(self, n_steps: int, size: int) -> None:
        self._start, self._n_steps, self._size = 0, n_steps, size
        self._lock = threading.Lock()

    def __next__(self) -> tuple[int, int]:
        with self._lock:
            start = self._start
            if start >= self._n_steps:
                raise StopIteration
            self._start = min(start + self._size, self._n_steps)
            return start, self._start

    def stop(self) -> None:
        """Give no more pieces."""
        with self._lock:
            self._start = self._n_steps


def _executor() -> ThreadPoolExecutor:
    with _lock:
        process = os.getpid()
        if process not in _executors:
            _executors.clear()
            _executors[process] = ThreadPoolExecutor(
                max(os.cpu_count() or 1, 2), thread_name_prefix="loop"
            )
        return _executors[process]

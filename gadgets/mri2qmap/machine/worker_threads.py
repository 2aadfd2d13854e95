"""Compiled loops on several threads, without OpenMP.

The threads of an OpenMP runtime wait for each other after every loop, mostly spinning. torch, numba
and FINUFFT each have such a runtime. If another process needs one of the cores, every loop takes as
long as its slowest thread. Here, threads take small pieces of a loop until none is left, and sleep
otherwise.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import torch

from mri2qmap.machine.cancellation import raise_if_cancelled

_PIECES_PER_THREAD = 8

_lock = threading.Lock()
_executors: dict[int, ThreadPoolExecutor] = {}
"""Executors by process: the threads of a parent process do not exist in its forks."""


def run_in_threads(loop: Callable[..., object], *arguments: object, n_steps: int) -> None:
    """Run a loop in pieces on as many threads as torch uses.

    Between two pieces, the threads look whether the caller is cancelled, and the caller handles
    signals.

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
        An error of the loop, or that of `raise_if_cancelled`. Other pieces may have been computed
        or not.
    """
    n_threads = min(torch.get_num_threads(), max(n_steps, 1))
    pieces = _Pieces(n_steps, -(-n_steps // (_PIECES_PER_THREAD * n_threads)))

    def work() -> None:
        for start, stop in pieces:
            raise_if_cancelled()
            loop(*arguments, start, stop)

    try:
        # If no thread can be started, or the interpreter ends, the caller does all the work.
        with contextlib.suppress(RuntimeError):
            for _ in range(n_threads - 1):
                _executor().submit(copy_context().run, pieces.help, work)
        work()
    finally:
        pieces.stop_and_wait()
    if pieces.error is not None:
        raise pieces.error


class _Pieces(Iterator[tuple[int, int]]):
    """Pieces of a loop, each of which is given to one thread."""

    def __init__(self, n_steps: int, size: int) -> None:
        self._start, self._n_steps, self._size = 0, n_steps, size
        self._changed = threading.Condition(threading.Lock())
        self._helpers = 0
        self.error: BaseException | None = None

    def __next__(self) -> tuple[int, int]:
        with self._changed:
            start = self._start
            if start >= self._n_steps:
                raise StopIteration
            self._start = min(start + self._size, self._n_steps)
            return start, self._start

    def help(self, work: Callable[[], None]) -> None:
        """Do the work in a thread that the caller waits for only if it has begun in time."""
        with self._changed:
            if self._start >= self._n_steps:
                return
            self._helpers += 1
        error = None
        try:
            work()
        except BaseException as raised:
            error = raised
        with self._changed:
            self._helpers -= 1
            if error is not None:
                self.error = self.error or error
                self._start = self._n_steps
            self._changed.notify_all()

    def stop_and_wait(self) -> None:
        """Give no more pieces, and wait for the threads that have one."""
        with self._changed:
            self._start = self._n_steps
            self._changed.wait_for(lambda: not self._helpers)


def _forget() -> None:
    """In a fork: another thread of the parent may have held the lock."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _executor() -> ThreadPoolExecutor:
    with _lock:
        process = os.getpid()
        if process not in _executors:
            _executors.clear()
            _executors[process] = ThreadPoolExecutor(
                max(os.cpu_count() or 1, 2), thread_name_prefix="loop"
            )
        return _executors[process]

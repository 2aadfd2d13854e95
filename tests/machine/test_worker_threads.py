"""Loops on several threads: every step once, errors, signals and simultaneous callers."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest
import torch

from mri2qmap.machine import worker_threads
from mri2qmap.machine.worker_threads import run_in_threads
from mri2qmap.mrsignal.matching import exact_search


@pytest.fixture(params=[1, 3])
def n_threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("n_steps", [0, 1, 2, 7, 1000])
def test_every_step_is_done_once(n_threads, n_steps):
    done = []
    run_in_threads(lambda name, start, stop: done.extend(range(start, stop)), "x", n_steps=n_steps)
    assert sorted(done) == list(range(n_steps))


def test_as_many_threads_as_torch_uses(n_threads):
    """The loop waits until all threads are in it."""
    together = threading.Barrier(n_threads)
    names = set()

    def loop(start, stop):
        if threading.current_thread().name not in names:
            names.add(threading.current_thread().name)
            together.wait(timeout=60)

    run_in_threads(loop, n_steps=1000)
    assert len(names) == n_threads


def test_an_error_ends_the_loop(n_threads):
    pieces = []

    def loop(start, stop):
        pieces.append(start)
        raise ArithmeticError(f"in step {start}")

    with pytest.raises(ArithmeticError, match="in step"):
        run_in_threads(loop, n_steps=1000)
    assert len(pieces) <= n_threads


def test_an_error_in_another_thread_is_raised():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    own = threading.get_ident()

    def loop(start, stop):
        if threading.get_ident() != own:
            raise ArithmeticError("elsewhere")
        time.sleep(0.01)

    try:
        with pytest.raises(ArithmeticError, match="elsewhere"):
            run_in_threads(loop, n_steps=1000)
    finally:
        torch.set_num_threads(before)


class Stopped(BaseException):
    """Exception raised by a signal handler."""


def test_a_signal_ends_the_loop(n_threads):
    """Before the loop would be finished; no thread goes on afterwards."""
    pieces = []

    def stop(number, frame):
        raise Stopped

    def loop(start, stop):
        if not pieces:
            os.kill(os.getpid(), signal.SIGUSR1)
        pieces.append(start)
        time.sleep(0.01)

    previous = signal.signal(signal.SIGUSR1, stop)
    try:
        with pytest.raises(Stopped):
            run_in_threads(loop, n_steps=10_000)
    finally:
        signal.signal(signal.SIGUSR1, previous)
    there = len(pieces)
    time.sleep(0.05)
    assert len(pieces) == there < 8 * n_threads


def test_simultaneous_sessions_may_run_loops():
    generator = torch.Generator().manual_seed(0)
    atoms, signals = torch.rand(40, 8, generator=generator), torch.rand(13, 900)
    expected = exact_search(atoms, signals, 5)
    results = []

    def work():
        for _ in range(20):
            results.append(exact_search(atoms, signals, 5))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 80
    assert all(torch.equal(a, b) for r in results for a, b in zip(r, expected, strict=True))


def test_a_loop_does_not_wait_for_threads_that_others_occupy(monkeypatch):
    """All threads are busy: the caller does all the work."""
    from concurrent.futures import ThreadPoolExecutor

    free = threading.Event()
    with ThreadPoolExecutor(1) as busy:
        busy.submit(free.wait)
        monkeypatch.setattr(worker_threads, "_executor", lambda: busy)
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        done = []
        try:
            run_in_threads(lambda start, stop: done.extend(range(start, stop)), n_steps=100)
        finally:
            torch.set_num_threads(before)
            free.set()
    assert sorted(done) == list(range(100))


FORKED = """
import os, torch
from mri2qmap.machine.worker_threads import run_in_threads
torch.set_num_threads(2)
done = []
loop = lambda start, stop: done.extend(range(start, stop))
run_in_threads(loop, n_steps=100)
child = os.fork()
if not child:
    done.clear()
    run_in_threads(loop, n_steps=100)
    os._exit(sorted(done) != list(range(100)))
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="of systems with fork")
def test_forks_have_threads_of_their_own():
    # Python 3.12 and later warn of forks of processes with threads.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_without_threads_the_caller_does_all(monkeypatch):
    """The system has no more threads, or the interpreter ends."""

    class Full:
        def submit(self, *_):
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(worker_threads, "_executor", lambda: Full())
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    done = []
    try:
        run_in_threads(lambda start, stop: done.extend(range(start, stop)), n_steps=100)
    finally:
        torch.set_num_threads(before)
    assert sorted(done) == list(range(100))


def test_nothing_goes_on_after_an_interruption_while_threads_start(monkeypatch):
    pieces, executor = [], worker_threads._executor()

    class Interrupted:
        def submit(self, *arguments):
            executor.submit(*arguments)
            raise KeyboardInterrupt

    def loop(start, stop):
        pieces.append(start)
        time.sleep(0.01)

    monkeypatch.setattr(worker_threads, "_executor", lambda: Interrupted())
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_in_threads(loop, n_steps=1000)
    finally:
        torch.set_num_threads(before)
    there = len(pieces)
    time.sleep(0.1)
    assert len(pieces) == there


def test_loops_may_run_loops():
    inner = []

    def loop(start, stop):
        run_in_threads(lambda a, b: inner.extend(range(a, b)), n_steps=20)

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        run_in_threads(loop, n_steps=30)
    finally:
        torch.set_num_threads(before)
    counts = Counter(inner)
    assert sorted(counts) == list(range(20))
    assert len(set(counts.values())) == 1

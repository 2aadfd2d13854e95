"""Parallel numba loops: number of threads, and selection of the right function."""

import os
import signal
import subprocess
import sys
import threading

import numba
import pytest
import torch

from mri2qmap.machine.compiled_loops import torch_threads
from mri2qmap.mrsignal.matching import exact_search
from mri2qmap.operators.kernel_product import apply_kernels

PROGRAM = """
import torch
from mri2qmap.operators.kernel_product import apply_kernels
assert torch.get_num_threads() == 1
apply_kernels(torch.ones(1, 4, 4, 4), torch.ones(1, 1, 4, 4, 4, dtype=torch.complex64))
print(torch.get_num_threads())
"""


@pytest.mark.slow
def test_loop_does_not_increase_the_number_of_threads():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "1"


def test_loop_uses_the_number_of_threads_of_torch():
    before = torch.get_num_threads()
    own = numba.get_num_threads()
    try:
        torch.set_num_threads(1)
        with torch_threads():
            assert numba.get_num_threads() == 1
            torch.set_num_threads(2)  # like numba's first loop
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    assert numba.get_num_threads() == own


def test_number_of_threads_is_restored_after_an_error():
    own = numba.get_num_threads()
    with pytest.raises(ZeroDivisionError), torch_threads():
        raise ZeroDivisionError
    assert numba.get_num_threads() == own


class Stopped(BaseException):
    """Exception raised by a signal handler."""


@pytest.mark.slow
def test_signal_during_a_loop_is_raised_unchanged():
    def stop(number, frame):
        raise Stopped

    generator = torch.Generator().manual_seed(0)
    atoms, signals = torch.rand(4000, 8, generator=generator), torch.rand(13, 10_000)
    exact_search(atoms, signals[:, :128].contiguous(), 5)  # compiled
    previous = signal.signal(signal.SIGUSR1, stop)
    alarm = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))

    def search():
        alarm.start()
        while True:  # until the signal arrives
            exact_search(atoms, signals, 5)

    try:
        with pytest.raises(Stopped):
            search()
    finally:
        alarm.join()
        signal.signal(signal.SIGUSR1, previous)


def test_other_system_errors_are_unchanged():
    with pytest.raises(SystemError, match="of another kind") as raised, torch_threads():
        raise SystemError("of another kind") from ValueError("something")
    assert isinstance(raised.value.__cause__, ValueError)


def test_simultaneous_sessions_may_run_loops():
    generator = torch.Generator().manual_seed(0)
    kernels = torch.rand(3, 16, 16, 16, generator=generator)
    spectra = torch.rand(1, 2, 16, 16, 16, generator=generator).to(torch.complex64)
    expected = apply_kernels(kernels, spectra.clone())
    results: list[torch.Tensor] = []

    def work() -> None:
        for _ in range(20):
            results.append(apply_kernels(kernels, spectra.clone()))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 80
    assert all(torch.equal(result, expected) for result in results)


SEARCHES = """
import sys
import torch
from mri2qmap.mrsignal.group_matching import GroupSearch
from mri2qmap.mrsignal.matching import exact_search, scores_of

for word in sys.argv[1:]:
    name, coefficients = word.split(":")
    n = int(coefficients)
    generator = torch.Generator().manual_seed(n)
    atoms = torch.nn.functional.normalize(torch.rand(60, n + 3, generator=generator), dim=1)
    signals = torch.rand(2 * n + 3, 200, generator=generator)
    search = exact_search if name == "exact" else GroupSearch(5, 0.0)
    expected = scores_of(atoms, signals, n).max(0)
    index, score = search(atoms, signals, n)
    torch.testing.assert_close(score, expected.values)
    assert (index == expected.indices).all(), word
"""


@pytest.mark.slow
def test_cached_searches_are_not_confused(tmp_path):
    """Functions for different numbers of coefficients, loaded from the cache in one process."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}

    def search(*words):
        command = [sys.executable, "-c", SEARCHES, *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    for words in (["exact:4"], ["exact:5"], ["groups:4"]):
        search(*words)
    search("exact:5", "groups:4", "exact:4")

"""How the process is set up when the package is imported."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

import mri2qmap
from mri2qmap.machine import compiled_loops, process_setup
from mri2qmap.machine.process_setup import (
    PASSIVE_WAITING,
    limit_threads,
    set_passive_waiting,
    set_user_name,
)

PACKAGE = str(Path(mri2qmap.__file__).parents[1])


def run(code: str, **environment: str) -> str:
    own = (*PASSIVE_WAITING, "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    inherited = {name: value for name, value in os.environ.items() if name not in own}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**inherited, "PYTHONPATH": PACKAGE, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


IMPORTED = """
import os, sys
import mri2qmap
assert not {"torch", "numba", "numpy"} & set(sys.modules)
print(*(os.environ.get(name) for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")))
"""


def test_waiting_is_passive_before_any_library_is_loaded():
    assert run(IMPORTED) == "passive 0 0"
    assert run(IMPORTED, OMP_WAIT_POLICY="active") == "active None None"


KEPT = """
import mri2qmap

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

block = bytearray(2**26)
before = resident()
del block
print((before - resident()) // 2**20)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
def test_freed_memory_stays_with_whoever_imports_the_package():
    assert int(run(KEPT)) < 8
    assert int(run(KEPT, MALLOC_MMAP_THRESHOLD_="131072")) >= 60


LAYER = """
import torch, numba
from mri2qmap.operators.kernel_product import apply_kernels
from mri2qmap.hosts import external_node
try:
    external_node.toeplitz_cg(None)  # as a server starts it; there is no connection
except AttributeError:
    pass
apply_kernels(torch.ones(1, 4, 4, 4), torch.ones(1, 1, 4, 4, 4, dtype=torch.complex64))
print(numba.threading_layer())
"""


def test_loops_of_our_own_processes_do_not_spin():
    assert run(LAYER) == "workqueue"


@pytest.mark.parametrize(
    ("ours", "said", "layer"),
    [(True, "default", "workqueue"), (True, "omp", "omp"), (False, "default", "default")],
)
def test_the_layer_is_chosen_for_us_only_and_not_against_the_user(monkeypatch, ours, said, layer):
    monkeypatch.setattr(compiled_loops, "process_is_exclusive", lambda: ours)
    monkeypatch.setattr(compiled_loops.numba.config, "THREADING_LAYER", said)
    compiled_loops._choose_layer()
    assert compiled_loops.numba.config.THREADING_LAYER == layer


@pytest.fixture
def plain(monkeypatch):
    """An environment in which the user has said nothing."""
    for name in (*PASSIVE_WAITING, "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize("name", PASSIVE_WAITING)
def test_what_the_user_says_of_waiting_stays(plain, name):
    plain.setenv(name, "1")
    set_passive_waiting()
    assert {n: os.environ[n] for n in PASSIVE_WAITING if n in os.environ} == {name: "1"}


class FakeTorch(types.ModuleType):
    def __init__(self, threads: int) -> None:
        super().__init__("torch")
        self.threads = threads

    def get_num_threads(self) -> int:
        return self.threads

    def set_num_threads(self, threads: int) -> None:
        self.threads = threads


@pytest.mark.parametrize(
    ("cores", "quota", "before", "after"),
    [
        (8, 2, 8, 2),  # PyTorch's own choice
        (8, 2, 4, 2),  # also its own: one a core with two processors
        (8, 2, 6, 6),  # chosen by the user
        (8, 8, 8, 8),
    ],
)
def test_threads_follow_the_quota(plain, cores, quota, before, after):
    plain.setattr(process_setup, "_affinity", lambda: cores)
    plain.setattr(process_setup, "_physical_cores", lambda: cores // 2)
    plain.setattr(process_setup, "usable_cores", lambda: quota)
    torch = FakeTorch(before)
    plain.setitem(sys.modules, "torch", torch)
    limit_threads()
    assert torch.threads == after
    assert os.environ.get("OMP_NUM_THREADS") == (None if quota == cores else str(quota))


def test_a_number_of_threads_that_the_user_gives_stays(plain):
    plain.setattr(process_setup, "_affinity", lambda: 8)
    plain.setattr(process_setup, "usable_cores", lambda: 2)
    plain.setenv("OMP_NUM_THREADS", "5")
    limit_threads()
    assert os.environ["OMP_NUM_THREADS"] == "5"


def test_nothing_that_goes_wrong_keeps_the_package_from_being_imported(plain):
    def fail():
        raise RuntimeError("no such thing here")

    for step in (
        "set_passive_waiting",
        "limit_threads",
        "keep_freed_memory",
        "set_matplotlib_cache",
    ):
        plain.setattr(process_setup, step, fail)
    process_setup.prepare_process()


def test_an_unknown_user_gets_a_name(plain):
    import getpass
    import pwd

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        plain.delenv(name, raising=False)
    set_user_name()
    assert "USER" not in os.environ  # the system knows who tests
    plain.setattr(pwd, "getpwuid", unknown)
    plain.setenv("USER", "")
    set_user_name()
    assert getpass.getuser() == f"uid{os.getuid()}"

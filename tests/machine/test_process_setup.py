"""Set-up of the process when the package is imported."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

import mri2qmap
from mri2qmap.machine import process_setup
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


def test_waiting_is_passive_before_libraries_are_loaded():
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
def test_freed_memory_stays_in_the_process():
    assert int(run(KEPT)) < 8
    assert int(run(KEPT, MALLOC_MMAP_THRESHOLD_="131072")) >= 60


@pytest.fixture
def plain(monkeypatch):
    """An environment without settings of the user."""
    for name in (*PASSIVE_WAITING, "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize("name", PASSIVE_WAITING)
def test_waiting_set_by_the_user_is_unchanged(plain, name):
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
        (8, 2, 8, 2),  # default of PyTorch
        (8, 2, 4, 2),  # also a default: one per physical core
        (8, 2, 6, 6),  # set by the user
        (8, 8, 8, 8),
    ],
)
def test_number_of_threads_is_limited_by_the_quota(plain, cores, quota, before, after):
    plain.setattr(process_setup, "_affinity", lambda: cores)
    plain.setattr(process_setup, "_physical_cores", lambda: cores // 2)
    plain.setattr(process_setup, "usable_cores", lambda: quota)
    torch = FakeTorch(before)
    plain.setitem(sys.modules, "torch", torch)
    limit_threads()
    assert torch.threads == after
    assert os.environ.get("OMP_NUM_THREADS") == (None if quota == cores else str(quota))


def test_number_of_threads_set_by_the_user_is_unchanged(plain):
    plain.setattr(process_setup, "_affinity", lambda: 8)
    plain.setattr(process_setup, "usable_cores", lambda: 2)
    plain.setenv("OMP_NUM_THREADS", "5")
    limit_threads()
    assert os.environ["OMP_NUM_THREADS"] == "5"


def test_errors_do_not_prevent_the_import(plain):
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


def test_user_without_account_gets_a_name(plain):
    import getpass
    import pwd

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        plain.delenv(name, raising=False)
    set_user_name()
    assert "USER" not in os.environ  # the user has an account
    plain.setattr(pwd, "getpwuid", unknown)
    plain.setenv("USER", "")
    set_user_name()
    assert getpass.getuser() == f"uid{os.getuid()}"

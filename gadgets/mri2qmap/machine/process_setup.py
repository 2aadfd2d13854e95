"""How the process is set up before anything is computed, whoever starts it.

`prepare_process` runs when the package is imported: by the command, by a node that a Gadgetron
server starts, by a program that uses the package. It needs none of the libraries that it sets up,
most of which read their environment only once, as they are loaded. What the user has set stays.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from pathlib import Path

from mri2qmap.machine.container_limits import usable_cores
from mri2qmap.machine.folders import cache_folder

PASSIVE_WAITING = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
"""For libgomp (PyTorch, FINUFFT, numba) and for the OpenMP libraries of LLVM and Intel."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""What a user tells PyTorch the number of threads with."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_LARGEST = 2**31 - 1
_LARGEST_OF_OLD = 2**25
"""Old versions of glibc refuse more than half of the largest heap."""

_alone = False


def prepare_process() -> None:
    """Set up waiting, threads, memory, name of the user, matplotlib's cache; never fails."""
    for step in (
        set_passive_waiting,
        limit_threads,
        keep_freed_memory,
        set_user_name,
        set_matplotlib_cache,
    ):
        with contextlib.suppress(Exception):
            step()


def mark_process_exclusive() -> None:
    """Say that this process runs nothing but this program, as `mri2qmap` and its nodes do.

    Its parallel loops may then run on numba's work queue, which waits without spinning, but ends a
    process in which others run such loops at the same time.
    """
    global _alone
    _alone = True


def process_is_exclusive() -> bool:
    """Whether `mark_process_exclusive` was called."""
    return _alone


def set_passive_waiting() -> None:
    """Let idle OpenMP threads sleep.

    By default they spin at each barrier, in the hope that the others come soon. While another
    program keeps one of the cores busy they do not: the thread that spins takes the time away from
    the one that it waits for, and a run takes several times longer.

    No effect on libraries that are loaded already; nothing is changed where the user has set any of
    the variables, since each of them can overrule the others.
    """
    if not any(name in os.environ for name in PASSIVE_WAITING):
        os.environ.update(PASSIVE_WAITING)


def limit_threads() -> None:
    """Use as many threads as a container's quota of processor time allows.

    The libraries heed the affinity of the process by themselves, but not the quota: with more
    threads than it allows, all of them are stopped for a part of every tenth of a second.
    """
    if any(os.environ.get(name) for name in THREAD_VARIABLES):
        return
    cores = usable_cores()
    if cores >= _affinity():
        return
    os.environ["OMP_NUM_THREADS"] = str(cores)
    torch = sys.modules.get("torch")
    try:
        # Loaded before us: unless the user has chosen a number, it uses all cores.
        if torch is not None and torch.get_num_threads() in (_affinity(), _physical_cores()):
            torch.set_num_threads(cores)
    except Exception:  # half loaded, or not what its name says
        return


def keep_freed_memory() -> None:
    """Keep large freed blocks in the process instead of giving them back to the system.

    The reconstruction frees and takes arrays of megabytes thousands of times. By default glibc
    asks the system for each anew and the kernel clears every page: transforms and products of a
    64^3 scan then take twice as long. No effect where the C library is not glibc, or where the
    user has tuned it.
    """
    tuned = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
    if not sys.platform.startswith("linux") or any(name in os.environ for name in tuned):
        return
    if "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    if not mallopt(_M_MMAP_THRESHOLD, _LARGEST):
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_OF_OLD)
    mallopt(_M_TRIM_THRESHOLD, _LARGEST)


def set_user_name() -> None:
    """Give a user whom the system does not know a name.

    Libraries ask for it to name folders, PyTorch's compiler among them, and fail without.
    """
    if any(os.environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
        return
    try:
        import pwd

        pwd.getpwuid(os.getuid())
    except KeyError:
        os.environ["USER"] = f"uid{os.getuid()}"


def set_matplotlib_cache() -> None:
    """Give matplotlib a place for its list of fonts where the user has no home for it."""
    if os.environ.get("MPLCONFIGDIR") or "matplotlib" in sys.modules or _matplotlib_has_a_place():
        return
    folder = cache_folder()
    if folder is not None:
        os.environ["MPLCONFIGDIR"] = str(folder / "matplotlib")


def _matplotlib_has_a_place() -> bool:
    """Whether matplotlib can write where it would by itself."""
    for variable, name in (("XDG_CONFIG_HOME", ".config"), ("XDG_CACHE_HOME", ".cache")):
        try:
            folder = Path(os.environ.get(variable) or Path.home() / name)
        except RuntimeError:  # no home
            return False
        if not folder.is_absolute():  # it would make a folder of that name, "~" for example
            return False
        there = next((f for f in (folder, *folder.parents) if os.path.isdir(f)), folder)
        if not os.access(there, os.W_OK):
            return False
    return True


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _physical_cores() -> int:
    """Number of cores behind the processors that the process may use; 0 where it is not told."""
    found = set()
    for number in range(os.cpu_count() or 1):
        if hasattr(os, "sched_getaffinity") and number not in os.sched_getaffinity(0):
            continue
        path = Path(f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list")
        try:
            found.add(path.read_text(encoding="ascii"))
        except OSError:
            return 0
    return len(found)

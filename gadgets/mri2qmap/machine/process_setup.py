"""Process-wide set-up before any computation.

`prepare_process` runs when the package is imported by the command line, by a node of a Gadgetron
server or by another program. Most libraries read environment variables only once, when they are
loaded, so it does not import them. Settings of the user are not changed.
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
"""Settings of libgomp (PyTorch, FINUFFT) and of the OpenMP libraries of LLVM and Intel."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables that set the number of threads of PyTorch."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # from malloc.h of glibc
_M_ARENA_MAX = -8
_SWITCH_INTERVAL = 1e-3  # s
_RETURNED = 2**22
_LARGEST = 2**31 - 1
_LARGEST_OLD_GLIBC = 2**25
"""Older versions of glibc refuse larger thresholds."""


def prepare_process() -> None:
    """Set up OpenMP waiting, threads, memory, user name and matplotlib's cache; never fails."""
    for step in (
        set_passive_waiting,
        limit_threads,
        keep_freed_memory,
        set_user_name,
        set_matplotlib_cache,
    ):
        with contextlib.suppress(Exception):
            step()


def set_passive_waiting() -> None:
    """Make idle OpenMP threads sleep.

    By default, they spin at each barrier. If another program keeps a core busy, a spinning thread
    takes processor time from the thread it waits for, and a run takes several times longer.

    This has no effect on libraries that are already loaded. Nothing is changed if the user has set
    one of the variables, because each of them can override the others.
    """
    if not any(name in os.environ for name in PASSIVE_WAITING):
        os.environ.update(PASSIVE_WAITING)


def limit_threads() -> None:
    """Limit the number of threads to the quota of processor time of the container.

    The libraries respect the CPU affinity of the process, but not the quota: with more threads,
    the kernel suspends all of them for a part of each period of 0.1 s.
    """
    if any(os.environ.get(name) for name in THREAD_VARIABLES):
        return
    cores = usable_cores()
    if cores >= _affinity():
        return
    os.environ["OMP_NUM_THREADS"] = str(cores)
    torch = sys.modules.get("torch")
    try:
        # Already loaded: unless the user has set a number, torch uses all cores.
        if torch is not None and torch.get_num_threads() in (_affinity(), _physical_cores()):
            torch.set_num_threads(cores)
    except Exception:  # partially loaded, or another module of this name
        return


def keep_freed_memory() -> None:
    """Keep large freed memory blocks in the process instead of returning them to the system.

    The reconstruction allocates and frees arrays of several megabytes thousands of times. By
    default, glibc requests each of them from the kernel, which clears every page: transforms and
    products of a 64^3 scan then take twice as long. This has no effect with other C libraries, or
    if the user has set malloc parameters.
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
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_OLD_GLIBC)
    mallopt(_M_TRIM_THRESHOLD, _LARGEST)


def return_freed_memory() -> None:
    """Return large freed memory blocks to the system at once, against `keep_freed_memory`.

    A process that keeps them needs up to a third more memory, because they do not fit together.
    """
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _RETURNED)
        mallopt(_M_TRIM_THRESHOLD, _RETURNED)


def share_freed_memory() -> None:
    """Let all threads of this process allocate from one arena.

    By default, new threads get arenas of their own, each of which keeps what has been freed. A
    process that computes in ever new threads would grow for a hundred scans.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def share_interpreter() -> None:
    """Let threads that compute in Python give way to others five times as often as by default.

    A thread that waits for data of a scan, or for a library, asks for the interpreter thousands of
    times. Each time it waits for so long if another one reads a long header, say.
    """
    sys.setswitchinterval(_SWITCH_INTERVAL)


def trim_freed_memory() -> None:
    """Return what the allocator keeps to the system, now."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def set_user_name() -> None:
    """Set a user name if the user has no account.

    Some libraries, such as PyTorch's compiler, use it in folder names and fail without one.
    """
    if any(os.environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
        return
    try:
        import pwd

        pwd.getpwuid(os.getuid())
    except KeyError:
        os.environ["USER"] = f"uid{os.getuid()}"


def set_matplotlib_cache() -> None:
    """Set a folder for matplotlib's font cache if its default folder is not writable."""
    if os.environ.get("MPLCONFIGDIR") or "matplotlib" in sys.modules or _matplotlib_can_write():
        return
    folder = cache_folder()
    if folder is not None:
        os.environ["MPLCONFIGDIR"] = str(folder / "matplotlib")


def _matplotlib_can_write() -> bool:
    """Return whether the default folders of matplotlib are writable."""
    for variable, name in (("XDG_CONFIG_HOME", ".config"), ("XDG_CACHE_HOME", ".cache")):
        try:
            folder = Path(os.environ.get(variable) or Path.home() / name)
        except RuntimeError:  # no home folder
            return False
        if not folder.is_absolute():  # matplotlib would create a folder named "~", for example
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
    """Return the number of physical cores within the CPU affinity; 0 if unknown."""
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

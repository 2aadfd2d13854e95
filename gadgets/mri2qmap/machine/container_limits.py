"""Limits of processor time and memory set by control groups (cgroup v1 and v2).

A container sees all cores and all memory of its machine. Its limits are defined by its control
group and the groups above it. A process that exceeds them is throttled or killed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

PROC = Path("/proc")
_UNLIMITED = 2**60
"""Larger values mean no limit: cgroup v1 uses a value of about 2**63."""


def cpu_quota(proc: Path = PROC) -> float | None:
    """Return the quota of processor time [number of processors]; None if there is no limit."""
    quotas = []
    for folder in _groups("cpu", proc):
        found = _read(folder / "cpu.max").split()  # version 2: "max 100000" or "150000 100000"
        if not found:
            found = [_read(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
        try:
            quota, period = (float(word) for word in found)
        except ValueError:
            continue
        if quota > 0 and period > 0:
            quotas.append(quota / period)
    return min(quotas, default=None)


def memory_left(proc: Path = PROC) -> int | None:
    """Return the memory available within the control groups [bytes]; None if there is no limit.

    For each group, it is the limit minus the memory in use, without file pages that the kernel can
    reclaim at any time.
    """
    left = []
    for folder in _groups("memory", proc):
        for limit_name, usage_name, dropped_name in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit, usage = _number(folder / limit_name), _number(folder / usage_name)
            if limit is not None and usage is not None and limit < _UNLIMITED:
                usage -= min(usage, _entry(folder / "memory.stat", dropped_name))
                left.append(max(0, limit - usage))
    return min(left, default=None)


def usable_cores(proc: Path = PROC) -> int:
    """Return the number of processors within the CPU affinity and the quota of the process.

    The quota is rounded up: on 1.5 processors, 2 threads are faster than 1.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = cpu_quota(proc)
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def _groups(controller: str, proc: Path) -> Iterator[Path]:
    """Yield the folders of the control groups of this process, up to the mount point."""
    paths: dict[str, str] = {}
    for line in _read(proc / "self" / "cgroup").splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        for name in names.split(","):
            paths["" if number == "0" else name] = path
    for line in _read(proc / "self" / "mountinfo").splitlines():
        before, dash, after = line.partition(" - ")
        words, more = before.split(), after.split()
        if not dash or len(words) < 5 or len(more) < 3:
            continue
        kind, options = more[0], more[2].split(",")
        name = "" if kind == "cgroup2" else controller
        if name in paths and (kind == "cgroup2" or (kind == "cgroup" and controller in options)):
            root, mount = (_plain(word) for word in words[3:5])
            yield from _upwards(Path(mount), root, paths[name])


def _upwards(mount: Path, root: str, path: str) -> Iterator[Path]:
    """Yield the folder of a group and those of the groups above it that are visible in the mount.

    In a container, the root of the mount is often the group of the container (`root`).
    """
    try:
        inside = PurePosixPath(path).relative_to(root)
    except ValueError:  # another cgroup namespace: the visible groups are still above this one
        inside = PurePosixPath(path.lstrip("/"))
    if ".." in inside.parts:
        inside = PurePosixPath()
    yield from (mount / part for part in (inside, *inside.parents))


def _plain(word: str) -> str:
    """Decode the octal escapes of mountinfo."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        word = word.replace(code, character)
    return word


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdecimal() else None


def _entry(path: Path, name: str) -> int:
    """Return the value of the line `name value` of a file; 0 if there is none."""
    for line in _read(path).splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.strip().isdecimal():
            return int(value)
    return 0

"""Limits of control groups, read from files in the layout of the kernel."""

import os
from pathlib import Path

import pytest

from mri2qmap.machine import container_limits
from mri2qmap.machine.container_limits import cpu_quota, memory_left, usable_cores

GIB = 2**30


@pytest.fixture
def machine(tmp_path):
    """Create /proc and the files of the groups: {file below the mount: content}."""

    def lay_out(groups: str, mounts: list[tuple[str, str, str]], files: dict[str, object]) -> Path:
        proc = tmp_path / "proc"
        (proc / "self").mkdir(parents=True)
        (proc / "self" / "cgroup").write_text(groups)
        lines = [
            f"{30 + i} 25 0:{i} {root} {tmp_path}/{mount} rw,nosuid - {kind} rw"
            for i, (root, mount, kind) in enumerate(mounts)
        ]
        (proc / "self" / "mountinfo").write_text("\n".join(lines) + "\n")
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{content}\n")
        return proc

    return lay_out


def test_version_2_with_nested_groups(machine):
    proc = machine(
        "0::/pod/box\n",
        [("/", "cg", "cgroup2 cgroup")],
        {
            "cg/pod/box/cpu.max": "max 100000",
            "cg/pod/cpu.max": "150000 100000",
            "cg/pod/box/memory.max": 4 * GIB,
            "cg/pod/box/memory.current": 1 * GIB,
            "cg/pod/box/memory.stat": f"anon 5\ninactive_file {GIB // 2}\nactive_file 7",
            "cg/pod/memory.max": 3 * GIB,
            "cg/pod/memory.current": 2 * GIB,
            "cg/memory.max": "max",
        },
    )
    assert cpu_quota(proc) == 1.5
    assert memory_left(proc) == 1 * GIB  # limit of the pod; the machine has 3.5 left
    assert usable_cores(proc) == min(2, len(os.sched_getaffinity(0)))


def test_version_2_within_a_container(machine):
    proc = machine(
        "0::/\n",
        [("/../..", "elsewhere", "cgroup2 x"), ("/", "cg", "cgroup2 cgroup")],
        {"cg/cpu.max": "50000 100000", "cg/memory.max": GIB, "cg/memory.current": 0},
    )
    assert cpu_quota(proc) == 0.5
    assert usable_cores(proc) == 1
    assert memory_left(proc) == GIB


def test_version_1_with_the_mount_at_the_container(machine):
    proc = machine(
        "5:cpu,cpuacct:/docker/abc/inner\n4:memory:/docker/abc\n0::/\n",
        [("/docker/abc", "cpu", "cgroup cpu,cpuacct"), ("/docker/abc", "mem", "cgroup memory")],
        {
            "cpu/inner/cpu.cfs_quota_us": -1,
            "cpu/inner/cpu.cfs_period_us": 100000,
            "cpu/cpu.cfs_quota_us": 300000,
            "cpu/cpu.cfs_period_us": 100000,
            "mem/memory.limit_in_bytes": 2 * GIB,
            "mem/memory.usage_in_bytes": GIB,
            "mem/memory.stat": f"cache 9\ntotal_inactive_file {GIB}",
        },
    )
    # The fields of mountinfo end with the options of the super block.
    text = (proc / "self" / "mountinfo").read_text()
    (proc / "self" / "mountinfo").write_text(
        text.replace("cgroup cpu,cpuacct rw", "cgroup cgroup rw,cpu,cpuacct").replace(
            "cgroup memory rw", "cgroup cgroup rw,memory"
        )
    )
    assert cpu_quota(proc) == 3.0
    assert memory_left(proc) == 2 * GIB


def test_no_limit(machine):
    proc = machine(
        "4:memory:/\n0::/\n",
        [("/", "mem", "cgroup memory")],
        {"mem/memory.limit_in_bytes": 2**63 - 4096, "mem/memory.usage_in_bytes": 5},
    )
    assert cpu_quota(proc) is None
    assert memory_left(proc) is None
    assert usable_cores(proc) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("text", ["", "nonsense", "0:", "::::\n::", "0::/../../..\n"])
def test_unreadable_files_mean_no_limit(machine, text):
    proc = machine(text, [("/", "cg", "cgroup2 cgroup")], {"cg/cpu.max": "much", "cg/x": 1})
    (proc / "self" / "mountinfo").write_text(f"{text}\n1 2 3\n - \n")
    assert cpu_quota(proc) is None
    assert memory_left(proc) is None


def test_limits_of_this_machine():
    assert usable_cores() >= 1
    left = memory_left(container_limits.PROC)
    assert left is None or left >= 0

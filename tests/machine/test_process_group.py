"""Processes that work together, and how an error of one ends all."""

import pickle
import socket

import pytest
import torch
from helpers.processes import NO_GLOO, TESTS, run_together

from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine import process_group
from mri2qmap.machine.failure_channel import accept_others, connect_to_main, listening_socket
from mri2qmap.machine.process_group import SINGLE_PROCESS, ProcessGroup

needs_gloo = pytest.mark.skipif(NO_GLOO, reason="this PyTorch has no Gloo")


def test_a_single_process_without_torchrun(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert ProcessGroup.from_environment() == ProcessGroup(0, 1, 0)
    assert SINGLE_PROCESS.is_main
    tensor = torch.ones(3)
    with SINGLE_PROCESS.connected(torch.device("cpu")):
        assert SINGLE_PROCESS.sum_(tensor) is tensor
        SINGLE_PROCESS.refuse_unless_same({"a": "b"})
        SINGLE_PROCESS.refuse_if_failed()
    assert torch.equal(tensor, torch.ones(3))


def test_environment_of_torchrun(monkeypatch):
    variables = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    found = ProcessGroup.from_environment()
    assert found == ProcessGroup(5, 8, 1, 8)
    assert not found.is_main
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert ProcessGroup.from_environment() == ProcessGroup(5, 8, 1, 4)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RANK", "8"),
        ("WORLD_SIZE", "many"),
        ("WORLD_SIZE", None),
        ("RANK", "-1"),
        ("LOCAL_RANK", "4"),
        ("LOCAL_WORLD_SIZE", "-4"),
    ],
)
def test_an_inconsistent_environment_is_refused(monkeypatch, name, value):
    good = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    for key, text in good.items():
        monkeypatch.setenv(key, text)
    if value is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, value)
    with pytest.raises(Mri2QmapError, match="is not a valid torchrun environment"):
        ProcessGroup.from_environment()


def test_unreachable_processes_are_reported(monkeypatch):
    for name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(Mri2QmapError, match="process 1 cannot reach the 1 others"):
        with ProcessGroup(1, 2).connected(torch.device("cpu")):
            pass


@needs_gloo
def test_waiting_for_the_others_has_an_end(monkeypatch):
    monkeypatch.setattr(process_group, "CONNECTION_SECONDS", 1.0)
    monkeypatch.setattr(process_group, "_store", process_group._store.__wrapped__)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": 0, "WORLD_SIZE": 2}
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(Mri2QmapError, match="process 0 cannot reach the 1 others"):
        with ProcessGroup(0, 2).connected(torch.device("cpu")):
            pass


@pytest.mark.parametrize(
    ("count", "name", "gpu", "expected"),
    [
        (1, "auto", True, "auto"),
        (1, "cuda:1", True, "cuda:1"),
        (4, "auto", True, "cuda:2"),
        (4, "cuda", True, "cuda:2"),
        (4, "cpu", True, "cpu"),
        (4, "auto", False, "auto"),
    ],
)
def test_each_process_has_a_gpu_of_its_own(count, name, gpu, expected):
    processes = ProcessGroup(2, count, 2) if count > 1 else ProcessGroup()
    assert processes.device_name(name, gpu) == expected


def test_processes_cannot_share_a_gpu():
    with pytest.raises(Mri2QmapError, match="--device cuda:1: 4 processes cannot share it"):
        ProcessGroup(2, 4, 2).device_name("cuda:1", True)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize(("outer", "inner"), [(1, 1), (2, 1), (3, 5), (2, 3), (1, 0)])
def test_every_task_is_done_once(count, outer, inner):
    shares = [
        [
            (number, i)
            for number, part in group.share_of_pairs(outer, inner)
            for i in range(inner)[part]
        ]
        for group in (ProcessGroup(rank, count) for rank in range(count))
    ]
    tasks = [(number, i) for number in range(outer) for i in range(inner)]
    assert [task for share in shares for task in share] == tasks
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_a_copy_leaves_the_connection_behind():
    group = ProcessGroup(1, 2)
    group._channel = object()
    copy = pickle.loads(pickle.dumps(group))
    assert copy == group
    assert copy._channel is None


def test_strangers_do_not_join():
    server = listening_socket("127.0.0.1")
    address = server.getsockname()
    with (
        socket.create_connection(address) as silent,
        socket.create_connection(address) as guessing,
        socket.create_connection(address) as garbage,
    ):
        silent.shutdown(socket.SHUT_WR)
        guessing.sendall(b"1234 1\n")
        garbage.sendall(b"GET / HTTP/1.1 and so on, without an end for a long time, and more" * 2)
        other = connect_to_main("127.0.0.1", address[1], 5678, 1, timeout=5)
        main = accept_others(server, 5678, 1, timeout=5)
    other.send_failure("no more memory")
    failure = main.wait_for_failure(5)
    assert (failure.rank, failure.text) == (1, "no more memory")
    main.close()
    assert other.wait_until_reported(5)
    other.close()


def test_waiting_for_connections_has_an_end():
    with pytest.raises(TimeoutError):
        accept_others(listening_socket("127.0.0.1"), 1, 1, timeout=0.05)


@needs_gloo
@pytest.mark.parametrize(
    "count", [2, pytest.param(3, marks=pytest.mark.slow), pytest.param(7, marks=pytest.mark.slow)]
)
def test_what_is_split_is_what_one_process_computes(count):
    """For one coil, and an odd number; with more processes than coils."""
    script = str(TESTS / "helpers/joint_operators.py")
    for ended in run_together([[script, "1", "3"]] * count):
        assert (ended.code, ended.output, ended.errors) == (0, "all equal\n", "")


KILLED = r"process {}: it ended without a message: it was killed"
OUT_OF_STEP = "the processes are not in step any more"


@needs_gloo
@pytest.mark.parametrize(
    ("way", "failing", "state", "count", "message"),
    [
        ("error", 1, "computes", 3, "process 1: this scan is too beautiful\n"),
        ("killed", 1, "waits", 2, KILLED.format(1)),
        ("out of step", 1, "waits", 2, OUT_OF_STEP),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                ("error", 0, "computes", 2, "this scan is too beautiful\n"),
                ("error", 1, "waits", 2, "process 1: this scan is too beautiful\n"),
                ("bug", 2, "waits", 3, "process 2: ZeroDivisionError: division by zero\n"),
                ("killed", 1, "computes", 3, KILLED.format(1)),
                ("killed", 0, "waits", 2, KILLED.format(0)),
                ("other type", 1, "waits", 2, OUT_OF_STEP),
                ("interrupted", 1, "waits", 2, "process 1: it was interrupted\n"),
            ]
        ),
    ],
)
def test_an_error_of_one_process_ends_all(way, failing, state, count, message):
    script = str(TESTS / "helpers/joint_failure.py")
    everyone = run_together([[script, way, str(failing), state]] * count, timeout=90)
    speaking = 1 if (way, failing) == ("killed", 0) else 0
    for rank, ended in enumerate(everyone):
        killed = (way, failing) == ("killed", rank)
        assert ended.code == (-9 if killed else 2)
        assert ended.errors == ""
        assert (message in ended.output) == (rank == speaking)

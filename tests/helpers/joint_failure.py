"""Run by each of several processes: one of them fails in the way that the words say."""

import os
import signal
import sys
import time

import torch

from mri2qmap.errors import Mri2QmapError, ReportedElsewhereError
from mri2qmap.machine.cancellation import raise_if_cancelled
from mri2qmap.machine.process_group import ProcessGroup

WAYS = ("error", "bug", "killed", "out of step", "other type", "interrupted")


def fail(way, processes):
    if way == "error":
        raise Mri2QmapError("this scan is too beautiful")
    if way == "bug":
        raise ZeroDivisionError("division by zero")
    if way == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if way == "interrupted":
        signal.raise_signal(signal.SIGINT)
    if way == "out of step":
        processes.sum_(torch.ones(100_000))
    if way == "other type":
        processes.sum_(torch.ones(4, dtype=torch.int32))


def work(processes, state):
    """The others wait for a sum or compute, until they are cancelled."""
    if state == "waits":
        processes.sum_(torch.ones(4))
    end = time.monotonic() + 100
    while time.monotonic() < end:
        time.sleep(0.01)
        raise_if_cancelled()


way, failing, state = sys.argv[1], int(sys.argv[2]), sys.argv[3]
processes = ProcessGroup.from_environment()
try:
    with processes.connected(torch.device("cpu")):
        processes.sum_(torch.ones(4))
        fail(way, processes) if processes.rank == failing else work(processes, state)
except ReportedElsewhereError:
    sys.exit(2)
except Mri2QmapError as error:
    print(error)
    sys.exit(2)
except Exception as error:
    print(f"{type(error).__name__}: {error}")
    sys.exit(1)

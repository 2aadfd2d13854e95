"""Several processes on this machine with the environment that torchrun gives them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import distributed

import mri2qmap

NO_GLOO = not (distributed.is_available() and distributed.is_gloo_available())
TESTS = Path(__file__).parents[1]


@dataclass(frozen=True)
class Ended:
    """Exit code, standard output and error of a process, and when it ended [s]."""

    code: int
    output: str
    errors: str
    seconds: float


def environment_of_a_user() -> dict[str, str]:
    """One thread, no GPU, and the packages of this process."""
    package = str(Path(mri2qmap.__file__).parents[1])
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([package, str(TESTS), *filter(None, sys.path)]),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }


def environment(rank: int, count: int, port: int) -> dict[str, str]:
    return {
        **environment_of_a_user(),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(count),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(count),
    }


def run_together(commands: Sequence[Sequence[str]], timeout: float = 200) -> list[Ended]:
    """Run Python with these arguments, one process for each, until all have ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = time.monotonic()
    processes = [
        subprocess.Popen(
            [sys.executable, *words],
            env=environment(rank, len(commands), port),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, words in enumerate(commands)
    ]
    ended = []
    try:
        for process in processes:
            output, errors = process.communicate(timeout=timeout)
            ended.append(Ended(process.returncode, output, errors, time.monotonic() - start))
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return ended

"""Schedulers and workers of Dask in processes of their own, on this machine only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from helpers.live import PACKAGE
from helpers.waiting import eventually

TESTS = str(Path(__file__).parents[1])
START = 60
FAKE_GADGETS = """
import sys
from helpers.scans import fake_modules
sys.modules.update(fake_modules())
"""
"""What a worker loads to have the gadgets of the fixture `fake_gadgets`."""
KILLED = """
import os, signal
from mri2qmap.files.output_folder import OutputFolder
def write_and_die(self, item, write=OutputFolder.write):
    write(self, item)
    os.kill(os.getpid(), signal.SIGKILL)
OutputFolder.write = write_and_die
"""
"""What a worker loads to be killed when it has written the first file of a scan."""


@dataclass
class DaskProcesses:
    """A scheduler, to which workers can be added."""

    folder: Path
    stack: ExitStack
    scheduler: subprocess.Popen = field(init=False)
    address: str = field(init=False)
    count: int = 0

    def start_scheduler(self, preload: str = "") -> None:
        file = self.folder / "scheduler.json"
        options = ["--port", "0", "--scheduler-file", str(file)]
        self.scheduler = self._start("scheduler", preload, *options)
        eventually(lambda: file.exists() and file.stat().st_size, "no scheduler", START)
        eventually(lambda: file.read_text().endswith("}"), "no address of the scheduler")
        self.address = json.loads(file.read_text())["address"]

    def start_worker(
        self, preload: str = FAKE_GADGETS, memory: float | None = 8e9, threads: int = 1
    ) -> subprocess.Popen:
        self.count += 1
        options = ["--nthreads", str(threads), "--no-nanny", "--memory-limit", "0"]
        if memory is not None:
            options += ["--resources", f"memory={memory}"]
        return self._start(f"worker {self.count}", preload, *options, address=True)

    def wait_for(self, workers: int) -> None:
        """Wait until so many workers have registered."""
        from distributed import Client

        with Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=START)

    def _start(
        self, name: str, preload: str, *options: str, address: bool = False
    ) -> subprocess.Popen:
        kind = name.partition(" ")[0]
        words = [sys.executable, "-m", "dask", kind, "--no-dashboard", "--host", "127.0.0.1"]
        if preload:
            script = self.folder / f"{name.replace(' ', '_')}.py"
            script.write_text(preload)
            words += ["--preload", str(script)]
        if address:
            words += [self.address, "--local-directory", str(self.folder)]
        with (self.folder / f"{name}.log").open("w") as log:
            process = subprocess.Popen(
                [*words, *options],
                cwd=self.folder,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join([PACKAGE, TESTS]),
                    "OMP_NUM_THREADS": "1",
                },
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.stack.callback(process.wait)
        self.stack.callback(process.kill)
        return process


@contextmanager
def dask_processes(folder: Path, preload: str = "") -> Iterator[DaskProcesses]:
    """A scheduler; it and its workers are killed at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        processes = DaskProcesses(folder, stack)
        processes.start_scheduler(preload)
        yield processes

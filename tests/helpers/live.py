"""Servers of ours on free ports, and raw clients, for the tests."""

from __future__ import annotations

import os
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from helpers.scans import acquisitions, header
from helpers.server_side import message as item_bytes
from helpers.waiting import DEADLINE, eventually

import mri2qmap
from mri2qmap.hosts.deadlines import DEFAULT_DEADLINES, Deadlines
from mri2qmap.hosts.listener import Listener
from mri2qmap.hosts.message_socket import MessageSocket
from mri2qmap.hosts.protocol import Close, Failure, Message
from mri2qmap.hosts.scan_queue import ScanQueue
from mri2qmap.hosts.server import ScanServer, answer
from mri2qmap.hosts.worker import Worker
from mri2qmap.machine.file_access import INSTALLED_FILES, FileAccess
from mri2qmap.pipeline.memory_budget import MemoryBudget

__all__ = ["DEADLINE"]
PLENTY = 2**40
START = 60
PACKAGE = str(Path(mri2qmap.__file__).parents[1])


@contextmanager
def listening(serve, *args, **options) -> Iterator[Listener]:
    listener = Listener("127.0.0.1", 0, serve, *args, **options)
    listener.start()
    try:
        yield listener
    finally:
        listener.stop()
        listener.abort()
        assert listener.wait(DEADLINE), "a connection does not end"


@contextmanager
def scan_server(
    budget: MemoryBudget | None = None,
    deadlines: Deadlines = DEFAULT_DEADLINES,
    files: FileAccess = INSTALLED_FILES,
    queue: ScanQueue | None = None,
) -> Iterator[Listener]:
    budget = budget or MemoryBudget(PLENTY)
    server = ScanServer(budget, "cpu", files)
    server.queue = queue
    with listening(server.serve, deadlines, budget, answer=answer) as listener:
        yield listener


@contextmanager
def running_worker(
    budget: MemoryBudget | None = None, deadlines: Deadlines = DEFAULT_DEADLINES
) -> Iterator[tuple[Listener, Worker]]:
    budget = budget or MemoryBudget(PLENTY)
    worker = Worker(budget, "cpu")
    with listening(worker.serve, deadlines, budget, failure=Failure) as listener:
        yield listener, worker
    worker.close()


@dataclass(frozen=True)
class ServerProcess:
    """A server in a process of its own, the port that it listens on, and what it said before."""

    process: subprocess.Popen
    port: int
    said: str = ""


def environment() -> dict[str, str]:
    """This Python and this package first, also for the nodes that a Gadgetron server starts."""
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([PACKAGE, os.environ.get("PYTHONPATH", "")]),
    }


@contextmanager
def own_server(
    command: str, *options: str, errors: int | IO = subprocess.PIPE
) -> Iterator[ServerProcess]:
    """`mri2qmap serve` or `worker`, killed at the end should it still run.

    The log goes to `errors`. A pipe that nobody reads is full after 64 KiB, and the server waits.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "mri2qmap.cli.main", command, "--port", "0", *options],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
    )
    try:
        said, found = "", None
        while found is None:
            line = process.stdout.readline()
            assert line, said + (process.stderr.read() if process.stderr else "")
            found = re.search(r"listening on 127\.0\.0\.1:(\d+)", line)
            said += line
        yield ServerProcess(process, int(found.group(1)), said)
    finally:
        process.kill()
        process.communicate()


@contextmanager
def gadgetron_server(folder: Path) -> Iterator[ServerProcess]:
    """A Gadgetron server as a site runs it, with this Python for its nodes."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = folder / "log.txt"
    with log.open("w") as file:
        process = subprocess.Popen(
            ["gadgetron", "-p", str(port), "--disable_storage", "true", "-W", str(folder)],
            env=environment(),
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        try:
            eventually(
                lambda: process.poll() is not None or _listens(port),
                "the server does not listen",
                START,
            )
            assert process.poll() is None, log.read_text()
            yield ServerProcess(process, port)
        finally:
            process.terminate()
            process.wait(START)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def dial(listener: Listener, host: str = "127.0.0.1") -> socket.socket:
    """Connect from an address of this machine."""
    connection = socket.create_connection(("127.0.0.1", listener.port), None, (host, 0))
    connection.settimeout(DEADLINE)
    return connection


def receive_all(connection: socket.socket) -> list[Message]:
    """Everything up to CLOSE."""
    peer = MessageSocket(connection)
    received: list[Message] = []
    while True:
        message = peer.receive(DEADLINE)
        if isinstance(message, Close):
            return received
        received.append(message)


def counted(identifier: int, content: bytes) -> bytes:
    return struct.pack("<HI", identifier, len(content)) + content


def opening(document: bytes, xml: str | None = None) -> bytes:
    """CONFIG and HEADER."""
    return counted(2, document) + counted(3, (header() if xml is None else xml).encode())


def data(items: list | None = None) -> bytes:
    return b"".join(map(item_bytes, acquisitions() if items is None else items))


CLOSE = struct.pack("<H", 4)

"""A site: `mri2qmap serve --queue` and `worker`, which can be killed and start again."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from helpers.live import ServerProcess, own_server

BLOCK = 2**20


class Service:
    """A server in a process of its own that always comes back on the same port.

    Attributes
    ----------
    kills
        Times at which it was killed, and at which it was there again [s].
    """

    def __init__(self, name: str, options: tuple[str, ...], log: Path) -> None:
        self.name = name
        self.kills: list[tuple[float, float]] = []
        self._options = options
        self._log = log
        self._lock = threading.Lock()
        self._stack = ExitStack()
        self._server = self._start()
        self.port = self._server.port
        self._options = (*options, "--port", str(self.port))

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def process(self):
        return self._server.process

    def kill(self) -> None:
        """Kill it as the system does for lack of memory, and start it again."""
        with self._lock:
            begin = time.monotonic()
            os.kill(self.process.pid, signal.SIGKILL)
            self._stack.close()
            self._server = self._start()
            self.kills.append((begin, time.monotonic()))

    def was_killed_since(self, moment: float) -> bool:
        with self._lock:  # it may be about to come back
            return any(end >= moment for _, end in self.kills)

    def end(self, seconds: float) -> int:
        """Let it end as a service manager does; return its exit code."""
        self.process.terminate()
        return self.process.wait(seconds)

    def _start(self) -> ServerProcess:
        errors = self._stack.enter_context(self._log.open("a"))
        return self._stack.enter_context(own_server(self.name, *self._options, errors=errors))


class FilledDisk:
    """Fills the disk of a folder, and remembers when."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "ballast"
        self._lock = threading.Lock()
        self.times: list[tuple[float, float]] = []

    @contextmanager
    def full(self) -> Iterator[None]:
        """Keep the disk full while the context is active."""
        with self._lock:
            begin = time.monotonic()
            try:
                with self._file.open("wb", buffering=0) as file:
                    _fill(file)
                yield
            finally:
                self._file.unlink()
                self.times.append((begin, time.monotonic()))

    def was_full_since(self, moment: float) -> bool:
        with self._lock:
            return any(end >= moment for _, end in self.times)


def _fill(file) -> None:
    size = BLOCK
    while size >= 512:
        try:
            written = file.write(bytes(size))
        except OSError:
            written = 0
        if written < size:
            size //= 2

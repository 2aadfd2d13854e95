"""Containers as the engine of a careful site would run them, with runc."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
RUNC = shutil.which("runc", path=PATH)
ANYBODY = 4321
"""A user without an account or a home folder."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder for /data that belongs to the user of the image."""
    folder = tmp_path / "data"
    folder.mkdir()
    os.chown(folder, 1000, 1000)
    return folder


@dataclass(frozen=True)
class Ended:
    """Exit code and output of a process in a container."""

    code: int
    output: str
    errors: str


@dataclass
class Image:
    """An image whose files are mounted.

    Attributes
    ----------
    folder
        For what its containers need.
    place
        Its root folder.
    configuration
        What an engine would run, as Docker describes it.
    """

    folder: Path
    place: Path
    configuration: Mapping[str, Any]

    def container(self, name: str, data: Path, *words: str, **options: Any) -> Container:
        """Return a container for a command; without words, that of the image."""
        command = [*self.configuration["Entrypoint"], *(words or self.configuration["Cmd"])]
        return Container(self, name, data, command, **options)


@dataclass
class Container:
    """A process as the engine of a careful site would run it.

    No network but loopback, a read-only root, no capabilities, and an ordinary user. Only `data`,
    which is /data, and /tmp can be written.

    Attributes
    ----------
    user
        Number of user and group.
    beside
        A running container whose network it shares.
    memory
        Limit of the memory [bytes]; None for none.
    """

    image: Image
    name: str
    data: Path
    command: Sequence[str]
    user: int = 1000
    beside: Container | None = None
    memory: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def _bundle(self) -> Path:
        folder = Path(tempfile.mkdtemp(prefix=f"{self.name}-", dir=self.image.folder))
        subprocess.run([str(RUNC), "spec"], cwd=folder, check=True)
        file = folder / "config.json"
        file.write_text(json.dumps(self._specification(json.loads(file.read_text()))))
        return folder

    def _specification(self, spec: dict[str, Any]) -> dict[str, Any]:
        process, linux = spec["process"], spec["linux"]
        image = self.image.configuration
        process.update(
            terminal=False,
            user={"uid": self.user, "gid": self.user},
            args=list(self.command),
            env=[
                *(image["Env"] or ()),
                *(f"{name}={value}" for name, value in self.environment.items()),
            ],
            cwd=image["WorkingDir"] or "/",
            capabilities={},
            rlimits=[],
            noNewPrivileges=True,
        )
        spec["root"] = {"path": str(self.image.place), "readonly": True}
        spec["hostname"] = self.name
        temporary = {
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "nodev", "mode=1777"],
        }
        bound = {"type": "bind", "source": str(self.data), "options": ["rbind", "rw"]}
        hosts = {"type": "bind", "source": str(self._hosts), "options": ["bind", "ro"]}
        spec["mounts"] += [
            {"destination": "/tmp", **temporary},
            {"destination": "/data", **bound},
            {"destination": "/etc/hosts", **hosts},
        ]
        if self.beside is not None:
            (network,) = (n for n in linux["namespaces"] if n["type"] == "network")
            network["path"] = f"/proc/{self.beside.number}/ns/net"
        if self.memory is not None:
            linux["resources"]["memory"] = {"limit": self.memory}
        return spec

    @property
    def _hosts(self) -> Path:
        """The table of names that an engine gives to a container."""
        file = self.image.folder / "hosts"
        file.write_text("127.0.0.1 localhost worker\n")
        return file

    def _runc(self, *words: str) -> list[str]:
        return [str(RUNC), "--root", str(self.image.folder / "runc"), *words]

    @property
    def _identity(self) -> str:
        return self._bundle.name

    @property
    def number(self) -> int:
        """Number of its first process on this machine."""
        words = self._runc("state", self._identity)
        done = subprocess.run(words, capture_output=True, check=True)
        return int(json.loads(done.stdout)["pid"])

    def run(self, seconds: float = 300) -> Ended:
        """Run it to its end."""
        process = self._start()
        with process:  # closes its output
            try:
                output, errors = process.communicate(timeout=seconds)
            finally:
                self._remove(process)
        return Ended(process.returncode, output, errors)

    def execute(self, *words: str, seconds: float = 60) -> Ended:
        """Run a further process in it."""
        done = subprocess.run(
            self._runc("exec", self._identity, *words),
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    @contextlib.contextmanager
    def running(self, until: str, seconds: float = 120) -> Iterator[Running]:
        """Let it run; begin when it has written a line with some words."""
        process = self._start()
        running = Running(self, process)
        try:
            running.wait_for(until, seconds)
            yield running
        finally:
            self._remove(process)
            running.close()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._runc("run", "--bundle", str(self._bundle), self._identity),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _remove(self, process: subprocess.Popen[str]) -> None:
        if process.poll() is None:
            self.signal("KILL")
            process.kill()
            process.wait()
        words = self._runc("delete", "--force", self._identity)
        subprocess.run(words, capture_output=True)

    def signal(self, name: str) -> None:
        """Send a signal to its first process."""
        words = self._runc("kill", self._identity, name)
        subprocess.run(words, capture_output=True)


class Running:
    """A container that runs; its output is read all the time."""

    def __init__(self, container: Container, process: subprocess.Popen[str]) -> None:
        self.container = container
        self._process = process
        self._lines: list[str] = []
        self._news = threading.Condition()
        self._streams = [stream for stream in (process.stdout, process.stderr) if stream]
        self._readers = [
            threading.Thread(target=self._read, args=(stream,), daemon=True)
            for stream in self._streams
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: Any) -> None:
        for line in stream:
            with self._news:
                self._lines.append(line)
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    @property
    def output(self) -> str:
        return "".join(self._lines)

    def wait_for(self, words: str, seconds: float) -> None:
        def known() -> bool:
            return words in self.output or self._process.poll() is not None

        with self._news:
            self._news.wait_for(known, seconds)
        assert words in self.output, f"{words!r} was not written: {self.output}"

    def end(self, signal: str = "TERM", seconds: float = 60) -> int:
        """Send a signal and return the exit code."""
        self.container.signal(signal)
        code = self._process.wait(seconds)
        for reader in self._readers:
            reader.join(seconds)
        return code

    def close(self) -> None:
        """Let go of the output of a process that has ended."""
        for reader, stream in zip(self._readers, self._streams, strict=True):
            reader.join()
            stream.close()

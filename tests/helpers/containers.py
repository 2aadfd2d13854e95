"""Images built by docker/build.sh with buildah and run with runc, on a machine without an engine.

The base image is made of Debian's packages (debootstrap). What is built and run is in a folder of
its own, and gone in the end.
"""

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

ROOT = Path(__file__).parents[2]
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
TOOLS = ("buildah", "runc", "debootstrap")
RELEASE = "bookworm"  # has the Python that the lock files are for
BASE = "localhost/mri2qmap-base:latest"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
ANYBODY = 4321
"""A user without an account or a home folder."""


def cannot_run() -> str:
    """Why nothing can be built and run here; empty if nothing is known to be in the way."""
    missing = [tool for tool in TOOLS if shutil.which(tool, path=PATH) is None]
    if missing:
        return f"{', '.join(missing)} not installed"
    return "" if os.geteuid() == 0 else "root is needed to build and run images"


@dataclass(frozen=True)
class Ended:
    """Exit code and output of a process in a container."""

    code: int
    output: str
    errors: str


class Machine:
    """Storage of images and containers in a folder.

    Parameters
    ----------
    folder
        To be used; what it holds in the end is removed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._configuration = folder / "storage.conf"
        self._mounted: list[str] = []
        for driver in ("overlay", "vfs"):  # overlay does not work within an overlay
            self._configuration.write_text(
                f'[storage]\ndriver = "{driver}"\ngraphroot = "{folder}/store-{driver}"\n'
                f'runroot = "{folder}/run"\n'
            )
            done = self.run("buildah", "from", "scratch")
            if done.returncode == 0:
                done = self.run("buildah", "mount", done.stdout.strip())
            if done.returncode == 0:
                self.run("buildah", "rm", "--all")
                return
        pytest.skip(f"buildah has no storage here: {_last_line(done)}")

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PATH": PATH,
            "CONTAINERS_STORAGE_CONF": str(self._configuration),
            "BUILDAH_ISOLATION": "chroot",
            "BUILDER": "buildah",
        }

    def run(self, *words: object, seconds: float = 600) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(word) for word in words],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=seconds,
        )

    def close(self) -> None:
        self.run("buildah", "umount", "--all")
        self.run("buildah", "rm", "--all")
        self.run("buildah", "rmi", "--all", "--force")
        for mounted in reversed(_mounts_below(self.folder)):
            self.run("umount", "--lazy", mounted)
        shutil.rmtree(self.folder, ignore_errors=True)

    def import_base(self) -> None:
        """Make the base image; its packages are kept in the user's cache for the next time."""
        kept = Path.home() / ".cache" / "mri2qmap-tests" / f"base-{RELEASE}.tar"
        if not kept.exists():
            _make_base(self, kept)
        container = self._succeed("buildah", "from", "scratch")
        place = self._succeed("buildah", "mount", container)
        self._succeed("tar", "--extract", "--file", kept, "--directory", place)
        self._succeed("buildah", "commit", "--rm", "--quiet", container, BASE)

    def build(self, kind: str, tag: str, lists: Path) -> str:
        """Build an image by the project's script and return what that says.

        Skips the test where this machine cannot build any image, or has no packages to install.
        """
        torch = self._torch(kind)
        options = self._of_builder(torch.parent)
        trial = self.folder / "trial"
        trial.mkdir(exist_ok=True)
        (trial / "Dockerfile").write_text(
            f"FROM {BASE}\nRUN python3 -m pip download --no-deps --dest /tmp pip==24.0\n"
        )
        done = self.run("buildah", "bud", *options, trial)
        if done.returncode:
            pytest.skip(f"no image can be built here: {_last_line(done)}")
        arguments = ["--base", BASE, "--tag", tag, "--output", lists]
        script = ["docker/build.sh", kind, *arguments, "--", *options]
        done = self.run(*script, "--build-arg", "TORCH_INDEX=", seconds=900)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout.splitlines()[-1]

    def _torch(self, kind: str) -> Path:
        """Download PyTorch, from where this machine gets its packages or from its own index."""
        dockerfile = (ROOT / f"docker/Dockerfile.{kind}").read_text().splitlines()
        arguments = dict(
            line[4:].split("=", 1) for line in dockerfile if line[:4] == "ARG " and "=" in line
        )
        wheels = self.folder / "wheels"
        for index in ([], ["--index-url", arguments["TORCH_INDEX"]]):
            pip = ("python3", "-m", "pip", "download", "--quiet", "--no-deps", "--dest", wheels)
            done = self.run(*pip, *index, arguments["TORCH"])
            if done.returncode == 0:
                return next(wheels.iterdir())
        pytest.skip(f"{arguments['TORCH']} cannot be had here: {_last_line(done)}")

    def _of_builder(self, wheels: Path) -> list[str]:
        """Options that let a build reach what this machine reaches."""
        lines = ["[global]", f"find-links = {wheels}"]
        for name, key in (("PIP_INDEX_URL", "index-url"), ("PIP_DEFAULT_TIMEOUT", "timeout")):
            if value := os.environ.get(name):
                lines.append(f"{key} = {value}")
        mounts = [(str(wheels), str(wheels))]
        authorities = os.environ.get("SSL_CERT_FILE", CERTIFICATES)
        if os.path.exists(authorities):
            mounts.append((authorities, CERTIFICATES))
            lines.append(f"cert = {CERTIFICATES}")
        (self.folder / "pip.conf").write_text("\n".join(lines) + "\n")
        mounts.append((str(self.folder / "pip.conf"), "/etc/pip.conf"))
        volumes = (word for a, b in mounts for word in ("--volume", f"{a}:{b}:ro"))
        return ["--network", "host", "--pull-never", *volumes]

    def _succeed(self, *words: object) -> str:
        done = self.run(*words)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout.strip()

    def image(self, tag: str) -> Image:
        described = json.loads(self._succeed("buildah", "inspect", "--type", "image", tag))
        container = self._succeed("buildah", "from", "--pull-never", tag)
        place = Path(self._succeed("buildah", "mount", container))
        return Image(self, place, described["Docker"]["config"])


@dataclass
class Image:
    """An image whose files are mounted.

    Attributes
    ----------
    place
        Its root folder.
    configuration
        What an engine would run, as Docker describes it.
    """

    machine: Machine
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
        folder = Path(tempfile.mkdtemp(prefix=f"{self.name}-", dir=self.image.machine.folder))
        subprocess.run(["runc", "spec"], cwd=folder, env=self._environment, check=True)
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
            env=[*image["Env"], *(f"{name}={value}" for name, value in self.environment.items())],
            cwd=image["WorkingDir"],
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
        spec["mounts"] += [
            {"destination": "/tmp", **temporary},
            {"destination": "/data", **bound},
        ]
        if self.beside is not None:
            (network,) = (n for n in linux["namespaces"] if n["type"] == "network")
            network["path"] = f"/proc/{self.beside.number}/ns/net"
        if self.memory is not None:
            linux["resources"]["memory"] = {"limit": self.memory}
        return spec

    @property
    def _environment(self) -> dict[str, str]:
        return self.image.machine.environment

    def _runc(self, *words: str) -> list[str]:
        return ["runc", "--root", str(self.image.machine.folder / "runc"), *words]

    @property
    def _identity(self) -> str:
        return self._bundle.name

    @property
    def number(self) -> int:
        """Number of its first process on this machine."""
        words = self._runc("state", self._identity)
        done = subprocess.run(words, env=self._environment, capture_output=True, check=True)
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
            env=self._environment,
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
            env=self._environment,
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
        subprocess.run(words, env=self._environment, capture_output=True)

    def signal(self, name: str) -> None:
        """Send a signal to its first process."""
        words = self._runc("kill", self._identity, name)
        subprocess.run(words, env=self._environment, capture_output=True)


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


def _make_base(machine: Machine, kept: Path) -> None:
    """Make a Debian with Python and keep it as an archive."""
    root = machine.folder / "debian"
    packages = "python3,python3-pip,python3-venv,ca-certificates"
    words = ["debootstrap", "--variant=minbase", f"--include={packages}", RELEASE, str(root)]
    done = machine.run(*words, *_mirror())
    if done.returncode:
        pytest.skip(f"debootstrap makes no base image: {_last_line(done)}")
    shutil.rmtree(root / "var/cache/apt/archives")
    kept.parent.mkdir(parents=True, exist_ok=True)
    part = kept.with_suffix(f".{os.getpid()}")
    done = machine.run("tar", "--create", "--file", part, "--directory", root, ".")
    assert done.returncode == 0, done.stderr
    part.replace(kept)
    shutil.rmtree(root)


def _mirror() -> list[str]:
    """Mirror that this machine takes Debian from; none, for that of debootstrap, if unknown."""
    for file in sorted(Path("/etc/apt").glob("sources.list.d/*.sources")):
        words = dict(line.split(": ", 1) for line in file.read_text().splitlines() if ": " in line)
        if RELEASE in words.get("Suites", "").split():
            return [words["URIs"].split()[0]]
    return []


def _mounts_below(folder: Path) -> list[str]:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return [place for line in lines if (place := line.split()[1]).startswith(f"{folder}/")]


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stderr or done.stdout).strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"

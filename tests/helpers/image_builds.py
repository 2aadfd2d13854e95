"""Images built by docker/build.sh with buildah, on a machine without an engine.

The base image is made of Debian's packages (debootstrap). What is built and run is in a folder of
its own, and gone in the end.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.containers import PATH, Container, Image

ROOT = Path(__file__).parents[2]
TOOLS = ("buildah", "runc", "debootstrap")
RELEASE, PYTHON = "bookworm", "3.11"
BASE = "localhost/mri2qmap-base:latest"
GADGETRON_BASE = "localhost/gadgetron-base:latest"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


def cannot_run() -> str:
    """Why nothing can be built and run here; empty if nothing is known to be in the way."""
    missing = [tool for tool in TOOLS if shutil.which(tool, path=PATH) is None]
    if missing:
        return f"{', '.join(missing)} not installed"
    return "" if os.geteuid() == 0 else "root is needed to build and run images"


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
        """Run a command; one that takes too long is a failed one."""
        command = [str(word) for word in words]
        options = {"cwd": ROOT, "env": self.environment, "capture_output": True, "text": True}
        try:
            return subprocess.run(command, timeout=seconds, **options)
        except subprocess.TimeoutExpired as error:
            return subprocess.CompletedProcess(command, 124, "", str(error))

    def _attempt(self, reason: str, *words: object) -> str:
        """Run what may be impossible on this machine; the test is skipped if it fails."""
        done = self.run(*words)
        if done.returncode:
            pytest.skip(f"{reason}: {_last_line(done)}")
        return done.stdout.strip()

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
        reason = "no base image can be made here"
        container = self._attempt(reason, "buildah", "from", "scratch")
        place = self._attempt(reason, "buildah", "mount", container)
        self._attempt(reason, "tar", "--extract", "--file", kept, "--directory", place)
        self._attempt(reason, "buildah", "commit", "--rm", "--quiet", container, BASE)

    def import_gadgetron(self) -> None:
        """Make a base image with the Gadgetron server of this machine."""
        program = Path(str(shutil.which("gadgetron")))
        home = Path(os.environ.get("GADGETRON_HOME", program.parents[1]))
        container = self.run("buildah", "from", "--pull-never", BASE).stdout.strip()
        place = Path(self.run("buildah", "mount", container).stdout.strip())
        there = place / "opt/gadgetron"
        (there / "bin").mkdir(parents=True)
        (there / "lib").mkdir()
        shutil.copy(program, there / "bin")
        shutil.copytree(home / "share", there / "share")
        modules = sorted((home / "lib").glob("libgadgetron*.so*"))
        for library in modules:
            shutil.copy(library, there / "lib", follow_symlinks=False)
        for library in _libraries([program, *modules]):
            if not (place / str(library).lstrip("/")).exists():
                shutil.copy(library, there / "lib")
        words = {
            "PATH": "/opt/gadgetron/bin:/usr/local/bin:/usr/bin:/bin",
            "LD_LIBRARY_PATH": "/opt/gadgetron/lib",
            "GADGETRON_HOME": "/opt/gadgetron",
        }
        options = (word for item in words.items() for word in ("--env", "=".join(item)))
        self._attempt("no base image", "buildah", "config", *options, container)
        reason = "no base image with Gadgetron can be made here"
        self._attempt(reason, "buildah", "commit", "--rm", "--quiet", container, GADGETRON_BASE)

    def build(self, kind: str, tag: str, lists: Path, base: str = BASE) -> str:
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
        self._attempt("no image can be built here", "buildah", "bud", *options, trial)
        ended = Container(self.image(BASE), "trial", trial, ["/bin/true"]).run()
        if ended.code:
            pytest.skip(f"runc runs nothing here: {ended.errors.strip()}")
        arguments = ["--base", base, "--tag", tag, "--output", lists]
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
            pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps")
            wheel = ("--python-version", PYTHON, "--only-binary", ":all:", "--dest", wheels)
            done = self.run(*pip, *wheel, *index, arguments["TORCH"])
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

    def image(self, tag: str) -> Image:
        """Mount an image that is there."""

        def said(*words: str) -> str:
            done = self.run("buildah", *words)
            assert done.returncode == 0, done.stderr
            return done.stdout.strip()

        described = json.loads(said("inspect", "--type", "image", tag))
        place = Path(said("mount", said("from", "--pull-never", tag)))
        return Image(self.folder, place, described["Docker"]["config"])


def _make_base(machine: Machine, kept: Path) -> None:
    """Make a Debian with Python and keep it as an archive."""
    root = machine.folder / "debian"
    packages = "python3,python3-pip,python3-venv,ca-certificates"
    words = ["debootstrap", "--variant=minbase", f"--include={packages}", RELEASE, str(root)]
    machine._attempt("debootstrap makes no base image", *words, *_mirror())
    shutil.rmtree(root / "var/cache/apt/archives")
    kept.parent.mkdir(parents=True, exist_ok=True)
    part = kept.with_suffix(f".{os.getpid()}")
    machine._attempt("no base image", "tar", "--create", "--file", part, "--directory", root, ".")
    part.replace(kept)
    shutil.rmtree(root)


def _libraries(files: list[Path]) -> set[Path]:
    """Return the libraries that some programs and libraries need."""
    found = set()
    for file in files:
        said = subprocess.run(["ldd", str(file)], capture_output=True, text=True, check=True)
        found |= {
            Path(line.split("=> ")[1].split(" (")[0])
            for line in said.stdout.splitlines()
            if "=> /" in line
        }
    return found


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
    """What a failed program said: its last line, or that of pip within a build."""
    lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
    return next((line for line in reversed(lines) if line.startswith("ERROR: ")), lines[-1])

"""Disks for the tests: small ones, and what lies on them."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Function that mounts a file system of a size, such as "1m", and returns its folder."""
    mounted: list[Path] = []

    def mount(size: str) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            pytest.skip(f"no file system can be mounted here: {error}")
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def contents(folder: Path) -> dict[str, object]:
    """All that is below a folder, with what is in the files and where links lead."""
    return {
        str(path.relative_to(folder)): (
            path.readlink() if path.is_symlink() else path.is_file() and path.read_bytes()
        )
        for path in folder.rglob("*")
    }

"""The wheel holds all packages and all their files."""

import fnmatch
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def files() -> list[Path]:
    """Files of the package that are in the repository, relative to its parent."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "mri2qmap"]
    done = subprocess.run(
        command, cwd=ROOT / "gadgets", capture_output=True, text=True, check=False
    )
    found = [Path(line) for line in done.stdout.splitlines()]
    return found or [
        path.relative_to(ROOT / "gadgets")
        for path in (ROOT / "gadgets" / "mri2qmap").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]


def test_every_package_is_named():
    packages = {".".join(path.parts[:-1]) for path in files() if path.name == "__init__.py"}
    assert packages - set(SETTINGS["packages"]) == set()


def test_every_other_file_belongs_to_the_data_of_its_package():
    data = SETTINGS["package-data"]
    left_out = [
        str(path)
        for path in files()
        if path.suffix != ".py"
        and not any(
            fnmatch.fnmatch(path.name, pattern)
            for pattern in data.get(".".join(path.parts[:-1]), [])
        )
    ]
    assert left_out == []

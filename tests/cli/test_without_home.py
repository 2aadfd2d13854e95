"""A user without home or entry among the accounts, and an install that cannot be written to."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import mri2qmap

UID = "12345"
AS_NOBODY = (
    *("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"),
    # Reads what root may read, so that interpreter and package are found; writes nothing of it.
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
)


@pytest.fixture(scope="module")
def nobodys_folder():
    """The one folder that the user may write to; pytest's own are closed to others."""
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can become another user, with setpriv")
    with tempfile.TemporaryDirectory(prefix="mri2qmap-nobody-", dir="/tmp") as name:
        shutil.chown(name, int(UID), int(UID))
        refuse_unless_possible(Path(name))
        yield Path(name)


def refuse_unless_possible(folder: Path) -> None:
    try:
        can = subprocess.run([*AS_NOBODY, sys.executable, "-c", "pass"], cwd=folder, timeout=60)
    except OSError as error:
        pytest.skip(f"setpriv does not run: {error}")
    if can.returncode:
        pytest.skip("this machine lets no other user run this Python")
    return folder


def run_as_nobody(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess:
    package = str(Path(mri2qmap.__file__).parents[1])
    return subprocess.run(
        [*AS_NOBODY, sys.executable, *command],
        cwd=folder,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join([package, *filter(None, sys.path)]),
            "OMP_NUM_THREADS": "1",
            "TMPDIR": str(folder),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_every_command_runs(nobodys_folder):
    driver = str(Path(__file__).with_name("without_home.py"))
    done = run_as_nobody(nobodys_folder, driver, str(nobodys_folder))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"uid {UID}, went wrong: []" in done.stdout
    cache = nobodys_folder / f"mri2qmap-{UID}"
    assert f"cache folder        {cache}" in done.stdout  # says the doctor
    assert cache.stat().st_mode & 0o777 == 0o700
    assert list(cache.glob("dictionary-*.safetensors"))
    assert list((cache / "numba").rglob("*.nbc"))
    assert list((cache / "matplotlib").iterdir())
    assert not list(nobodys_folder.rglob("~*"))
    assert "Traceback" not in done.stderr


LOOP = (
    "import mri2qmap.operators.kernel_product;"  # decides where compiled loops are kept
    "import getpass; getpass.getuser();"
    "from mri2qmap.machine.folders import cache_folder; print(cache_folder())"
)


def test_a_tilde_is_never_the_name_of_a_folder(nobodys_folder):
    """Where it is not expanded, or HOME itself is no folder."""
    names = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MRI2QMAP_CACHE", "NUMBA_CACHE_DIR")
    done = run_as_nobody(nobodys_folder, "-c", LOOP, **dict.fromkeys(names, "~/x"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(nobodys_folder / f"mri2qmap-{UID}")
    assert not list(nobodys_folder.rglob("~*"))

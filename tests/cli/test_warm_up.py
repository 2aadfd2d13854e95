"""The command that compiles what the first reconstruction would have to wait for."""

import os
import subprocess
import sys

import pytest

from mri2qmap.api import reconstruction
from mri2qmap.cli.main import main
from mri2qmap.machine import folders
from mri2qmap.machine.folders import CacheChoice

COMPILED = """
import sys
import numba.core.event as event
from mri2qmap.api import reconstruction
from mri2qmap.cli.main import main

class Listener(event.Listener):
    def on_start(self, event):
        print("compiled", event.data["dispatcher"].py_func.__qualname__)
    def on_end(self, event):
        pass

event.register("numba:compile", Listener())
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_warm_reconstruction_compiles_nothing(tmp_path):
    """Also of another matrix and number of coils."""
    scan = str(tmp_path / "scan.h5")
    environment = {**os.environ, "MRI2QMAP_CACHE": str(tmp_path / "cache")}
    environment.pop("NUMBA_CACHE_DIR", None)

    def run(*words):
        return subprocess.run(
            [sys.executable, "-c", COMPILED, *words],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    assert "compiled _simulate" in run("warm-up", "--device", "cpu")
    run("simulate", scan, "--matrix", "20", "--coils", "3")
    output = run("replay", scan, "--device", "cpu", "-o", str(tmp_path / "maps"))
    assert "compiled" not in output
    assert "maps written" in output


def test_it_needs_no_extra(monkeypatch, tmp_path):
    scans = []
    monkeypatch.setenv("MRI2QMAP_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "nilearn", None)
    monkeypatch.setattr(reconstruction, "reconstruct", lambda scan, **_: scans.append(scan))
    assert main(["warm-up", "--pipeline", "mri2qmap", "lrtv"]) == 0
    assert len(scans) == 2


def test_without_a_cache_it_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(folders, "cache_choice", lambda: CacheChoice(None, (), ("/x: no space",)))
    assert main(["warm-up"]) == 2
    text = capsys.readouterr().err
    assert "/x: no space" in text
    assert "set MRI2QMAP_CACHE to a folder that may be written" in text

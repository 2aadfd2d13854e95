"""`mri2qmap serve --queue`, `queue` and `replay --retrieve`, as processes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from helpers.live import environment, own_server
from helpers.waiting import eventually

from mri2qmap.cli.main import main

ITERATIONS = ("--set", "pnp_admm.iterations=10")


def replay(scan: Path, output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mri2qmap.cli.main", "replay", str(scan), "-o", str(output)]
    return subprocess.run(
        [*command, *ITERATIONS, *options],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_a_server_that_is_killed_within_the_iterations_goes_on(tmp_path):
    scan, queue = tmp_path / "scan.h5", tmp_path / "queue"
    assert main(["simulate", str(scan), "--matrix", "40", "--coils", "2", "--frames", "60"]) == 0
    options = ("--queue", str(queue), "--memory", "4", "--threads", "1")
    with (tmp_path / "log").open("w") as log, own_server("serve", *options, errors=log) as server:
        address = f"127.0.0.1:{server.port}"
        assert main(["queue", str(scan), "--server", address, *ITERATIONS]) == 0
        (folder,) = (path for path in queue.iterdir() if path.is_dir())

        def iterates() -> bool:
            try:
                found = json.loads((folder / "progress.json").read_bytes())
            except OSError:
                return False
            return found["stage"] == "ADMM" and found["done"] >= 1

        eventually(iterates, "the iterations do not begin", 240)
        os.kill(server.process.pid, signal.SIGKILL)
    assert not (folder / "maps").exists()
    with (tmp_path / "log2").open("w") as log, own_server("serve", *options, errors=log) as server:
        remote = ("--server", f"127.0.0.1:{server.port}")
        early = replay(scan, tmp_path / "early", *remote, "--retrieve")
        assert early.returncode == 2, early.stdout + early.stderr
        assert "there are no maps of" in early.stderr
        assert not (tmp_path / "early").exists()
        done = folder / "maps" / "run.json"
        eventually(done.exists, "the reconstruction does not end", 240)
        eventually(
            lambda: json.loads((folder / "queued.json").read_bytes())["state"] == "done", "state"
        )
        found = replay(scan, tmp_path / "maps", *remote, "--retrieve")
        assert found.returncode == 0, found.stdout + found.stderr
        wrong = replay(scan, tmp_path / "no", *remote, "--retrieve", "--pipeline", "lrtv")
        assert wrong.returncode == 2
    expected = replay(scan, tmp_path / "expected", "--threads", "1")
    assert expected.returncode == 0, expected.stderr
    for name in ("T1map", "T2map", "PDmap"):
        one, other = (
            nibabel.load(tmp_path / where / "nifti" / f"{name}.nii.gz").get_fdata()
            for where in ("maps", "expected")
        )
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["serve", "--queue-length", "3"], "need --queue FOLDER"),
        (["serve", "--retention", "3"], "need --queue FOLDER"),
        (["serve", "--queue", "{}", "--queue-length", "0"], "1 or more is expected"),
        (["serve", "--queue", "{}", "--retention", "0"], "more than 0"),
        (["serve", "--queue", "{}", "--retention", "nan"], "more than 0"),
        (["replay", "x", "-o", "{}/y", "--retrieve"], "need --server"),
        (
            [*("replay", "x", "-o", "{}/y", "--server", "h:1"), "--retrieve", "--realtime"],
            "leave out --configuration and --realtime",
        ),
        (
            [*("replay", "x", "-o", "{}/y", "--server", "h:1"), "--retrieve", "--configuration=z"],
            "leave out --configuration and --realtime",
        ),
        (["queue", "{}/no.h5", "--server", "localhost:1"], "the file does not exist"),
        (["queue", "{}/no.h5", "--server", "localhost", "-p", "no"], "nor a pipeline of that name"),
        (["replay", "x", "-o", "{}/y", "--progress-file", "{}/no/p"], "cannot be written"),
    ],
)
def test_wrong_options(words, expected, tmp_path, capsys):
    assert main([word.replace("{}", str(tmp_path)) for word in words]) == 2
    assert expected in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

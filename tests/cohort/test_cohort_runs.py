"""Whole cohorts with the real gadgets: 12 scans on three workers, and workers of this machine."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from helpers.dask_processes import KILLED, dask_processes
from helpers.live import environment
from helpers.phantoms import write_labels
from helpers.waiting import eventually

import mri2qmap
from mri2qmap.cli.main import main

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PIPELINE = "svdmrf"


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> list[Path]:
    """Twelve copies of one scan of 16^3."""
    folder = tmp_path_factory.mktemp("scans")
    labels = write_labels(folder / "labels.nii.gz")
    scan = mri2qmap.simulate(
        anatomy=str(labels), matrix=16, field_of_view=0.2, coils=2, frames=20, noise=0.1
    )
    scan.save(folder / "scan00.h5", folder / "truth")
    others = [folder / f"scan{number:02}.h5" for number in range(1, 12)]
    return [folder / "scan00.h5", *(shutil.copy2(folder / "scan00.h5", other) for other in others)]


def states(output: Path) -> dict[str, str]:
    with (output / "cohort.csv").open(newline="") as file:
        return {row["scan"]: row["state"] for row in csv.DictReader(file)}


def test_twelve_scans_on_three_workers_of_which_one_is_killed(tmp_path, scans):
    output = tmp_path / "out"
    with dask_processes(tmp_path / "dask") as dask:
        killed = dask.start_worker(KILLED)
        for _ in range(2):
            dask.start_worker("")
        dask.wait_for(3)
        outcomes = mri2qmap.reconstruct_cohort(
            scans, output, PIPELINE, progress=False, scheduler=dask.address
        )
        assert killed.wait(240) == -signal.SIGKILL
    assert [outcome.state for outcome in outcomes] == ["done"] * 12
    assert len({outcome.worker for outcome in outcomes}) == 2
    names = [path.stem for path in scans]
    assert sorted(path.name for path in output.iterdir()) == ["cohort.csv", *names]
    assert set(states(output).values()) == {"done"}
    records = [json.loads((output / name / "run.json").read_text()) for name in names]
    assert len({record["provenance"] for record in records}) == 1
    assert {gadget["name"] for gadget in records[0]["gadgets"]} >= {"combined_matching"}


def start(scans: list[Path], output: Path, *more: str) -> subprocess.Popen:
    options = ["-p", "mrf_admm", "-o", str(output), "--workers", "2", "--threads", "1", *more]
    return subprocess.Popen(
        [sys.executable, "-m", "mri2qmap.cli.main", "replay", *map(str, scans), *options],
        env=environment(),
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def processes_of(session: int) -> list[int]:
    """Processes of a session that are no zombies."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            _, _, rest = path.read_text().rpartition(") ")
        except OSError:
            continue
        state, _, _, own = rest.split()[:4]
        if int(own) == session and state != "Z":
            found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_command_that_ends_early_keeps_what_is_done_and_is_continued(tmp_path, scans, number):
    output = tmp_path / "out"
    process = start(scans[:6], output)
    try:
        first = process.stdout.readline()
        assert ": done in" in first, process.stderr.read()
        done = {path.name: path.stat().st_ino for path in output.glob("scan*")}
        if number == signal.SIGKILL:
            process.kill()  # its workers notice that it is gone
        else:
            os.killpg(process.pid, number)  # as a terminal does
        _, errors = process.communicate(timeout=240)
    finally:
        process.kill()
        process.wait()
    words = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}.get(number)
    if words:
        assert errors == f"mri2qmap: error: {words}\n"
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}.get(number, -number)
    eventually(lambda: not processes_of(process.pid), "workers go on", 240)
    found = states(output)
    assert set(found.values()) <= {"done", "unfinished"}
    assert first.partition(":")[0] in [name for name, state in found.items() if state == "done"]
    left = {path.name for path in output.glob(".*")}
    assert left == (set() if words else {".mri2qmap.cohort"})

    process = start(scans[:6], output)
    printed, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert "6 of 6 scans are done" in printed
    assert set(states(output).values()) <= {"done", "skipped"}
    names = ["cohort.csv", *(path.stem for path in scans[:6])]
    assert sorted(path.name for path in output.iterdir()) == names
    for name, inode in done.items():
        assert (output / name).stat().st_ino == inode
    eventually(lambda: not processes_of(process.pid), "processes are left")


def test_local_workers_give_the_maps_of_a_single_run(tmp_path, scans):
    home = tmp_path / "home"
    home.mkdir()
    options = ["-p", PIPELINE, "-o", str(tmp_path / "out"), "--workers", "1", "--threads", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "mri2qmap.cli.main", "replay", *map(str, scans[:2]), *options],
        env={**environment(), "HOME": str(home), "MRI2QMAP_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(home.iterdir())
    single = tmp_path / "single"
    assert main(["replay", str(scans[0]), "-p", PIPELINE, "-o", str(single), "--threads", "1"]) == 0
    names = sorted(path.name for path in (single / "nifti").glob("*.nii.gz"))
    assert len(names) >= 7
    for name in names:
        one, other = (
            nibabel.load(folder / "nifti" / name).get_fdata()
            for folder in (single, tmp_path / "out" / "scan00")
        )
        np.testing.assert_array_equal(one, other)

"""`mri2qmap replay` with several scans and a Dask scheduler, in processes on the loopback."""

import csv
import json
import signal
from pathlib import Path

import pytest
from helpers.dask_processes import FAKE_GADGETS, KILLED, dask_processes
from helpers.scans import write_scan

from mri2qmap.cli.main import main
from mri2qmap.cohort import cluster
from mri2qmap.storage.written import listed

OTHER_VERSION = "import mri2qmap; mri2qmap.__version__ = '0.0.1'"
KILLING = """
import os, signal
from mri2qmap.files.output_folder import OutputFolder
def write_and_kill(self, item, write=OutputFolder.write):
    os.kill({process}, signal.SIGKILL)
    write(self, item)
OutputFolder.write = write_and_kill
"""
WITHOUT_PACKAGE = """
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "mri2qmap":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""


@pytest.fixture
def dask(tmp_path):
    with dask_processes(tmp_path / "dask") as processes:
        yield processes


@pytest.fixture
def scans(tmp_path) -> list[Path]:
    return [write_scan(tmp_path / f"scan{number}.h5") for number in range(4)]


def replay(scans, pipeline, address, *more: str) -> int:
    output = scans[0].parent / "out"
    options = ["-p", str(pipeline), "--scheduler", address, "-o", str(output), *more]
    return main(["replay", *map(str, scans), *options])


def rows(output: Path) -> dict[str, dict[str, str]]:
    with (output / "cohort.csv").open(newline="") as file:
        return {row["scan"]: row for row in csv.DictReader(file)}


def test_the_scan_of_a_worker_that_is_killed_runs_on_another(
    dask, scans, small_pipeline, tmp_path, capsys
):
    killed = dask.start_worker(FAKE_GADGETS + KILLED)
    dask.start_worker()
    dask.wait_for(2)
    assert replay(scans, small_pipeline, dask.address, "--threads", "1") == 0
    assert killed.wait(10) == -signal.SIGKILL
    output = tmp_path / "out"
    names = [scan.stem for scan in scans]
    assert sorted(path.name for path in output.iterdir()) == ["cohort.csv", *names]
    table = rows(output)
    assert {row["state"] for row in table.values()} == {"done"}
    assert len({row["worker"] for row in table.values()}) == 1
    printed = capsys.readouterr().out
    for scan in scans:
        record = json.loads((output / scan.stem / "run.json").read_text())
        files = listed(output / scan.stem)
        files.pop("run.json")
        assert record["files"] == files
        assert record["input"]["file"] == str(scan)
        assert float(table[scan.stem]["seconds"]) >= record["total_s"] - 0.1
        assert int(table[scan.stem]["peak_memory_bytes"]) > 2**20
        assert printed.count(f"{scan.stem}: done in") == 1
    assert "4 of 4 scans are done, 0 failed" in printed

    # The same command makes nothing again, and needs no worker for it.
    before = [(output / name).stat().st_ino for name in names]
    assert replay(scans, small_pipeline, "tcp://127.0.0.1:1") == 0
    assert [(output / name).stat().st_ino for name in names] == before
    assert {row["state"] for row in rows(output).values()} == {"skipped"}


def test_failures_are_told_and_the_other_scans_kept(dask, scans, small_pipeline, capsys):
    dask.start_worker(OTHER_VERSION)
    dask.start_worker(WITHOUT_PACKAGE)
    dask.start_worker("", memory=None)
    dask.start_worker(memory=2e9)
    dask.wait_for(4)
    broken = scans[0]
    broken.write_bytes(broken.read_bytes()[:-3000])
    no_header = write_scan(scans[0].parent / "no_header.h5", xml="<ismrmrdHeader")
    assert replay([*scans, no_header], small_pipeline, dask.address) == 1
    output = broken.parent / "out"
    table = rows(output)
    states = {name: row["state"] for name, row in table.items()}
    assert states.pop("scan0") == states.pop("no_header") == "failed"
    assert set(states.values()) == {"done"}
    assert "truncated" in table["scan0"]["reason"]
    assert "not well-formed" in table["no_header"]["reason"]
    assert "5 scans are done, 2 failed" in capsys.readouterr().out
    assert not (output / "scan0").exists()


@pytest.mark.parametrize(
    ("preload", "words"),
    [
        (OTHER_VERSION, ["it runs mri2qmap 0.0.1, not "]),
        (WITHOUT_PACKAGE, ["cannot be loaded (ModuleNotFoundError(\"No module named 'mri2qmap"]),
    ],
)
def test_a_worker_that_cannot_run_this_program_says_so(dask, scans, small_pipeline, preload, words):
    dask.start_worker(preload)
    dask.wait_for(1)
    assert replay(scans[:1], small_pipeline, dask.address) == 1
    [row] = rows(scans[0].parent / "out").values()
    assert row["state"] == "failed"
    for word in ["no worker can reconstruct it: tcp://127.0.0.1:", *words]:
        assert word in row["reason"]


def test_workers_must_announce_memory(dask, scans, small_pipeline, capsys):
    dask.start_worker("", memory=None)
    dask.wait_for(1)
    assert replay(scans, small_pipeline, dask.address) == 2
    error = capsys.readouterr().err
    assert "none of its 1 workers announces its memory" in error
    assert "--resources 'memory=60e9'" in error
    assert not list((scans[0].parent / "out").glob(".*"))


@pytest.mark.parametrize(
    ("preload", "words"),
    [
        (OTHER_VERSION, ["it runs mri2qmap 0.0.1"]),
        (WITHOUT_PACKAGE, ["cannot be loaded there", "start it in an environment"]),
    ],
)
def test_a_scheduler_of_another_version_is_refused(
    tmp_path, scans, small_pipeline, capsys, preload, words
):
    with dask_processes(tmp_path / "dask", preload) as dask:
        assert replay(scans, small_pipeline, dask.address) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for word in words:
        assert word in error


def test_without_a_worker_scans_fail_after_the_patience(dask, scans, small_pipeline):
    assert replay(scans, small_pipeline, dask.address, "--patience", "0.1") == 1
    table = rows(scans[0].parent / "out")
    assert len(table) == len(scans)
    for row in table.values():
        assert row["reason"].endswith("of memory, and there was no worker within 0.1 s")


def test_a_scheduler_that_is_lost_ends_the_command(
    dask, scans, small_pipeline, tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(cluster, "_CONNECTING", 0.5)
    dask.start_worker(f"{FAKE_GADGETS}\n{KILLING.format(process=dask.scheduler.pid)}")
    dask.wait_for(1)
    assert replay(scans, small_pipeline, dask.address) == 2
    error = capfd.readouterr().err
    assert error.startswith(f"mri2qmap: error: scheduler {dask.address}: it does not answer")
    assert error.count("\n") == 1
    assert [path.name for path in (tmp_path / "out").glob(".*")] == []
    assert {row["state"] for row in rows(tmp_path / "out").values()} <= {"done", "unfinished"}


def test_without_a_scheduler_the_command_ends(scans, small_pipeline, monkeypatch, capsys):
    monkeypatch.setattr(cluster, "_CONNECTING", 0.3)
    assert replay(scans, small_pipeline, "tcp://127.0.0.1:1") == 2
    error = capsys.readouterr().err
    assert "scheduler tcp://127.0.0.1:1: no connection" in error
    assert error.count("\n") == 1

"""What a worker does for one scan, in this process."""

import os
import types

import pytest
import torch
from helpers.scans import write_scan

from mri2qmap.cohort import task


@pytest.fixture
def job(tmp_path, small_pipeline):
    """Argument of the task, with a folder for unfinished files."""
    (tmp_path / "part").mkdir()
    return {
        "part": str(tmp_path / "part"),
        "threads": None,
        "arguments": {
            "scan": str(write_scan(tmp_path / "scan.h5")),
            "output": str(tmp_path / "maps"),
            "pipeline": str(small_pipeline),
            "settings": {},
        },
    }


@pytest.fixture(autouse=True)
def worker(monkeypatch):
    """This process is a worker of three threads."""
    import distributed

    state = types.SimpleNamespace(nthreads=3)
    monkeypatch.setattr(distributed, "get_worker", lambda: types.SimpleNamespace(state=state))
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("threads", "expected"), [(None, 3), (2, 2)])
def test_a_scan_uses_the_threads_of_the_worker(job, tmp_path, threads, expected):
    result = task.reconstruct_scan({**job, "threads": threads})
    assert "error" not in result
    assert result["seconds"] > 0
    assert result["peak_memory"] > 2**20
    assert torch.get_num_threads() == expected
    assert (tmp_path / "maps" / "run.json").exists()
    assert not list((tmp_path / "part").iterdir())


def test_the_settings_that_a_nanny_makes_are_taken_back(job, monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "65536")
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1234")  # of the user
    task.reconstruct_scan(job)
    assert "MALLOC_TRIM_THRESHOLD_" not in os.environ
    assert os.environ["MALLOC_MMAP_THRESHOLD_"] == "1234"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"coil_sensitivity": {"fail_with": "user"}}, "this scan cannot be amplified"),
        ({"coil_sensitivity": {"fail_with": "bug"}}, "ZeroDivisionError: division by zero"),
    ],
)
def test_an_error_is_one_line(job, tmp_path, settings, words):
    job["arguments"]["settings"] = settings
    result = task.reconstruct_scan(job)
    assert words in result["error"]
    assert "\n" not in result["error"]
    assert not (tmp_path / "maps").exists()
    assert not list((tmp_path / "part").iterdir())


def test_a_scan_that_is_not_wanted_any_more_ends(job, tmp_path, monkeypatch):
    monkeypatch.setattr(task, "_LOOK", 0.0)
    part = tmp_path / "part"
    steps = task._reporter(part).progress(range(3), "ADMM")
    assert next(steps) == 0
    part.rmdir()
    with pytest.raises(task.Mri2QmapError, match="the cohort ended, or this machine does not have"):
        next(steps)
    assert str(part) in task.reconstruct_scan(job)["error"]
    assert not (tmp_path / "maps").exists()
    assert not part.exists()

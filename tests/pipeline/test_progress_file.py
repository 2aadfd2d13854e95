import json

import pytest

from mri2qmap.errors import Mri2QmapError
from mri2qmap.pipeline import progress_file as module
from mri2qmap.pipeline.progress import Reporter
from mri2qmap.pipeline.progress_file import ProgressFile


class Lines(Reporter):
    def __init__(self):
        self.found, self.stages = [], []

    def emit(self, line):
        self.found.append(line)

    def progress(self, iterable, description, total=None):
        self.stages.append(description)
        return iter(iterable)


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_INTERVAL", 0)
    return tmp_path / "progress.json"


def read(path):
    found = json.loads(path.read_bytes())
    return found["stage"], found["done"], found["total"]


def test_the_file_holds_the_latest_step(path):
    report = Lines()
    file = ProgressFile(report, path)
    assert read(path) == ("starting", 0, None)
    seen = []
    for _ in file.progress([1, 2, 3], "acquisitions"):
        seen.append(read(path))
    assert seen == [("acquisitions", n, 3) for n in range(3)]
    assert read(path) == ("acquisitions", 3, 3)
    assert list(file.progress(iter([1]), "readouts")) == [1]
    assert read(path) == ("readouts", 1, None)
    assert report.stages == ["acquisitions", "readouts"]


def test_steps_that_call_back(path):
    file = ProgressFile(Lines(), path)
    done = file.steps(16, "ADMM")
    assert read(path) == ("ADMM", 0, 16)
    for number in range(1, 4):
        done(object())
        assert read(path) == ("ADMM", number, 16)


def test_steps_of_an_earlier_run_count(path):
    report = Bars()
    file = ProgressFile(report, path)
    done = file.steps(16, "ADMM")
    done(Iteration(4))
    assert read(path) == ("ADMM", 4, 16)
    assert report.done == [0, 1, 2, 3]
    done(Iteration(5))
    assert read(path) == ("ADMM", 5, 16)
    assert report.done == [0, 1, 2, 3, 4]


class Iteration:
    def __init__(self, number):
        self.number = number


class Bars(Reporter):
    """Notes the steps that are done."""

    def progress(self, iterable, description, total=None):
        self.done = []
        for element in iterable:
            yield element
            self.done.append(element)


def test_lines_pass(path):
    report = Lines()
    ProgressFile(report, path).log("a line")
    assert report.found == ["a line"]


def test_the_file_is_not_written_too_often(path, monkeypatch):
    monkeypatch.setattr(module, "_INTERVAL", 1e9)
    file = ProgressFile(Lines(), path)
    list(file.progress(range(100), "acquisitions"))
    assert read(path) == ("acquisitions", 0, 100)  # a new stage is always written


def test_a_file_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(Mri2QmapError, match=r"progress file .* cannot be written"):
        ProgressFile(Lines(), tmp_path / "no" / "progress.json")


def test_a_disk_that_fails_later_does_not_end_the_computation(path):
    file = ProgressFile(Lines(), path)
    path.unlink()
    path.mkdir()
    assert list(file.progress([1, 2], "acquisitions")) == [1, 2]

"""The check of a GPU, rehearsed on the pretend one, and what it says without any."""

import json
import re

import pytest
import torch
from gpu import check, check_parts

SMALL = "--matrix 8 --coils 2 --frames 40 --iterations 1".split()
PARITY = "--parity 16 --parity-coils 2 --parity-iterations 1".split()
ONE_TEST = """
import pytest

@pytest.mark.cuda
def test_a_gpu():
    assert {}

def test_of_something_else():
    raise AssertionError("it is not marked")
"""


def run(folder, *words):
    """Status, numbers and page."""
    status = check.main(["-o", str(folder), *map(str, words)])
    return (
        status,
        json.loads((folder / "check.json").read_text()),
        (folder / "check.md").read_text(),
    )


def test_without_a_gpu_it_says_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    status, found, page = run(tmp_path)
    assert status == check.LACKING
    assert {part["status"] for part in found["parts"].values()} == {"not run"}
    assert found["parts"].keys() == check_parts.PARTS.keys()
    for text in (capsys.readouterr().out, page):
        assert "a CUDA device" in text
        assert torch.__version__ in text


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(check, "NEEDED", ("torch", "no_such_package"))
    status, found, page = run(tmp_path, "--pretend")
    assert status == check.LACKING
    assert any(line.startswith("no_such_package") for line in found["lacking"])
    assert "no_such_package" in page


def test_time_limits_leave_room_below_eight_minutes():
    assert sum(limit for _, limit in check_parts.PARTS.values()) <= 8 * 60 - 20


def test_steps_are_timed_with_their_traffic(tmp_path):
    status, found, page = run(tmp_path, "--pretend", "--parts", "steps", *SMALL)
    assert status == check.ALL_RAN
    steps = found["parts"]["steps"]["steps"]
    assert len(steps) == 8
    for name, numbers in steps.items():
        assert numbers["bytes"] > 8**3, name
        assert numbers["bytes_per_s"] == pytest.approx(numbers["bytes"] / numbers["seconds"])
        assert f"| {name} |" in page


@pytest.mark.parametrize(("truth", "expected"), [("True", check.ALL_RAN), ("False", check.FAILED)])
def test_marked_tests_are_run_and_counted(tmp_path, truth, expected):
    (tmp_path / "test_one.py").write_text(ONE_TEST.format(truth))
    words = ("--pretend", "--parts", "tests", "--tests", tmp_path)
    status, found, page = run(tmp_path / "out", *words)
    assert status == expected
    part = found["parts"]["tests"]
    assert part["steps"]["counts"]["tests"] == 1
    assert ("test_a_gpu" in part["error"]) == (expected == check.FAILED)
    assert "1 tests" in page


def test_a_part_that_fails_or_lasts_too_long_does_not_stop_the_others(tmp_path):
    (tmp_path / "test_nothing.py").write_text("")
    words = ("--pretend", "--tests", tmp_path, "--parts", "tests", "parity", "--limit", "0.03")
    status, found, page = run(tmp_path / "out", *words, *PARITY)
    assert status == check.FAILED
    assert found["parts"]["tests"]["status"] in ("failed", "timed out")
    assert found["parts"]["parity"]["status"] == "timed out"
    assert re.search(r"not done within \d s", page)


@pytest.mark.parametrize(
    "words", [["--parts", "everything"], ["--matrix", "large"], ["--bound", "11GB"]]
)
def test_wrong_words_are_refused(words, capsys):
    with pytest.raises(SystemExit):
        check.main(words)
    assert words[-1] in capsys.readouterr().err


@pytest.mark.slow
def test_the_whole_check_is_rehearsed(tmp_path):
    (tmp_path / "test_one.py").write_text(ONE_TEST.format("True"))
    words = ["--pretend", "--tests", tmp_path, *PARITY, "--limit", "4"]
    words += "--matrix 24 --coils 3 --frames 500 --iterations 1".split()  # fewer leave T2 open
    status, found, page = run(tmp_path / "out", *words)
    assert status == check.ALL_RAN, found
    assert found["card"]["name"] == "Pretend GPU"
    runs = found["parts"]["whole"]["steps"]
    for name in ("without a bound", "with a bound"):
        assert runs[name]["dicom_files"] > 24
        assert runs[name]["peak_bytes"] > 24**3 * 5 * 8
        assert len(runs[name]["gadgets"]) == 6
    for pipeline in ("mri2qmap", "lrtv"):
        assert found["parts"]["parity"]["steps"][pipeline]["t1_within_a_step"] >= 0.999
    assert "DICOM" in page

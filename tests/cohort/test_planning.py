"""What is refused, skipped and planned before a cohort is reconstructed; options of the command."""

import json
import os
import sys

import nibabel
import numpy as np
import pytest
from helpers.scans import (
    COILS,
    acquisitions,
    external,
    pipeline_xml,
    with_sample,
    with_trajectory,
    write_scan,
)

from mri2qmap.api.progress import QuietReporter
from mri2qmap.api.reconstruction import reconstruct_to_folder
from mri2qmap.cli.main import main
from mri2qmap.cohort import planning, reconstruction
from mri2qmap.cohort.planning import plan_cohort
from mri2qmap.errors import Mri2QmapError
from mri2qmap.pipeline.memory_plan import planned_bytes, with_channels
from mri2qmap.pipeline.pipeline_file import read_pipeline
from mri2qmap.pipeline.scan_profile import ScanProfile
from mri2qmap.storage.written import record_bytes


@pytest.fixture
def scan(tmp_path):
    return write_scan(tmp_path / "scan.h5")


@pytest.fixture
def done(scan, small_pipeline, tmp_path):
    """The folder of a scan that an earlier run has reconstructed."""
    reconstruct_to_folder(scan, tmp_path / "out" / "scan", small_pipeline)
    return tmp_path / "out" / "scan"


def plan(scans, pipeline, output, overrides=None, group=None, overwrite=False):
    return plan_cohort(scans, output, pipeline, overrides or {}, group, overwrite, QuietReporter())


def test_a_scan_is_planned_with_its_memory_and_absolute_paths(
    scan, small_pipeline, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    found = plan([scan.name], small_pipeline.name, tmp_path / "out")
    assert found.pipeline == str(small_pipeline)
    [planned] = found.scans
    assert (planned.name, planned.file) == ("scan", scan)
    assert planned.output == tmp_path / "out" / "scan"
    from helpers.scans import scan_info

    assert planned.memory == planned_bytes(
        with_channels(scan_info(), COILS), read_pipeline(small_pipeline).nodes
    )
    assert planned.new_record() is None
    assert not (tmp_path / "out").exists()


def test_files_of_the_settings_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scan = write_scan(tmp_path / "scan.h5")
    uniform = nibabel.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4))
    nibabel.save(uniform, tmp_path / "b1.nii.gz")
    changed = {
        "combined_matching": {"b1_map": "b1.nii.gz"},
        "subspace_compression": {"coefficients": "4"},
    }
    found = plan([scan], "svdmrf", tmp_path / "out", changed)
    assert found.settings["combined_matching"] == {"b1_map": str(tmp_path / "b1.nii.gz")}
    assert found.pipeline == "svdmrf"
    [planned] = found.scans
    assert list(planned.made_from["files of the gadgets"]) == ["combined_matching.b1_map"]


def test_what_is_done_is_skipped(done, scan, small_pipeline, tmp_path):
    found = plan([scan], small_pipeline, done.parent)
    assert found.scans == []
    [outcome] = found.ended
    assert (outcome.scan, outcome.state) == ("scan", "skipped")
    assert outcome.seconds == json.loads((done / "run.json").read_text())["total_s"]
    assert outcome.peak_memory > 2**20


def test_another_scan_profile_makes_other_maps(done, scan, small_pipeline):
    arguments = [scan], done.parent, small_pipeline, {}, None, False, QuietReporter()
    with pytest.raises(Mri2QmapError, match="made with other scan profile"):
        plan_cohort(*arguments, ScanProfile(trajectory_units="half_width"))
    [outcome] = plan_cohort(*arguments, "standard").ended
    assert outcome.state == "skipped"


def test_a_scan_that_was_moved_with_its_times_is_skipped(done, scan, small_pipeline, tmp_path):
    (tmp_path / "moved").mkdir()
    moved = scan.rename(tmp_path / "moved" / scan.name)
    assert plan([moved], small_pipeline, done.parent).scans == []


def change_record(done, **changes):
    record = json.loads((done / "run.json").read_text())
    (done / "run.json").write_bytes(record_bytes({**record, **changes}))


DIFFERENCES = {
    "another scan": (lambda done, scan: os.utime(scan, ns=(1, 1)), {}, "another scan"),
    "another group": (None, {"group": "dataset"}, "another scan"),
    "another setting": (
        None,
        {"overrides": {"coil_sensitivity": {"factor": "3"}}},
        r"other settings \(coil_sensitivity.factor=2.0, now 3.0\)",
    ),
    "another version": (
        lambda done, scan: change_record(done, versions={"mri2qmap": "0.0.1"}),
        {},
        r"another version of mri2qmap \(0.0.1, now ",
    ),
    "another pipeline": (
        lambda done, scan: change_record(done, pipeline="other"),
        {},
        r"another pipeline \(other, now small\)",
    ),
    "other weights": (
        lambda done, scan: change_record(
            done,
            input={**json.loads((done / "run.json").read_text())["input"], "contents": {"a": "b"}},
        ),
        {},
        "other files of the gadgets",
    ),
    "a missing file": (
        lambda done, scan: (done / "mrd.h5").unlink(),
        {},
        "no complete result",
    ),
    "an edited record": (
        lambda done, scan: (done / "run.json").write_text('{"files": {}}'),
        {},
        "no complete result",
    ),
    "a foreign folder": (
        lambda done, scan: (done / "run.json").unlink(),
        {},
        "no complete result",
    ),
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_a_folder_that_was_made_from_something_else_is_refused(name, done, scan, small_pipeline):
    change, arguments, words = DIFFERENCES[name]
    if change is not None:
        change(done, scan)
    other = write_scan(scan.with_name("other.h5"))
    with pytest.raises(Mri2QmapError, match=words) as error:
        plan([other, scan], small_pipeline, done.parent, **arguments)
    assert str(done) in str(error.value)
    assert "--overwrite" in str(error.value)


def test_folders_are_made_again_unless_they_hold_something_else(done, scan, small_pipeline):
    [planned] = plan([scan], small_pipeline, done.parent, overwrite=True).scans
    assert planned.new_record() is None  # it is the old one
    reconstruct_to_folder(scan, done, small_pipeline, overwrite=True)
    assert planned.new_record()["pipeline"] == "small"
    (done / "mine.txt").touch()
    with pytest.raises(Mri2QmapError, match=r"mine\.txt is not among what this program wrote"):
        plan([scan], small_pipeline, done.parent, overwrite=True)


def test_bad_scans_fail_and_the_others_are_planned(scan, small_pipeline, tmp_path):
    (tmp_path / "text.h5").write_text("hello")
    names = ["missing.h5", "text.h5", "scan.h5"]
    found = plan([tmp_path / name for name in names], small_pipeline, tmp_path / "out")
    assert found.names == ["missing", "text", "scan"]
    assert [outcome.state for outcome in found.ended] == ["failed", "failed"]
    assert "does not exist" in found.ended[0].reason
    assert "neither an HDF5 file" in found.ended[1].reason
    assert [planned.name for planned in found.scans] == ["scan"]


WRONG_SCANS = {
    "unit": (with_trajectory(lambda k: 3 * k), "more than 0.5"),
    "value": (with_sample(5, np.nan), "finite numbers are expected"),
    "short": (acquisitions()[:-1], "missing"),
}


def test_a_scan_that_does_not_fit_fails_without_a_worker(scan, small_pipeline, tmp_path, caplog):
    for name, (data, _) in WRONG_SCANS.items():
        write_scan(tmp_path / f"{name}.h5", data=data)
    files = [tmp_path / f"{name}.h5" for name in WRONG_SCANS]
    found = plan([*files, scan], small_pipeline, tmp_path / "out")
    assert [planned.name for planned in found.scans] == ["scan"]
    for outcome in found.ended:
        assert outcome.state == "failed"
        assert WRONG_SCANS[outcome.scan][1] in outcome.reason
        assert "\n" not in outcome.reason
        assert outcome.worker == ""
    assert [outcome.scan for outcome in found.ended] == list(WRONG_SCANS)
    assert not caplog.records  # each run has the warnings of its scan


def test_files_of_the_gadgets_are_checked(scan, tmp_path):
    (tmp_path / "b1.nii.gz").write_bytes(b"x")
    changed = {
        "combined_matching": {"b1_map": str(tmp_path / "b1.nii.gz")},
        "subspace_compression": {"coefficients": "4"},
    }
    found = plan([scan], "svdmrf", tmp_path / "out", changed)
    assert found.scans == []
    assert "it cannot be read as NIfTI" in found.ended[0].reason


def test_what_is_done_is_not_checked_again(done, scan, small_pipeline, monkeypatch):
    def refuse(*_, **__):
        raise Mri2QmapError("checked")

    monkeypatch.setattr(planning, "refuse_unfit_scan", refuse)
    assert [o.state for o in plan([scan], small_pipeline, done.parent).ended] == ["skipped"]
    again = plan([scan], small_pipeline, done.parent, overwrite=True)
    assert [o.reason for o in again.ended] == ["checked"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["a/scan.h5", "b/scan.h5"], r"a/scan\.h5 and .*b/scan\.h5: both would be"),
        (["a/scan.h5", "a/scan.h5"], "give each scan once"),
        (["a/scan.h5", "b/scan.mrd"], "both would be"),
        (["a/cohort.csv.h5"], r"would be 'cohort\.csv', which is hidden or the table"),
        (["a/.scan.h5"], "which is hidden"),
        ([], "no scan was given"),
        ([3], "a path is expected"),
    ],
)
def test_names_that_cannot_be_told_apart_are_refused(files, words, small_pipeline, tmp_path):
    with pytest.raises(Mri2QmapError, match=words):
        plan(files, small_pipeline, tmp_path)


def test_the_output_must_not_contain_a_scan(small_pipeline, tmp_path):
    (tmp_path / "out" / "scan").mkdir(parents=True)
    scan = write_scan(tmp_path / "out" / "scan" / "scan.h5")
    with pytest.raises(Mri2QmapError, match="it contains the scan"):
        plan([scan], small_pipeline, tmp_path / "out", overwrite=True)


OPTIONS = {
    "no address": (["--scheduler", "localhost"], "tcp://HOST:PORT is expected"),
    "no port": (["--scheduler", "tcp://localhost"], "tcp://HOST:PORT is expected"),
    "a bad port": (["--scheduler", "tcp://localhost:x"], "tcp://HOST:PORT is expected"),
    "the web": (["--scheduler", "http://localhost:80"], "tcp://HOST:PORT is expected"),
    "workers of a scheduler": (["--scheduler", "tcp://a:1", "--workers", "2"], "workers of this"),
    "memory of a scheduler": (["--scheduler", "tcp://a:1", "--memory", "2"], "announce their own"),
    "resuming": (["--resume"], "--resume is for one scan"),
    "no workers": (["--workers", "0"], "workers 0: a whole number from 1"),
    "bad memory": (["--memory", "-1"], "a positive size such as 16GB"),
    "patience": (["--patience", "3"], "--patience needs --scheduler"),
    "bad patience": (["--scheduler", "tcp://a:1", "--patience", "-3"], "0 s or more"),
    "endless patience": (["--scheduler", "tcp://a:1", "--patience", "inf"], "0 s or more"),
    "no patience": (["--scheduler", "tcp://a:1", "--patience", "nan"], "0 s or more"),
    "a server": (["--server", "a:1"], "--server takes one scan"),
    "of a server": (["--realtime"], "need --server"),
    "a device": (["--device", "abacus"], "'abacus'"),
    "a pipeline": (["--pipeline", "nonsense"], "'nonsense'"),
    "a setting": (["--set", "coil_sensitivity.faktor=2"], "faktor"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_bad_options_give_one_clear_error_and_no_output(
    name, scan, small_pipeline, tmp_path, capsys
):
    options, words = OPTIONS[name]
    other = write_scan(tmp_path / "other.h5")
    command = ["replay", str(scan), str(other), "-p", str(small_pipeline), "-o"]
    assert main([*command, str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [["--workers", "2"], ["--patience", "2"]])
def test_one_scan_has_no_workers(options, scan, small_pipeline, tmp_path, capsys):
    command = ["replay", str(scan), "-p", str(small_pipeline), "-o", str(tmp_path / "out")]
    assert main([*command, *options]) == 2
    assert "are for several scans" in capsys.readouterr().err
    assert main([*command, "--server", "a:1", *options]) == 2
    assert "are not for --server" in capsys.readouterr().err


def test_without_the_package_the_extra_is_named(
    scan, small_pipeline, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "distributed", None)
    command = ["replay", str(scan), "-p", str(small_pipeline), "-o", str(tmp_path / "out")]
    assert main([*command, "--scheduler", "tcp://a:1"]) == 2
    assert "pip install 'mri2qmap[cohort]'" in capsys.readouterr().err
    assert main(command) == 0  # one scan does not need it


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, (3, 2, 100)),
        ({"workers": 5}, (5, 1, 60)),
        ({"threads": 4}, (2, 4, 150)),
        ({"memory": 250}, (2, 4, 125)),
        ({"memory": 90}, (1, 8, 90)),
        ({"workers": 2, "threads": 1, "memory": 50}, (2, 1, 25)),
    ],
)
def test_local_workers_share_cores_and_memory(scan, tmp_path, monkeypatch, arguments, expected):
    from mri2qmap.cohort.planning import PlannedScan

    monkeypatch.setattr(reconstruction, "usable_cores", lambda: 8)
    monkeypatch.setattr(reconstruction.torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(reconstruction, "available_bytes", lambda device: 376)
    monkeypatch.setattr(reconstruction, "local_cluster", lambda *words: words)
    scans = [PlannedScan(str(size), scan, tmp_path, size, {}) for size in (50, 100, 70)]
    words = {"memory": None, "workers": None, "threads": None, **arguments}
    assert reconstruction._cluster(scans, "cpu", scheduler=None, **words) == expected


def test_the_python_function_has_the_checks_of_the_command(scan, tmp_path):
    import mri2qmap

    for scans, options, words in (
        ([scan], {"threads": True}, "threads True"),
        ([scan], {"memory": 1.5}, r"memory 1\.5"),
        ([scan], {"patience": "long"}, "patience 'long'"),
        ([scan], {"output": 3}, "output: a path"),
        (scan, {}, "scans: a list of paths is expected, got PosixPath"),
        (str(scan), {}, "scans: a list of paths is expected, got str"),
    ):
        with pytest.raises(Mri2QmapError, match=words):
            mri2qmap.reconstruct_cohort(scans, **{"output": tmp_path / "out", **options})
    assert not (tmp_path / "out").exists()


def test_a_pipeline_without_files_of_its_own_is_sent_by_its_path(scan, fake_gadgets, tmp_path):
    path = tmp_path / "svdmrf"  # the name of one of the project's
    path.write_text(pipeline_xml(external("coil_sensitivity"), external("parametric_maps")))
    assert plan([scan], path, tmp_path / "out").pipeline == str(path)

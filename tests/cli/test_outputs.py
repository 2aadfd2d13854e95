"""What commands refuse to replace: inputs, and whatever they did not write themselves."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest
from helpers.disks import contents, small_disk
from helpers.phantoms import write_labels
from helpers.scans import write_scan

from mri2qmap.anatomy.sources import ICBM, NIST, anatomy_hash
from mri2qmap.cli import demo
from mri2qmap.cli.main import main
from mri2qmap.denoiser.checkpoint import model_path
from mri2qmap.simulation import simulator

__all__ = ["small_disk"]

SMALL = ("--matrix", "8", "--fov", "0.24", "--coils", "1", "--frames", "6", "--acceleration", "0.5")


def assert_refused_and_untouched(arguments: list[str], folder: Path, words: str, capsys) -> None:
    before = contents(folder)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("mri2qmap: error: ")
    assert captured.err.count("\n") == 1
    assert words in captured.err
    assert contents(folder) == before


@pytest.fixture
def subject(tmp_path: Path, small_pipeline: Path, monkeypatch) -> Path:
    """A folder of maps, into which somebody moved raw data and more."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "subj"
    scan = write_scan(tmp_path / "raw.h5")
    assert main(["replay", str(scan), "-p", str(small_pipeline), "-o", str(folder)]) == 0
    return folder


def moved(subject: Path) -> list[str]:
    Path("raw.h5").rename(subject / "raw.h5")
    return ["subj/raw.h5", "-o", "subj"]


def through_a_link(subject: Path) -> list[str]:
    (subject / "raw.h5").symlink_to("../raw.h5")
    return ["subj/raw.h5", "-o", "subj"]


def to_a_link(subject: Path) -> list[str]:
    Path("raw.h5").rename(subject / "raw.h5")
    Path("link").symlink_to("subj")
    return ["subj/raw.h5", "-o", "link"]


def by_another_way(subject: Path) -> list[str]:
    Path("raw.h5").rename(subject / "raw.h5")
    return ["subj/raw.h5", "-o", "subj/nifti/.."]


def above(subject: Path) -> list[str]:
    return ["raw.h5", "-o", "."]


def the_scan_itself(subject: Path) -> list[str]:
    return ["raw.h5", "-o", "raw.h5"]


def the_pipeline(subject: Path) -> list[str]:
    Path("small.xml").rename(subject / "small.xml")
    return ["raw.h5", "-p", "subj/small.xml", "-o", "subj"]


def a_map_of_the_folder(subject: Path) -> list[str]:
    return ["raw.h5", "-o", "subj", "--set", "pnp_admm.b1_map=subj/nifti/summap.nii.gz"]


def a_hard_link(subject: Path) -> list[str]:
    os.link(subject / "nifti/summap.nii.gz", "b1.nii.gz")
    return ["raw.h5", "-o", "subj", "--set", "pnp_admm.b1_map=b1.nii.gz"]


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (moved, "it contains the scan"),
        (through_a_link, "it contains the scan"),
        (to_a_link, "it contains the scan"),
        (by_another_way, "it contains the scan"),
        (above, "it contains the scan"),
        (the_scan_itself, "it is the scan"),
        (the_pipeline, "it contains the pipeline"),
    ],
)
def test_replay_never_overwrites_its_input(subject, small_pipeline, prepare, words, capsys):
    capsys.readouterr()
    arguments = prepare(subject)
    pipeline = [] if "-p" in arguments else ["-p", str(small_pipeline)]
    command = ["replay", *arguments, *pipeline, "--overwrite"]
    assert_refused_and_untouched(command, subject.parent, words, capsys)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("replay raw.h5 -p svdmrf -o svdmrf", "it holds no run.json"),
        ("replay raw.h5 -p svdmrf -o svdmrf --server localhost:1", "it holds no run.json"),
        (
            "replay raw.h5 -o mri2qmap --configuration x --server localhost:1",
            "it holds no run.json",
        ),
        ("simulate scan.h5 --truth icbm", "it holds no truth.json"),
        ("simulate scan.h5 --truth nist --anatomy nist", "it holds no truth.json"),
    ],
)
def test_a_folder_with_the_name_of_a_built_in_input_is_no_input(
    command, words, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    write_scan(tmp_path / "raw.h5")
    for name in ("svdmrf", "mri2qmap", "icbm", "nist"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").touch()
    assert_refused_and_untouched([*command.split(), "--overwrite"], tmp_path, words, capsys)


@pytest.mark.parametrize("name", [ICBM, NIST])
def test_a_file_with_the_name_of_a_built_in_anatomy_is_not_it(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).touch()
    assert anatomy_hash(name) == ""


@pytest.mark.parametrize(
    ("prepare", "words"),
    [(a_map_of_the_folder, "it contains the pnp_admm.b1_map"), (a_hard_link, "is the input b1")],
)
def test_replay_at_a_server_never_overwrites_its_input(
    subject, small_pipeline, prepare, words, capsys, monkeypatch
):
    monkeypatch.setattr(
        "mri2qmap.pipeline.pipeline_file.pipeline_document", lambda *_: b"<configuration/>"
    )
    capsys.readouterr()
    command = ["replay", *prepare(subject), "--server", "localhost:1", "--overwrite"]
    assert_refused_and_untouched(command, subject.parent, words, capsys)


def test_settings_that_name_files_are_inputs(tmp_path, monkeypatch):
    from mri2qmap.api.run_output import settings_inputs
    from mri2qmap.pipeline.pipeline_file import read_pipeline

    monkeypatch.chdir(tmp_path)
    for name in ("b1", "b1.nii.gz", "small", "own.safetensors"):
        Path(name).touch()
    pipeline = read_pipeline(
        "mri2qmap",
        {
            "pnp_admm": {"b1_map": "b1", "denoiser": "own.safetensors"},
            "combined_matching": {"b1_map": "b1"},
        },
    )
    found = settings_inputs(pipeline)
    assert found["pnp_admm.b1_map"] == found["combined_matching.b1_map"] == Path("b1")
    assert found["pnp_admm.denoiser"] == Path("own.safetensors")
    shipped = settings_inputs(read_pipeline("mri2qmap"))
    assert shipped == {"pnp_admm.denoiser": model_path("small")}


def test_maps_written_by_an_earlier_version_stay(subject, small_pipeline, capsys):
    record = json.loads((subject / "run.json").read_text())
    old = {key: record[key] for key in ("command", "versions", "written")}
    (subject / "run.json").write_text(json.dumps(old))
    capsys.readouterr()
    command = ["replay", "raw.h5", "-p", str(small_pipeline), "-o", "subj", "--overwrite"]
    assert_refused_and_untouched(command, subject.parent, "earlier version", capsys)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> Path:
    """A folder with a scan, its truth, and the labels that they were made of."""
    folder = tmp_path_factory.mktemp("simulated")
    write_labels(folder / "labels.nii.gz")
    scan, truth = folder / "scan.h5", folder / "truth"
    labels = ["--anatomy", str(folder / "labels.nii.gz")]
    assert main(["simulate", str(scan), "--truth", str(truth), *labels, *SMALL]) == 0
    return folder


@pytest.fixture
def work(simulated: Path, tmp_path: Path, monkeypatch) -> Path:
    """A copy of it, where simulating is not called for."""
    import shutil

    shutil.copytree(simulated, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(simulator, "simulate", lambda *_: pytest.fail("it ran"))
    return tmp_path


def append_to_the_scan() -> None:
    with h5py.File("scan.h5", "r+") as file:
        file["dataset/mine"] = 1


SIMULATE: dict[str, tuple[Callable[[], object], str, str]] = {
    "the scan in the truth": (lambda: None, "truth/scan.h5 --truth truth", "in one another"),
    "the scan in a new truth": (lambda: None, "d/scan.h5 --truth d", "in one another"),
    "the truth below the scan": (lambda: None, "d --truth d/truth", "in one another"),
    "both the same": (lambda: None, "d --truth d", "in one another"),
    "by a link": (lambda: Path("d").symlink_to("truth"), "d/x.h5 --truth truth", "one another"),
    "the labels in the truth": (
        lambda: Path("labels.nii.gz").rename("truth/labels.nii.gz"),
        "scan.h5 --truth truth --anatomy truth/labels.nii.gz",
        "contains the anatomy",
    ),
    "the labels as the scan": (lambda: None, "labels.nii.gz", "it is the anatomy"),
    "the labels by a hard link": (
        lambda: os.link("labels.nii.gz", "hard"),
        "hard",
        "it is the anatomy",
    ),
    "the angles as the scan": (
        lambda: Path("angles").write_text("10 " * 6),
        "angles --flip-angles angles",
        "it is the flip angles",
    ),
    "a measured scan": (lambda: write_scan(Path("raw.h5")), "raw.h5", "not written by this"),
    "a scan with something added": (append_to_the_scan, "scan.h5", "or was changed since"),
    "a file of the user": (lambda: Path("notes").write_text("x"), "notes", "not written by this"),
    "a device": (lambda: None, "/dev/null", "not a regular file"),
    "notes in the truth": (
        lambda: Path("truth/notes").write_text("x"),
        "scan.h5 --truth truth",
        "notes is not among",
    ),
    "a changed truth": (
        lambda: Path("truth/T1map.nii.gz").write_text("x"),
        "scan.h5 --truth truth",
        "T1map.nii.gz was changed",
    ),
    "all there is": (lambda: None, "../x.h5 --truth .", "contains the anatomy"),
}


@pytest.mark.parametrize("what", SIMULATE)
def test_simulate_never_overwrites_what_is_not_its_own(work, what, capsys):
    prepare, words, message = SIMULATE[what]
    prepare()
    arguments = words.split()
    anatomy = [] if "--anatomy" in arguments else ["--anatomy", "labels.nii.gz"]
    command = ["simulate", *arguments, *anatomy, *SMALL, "--overwrite"]
    assert_refused_and_untouched(command, work, message, capsys)


def test_simulate_overwrites_its_own(work, monkeypatch):
    monkeypatch.undo()
    monkeypatch.chdir(work)
    before = contents(work)
    words = ["scan.h5", "--truth", "truth", "--anatomy", "labels.nii.gz", "--seed", "1"]
    assert main(["simulate", *words, *SMALL, "--overwrite"]) == 0
    after = contents(work)
    assert set(after) == set(before)
    assert after["scan.h5"] != before["scan.h5"]
    assert after["truth/truth.json"] != before["truth/truth.json"]


@pytest.mark.parametrize("size", ["300k", "40k"])
def test_simulate_on_a_full_disk_leaves_nothing(work, small_disk, size, capsys, monkeypatch):
    """The disk fills up with the truth, and with the scan."""
    monkeypatch.undo()
    disk = small_disk(size)
    monkeypatch.chdir(work)
    monkeypatch.setattr("mri2qmap.storage.folder_place.check_room", lambda *_: None)
    monkeypatch.setattr("mri2qmap.storage.file_place.check_room", lambda *_: None)
    out = ["simulate", str(disk / "out/scan.h5"), "--truth", str(disk / "out/truth")]
    more = ["--anatomy", "labels.nii.gz", *SMALL, "--matrix", "16"]
    assert main([*out, *more]) == 74
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "failed (No space left on device; make room, or write elsewhere)" in error
    assert list(disk.iterdir()) == []


def test_simulate_notices_too_little_room_before_it_runs(work, small_disk, capsys):
    disk = small_disk("300k")
    out = ["simulate", str(disk / "scan.h5"), "--anatomy", "labels.nii.gz", *SMALL]
    assert main([*out, "--matrix", "64"]) == 74
    assert "there is no room: about" in capsys.readouterr().err
    assert list(disk.iterdir()) == []


def test_simulate_takes_names_that_are_not_utf8(work, monkeypatch, capsys):
    monkeypatch.undo()
    monkeypatch.chdir(work)
    labels = os.fsdecode(b"k\xf6pfe\x01.nii.gz")
    Path("labels.nii.gz").rename(labels)
    scan, truth = os.fsdecode(b"sc\xe4n.h5"), os.fsdecode(b"w\xe4hr")
    assert main(["simulate", scan, "--truth", truth, "--anatomy", labels, *SMALL]) == 0
    assert json.loads(Path(truth, "truth.json").read_text())["settings"]["anatomy"] == labels
    with h5py.File(scan, "r") as file:
        assert "Simulation^k\ufffdpfe?" in file["dataset/xml"][0].decode()


DEMO = {
    "notes": (lambda p: (p / "notes").write_text("x"), "notes is not among"),
    "a changed map": (
        lambda p: (p / "mri2qmap/T1map.nii.gz").write_text("x"),
        "mri2qmap/T1map.nii.gz was changed",
    ),
    "a demo of an earlier version": (lambda p: (p / "written.json").unlink(), "no written.json"),
}


def little_work(folder: Path, *_: object) -> None:
    for name in ("scan.h5", "mri2qmap/T1map.nii.gz", "demo.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)


@pytest.mark.parametrize("what", DEMO)
def test_demo_never_overwrites_what_is_not_its_own(tmp_path, what, capsys, monkeypatch):
    monkeypatch.setattr(demo, "_work", little_work)
    output = tmp_path / "demo"
    assert main(["demo", "-o", str(output)]) == 0
    assert main(["demo", "-o", str(output), "--overwrite"]) == 0
    capsys.readouterr()
    change, words = DEMO[what]
    change(output)
    monkeypatch.setattr(demo, "_work", lambda *_: pytest.fail("it ran"))
    assert_refused_and_untouched(
        ["demo", "-o", str(output), "--overwrite"], tmp_path, words, capsys
    )

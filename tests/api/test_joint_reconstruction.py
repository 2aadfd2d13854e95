"""One reconstruction by several processes: the same maps as by one, or one error for all."""

import json
import re
import subprocess
import sys

import h5py
import nibabel
import numpy as np
import pytest
import torch
from helpers.joint_replays import FEW, reconstruct
from helpers.phantoms import write_labels
from helpers.processes import NO_GLOO, TESTS, environment_of_a_user, run_together

import mri2qmap
from mri2qmap.cli.main import main
from mri2qmap.machine.process_group import ProcessGroup

pytestmark = pytest.mark.skipif(NO_GLOO, reason="this PyTorch has no Gloo")

STEP = 0.08
"""Step of the table of relaxation times."""


@pytest.fixture(scope="module")
def scans(tmp_path_factory, cache):
    """Folder with scans of one and of three coils."""
    folder = tmp_path_factory.mktemp("scans")
    labels = write_labels(folder / "labels.nii.gz")
    for coils in (1, 3):
        scan = mri2qmap.simulate(
            anatomy=str(labels),
            matrix=(16, 16, 16),
            field_of_view=0.2,
            coils=coils,
            noise=0.05,
            frames=60,
        )
        scan.save(folder / f"{coils}.h5", folder / f"truth{coils}")
    return folder


def maps_of(folder):
    return [nibabel.load(folder / "nifti" / f"{m}.nii.gz").get_fdata() for m in ("T1map", "T2map")]


@pytest.mark.parametrize(("coils", "count"), [(3, 2), pytest.param(1, 4, marks=pytest.mark.slow)])
def test_several_processes_give_the_maps_of_one(scans, tmp_path, coils, count):
    torch.set_num_threads(1)
    path = scans / f"{coils}.h5"
    (tmp_path / "one").mkdir()
    reconstruct(path, tmp_path / "one", ProcessGroup())
    outputs = [tmp_path / str(rank) for rank in range(count)]
    for output in outputs:
        output.mkdir()
    script = str(TESTS / "helpers/joint_replays.py")
    for ended in run_together([[script, str(path), str(output)] for output in outputs]):
        assert (ended.code, ended.output, ended.errors) == (0, "", "")
    assert not any(list(output.iterdir()) for output in outputs[1:])  # the main process writes
    brain = nibabel.load(scans / f"truth{coils}" / "brain_mask.nii.gz").get_fdata() > 0
    for pipeline in FEW:
        expected, found = (np.load(tmp_path / f / f"{pipeline}.npy") for f in ("one", "0"))
        error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        print(pipeline, coils, count, error)
        assert error < (1e-3 if pipeline == "mri2qmap" else 1e-5)
        folders = [tmp_path / f / pipeline for f in ("one", "0")]
        for one, several in zip(*map(maps_of, folders), strict=True):
            inside = brain & ((one > 0) | (several > 0))
            assert inside.sum() > 500
            with np.errstate(divide="ignore"):
                change = np.abs(np.log(several[inside]) - np.log(one[inside]))
            assert np.mean(change <= np.log1p(STEP)) >= 0.999
        records = [json.loads((folder / "run.json").read_text()) for folder in folders]
        assert [record["processes"] for record in records] == [1, count]
        assert records[0]["provenance"] != records[1]["provenance"]


def changed_copy(path, target):
    """The same scan but for one sample."""
    target.write_bytes(path.read_bytes())
    with h5py.File(target, "r+") as file:
        data = file["dataset/data"]
        row = data[50]
        row["data"][3] *= 1.5
        data[50] = row
    return target


CALL = "import sys, mri2qmap; {}; from mri2qmap.cli.main import main; sys.exit(main())"


@pytest.mark.parametrize(
    ("difference", "message"),
    [
        ("missing", r"process 1: .*missing.h5: the file does not exist"),
        ("content", "process 1 differs from process 0 in: content of the scan;"),
        ("header", "process 1 differs from process 0 in: header of the scan;"),
        ("setting", "process 1 differs from process 0 in: pipeline;"),
        ("version", "process 1 differs from process 0 in: version of mri2qmap;"),
        ("threads", "process 1 differs from process 0 in: device or number of threads;"),
    ],
)
def test_processes_that_differ_end_together(scans, tmp_path, difference, message):
    path = scans / "3.h5"
    if difference == "content":
        other = changed_copy(path, tmp_path / "content.h5")
    else:
        other = {"missing": scans / "missing.h5", "header": scans / "1.h5"}.get(difference, path)
    more = {
        "setting": ["--set", "subspace_compression.coefficients=4"],
        "threads": ["--threads", "2"],
    }.get(difference, [])
    change = "mri2qmap.__version__ = '0'" if difference == "version" else "pass"
    words = ["-p", "svdmrf", "--device", "cpu", "-o", str(tmp_path / "maps")]
    first, second = run_together(
        [
            ["-c", CALL.format("pass"), "replay", str(path), *words],
            ["-c", CALL.format(change), "replay", str(other), *words, *more],
        ]
    )
    assert (first.code, first.output) == (2, "")
    assert first.errors.count("\n") == 1
    assert re.search(message, first.errors)
    assert (second.code, second.output, second.errors) == (2, "", "")
    assert not (tmp_path / "maps").exists()
    assert [p.name for p in tmp_path.iterdir() if p.suffix != ".h5"] == []


def test_one_process_sends_a_scan_to_a_server(scans, tmp_path, monkeypatch, capsys):
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    words = ["--server", "localhost:1", "-o", str(tmp_path / "maps")]
    assert main(["replay", str(scans / "3.h5"), *words]) == 2
    assert "one process sends a scan" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["3.h5", "missing.h5"])
def test_under_torchrun(scans, tmp_path, name):
    words = ["replay", str(scans / name), "-p", "svdmrf", "--device", "cpu"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    call = ["-m", "mri2qmap.cli.main", *words, "-o", str(tmp_path / "maps")]
    run = subprocess.run(
        [sys.executable, *launcher, *call],
        env=environment_of_a_user(),
        capture_output=True,
        text=True,
        timeout=200,
    )
    if name == "missing.h5":
        assert run.returncode != 0
        assert run.stderr.count("missing.h5: the file does not exist") == 1
        assert not (tmp_path / "maps").exists()
    else:
        assert run.returncode == 0, run.stderr
        assert run.stdout.count("maps written") == 1
        assert json.loads((tmp_path / "maps" / "run.json").read_text())["processes"] == 2

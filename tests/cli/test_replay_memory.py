"""What `mri2qmap replay` does with a scan that is larger than the memory."""

import dataclasses

import nibabel
import numpy as np
import pytest
from helpers.phantoms import write_labels
from helpers.scans import header, write_scan

from mri2qmap.cli.main import main
from mri2qmap.files import open_scan
from mri2qmap.pipeline import memory_plan
from mri2qmap.pipeline.memory_plan import planned_bytes
from mri2qmap.pipeline.pipeline_file import read_pipeline
from mri2qmap.pipeline.scan_header import ScanInfo


@pytest.mark.parametrize("pipeline", ["svdmrf", "mri2qmap"])
def test_an_impossible_scan_is_refused_before_the_first_acquisition(tmp_path, capsys, pipeline):
    scan = write_scan(tmp_path / "scan.h5", xml=header(matrix="1024 1024 1024", fov="400 400 400"))
    assert main(["replay", str(scan), "-p", pipeline, "-o", str(tmp_path / "maps")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "1024 x 1024 x 1024 voxels" in error
    assert error.count("GiB") == 2
    assert [p.name for p in tmp_path.iterdir()] == ["scan.h5"]


def test_memory_may_be_said(tmp_path, capsys):
    scan = write_scan(tmp_path / "scan.h5")
    for given, words in (
        ("0.1", "only 0.1 GiB are available"),
        ("107.4MB", "only 0.1 GiB are available"),
        ("102.4MiB", "only 0.1 GiB are available"),
        ("-1", "a positive size such as 16GB"),
        ("much", "--memory much: a positive size such as 16GB"),
    ):
        options = ["-o", str(tmp_path / "maps"), "--memory", given]
        assert main(["replay", str(scan), "-p", "svdmrf", *options]) == 2
        assert words in capsys.readouterr().err


def test_memory_is_spared_if_it_is_scarce(tmp_path, capsys, monkeypatch):
    """The maps hardly change, and the log says what was planned."""
    monkeypatch.setattr(memory_plan, "_CPU", dataclasses.replace(memory_plan._CPU, least=0))
    monkeypatch.setattr(memory_plan, "return_freed_memory", lambda: None)  # of the whole process
    labels = write_labels(tmp_path / "labels.nii.gz")
    scan = tmp_path / "scan.h5"
    arguments = ["--anatomy", str(labels), "--matrix", "16", "--fov", "0.2", "--coils", "3"]
    assert main(["simulate", str(scan), *arguments, "--frames", "60", "--noise", "0.1"]) == 0
    info = ScanInfo.from_header(open_scan(scan).header)
    nodes = read_pipeline("mri2qmap").nodes
    enough = planned_bytes(info, nodes)
    less = planned_bytes(dataclasses.replace(info, spare_memory=True), nodes)
    assert less < enough
    volumes = {}
    for name, memory in (("enough", enough), ("less", less)):
        options = ["-o", str(tmp_path / name), "--memory", f"{(memory + 1) / 2**30}", "-v"]
        assert main(["replay", str(scan), *options, "--set", "pnp_admm.iterations=3"]) == 0
        assert ("at the cost of time" in capsys.readouterr().err) == (name == "less")
        paths = sorted((tmp_path / name / "nifti").glob("*.nii.gz"))
        volumes[name] = {path.name: nibabel.load(path).get_fdata() for path in paths}
    inside = volumes["enough"]["T1map.nii.gz"] > 0
    for name in ("T1map.nii.gz", "T2map.nii.gz"):
        change = np.abs(volumes["less"][name][inside] / volumes["enough"][name][inside] - 1)
        assert 0 < np.median(change) < 0.01

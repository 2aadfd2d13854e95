"""What `mri2qmap replay` does with a scan that is larger than the memory."""

import pytest
from helpers.scans import header, write_scan

from mri2qmap.cli.main import main


@pytest.mark.parametrize("pipeline", ["svdmrf", "mri2qmap"])
def test_an_impossible_scan_is_refused_before_the_first_acquisition(tmp_path, capsys, pipeline):
    scan = write_scan(tmp_path / "scan.h5", xml=header(matrix="2048 2048 2048", fov="800 800 800"))
    assert main(["replay", str(scan), "-p", pipeline, "-o", str(tmp_path / "maps")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "2048 x 2048 x 2048 voxels" in error
    assert error.count("GiB") == 2
    assert [p.name for p in tmp_path.iterdir()] == ["scan.h5"]


def test_memory_may_be_said(tmp_path, capsys):
    scan = write_scan(tmp_path / "scan.h5")
    for given, words in (("0.1", "only 0.1 GiB are available"), ("-1", "a positive number of GiB")):
        options = ["-o", str(tmp_path / "maps"), "--memory", given]
        assert main(["replay", str(scan), "-p", "svdmrf", *options]) == 2
        assert words in capsys.readouterr().err

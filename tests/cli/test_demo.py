import json

import pytest
from matplotlib import image

from mri2qmap.cli import demo
from mri2qmap.cli.main import main

SMALL_SCAN = {
    "region": "ball",
    "matrix": 16,
    "field_of_view": 0.07,
    "coils": 2,
    "acceleration": 1,
    "noise": 0.05,
}


@pytest.mark.slow
def test_demo_leaves_everything_in_place(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "SCAN", SMALL_SCAN)
    monkeypatch.setattr(demo, "FRAMES", 60)
    output = tmp_path / "demo"
    assert main(["demo", "-o", str(output)]) == 0
    results = json.loads((output / "demo.json").read_text())
    assert set(results) == {"MRF-ADMM", "MRI2Qmap"}
    assert all(result["mape_t1_t2"] > 0 for result in results.values())
    for part in ("scan.h5", "truth", "mrf_admm/dicom", "mri2qmap/nifti/T1map.nii.gz"):
        assert (output / part).exists()
    for maps in ("mrf_admm", "mri2qmap"):
        record = json.loads((output / maps / "run.json").read_text())
        assert record["input"]["file"] == str(output / "scan.h5")
        assert not any(".partial" in line for line in record["log"])
        assert not any("anatomy" in line for line in record["log"])  # the simulation's
    picture = image.imread(output / "comparison.png")
    assert picture.shape[0] > 500
    assert picture[..., :3].std() > 0.05
    assert [p.name for p in tmp_path.iterdir()] == ["demo"]
    assert "MRI2Qmap" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("prepare", "options", "message"),
    [
        (lambda p: (p.mkdir(), (p / "mine").touch()), [], "exists already"),
        (lambda p: (p.mkdir(), (p / "mine").touch()), ["--overwrite"], "not written by this"),
        (lambda p: p.touch(), ["--overwrite"], "is not a folder"),
        (lambda p: p.mkdir(), ["--device", "abacus"], "device 'abacus' is unknown"),
        (lambda p: p.mkdir(), ["--seed", "-1"], "seed is -1; expected 0 or more"),
    ],
)
def test_demo_leaves_what_is_not_its_own(tmp_path, monkeypatch, capsys, prepare, options, message):
    monkeypatch.setattr(demo, "_work", lambda *_: pytest.fail("it ran"))
    output = tmp_path / "demo"
    prepare(output)
    assert main(["demo", "-o", str(output), *options]) == 2
    assert message in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["demo"]


def test_a_failed_demo_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "SCAN", {"anatomy": str(tmp_path / "nosuch.nii.gz")})
    assert main(["demo", "-o", str(tmp_path / "demo")]) == 2
    assert "nosuch" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

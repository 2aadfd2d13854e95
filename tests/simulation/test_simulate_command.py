import json
import re

import nibabel as nib
import numpy as np
import pytest
from helpers.phantoms import write_labels

from mri2qmap.cli.main import main
from mri2qmap.files.mrd_file import MrdFile
from mri2qmap.pipeline.scan_header import ScanInfo, geometry_from_acquisition
from mri2qmap.simulation.truth import read_truth


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_labels(tmp_path / "labels.nii.gz")
    return [
        *("simulate", "out/scan.h5", "--truth", "out/truth", "--anatomy", "labels.nii.gz"),
        *("--matrix", "16", "--fov", "0.24", "--coils", "2", "--frames", "12"),
    ]


def test_scan_and_truth_have_the_same_grid(arguments, tmp_path, capsys):
    angles = ["--oblique", "10", "-5", "20", "--orientation", "coronal"]
    assert main([*arguments, "--matrix", "16", "12", "14", *angles]) == 0
    density = re.search(r"([0-9.]+) samples per voxel and coil", capsys.readouterr().out)
    assert float(density[1]) == pytest.approx(0.95, abs=0.01)
    truth = read_truth(tmp_path / "out/truth")
    with MrdFile(tmp_path / "out/scan.h5") as file:
        scan = ScanInfo.from_header(file.header)
        geometry = geometry_from_acquisition(list(file.items())[-1], scan)
    assert scan.matrix == truth.t1.shape == (14, 12, 16)
    np.testing.assert_allclose(
        truth.affine, np.diag([-1e3, -1e3, 1e3, 1]) @ geometry.affine_lps, atol=1e-3
    )
    assert truth.sequence.n_frames == 12
    assert truth.record["settings"]["oblique"] == pytest.approx(np.deg2rad([10, -5, 20]).tolist())
    assert truth.record["noise_model"] == "receiver"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["scan.h5", "truth"]


def test_truth_files_have_the_position_of_the_anatomy(arguments, tmp_path):
    assert main(arguments) == 0
    folder = tmp_path / "out/truth"
    source, image = nib.load(tmp_path / "labels.nii.gz"), nib.load(folder / "T1map.nii.gz")
    grey = nib.load(folder / "grey_matter_mask.nii.gz")
    voxels = np.argwhere(np.asarray(grey.dataobj))
    assert len(voxels) > 20
    millimetres = nib.affines.apply_affine(image.affine, voxels)
    index = np.rint(nib.affines.apply_affine(np.linalg.inv(source.affine), millimetres))
    np.testing.assert_array_equal(np.asarray(source.dataobj)[tuple(index.astype(int).T)], 3)
    np.testing.assert_allclose(np.asarray(image.dataobj)[tuple(voxels.T)], 1.25, rtol=0.12)
    fractions = nib.load(folder / "tissue_fractions.nii.gz")
    names = [t["name"] for t in json.loads((folder / "truth.json").read_text())["tissues"]]
    assert fractions.shape == (*image.shape, len(names))
    share = np.asarray(fractions.dataobj)[..., names.index("grey_matter")]
    assert np.all(share[tuple(voxels.T)] > 0.9)


def test_existing_files_are_not_replaced_without_overwrite(arguments, tmp_path, capsys):
    assert main(arguments) == 0
    before = (tmp_path / "out/scan.h5").read_bytes()
    assert main([*arguments, "--seed", "1"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "out/scan.h5").read_bytes() == before
    assert main([*arguments, "--seed", "1", "--overwrite"]) == 0
    assert (tmp_path / "out/scan.h5").read_bytes() != before
    assert read_truth(tmp_path / "out/truth").record["settings"]["seed"] == 1


def test_other_folders_are_never_removed(arguments, tmp_path, capsys):
    (tmp_path / "out/truth").mkdir(parents=True)
    (tmp_path / "out/truth/thesis.tex").write_text("years of work")
    assert main([*arguments, "--overwrite"]) == 2
    assert "not written by this program" in capsys.readouterr().err
    assert (tmp_path / "out/truth/thesis.tex").read_text() == "years of work"


def test_flip_angles_from_a_file(arguments, tmp_path):
    angles = np.linspace(5, 60, 12)
    np.savetxt(tmp_path / "angles.txt", angles)
    assert main([*arguments, "--flip-angles", "angles.txt"]) == 0
    with MrdFile(tmp_path / "out/scan.h5") as file:
        found = ScanInfo.from_header(file.header).sequence.flip_angles
    np.testing.assert_allclose(np.rad2deg(found), angles, atol=1e-4)


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        (["--anatomy", "nowhere.nii"], "no such file"),
        (["--matrix", "16", "16"], "one number or three"),
        (["--matrix", "2"], "matrix"),
        (["--fov", "240"], "metres"),
        (["--coils", "0"], "coils"),
        (["--frames", "1"], "--frames 1"),
        (["--acceleration", "-2"], "acceleration"),
        (["--noise", "-1"], "noise"),
        (["--groups", "0"], "groups"),
        (["--seed", "-3"], "seed"),
        (["--flip-angles", "labels.nii.gz"], "cannot be read"),
        (["--flip-angles", "none.txt"], "cannot be read"),
        (["--flip-angles", "short.txt"], "holds 2 values for 12 frames"),
        (["--flip-angles", "radians.txt"], "is it in radians?"),
        (["--flip-angles", "turns.txt"], "720 degrees; 0 to 180 degrees are expected"),
        (["--truth", "short.txt"], "not a folder"),
        (["--truth", "labels.nii.gz"], "it is the anatomy"),
        (["--truth", "labels.nii.gz/truth"], "cannot be written (Not a directory"),
    ],
)
def test_bad_arguments_create_no_files(arguments, extra, expected, tmp_path, capsys):
    (tmp_path / "short.txt").write_text("10\n20\n")
    (tmp_path / "radians.txt").write_text("0.5\n" * 12)
    (tmp_path / "turns.txt").write_text("20\n" * 11 + "720\n")
    before = sorted(tmp_path.rglob("*"))
    assert main([*arguments, *extra]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert len(error.strip().splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_with_the_name_of_the_file(arguments, tmp_path, capsys):
    (tmp_path / "out/scan.h5").mkdir(parents=True)
    assert main([*arguments, "--overwrite"]) == 2
    assert "it is a folder" in capsys.readouterr().err


def test_a_full_disk_leaves_no_files(arguments, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mri2qmap.api.simulation.write_truth", fail)
    assert main(arguments) == 74
    assert "No space left" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["labels.nii.gz"]


def test_help_has_an_example(capsys):
    assert main(["simulate", "--help"]) == 0
    assert "mri2qmap simulate scan.h5" in capsys.readouterr().out

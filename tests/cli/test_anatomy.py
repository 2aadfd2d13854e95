"""`mri2qmap anatomy`: a folder that simulate scans."""

import nibabel as nib
import numpy as np
import pytest
from helpers.phantoms import write_labels

from mri2qmap.anatomy.quantitative_maps import read_quantitative_maps
from mri2qmap.cli.main import main


@pytest.fixture
def labels(tmp_path):
    return write_labels(tmp_path / "labels.nii.gz", "RAS")


def test_a_label_map_becomes_textured_maps(tmp_path, labels, capsys):
    out = tmp_path / "maps"
    assert main(["anatomy", "--labels", str(labels), "-o", str(out), "--seed", "3"]) == 0
    assert "maps written" in capsys.readouterr().out
    maps = read_quantitative_maps(out)
    assert np.log(maps.t1[maps.white_matter]).std() > 0.01
    assert main(["anatomy", "--labels", str(labels), "-o", str(out)]) == 2
    assert "exists" in capsys.readouterr().err
    words = ["anatomy", "--labels", str(labels), "-o", str(out), "--overwrite", "--strength", "0"]
    assert main([*words, "--no-lesions"]) == 0
    assert read_quantitative_maps(out).lesion_labels is None


def test_weighted_images_become_maps(tmp_path):
    rng = np.random.default_rng(0)
    grid = np.ogrid[-20:20, -20:20, -20:20]
    radius = np.sqrt(sum(g.astype(float) ** 2 for g in grid))
    image = np.select([radius < 5, radius < 13, radius < 17], [40.0, 165, 110], 0)
    image = np.where(image > 0, image + 4 * rng.standard_normal(image.shape), 0)
    nib.save(nib.Nifti1Image(image.astype(np.float32), np.eye(4)), tmp_path / "t1w.nii")
    out = tmp_path / "maps"
    assert main(["anatomy", "--t1w", str(tmp_path / "t1w.nii"), "-o", str(out)]) == 0
    maps = read_quantitative_maps(out)
    assert maps.lesions
    assert np.median(maps.t1[maps.white_matter]) == pytest.approx(0.75, rel=0.05)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--labels", "LABELS", "--t2w", "LABELS"], "--t2w is for --t1w"),
        (["--labels", "LABELS", "--strength", "-1"], "--strength -1"),
        (["--t1w", "LABELS", "--strength", "1"], "--strength 1"),
        (["--labels", "LABELS", "--lesion-radius", "0"], "--lesion-radius"),
        (["--labels", "LABELS", "--seed", "-1"], "--seed -1"),
        (["--labels", "missing.nii.gz"], "missing.nii.gz"),
        (["--t1w", "missing.nii.gz"], "missing.nii.gz"),
    ],
)
def test_wrong_arguments_are_refused_and_leave_nothing(tmp_path, labels, words, message, capsys):
    words = [str(labels) if word == "LABELS" else word for word in words]
    before = sorted(tmp_path.iterdir())
    assert main(["anatomy", *words, "-o", str(tmp_path / "maps")]) == 2
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before

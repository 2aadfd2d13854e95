"""The recipe models/ixi.yaml on a folder laid out like IXI: its names, its axes, its voxels."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from nibabel.affines import apply_affine

pytest.importorskip("monai", reason="training needs the [train] extra")

from safetensors.torch import load_file

from mri2qmap.cli.main import main
from mri2qmap.denoiser.checkpoint import model_path
from mri2qmap.training.weighted_files import find_weighted_files
from mri2qmap.training.weighted_volumes import WeightedSubject

RECIPE = Path(__file__).parents[2] / "models" / "ixi.yaml"
SUBJECTS = ("IXI002-Guys-0828", "IXI012-HH-1211", "IXI035-IOP-0873", "IXI041-Guys-0706")
#: Axes and voxels [mm] of the files: T1w in sagittal slices, T2w and PDw in axial ones.
SAGITTAL = np.array([[0, 0, 1.2], [0.9375, 0, 0], [0, -0.9375, 0]])
AXIAL = np.array([[-0.9375, 0, 0], [0, 0.9375, 0], [0, 0, 1.25]])
LAYOUT = {
    "T1": (SAGITTAL, (44, 44, 34), (600, 350)),
    "T2": (AXIAL, (44, 44, 33), (200, 700)),
    "PD": (AXIAL, (44, 44, 33), (800, 650)),
}


@pytest.fixture
def ixi(tmp_path: Path) -> Path:
    """Folder with IXI-T1, IXI-T2 and IXI-PD of four heads; the last lacks T2 and PD."""
    for number, subject in enumerate(SUBJECTS):
        for contrast, (axes, shape, signals) in LAYOUT.items():
            if number == len(SUBJECTS) - 1 and contrast != "T1":
                continue
            affine = np.eye(4)
            affine[:3, :3] = axes
            affine[:3, 3] = [3, -8, 12] - axes @ ((np.array(shape) - 1) / 2)
            x, y, z = np.moveaxis(
                apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1)), -1, 0
            )
            radius = np.hypot(np.hypot(x - 3, (y + 8) / 1.1), (z - 12) / (0.9 + 0.02 * number))
            # One bright spot off the centre: only the right axes put it into one place.
            spot = np.sqrt((x - 10) ** 2 + (y + 2) ** 2 + (z - 15) ** 2) < 3
            image = np.where(radius < 10, signals[0], np.where(radius < 16, signals[1], 0))
            image = np.where(spot, 1000, image).astype(np.int16)
            folder = tmp_path / f"IXI-{contrast}"
            folder.mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(image, affine), folder / f"{subject}-{contrast}.nii.gz")
    return tmp_path


def folders(ixi: Path) -> dict[str, Path]:
    return {"T1w": ixi / "IXI-T1", "T2w": ixi / "IXI-T2", "PDw": ixi / "IXI-PD"}


def small_scale(path: Path) -> Path:
    """Write the recipe with few steps on small volumes, for the label maps of the tests."""
    recipe = yaml.safe_load(RECIPE.read_text())
    recipe["subjects"] |= {"training": ["head_a"], "validation": ["head_b"]}
    recipe["images"] |= {"size": 16, "pool": 2, "loop_fraction": 0.0}
    recipe["optimisation"] |= {"steps": 2, "batch": 1, "patch": 16, "validate_every": 2}
    recipe["optimisation"]["validate_volumes"] = 1
    path.write_text(yaml.safe_dump(recipe))
    return path


def test_files_are_sorted_by_subject_and_lie_on_each_other(ixi):
    found = find_weighted_files(folders(ixi))
    assert set(found) == set(SUBJECTS)
    assert {name: len(files) for name, files in found.items()} == dict(
        zip(SUBJECTS, (3, 3, 3, 1), strict=True)
    )
    for name in SUBJECTS[:3]:
        head = WeightedSubject(name, found[name]).load()
        assert head.present.all()
        t1w, t2w, pdw = (image.float() > 0.1 for image in head.images)
        for other in (t2w, pdw):
            assert 2 * (t1w & other).sum() / (t1w.sum() + other.sum()) > 0.97
        spots = [image.float() > 0.9 * image.float().max() for image in head.images]
        centres = [torch.nonzero(spot).double().mean(0) for spot in spots]
        assert all(torch.linalg.norm(centre - centres[0]) < 0.5 for centre in centres)


@pytest.mark.usefixtures("near_search")
def test_recipe_trains_small_further(tmp_path, ixi, label_folder, one_thread):
    images = [f"--{name.lower()}={folder}" for name, folder in folders(ixi).items()]
    config, out = small_scale(tmp_path / "ixi.yaml"), tmp_path / "out"
    words = ["--labels", str(label_folder), "--initial", "small", "-o", str(out), *one_thread]
    assert main(["train", str(config), *images, *words]) == 0
    split = yaml.safe_load((out / "subjects.yaml").read_text())
    assert split["labels"]["training"] == ["head_a"]
    (acquired,) = (groups for kind, groups in split.items() if kind != "labels")
    assert sorted(name for group in acquired.values() for name in group) == sorted(SUBJECTS)
    assert len(acquired["validation"]) == 1
    shipped, trained = load_file(model_path("small")), load_file(out / "weights.safetensors")
    assert {k: v.shape for k, v in shipped.items()} == {k: v.shape for k, v in trained.items()}
    assert any(not torch.equal(shipped[k], trained[k]) for k in shipped)
    kernel = max(shipped, key=lambda name: shipped[name].numel())  # hardly moved by two steps
    assert (trained[kernel] - shipped[kernel]).norm() < 0.1 * shipped[kernel].norm()
    with open(out / "progress.csv", newline="") as table:
        last = list(csv.DictReader(table))[-1]
    assert int(last["step"]) == 2

import dataclasses

import nibabel
import numpy as np
import pytest
from helpers.denoiser_fixtures import near_search, weighted_folder

from mri2qmap.studies import result_table
from mri2qmap.studies.catalogue import EXPERIMENTS

__all__ = ["fewer", "label_folder", "near_search", "new_code", "weighted_folder"]


@pytest.fixture(scope="session")
def label_folder(tmp_path_factory):
    """Two balls of white matter with a grey part and fluid inside."""
    folder = tmp_path_factory.mktemp("labels")
    z, y, x = np.mgrid[-32:32, -32:32, -32:32] + 0.5
    for number, split in enumerate((0, 6)):
        labels = np.zeros((64, 64, 64), dtype=np.uint8)
        inside = x**2 + y**2 + z**2 < 26**2
        labels[inside] = 2
        labels[inside & (x > split)] = 3
        labels[(x - 4) ** 2 + y**2 + z**2 < 6**2] = 4
        affine = np.diag([2.0, 2.0, 2.0, 1.0])
        affine[:3, 3] = -63
        file = folder / f"subject_{number}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(labels.transpose(2, 1, 0), affine), file)
    return folder


@pytest.fixture
def new_code(monkeypatch):
    """Function that makes result tables believe that other code is running."""

    def change(version):
        monkeypatch.setattr(result_table, "code_version", lambda: version)

    return change


@pytest.fixture
def fewer(monkeypatch):
    """Function that keeps only some cases of an experiment."""

    def choose(name, *labels):
        experiment = EXPERIMENTS[name]
        cases = [case for case in experiment.cases(True) if case.label in labels]
        assert len(cases) == len(labels)
        chosen = dataclasses.replace(experiment, cases=lambda single_coil: cases)
        monkeypatch.setitem(EXPERIMENTS, name, chosen)

    return choose

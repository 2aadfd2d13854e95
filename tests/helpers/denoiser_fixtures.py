"""Fixtures of the denoiser's tests: weighted images of a brain, and small label maps."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor

from mri2qmap.denoiser import nonlocal_means, nonlocal_wiener
from mri2qmap.denoiser.network import ConditionalResidualUNet, DenoiserConfig

# T1 [s], T2 [s], PD of white matter, grey matter, CSF, and (TR, TE) [s] of T1w, T2w, PDw.
TISSUES = ((0.75, 0.07, 0.75), (1.25, 0.09, 0.85), (4.0, 1.99, 1.0))
ECHOES = ((0.5, 0.01), (5.0, 0.1), (5.0, 0.01))


@pytest.fixture(scope="session")
def brain_images() -> Tensor:
    """(3, 56, 64, 56) T1w, T2w, PDw of the ICBM brain at 2 mm, intensity scale about 1."""
    datasets = pytest.importorskip("nilearn.datasets")
    fractions = [
        load(resolution=2).get_fdata(dtype=np.float32)
        for load in (datasets.load_mni152_wm_template, datasets.load_mni152_gm_template)
    ]
    brain = datasets.load_mni152_brain_mask(resolution=2).get_fdata(dtype=np.float32)
    fractions.append(np.clip(brain - fractions[0] - fractions[1], 0, 1))
    middle = np.stack(fractions)[:, 22:78, 26:90, 16:72]
    images = []
    for tr, te in ECHOES:
        signals = [pd * (1 - np.exp(-tr / t1)) * np.exp(-te / t2) for t1, t2, pd in TISSUES]
        image = np.tensordot(signals, middle, axes=1)
        images.append(image / np.percentile(image[image > 0.05], 99.5))
    return torch.from_numpy(np.stack(images).astype(np.float32))


@pytest.fixture(scope="session")
def label_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with three small heads of nested ellipsoids, 1 mm voxels."""
    folder = tmp_path_factory.mktemp("labels")
    grid = np.stack(np.meshgrid(*(np.arange(40) - 19.5,) * 3, indexing="ij"))
    for index, name in enumerate(("head_a", "head_b", "head_c")):
        axes = np.array([1, 0.9 - 0.05 * index, 0.85])[:, None, None, None]
        radius = np.sqrt(np.sum((grid / axes) ** 2, axis=0))
        labels = np.zeros(radius.shape, np.int16)
        for limit, label in ((18, 507), (16, 516), (14, 24), (13, 3), (10, 2), (4, 4)):
            labels[radius < limit] = label
        labels[(labels == 2) & (grid[0] > 0)] = 41
        nib.save(nib.Nifti1Image(labels, np.eye(4)), folder / f"{name}.nii.gz")
    return folder


@pytest.fixture(scope="session")
def weighted_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with T1 and T2 images of five ellipsoids, of which one lacks T2, 1 mm voxels."""
    folder = tmp_path_factory.mktemp("weighted")
    grid = np.stack(np.meshgrid(*(np.arange(36) - 17.5,) * 3, indexing="ij"))
    for index in range(5):
        radius = np.sqrt(
            np.sum((grid / np.array([1, 0.8 + 0.03 * index, 0.9])[:, None, None, None]) ** 2, 0)
        )
        inner, outer = radius < 9, radius < 15
        for contrast, values in (("T1", (500, 300)), ("T2", (200, 600))):
            if (index, contrast) != (4, "T2"):
                image = np.where(inner, values[0], np.where(outer, values[1], 0)).astype(np.int16)
                nib.save(
                    nib.Nifti1Image(image, np.eye(4)), folder / f"subject{index}-{contrast}.nii.gz"
                )
    return folder


@pytest.fixture
def near_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the pre-filter search for similar cubes nearby only, which takes a tenth as long."""
    monkeypatch.setattr(nonlocal_wiener, "_REACH", 4)
    monkeypatch.setattr(nonlocal_means, "_REACH", 3)


@pytest.fixture
def tiny_network() -> ConditionalResidualUNet:
    """Two levels of four channels, with random weights everywhere."""
    torch.manual_seed(0)
    network = ConditionalResidualUNet(DenoiserConfig(channels=(4, 8), blocks=(1, 1), embedding=8))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network.eval().requires_grad_(False)

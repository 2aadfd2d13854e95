"""Two small heads, and a short sequence to scan them with."""

from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from mri2qmap.anatomy.label_maps import LabelMap, load_label_map
from mri2qmap.mrsignal import sequence as sequences
from mri2qmap.mrsignal.dictionary import Dictionary, DictionarySettings, build_dictionary
from mri2qmap.mrsignal.sequence import Sequence, default_sequence

N_FRAMES = 60


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with two heads of nested ellipsoids, 1 mm voxels."""
    folder = tmp_path_factory.mktemp("labels")
    grid = np.stack(np.meshgrid(*(np.arange(40) - 19.5,) * 3, indexing="ij"))
    for index, name in enumerate(("head_a", "head_b")):
        axes = np.array([1, 0.9 - 0.1 * index, 0.85])[:, None, None, None]
        radius = np.sqrt(np.sum((grid / axes) ** 2, axis=0))
        values = np.zeros(radius.shape, np.int16)
        for limit, label in ((18, 507), (15, 24), (14, 3), (10, 2), (4, 4)):
            values[radius < limit] = label
        nib.save(nib.Nifti1Image(values, np.eye(4)), folder / f"{name}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def anatomy(labels) -> LabelMap:
    return load_label_map(labels / "head_a.nii.gz")


@pytest.fixture(scope="module")
def scanned() -> tuple[Sequence, Dictionary]:
    sequence = default_sequence(N_FRAMES)
    return sequence, build_dictionary(sequence, DictionarySettings(step=0.2))


@pytest.fixture
def short_sequence(tmp_path, monkeypatch) -> None:
    """Let commands simulate with this sequence, with a dictionary cache of their own."""
    monkeypatch.setenv("MRI2QMAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sequences, "default_sequence", lambda: default_sequence(N_FRAMES))


@pytest.fixture
def one_thread() -> Iterator[list[str]]:
    """Command-line words for one thread; the number of threads is restored afterwards."""
    before = torch.get_num_threads()
    yield ["--threads", "1"]
    torch.set_num_threads(before)

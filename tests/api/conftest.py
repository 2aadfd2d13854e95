"""A simulated scan, in memory and in files, and its maps."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.fixtures import fake_gadgets, maps_pipeline, small_pipeline
from helpers.phantoms import write_labels

import mri2qmap
from mri2qmap.api.reconstruction import reconstruct_to_folder

__all__ = ["fake_gadgets", "maps_pipeline", "small_pipeline"]

PIPELINE = "svdmrf"


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Iterator[None]:
    """Keep the dictionaries of these tests to themselves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MRI2QMAP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def simulated(tmp_path_factory, cache) -> mri2qmap.SimulatedScan:
    """Two coils with noise scans, on an oblique grid."""
    labels = write_labels(tmp_path_factory.mktemp("anatomy") / "labels.nii.gz")
    return mri2qmap.simulate(
        anatomy=str(labels),
        matrix=(14, 12, 16),
        field_of_view=0.2,
        coils=2,
        noise=0.1,
        oblique=(0.1, -0.05, 0.2),
        frames=40,
    )


@pytest.fixture(scope="session")
def files(simulated, tmp_path_factory) -> Path:
    """Folder with the scan (scan.h5), its truth (truth) and the maps of replay (maps)."""
    folder = tmp_path_factory.mktemp("files")
    simulated.save(folder / "scan.h5", folder / "truth")
    reconstruct_to_folder(folder / "scan.h5", folder / "maps", PIPELINE)
    return folder


@pytest.fixture(scope="session")
def maps(files) -> mri2qmap.Maps:
    return mri2qmap.reconstruct(files / "scan.h5", PIPELINE)

"""Scans of quantitative maps: every voxel has its own signal."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

import mri2qmap
from mri2qmap.anatomy.lesions import Lesion
from mri2qmap.anatomy.quantitative_maps import QuantitativeMaps, write_quantitative_maps
from mri2qmap.anatomy.tissues import GREY_MATTER, WHITE_MATTER
from mri2qmap.anatomy.voxel_model import Region
from mri2qmap.errors import Mri2QmapError
from mri2qmap.mrsignal.epg import fisp_signal
from mri2qmap.mrsignal.sequence import default_sequence
from mri2qmap.simulation.components import Grid, scan_anatomy
from mri2qmap.simulation.quantitative_scan import signal_table
from mri2qmap.simulation.truth import read_truth

SEQUENCE = default_sequence(80)
SIDE = 16


@pytest.fixture
def maps() -> QuantitativeMaps:
    """A cube of 1 mm voxels whose T1 and T2 are drawn for each voxel."""
    rng = np.random.default_rng(0)
    shape = (SIDE,) * 3
    t1 = np.exp(rng.uniform(np.log(0.5), np.log(3.0), shape)).astype(np.float32)
    t2 = np.minimum(t1, np.exp(rng.uniform(np.log(0.03), np.log(0.5), shape))).astype(np.float32)
    density = np.zeros(shape, np.float32)
    density[2:-3, 2:-3, 2:-3] = rng.uniform(0.6, 1, (SIDE - 5,) * 3)  # an odd number of voxels
    inside = density > 0
    white = inside & (np.indices(shape)[0] < SIDE // 2)
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    return QuantitativeMaps("cube", t1, t2, density, inside, white, inside & ~white, affine)


def grid(matrix: int, voxel_mm: float) -> Grid:
    return Grid(Region.BRAIN, (matrix,) * 3, (matrix * voxel_mm * 1e-3,) * 3, np.eye(3))


def in_patient(volume):
    """(i, j, k) right, anterior, superior to the axes (z, y, x) of an axial scan."""
    return volume[::-1, ::-1].transpose(2, 1, 0)


def spectra(images, signals):
    return np.tensordot(signals.T, images, 1)


def test_the_signal_of_each_voxel_is_that_of_its_t1_and_t2(maps):
    found = scan_anatomy(maps, grid(SIDE, 1.0), 0.0, SEQUENCE)
    signal = spectra(found.images, found.signals)  # (frame, z, y, x)
    t1, t2, density = (in_patient(v) for v in (maps.t1, maps.t2, maps.proton_density))
    # The grid is centred on the brain: shifted by half a voxel or not at all.
    np.testing.assert_allclose(found.truth.proton_density().sum(), density.sum(), rtol=1e-4)
    shift = np.argwhere(found.truth.proton_density() > 0).min(0) - np.argwhere(density > 0).min(0)
    t1, t2, density = (np.roll(v, shift, (0, 1, 2)) for v in (t1, t2, density))
    inside = density > 0
    expected = (
        density[inside]
        * fisp_signal(torch.from_numpy(t1[inside]), torch.from_numpy(t2[inside]), SEQUENCE)
        .numpy()
        .T
    )
    error = np.linalg.norm(signal[:, inside] - expected, axis=0)
    assert (error / np.linalg.norm(expected, axis=0)).max() < 2e-3
    np.testing.assert_allclose(found.truth.t1()[inside], t1[inside], rtol=1e-4)
    np.testing.assert_allclose(found.truth.t2()[inside], t2[inside], rtol=1e-4)
    assert not signal[:, ~inside].any()


def test_voxels_of_the_scan_add_up_signals(maps):
    fine = scan_anatomy(maps, grid(SIDE, 1.0), 0.0, SEQUENCE)
    coarse = scan_anatomy(maps, grid(SIDE // 2, 2.0), 0.0, SEQUENCE)
    whole = spectra(fine.images, fine.signals).sum((1, 2, 3))
    np.testing.assert_allclose(
        8 * spectra(coarse.images, coarse.signals).sum((1, 2, 3)), whole, rtol=2e-3, atol=1e-2
    )
    density = coarse.truth.proton_density()
    assert 8 * density.sum() == pytest.approx(maps.proton_density.sum(), rel=1e-4)
    rates = (maps.proton_density / maps.t2).sum()
    filled = density > 0
    assert 8 * (density[filled] / coarse.truth.t2()[filled]).sum() == pytest.approx(rates, rel=1e-3)


def test_masks_are_of_voxels_filled_by_the_tissue(maps):
    truth = scan_anatomy(maps, grid(SIDE, 1.0), 0.0, SEQUENCE).truth
    assert truth.pure(WHITE_MATTER).sum() == maps.white_matter.sum()
    assert truth.pure(GREY_MATTER).sum() == maps.grey_matter.sum()
    coarse = scan_anatomy(maps, grid(5, 3.0), 0.0, SEQUENCE).truth
    assert (coarse.pure(WHITE_MATTER) & coarse.pure(GREY_MATTER)).sum() == 0
    assert 0 < coarse.pure(WHITE_MATTER).sum() * 27 < maps.white_matter.sum()


def test_the_field_of_the_maps_changes_the_signal(maps):
    field = np.full(maps.t1.shape, 0.8, np.float32)
    found = scan_anatomy(replace(maps, b1=field), grid(SIDE, 1.0), 0.0, SEQUENCE)
    assert found.b1 is not None
    inside = found.truth.proton_density() > 0
    np.testing.assert_allclose(found.b1[inside], 0.8, rtol=1e-4)
    t1, t2, density = (
        torch.from_numpy(v[inside])
        for v in (found.truth.t1(), found.truth.t2(), found.truth.proton_density())
    )
    expected = (density[:, None] * fisp_signal(t1, t2, SEQUENCE, 0.8)).numpy().T
    error = np.linalg.norm(spectra(found.images, found.signals)[:, inside] - expected, axis=0)
    # T1 and T2 are simulated in steps of 2 %.
    assert np.median(error / np.linalg.norm(expected, axis=0)) < 0.01
    without = scan_anatomy(maps, grid(SIDE, 1.0), 0.0, SEQUENCE)
    assert without.b1 is None
    difference = spectra(without.images, without.signals)[:, inside] - expected
    assert np.linalg.norm(difference) > 0.1 * np.linalg.norm(expected)


def test_a_spread_overrides_the_field(maps):
    found = scan_anatomy(maps, grid(8, 2.0), 0.2, SEQUENCE)
    assert found.b1 is not None
    inside = found.truth.proton_density() > 0
    assert found.b1[inside].min() == pytest.approx(0.8, abs=0.01)
    assert found.b1[inside].max() == pytest.approx(1.2, abs=0.01)


def test_the_table_agrees_with_the_simulation_between_its_entries():
    table = signal_table((0.4, 4.5), (0.02, 2.2), SEQUENCE)
    rng = np.random.default_rng(1)
    t1 = np.exp(rng.uniform(np.log(0.4), np.log(4.5), 200)).astype(np.float32)
    t2 = np.exp(rng.uniform(np.log(0.02), np.log(2.2), 200)).astype(np.float32)
    images = np.stack(list(table.images(t1, t2, np.ones(200, np.float32))))
    exact = fisp_signal(torch.from_numpy(t1), torch.from_numpy(t2), SEQUENCE).numpy()
    error = np.linalg.norm(images.T @ table.evolutions - exact, axis=1)
    assert (error / np.linalg.norm(exact, axis=1)).max() < 2e-3


def test_nothing_in_the_field_of_view_is_refused(maps):
    empty = replace(maps, proton_density=np.zeros_like(maps.proton_density))
    with pytest.raises(Mri2QmapError, match="contains nothing of it"):
        scan_anatomy(empty, grid(8, 2.0), 0.0, SEQUENCE)


def test_a_folder_of_maps_is_simulated_reconstructed_and_evaluated(tmp_path, maps):
    labels = np.zeros(maps.t1.shape, np.int16)
    labels[4:7, 6:9, 6:9] = 1
    lesion = Lesion("a lesion", 12, 1.4, 0.15, centre=(5.0, 7.0, 7.0))
    folder = tmp_path / "maps"
    folder.mkdir()
    write_quantitative_maps(
        folder,
        replace(
            maps,
            affine=np.diag([4.0, 4.0, 4.0, 1.0]),
            lesion_labels=labels,
            lesions=(lesion,),
            white_matter=maps.white_matter & (labels == 0),
        ),
    )
    scan = mri2qmap.simulate(
        anatomy=str(folder), matrix=SIDE, field_of_view=SIDE * 4e-3, coils=1, acceleration=1,
        noise=0, frames=80,
    )  # fmt: skip
    scan.save(tmp_path / "scan.h5", tmp_path / "truth")
    truth = read_truth(tmp_path / "truth")
    np.testing.assert_array_equal(truth.t1, scan.truth.t1)
    assert truth.lesions is not None
    np.testing.assert_array_equal(truth.lesions, scan.truth.lesions)
    assert (truth.lesions == 1).sum() == 27
    assert truth.record["lesions"][0]["name"] == "a lesion"
    assert not (tmp_path / "truth/tissue_fractions.nii.gz").exists()
    written = nib.load(tmp_path / "truth/T2map.nii.gz")
    np.testing.assert_allclose(np.asarray(written.dataobj).T, truth.t2)
    result = mri2qmap.evaluate(mri2qmap.reconstruct(scan, "svdmrf"), scan)
    assert result["lower_bound_matching_t1_t2"] < 10
    assert result["lesions"][0]["name"] == "a lesion"

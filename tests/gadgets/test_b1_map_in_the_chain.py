"""A scan in a transmit field that varies, reconstructed with and without its map."""

import dataclasses

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter

from mri2qmap.coil_sensitivity import CoilSensitivitySettings, coil_sensitivity
from mri2qmap.combined_matching import CombinedMatchingSettings, combined_matching
from mri2qmap.errors import Mri2QmapError
from mri2qmap.evaluation.metrics import mape
from mri2qmap.files.b1_map import read_b1_map
from mri2qmap.pipeline.items import ParameterMaps, Tsmi
from mri2qmap.pnp_admm import PnpAdmmSettings, pnp_admm
from mri2qmap.subspace_compression import SubspaceCompressionSettings, subspace_compression
from mri2qmap.toeplitz_cg import ToeplitzCgSettings, toeplitz_cg

STEP = 0.08
"""Of the table: fewer atoms are simulated at each of the fields."""


@pytest.fixture(scope="module")
def scanned(make_scan, tmp_path_factory):
    """A scan in a field from 0.7 to 1.3, what precedes the ADMM, and files of maps."""
    scan, items, simulation, _ = make_scan(
        coils=1, acceleration=2.0, noise=0.05, b1_spread=0.3, oblique=(0.1, 0.2, -0.3)
    )
    stream = coil_sensitivity(iter(items), scan, CoilSensitivitySettings())
    stream = subspace_compression(stream, scan, SubspaceCompressionSettings())
    before = list(toeplitz_cg(stream, scan, ToeplitzCgSettings(iterations=20)))
    folder = tmp_path_factory.mktemp("maps")
    affine = simulation.truth.geometry.affine_ras_mm
    files = {}
    for name, values in {
        "true": simulation.b1,
        "one": np.ones_like(simulation.b1),
        "0.9": np.full_like(simulation.b1, 0.9),
    }.items():
        files[name] = str(folder / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(values.T, affine), files[name])
    return scan, before, simulation, files


def reconstruct(scan, before, **settings):
    """TSMI of the ADMM, and maps."""
    admm = PnpAdmmSettings(denoiser="small", iterations=4, patch=16, atom_step=STEP, **settings)
    items = list(pnp_admm(iter(before), scan, admm))
    matching = CombinedMatchingSettings(atom_step=STEP, **settings)
    out = list(combined_matching(iter(items), scan, matching))
    (tsmi,) = (item for item in items if isinstance(item, Tsmi))
    (maps,) = (item for item in out if isinstance(item, ParameterMaps))
    return tsmi.tsmi, maps


def error(maps, simulation):
    """T1 and T2 errors [%] where a voxel and its surroundings are one tissue."""
    truth = simulation.truth
    cores = [uniform_filter(fraction, 3) > 0.999 for fraction in truth.fractions]
    inside = np.any(cores, axis=0)
    found = ((maps.t1, truth.t1()), (maps.t2, truth.t2()))
    return [mape(times.numpy(), true, inside) for times, true in found]


@pytest.mark.slow
@pytest.mark.parametrize("search", ["exact", "groups"])
def test_the_map_lowers_the_error(scanned, search):
    scan, before, simulation, files = scanned
    _, without = reconstruct(scan, before, search=search)
    _, known = reconstruct(scan, before, search=search, b1_map=files["true"])
    t1, t2 = error(without, simulation)
    t1_known, t2_known = error(known, simulation)
    assert t2_known < 0.6 * t2
    assert t1_known + t2_known < 0.75 * (t1 + t2)


@pytest.mark.parametrize(("name", "b1"), [("one", 1.0), ("0.9", 0.9)])
def test_a_constant_map_is_that_number(scanned, name, b1):
    scan, before, _, files = scanned
    tsmi, maps = reconstruct(scan, before, b1_map=files[name])
    expected_tsmi, expected = reconstruct(scan, before, b1=b1)
    assert torch.equal(tsmi, expected_tsmi)
    for field in ("t1", "t2", "proton_density", "match_quality", "weighted"):
        assert torch.equal(getattr(maps, field), getattr(expected, field))


def test_the_true_map_comes_back_onto_the_grid_of_the_scan(scanned):
    _, before, simulation, files = scanned
    (geometry,) = (item.geometry for item in before if isinstance(item, Tsmi))
    field, outside = read_b1_map(files["true"]).on_grid(geometry)
    np.testing.assert_allclose(field, simulation.b1, atol=1e-4)
    assert outside == 0


@pytest.mark.parametrize("gadget", [pnp_admm, combined_matching])
def test_a_wrong_map_is_told_before_the_scan(scanned, gadget):
    scan, _, _, _ = scanned
    kinds = {
        pnp_admm: PnpAdmmSettings(denoiser="none", b1_map="none.nii"),
        combined_matching: CombinedMatchingSettings(b1_map="none.nii"),
    }

    def never():
        raise AssertionError("the scan was waited for")
        yield

    with pytest.raises(Mri2QmapError, match=r"b1_map none\.nii: the file does not exist"):
        list(gadget(never(), scan, kinds[gadget]))


def test_the_log_says_what_the_map_covers(scanned, monkeypatch):
    scan, before, _, files = scanned
    lines = []
    monkeypatch.setattr(type(scan.report), "log", lambda self, line: lines.append(line))
    (tsmi,) = (item for item in before if isinstance(item, Tsmi))
    settings = CombinedMatchingSettings(atom_step=STEP, b1_map=files["true"])
    list(combined_matching(iter([tsmi]), scan, settings))
    (line,) = (line for line in lines if "B1" in line)
    assert line.startswith("combined_matching: B1 from 0.70 to 1.30; 0 % of the voxels")


def test_another_position_of_the_scan_is_another_field(scanned):
    """The geometry that comes with the TSMI decides, not the order of the voxels in the file."""
    scan, before, _, files = scanned
    (tsmi,) = (item for item in before if isinstance(item, Tsmi))
    shifted = dataclasses.replace(
        tsmi, geometry=dataclasses.replace(tsmi.geometry, position=(0.03, 0.0, 0.0))
    )
    settings = CombinedMatchingSettings(atom_step=STEP, b1_map=files["true"])
    first, second = (
        next(iter(combined_matching(iter([item]), scan, settings))) for item in (tsmi, shifted)
    )
    assert not torch.equal(first.t2, second.t2)

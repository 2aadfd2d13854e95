"""The map of consistency, from the setting to the maps and files."""

import dataclasses
import math

import nibabel
import numpy as np
import pydicom
import pytest
import torch

import mri2qmap
from mri2qmap.coil_sensitivity import CoilSensitivitySettings, coil_sensitivity
from mri2qmap.combined_matching import CombinedMatchingSettings, combined_matching
from mri2qmap.errors import Mri2QmapError
from mri2qmap.mrsignal.dictionary import load_dictionary
from mri2qmap.pipeline.items import Consistency, ParameterMaps, Tsmi, WeightedImages
from mri2qmap.pnp_admm import PnpAdmmSettings, pnp_admm
from mri2qmap.recon.consistency import prior_consistency
from mri2qmap.recon.plug_and_play import plug_and_play
from mri2qmap.subspace_compression import SubspaceCompressionSettings, subspace_compression
from mri2qmap.toeplitz_cg import ToeplitzCgSettings, toeplitz_cg

QUICK = {"iterations": 1, "patch": 16, "atom_step": 0.1}


def of_type(items, kind):
    (found,) = [i for i in items if isinstance(i, kind)]
    return found


def solved(noisy_scan, coefficients=5):
    """The scan, and the items that `pnp_admm` takes."""
    scan, items, _, _ = noisy_scan
    stream = coil_sensitivity(iter(items), scan, CoilSensitivitySettings())
    settings = SubspaceCompressionSettings(coefficients=coefficients)
    stream = subspace_compression(stream, scan, settings)
    return scan, list(toeplitz_cg(stream, scan, ToeplitzCgSettings(iterations=8)))


@pytest.fixture(scope="module")
def least_squares(noisy_scan):
    return solved(noisy_scan)


def restored(least_squares, **changes):
    scan, items = least_squares
    return list(pnp_admm(iter(items), scan, PnpAdmmSettings(**{**QUICK, **changes})))


def maps_of(items, scan):
    settings = CombinedMatchingSettings(atom_step=QUICK["atom_step"])
    (maps,) = combined_matching(iter(items), scan, settings)
    return maps


def test_maps_have_it_where_it_is_asked_for_and_nothing_else_changes(least_squares):
    scan, before = least_squares
    untouched = of_type(before, Tsmi).tsmi.clone()
    plain, more = restored(least_squares), restored(least_squares, consistency=True)
    assert torch.equal(of_type(before, Tsmi).tsmi, untouched)
    assert [type(item) for item in plain] == [Tsmi, WeightedImages]
    assert [type(item) for item in more] == [Tsmi, WeightedImages, Consistency]
    without, maps = maps_of(plain, scan), maps_of(more, scan)
    assert without.consistency is None
    for field in dataclasses.fields(ParameterMaps):
        if isinstance(getattr(without, field.name), torch.Tensor):
            assert torch.equal(getattr(maps, field.name), getattr(without, field.name))
    assert maps.consistency is of_type(more, Consistency).map
    assert of_type(more, Consistency).geometry == of_type(more, Tsmi).geometry


def test_it_is_that_of_the_last_iteration_and_of_the_data_alone(least_squares, monkeypatch):
    scan, before = least_squares
    results = []

    def kept(*arguments, **more):
        results.append(plug_and_play(*arguments, **more))
        return results[-1]

    monkeypatch.setattr("mri2qmap.pnp_admm.plug_and_play", kept)
    items = restored(least_squares, consistency=True, denoiser="none", total_variation=0.0)
    settings = PnpAdmmSettings(**QUICK)
    dictionary = load_dictionary(scan.sequence, settings.dictionary(5))
    expected = prior_consistency(
        of_type(before, Tsmi).tsmi, of_type(items, Tsmi).tsmi, results[0].match, dictionary
    )
    found = of_type(items, Consistency).map
    assert torch.equal(found, expected)
    inside = found[found > 0]
    assert len(inside) > 200
    assert float(inside.median()) == pytest.approx(math.sqrt(math.log(2)), rel=0.2)


def test_too_few_coefficients_are_told(noisy_scan):
    with pytest.raises(Mri2QmapError, match="pnp_admm: consistency: 2 coefficients"):
        restored(solved(noisy_scan, coefficients=2), consistency=True, denoiser="none")


def test_reconstruct_has_it_and_writes_it(noisy_scan, tmp_path):
    *_, path = noisy_scan
    quick = {"pnp_admm": QUICK, "combined_matching.atom_step": QUICK["atom_step"]}
    plain, maps = (
        mri2qmap.reconstruct(
            path, "mri2qmap", settings={**quick, "pnp_admm": {**QUICK, "consistency": wanted}}
        )
        for wanted in (False, True)
    )
    assert maps.volumes.keys() - plain.volumes.keys() == {"consistency"}
    assert plain.consistency is None
    for name, volume in plain.volumes.items():
        assert np.array_equal(maps.volumes[name], volume)
    assert maps.units["consistency"] == "1"
    inside = maps.consistency > 0
    assert (maps.t1[inside] > 0).all()
    assert inside.sum() > 0.8 * (maps.t1 > 0).sum()

    folders = [found.save(tmp_path / name) for found, name in ((plain, "plain"), (maps, "more"))]
    names = [
        {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
        for folder in folders
    ]
    slices = [f"dicom/consistency/{n:04d}.dcm" for n in range(1, maps.t1.shape[0] + 1)]
    parametric = "dicom/parametric/consistency.dcm"
    files = {f"nifti/consistency.{ending}" for ending in ("nii.gz", "json")}
    assert names[1] - names[0] == {*files, parametric, *slices}
    assert names[0] <= names[1]
    written = nibabel.load(folders[1] / "nifti/consistency.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj).T, maps.consistency)
    floats = pydicom.dcmread(folders[1] / parametric).pixel_array
    np.testing.assert_allclose(np.sort(floats.ravel()), np.sort(maps.consistency.ravel()))
    pixels = np.stack([pydicom.dcmread(folders[1] / name).pixel_array for name in slices])
    expected = np.minimum(np.sort(maps.consistency.ravel()), 4095 / 400)
    np.testing.assert_allclose(np.sort(pixels.ravel()) / 400, expected, atol=0.501 / 400)
    assert maps.plot().axes[0].get_title() == "axial"
    labels = [axes.get_ylabel() for axes in maps.plot().axes]
    assert "data - prior, in noise [1]" in labels
    assert "data - prior, in noise [1]" not in [a.get_ylabel() for a in plain.plot().axes]

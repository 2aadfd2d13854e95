import dataclasses

import pytest
import torch

from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.folders import cache_folder
from mri2qmap.mrsignal import group_matching, matching
from mri2qmap.mrsignal.dictionary import (
    DictionarySettings,
    build_dictionary,
    lookup_table,
    subspace,
)
from mri2qmap.mrsignal.epg import fisp_signal
from mri2qmap.mrsignal.field_dictionary import load_field_dictionary
from mri2qmap.mrsignal.group_matching import GroupSearch
from mri2qmap.mrsignal.matching import exact_search, match
from mri2qmap.mrsignal.matching_settings import MatchingSettings
from mri2qmap.mrsignal.sequence import default_sequence
from mri2qmap.mrsignal.synthesis import synthesise
from mri2qmap.pipeline.settings import parse_settings

pytestmark = pytest.mark.usefixtures("own_cache")

SEQUENCE = default_sequence(60)
SETTINGS = DictionarySettings(step=0.25)
SHAPE = (3, 5, 7)
WEIGHTS = [(0.0, 0.0, 0.0), (0.5, 2.0, 0.1)]


@pytest.fixture(scope="module")
def b1():
    """Random fields from 0.7 to 1.3, most of them between two levels."""
    return 0.7 + 0.6 * torch.rand(SHAPE, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def dictionary(b1):
    return load_field_dictionary(SEQUENCE, SETTINGS, b1)


@pytest.fixture(scope="module")
def own_atoms(b1):
    """Atoms of each voxel (voxels, atoms, s) at its B1 to two digits, by direct simulation."""
    lut, (basis, _) = lookup_table(SETTINGS), subspace(SEQUENCE, SETTINGS.coefficients)
    levels = {round(float(b), 2) for b in b1.flatten()}
    signals = {b: fisp_signal(lut.t1, lut.t2, SEQUENCE, b) @ basis for b in levels}
    return torch.stack([signals[round(float(b), 2)] for b in b1.flatten()])


@pytest.fixture(scope="module")
def images(own_atoms):
    """Noisy TSMI and weighted images of random tissues."""
    generator = torch.Generator().manual_seed(0)
    lut = lookup_table(SETTINGS)
    voxels = torch.arange(len(own_atoms))
    index = torch.randint(len(lut), voxels.shape, generator=generator)
    density = torch.randn(voxels.shape, dtype=torch.complex64, generator=generator)
    tsmi = density * own_atoms[voxels, index].T
    tsmi += 0.05 * torch.randn(tsmi.shape, dtype=torch.complex64, generator=generator)
    weighted = synthesise(density, lut.t1[index], lut.t2[index])
    weighted += 0.05 * torch.randn(weighted.shape, generator=generator)
    return tsmi.reshape(-1, *SHAPE), weighted.reshape(-1, *SHAPE)


def best_of_own_atoms(tsmi, weighted, weights, own_atoms):
    """Smallest ||x - PD d||^2 + sum w (v - |PD| b)^2 over all atoms at the voxel's B1."""
    lut = lookup_table(SETTINGS)
    b = synthesise(torch.ones(len(lut)), lut.t1, lut.t2).T.double()
    w = torch.tensor(weights, dtype=torch.float64)
    x = tsmi.reshape(len(tsmi), -1).T.to(torch.complex128)
    v = weighted.reshape(len(weighted), -1).T.double()
    best = []
    for voxel, atoms in enumerate(own_atoms.double()):
        inner = (atoms * x[voxel]).sum(1)
        score = inner.abs() + (w * b * v[voxel]).sum(1)
        size = score.clamp_min(0) / (atoms.square().sum(1) + (w * b * b).sum(1))
        density = torch.polar(size, inner.angle())
        cost = (x[voxel] - density[:, None] * atoms).abs().square().sum(1)
        cost += (w * (v[voxel] - size[:, None] * b) ** 2).sum(1)
        best.append(int(cost.argmin()))
    index = torch.tensor(best).reshape(SHAPE)
    return lut.t1[index], lut.t2[index]


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("search", [exact_search, GroupSearch(10, 0.0), GroupSearch(40, 0.95)])
def test_each_voxel_is_matched_to_atoms_of_its_own_field(
    dictionary, own_atoms, images, weights, search
):
    tsmi, weighted = images
    found = match(tsmi, dictionary, weighted, weights, search, between_atoms=False)
    t1, t2 = best_of_own_atoms(tsmi, weighted, weights, own_atoms)
    assert float(((found.t1 == t1) & (found.t2 == t2)).float().mean()) > 0.92
    plain = build_dictionary(SEQUENCE, SETTINGS)
    nominal = match(tsmi, plain, weighted, weights, between_atoms=False)
    assert float((nominal.t2 == t2).float().mean()) < 0.8  # otherwise the test is meaningless


@pytest.mark.parametrize("weights", WEIGHTS)
def test_the_forward_model_is_that_of_the_voxels_own_field(dictionary, b1, images, weights):
    tsmi, weighted = images
    found = match(tsmi, dictionary, weighted, weights)
    basis, _ = subspace(SEQUENCE, 5)
    t1, t2 = found.t1.flatten(), found.t2.flatten()
    signals = fisp_signal(t1, t2, SEQUENCE, torch.round(100 * b1.flatten()) / 100) @ basis
    expected = (found.proton_density.flatten() * signals.T).reshape(tsmi.shape)
    error = (found.tsmi(dictionary) - expected).norm(dim=0) / expected.norm(dim=0)
    assert float(error.median()) < 5e-4
    assert float(error.max()) < 4e-2  # the largest errors are those of fluid
    images = synthesise(found.proton_density, found.t1, found.t2)
    torch.testing.assert_close(found.weighted_images(dictionary), images, atol=1e-3, rtol=0)


def test_matching_projects_onto_the_atom(dictionary, images):
    """The residual of the match is orthogonal to B(Q), in each voxel."""
    tsmi, _ = images
    model = match(tsmi, dictionary).tsmi(dictionary)
    inner = (model.conj() * (tsmi - model)).sum(0)
    assert float(inner.abs().max()) < 1e-5 * float(tsmi.abs().square().sum(0).max())


@pytest.mark.parametrize("value", [1.0, 0.9, 0.3, 2.0])
@pytest.mark.parametrize("weights", WEIGHTS)
def test_a_constant_map_gives_the_dictionary_at_that_field(images, value, weights):
    tsmi, weighted = images
    field = load_field_dictionary(SEQUENCE, SETTINGS, torch.full(SHAPE, value))
    plain = build_dictionary(SEQUENCE, dataclasses.replace(SETTINGS, b1=value))
    found, expected = (match(tsmi, d, weighted, weights) for d in (field, plain))
    for name in ("index", "offset", "t1", "t2", "proton_density", "quality"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    assert torch.equal(found.tsmi(field), expected.tsmi(plain))


@pytest.mark.parametrize("value", [0.31, 0.75, 0.98, 1.25, 1.99])
def test_atoms_between_the_simulated_fields(value):
    atoms = load_field_dictionary(SEQUENCE, SETTINGS, torch.tensor([value])).mrf_atoms
    exact = build_dictionary(SEQUENCE, dataclasses.replace(SETTINGS, b1=value)).mrf_atoms
    error = (atoms - exact).norm(dim=1) / exact.norm(dim=1)
    assert float(error.median()) < 2e-3
    assert float(error.max()) < 5e-2


def test_only_the_fields_needed_are_simulated(monkeypatch, tmp_path):
    monkeypatch.setenv("MRI2QMAP_CACHE", str(tmp_path))
    nominal = load_field_dictionary(SEQUENCE, SETTINGS, torch.ones(SHAPE))
    assert len(nominal.b1) == 1
    assert len(list(cache_folder().iterdir())) == 1
    field = load_field_dictionary(SEQUENCE, SETTINGS, torch.tensor([0.82, 0.87, 0.87, 1.0]))
    torch.testing.assert_close(field.b1, torch.tensor([0.82, 0.87, 1.0]))
    assert field.level.tolist() == [0, 1, 1, 2]
    assert len(list(cache_folder().iterdir())) == 4  # 0.7, 0.8, 0.9, 1


def test_gpu_path_agrees_with_the_compiled_one(dictionary, images, monkeypatch):
    compiled = match(images[0], dictionary, images[1], WEIGHTS[1])
    monkeypatch.setattr(matching, "on_cpu", lambda _: False)
    blocked = match(images[0], dictionary, images[1], WEIGHTS[1])
    assert float((compiled.index == blocked.index).float().mean()) > 0.98
    torch.testing.assert_close(compiled.quality, blocked.quality, atol=1e-5, rtol=1e-5)


def test_selection_of_voxels(dictionary, images):
    tsmi, _ = images
    chosen = torch.rand(SHAPE, generator=torch.Generator().manual_seed(1)) > 0.7
    part = match(tsmi[:, chosen][:, None, None], dictionary.select(chosen))
    assert torch.equal(part.index[0, 0], match(tsmi, dictionary).index[chosen])
    with pytest.raises(ValueError, match="voxels"):
        match(tsmi[:, :2], dictionary)


def test_groups_are_cached_for_every_level(dictionary, images, monkeypatch):
    made = []
    original = group_matching.group_atoms
    monkeypatch.setattr(
        group_matching, "group_atoms", lambda *args: made.append(args) or original(*args)
    )
    search = MatchingSettings(search="groups", groups=10, b1_map="map.nii").searcher()
    for weights in (*WEIGHTS, *WEIGHTS):
        match(images[0], dictionary, images[1], weights, search)
    assert len(made) == len(WEIGHTS) * len(dictionary.b1)


@pytest.mark.parametrize("value", [0.2, 2.1, float("nan")])
def test_fields_out_of_range_are_refused(value):
    with pytest.raises(ValueError, match=r"between 0\.3 and 2"):
        load_field_dictionary(SEQUENCE, SETTINGS, torch.tensor([1.0, value]))


def test_a_map_and_a_single_value_exclude_each_other():
    assert parse_settings(MatchingSettings, {"b1_map": "a.nii"}, "pnp_admm").b1_map == "a.nii"
    with pytest.raises(Mri2QmapError, match=r"pnp_admm: give b1_map or b1, not both; b1 is 0\.9"):
        parse_settings(MatchingSettings, {"b1_map": "a.nii", "b1": "0.9"}, "pnp_admm")

"""Matches between the atoms of the table, compared with simulated signals and with scipy."""

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares

from mri2qmap.machine import devices
from mri2qmap.mrsignal import interpolation
from mri2qmap.mrsignal.dictionary import DictionarySettings, build_dictionary
from mri2qmap.mrsignal.epg import fisp_signal
from mri2qmap.mrsignal.field_dictionary import load_field_dictionary
from mri2qmap.mrsignal.interpolation import interpolate, interpolated_times
from mri2qmap.mrsignal.matching import match
from mri2qmap.mrsignal.sequence import default_sequence
from mri2qmap.mrsignal.synthesis import synthesise
from mri2qmap.mrsignal.table_neighbours import stencils

SEQUENCE = default_sequence(120)
WEIGHTS = [(0.0, 0.0, 0.0), (0.5, 2.0, 0.1)]


@pytest.fixture(scope="module")
def dictionary():
    return build_dictionary(SEQUENCE, DictionarySettings())


def tissues(count, low=(0.4, 0.03), high=(2.5, 0.35)):
    """Relaxation times between those of the table, and a complex density."""
    generator = torch.Generator().manual_seed(0)
    t1, t2 = (
        torch.exp(
            torch.rand(count, generator=generator) * np.log(last / first) + float(np.log(first))
        )
        for first, last in zip(low, high, strict=True)
    )
    return t1, t2, torch.randn(count, dtype=torch.complex64, generator=generator)


def signals_of(dictionary, t1, t2, density):
    fingerprints = (fisp_signal(t1, t2, SEQUENCE) @ dictionary.basis).T
    return (density * fingerprints)[:, :, None, None], synthesise(density, t1, t2)[:, :, None, None]


def relative(found, true):
    return (found.flatten() / true).log().abs()


@pytest.mark.parametrize("weights", WEIGHTS)
def test_tissue_between_the_atoms_is_found(dictionary, weights):
    t1, t2, density = tissues(3000)
    tsmi, images = signals_of(dictionary, t1, t2, density)
    rounded = match(tsmi, dictionary, images, weights, between_atoms=False)
    found = match(tsmi, dictionary, images, weights)
    for name, true in (("t1", t1), ("t2", t2)):
        errors = relative(getattr(found, name), true)
        assert float(errors.mean()) < 3e-4
        assert float(errors.quantile(0.99)) < 1e-3
        assert float(relative(getattr(rounded, name), true).mean()) > 1e-2
    error = found.proton_density.flatten() - density
    assert float(error.norm()) < 1e-3 * float(density.norm())
    for model, true in (("tsmi", tsmi), ("weighted_images", images)):
        first, last = (getattr(m, model)(dictionary) - true for m in (rounded, found))
        assert float(last.norm()) < 0.05 * float(first.norm())
    assert bool((found.quality >= rounded.quality - 1e-6).all())


def test_the_valley_of_fluid_is_followed(dictionary, monkeypatch):
    """T2 hardly changes the fingerprint of fluid: the best atom is several steps away."""
    t1, t2, density = tissues(2000, low=(2.8, 0.8), high=(4.0, 1.8))
    tsmi, _ = signals_of(dictionary, t1, t2, density)
    errors = {}
    for rounds in (1, interpolation._ROUNDS):
        monkeypatch.setattr(interpolation, "_ROUNDS", rounds)
        errors[rounds] = relative(match(tsmi, dictionary).t2, t2)
    first, last = errors.values()
    assert float(first.quantile(0.9)) > 5 * float(last.quantile(0.9))
    assert float(last.quantile(0.9)) < 0.01


@pytest.mark.parametrize("weights", WEIGHTS)
def test_with_noise_it_is_the_minimum_of_the_objective(dictionary, weights):
    """Against a nonlinear fit of scipy to simulated signals, with the density as parameters."""
    count = 12
    t1, t2, density = tissues(count)
    tsmi, images = signals_of(dictionary, t1, t2, density)
    generator = torch.Generator().manual_seed(1)
    size = 0.01 * float(tsmi.abs().mean())
    tsmi = tsmi + size * torch.randn(tsmi.shape, dtype=torch.complex64, generator=generator)
    images = images + size * torch.randn(images.shape, generator=generator)
    found = match(tsmi, dictionary, images, weights)
    root = np.sqrt(np.array(weights))

    def residuals(parameters, voxel):
        times = [torch.tensor([float(np.exp(p))]) for p in parameters[:2]]
        fingerprint = (fisp_signal(*times, SEQUENCE) @ dictionary.basis)[0].numpy()
        value = complex(*parameters[2:])
        difference = value * fingerprint - tsmi[:, voxel, 0, 0].numpy()
        weighted = synthesise(torch.tensor([value]), *times)[:, 0].numpy()
        weighted = root * (weighted - images[:, voxel, 0, 0].numpy())
        return np.concatenate([difference.real, difference.imag, weighted])

    for voxel in range(count):
        start = found.proton_density[voxel, 0, 0]
        begin = [
            *np.log([float(t1[voxel]), float(t2[voxel])]),
            float(start.real),
            float(start.imag),
        ]
        fit = least_squares(residuals, begin, args=(voxel,), diff_step=1e-3, x_scale="jac")
        best = np.exp(fit.x[:2])
        ours = np.array([float(found.t1[voxel]), float(found.t2[voxel])])
        np.testing.assert_allclose(ours, best, rtol=5e-3)


def test_without_an_offset_atoms_and_times_are_those_of_the_table(dictionary):
    index = torch.arange(len(dictionary.lut))
    nothing = torch.zeros(2, len(index))
    atoms = interpolate(dictionary.mrf_atoms, dictionary, index, nothing)
    assert torch.equal(atoms, dictionary.mrf_atoms.T)
    t1, t2 = interpolated_times(dictionary, index, nothing)
    assert torch.equal(t1, dictionary.lut.t1)
    assert torch.equal(t2, dictionary.lut.t2)


def test_quadratic_features_are_interpolated_exactly(dictionary):
    """In steps of the table, at every pair with a stencil and every allowed offset."""
    lut = dictionary.lut
    row, column = (torch.unique(t, return_inverse=True)[1].float() for t in (lut.t1, lut.t2))

    def quadratic(a, b):
        return torch.stack([a, b, 0.1 * a * b, 0.2 * a**2 - 0.3 * b**2], 1) / 100

    table = dictionary.stencils
    index = table.complete.nonzero()[:, 0]
    place = table.place[index].T
    generator = torch.Generator().manual_seed(2)
    offset = 2 * torch.rand(2, len(index), generator=generator) - 1
    offset = torch.minimum(torch.maximum(offset, -1.0 - place), 1.0 - place)
    found = interpolate(quadratic(row, column), dictionary, index, offset)
    expected = quadratic(row[index] + offset[0], column[index] + offset[1]).T
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_stencils_of_a_table_with_a_diagonal(dictionary):
    lut, table = dictionary.lut, dictionary.stencils
    row, column = (torch.unique(t, return_inverse=True)[1] for t in (lut.t1, lut.t2))
    assert float(table.complete.float().mean()) > 0.99
    nine = table.pairs[table.complete]
    centre = nine[:, [4]]
    moves = torch.cartesian_prod(torch.arange(-1, 2), torch.arange(-1, 2))
    assert torch.equal(row[nine] - row[centre], moves[:, 0].expand(len(nine), -1))
    assert torch.equal(column[nine] - column[centre], moves[:, 1].expand(len(nine), -1))
    own = (3 * (1 + table.place[:, 0]) + 1 + table.place[:, 1])[table.complete]
    assert torch.equal(nine.gather(1, own[:, None])[:, 0], table.complete.nonzero()[:, 0])


def test_a_table_of_two_values_has_no_stencil():
    t1, t2 = torch.tensor([1.0, 1.0, 2.0, 2.0]), torch.tensor([0.1, 0.2, 0.1, 0.2])
    table = stencils(t1, t2)
    assert not bool(table.complete.any())
    assert torch.equal(table.pairs, torch.arange(4)[:, None].expand(-1, 9))
    assert not bool(table.place.any())


def test_matches_stay_within_the_table(dictionary):
    """Of noise, too: no T1 or T2 outside it, no T2 above T1, no value that is not finite."""
    generator = torch.Generator().manual_seed(3)
    tsmi = torch.randn(5, 10, 20, 30, dtype=torch.complex64, generator=generator)
    images = torch.randn(3, 10, 20, 30, generator=generator)
    lut = dictionary.lut
    for weights in WEIGHTS:
        found = match(tsmi, dictionary, images, weights)
        signal = found.proton_density.abs() > 0
        for times, table in ((found.t1, lut.t1), (found.t2, lut.t2)):
            assert bool(times.isfinite().all())
            assert float(times[signal].min()) >= 0.9999 * float(table.min())
            assert float(times.max()) <= 1.0001 * float(table.max())
        assert bool((found.t2 <= found.t1).all())
        assert float(found.offset.abs().max()) <= 1
        assert bool(found.proton_density.isfinite().all())


def matches_to_refine(dictionary, n_images, noise):
    """Arguments of `refined_match`: signals of atoms with noise, and other atoms near them."""
    generator = torch.Generator().manual_seed(4)
    features = torch.cat([dictionary.mrf_atoms, dictionary.mri_atoms[:, :n_images]], 1)
    true = torch.randint(len(features), (3000,), generator=generator)
    s = dictionary.mrf_atoms.shape[1]
    phase = 2 * np.pi * torch.rand(len(true), generator=generator)
    atoms = features[true].T
    signals = torch.cat([atoms[:s] * phase.cos(), atoms[:s] * phase.sin(), atoms[s:]])
    signals += noise * float(atoms.std()) * torch.randn(signals.shape, generator=generator)
    signals[:, :3] = 0
    near = (true + torch.randint(-1, 2, true.shape, generator=generator)) % len(features)
    return features, signals, s, dictionary, near


@pytest.mark.parametrize("n_images", [0, 3])
@pytest.mark.parametrize("noise", [0.0, 0.1, 1.0])
def test_voxel_by_voxel_as_by_blocks(dictionary, n_images, noise):
    """The loop of the CPU and torch's, which runs on a GPU.

    Torch's compares scores in single precision, so it may discard a small step.
    """
    arguments = matches_to_refine(dictionary, n_images, noise)
    found = interpolation.refined_match(*arguments)
    blocks = interpolation._refined_by_blocks(*arguments)
    for one, other in zip(
        interpolated_times(dictionary, *found), interpolated_times(dictionary, *blocks), strict=True
    ):
        assert float((one / other).log().abs().quantile(0.99)) < 3e-3
        assert float((one / other).log().abs().median()) < 1e-5


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_interpolation_voxel_by_voxel_as_by_blocks(dictionary, kind):
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(len(dictionary.lut), 4, dtype=kind, generator=generator)
    index = torch.randint(len(features), (5000,), generator=generator)
    offset = 2 * torch.rand(2, 5000, generator=generator) - 1
    arguments = (features, dictionary, index, offset)
    found, blocks = interpolate(*arguments), interpolation._interpolated_by_blocks(*arguments)
    assert found.dtype == kind
    torch.testing.assert_close(found, blocks, rtol=1e-5, atol=1e-5)
    nothing = interpolate(features, dictionary, index, torch.zeros_like(offset))
    assert torch.equal(nothing, features[index].T)


def test_blocks_of_voxels_do_not_matter(dictionary, monkeypatch):
    arguments = matches_to_refine(dictionary, 3, 0.1)
    whole = interpolation._refined_by_blocks(*arguments)
    monkeypatch.setattr(devices, "_VOXELS_ON_CPU", 100)
    for one, other in zip(whole, interpolation._refined_by_blocks(*arguments), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("own_cache")
def test_each_voxel_is_refined_with_atoms_of_its_own_field():
    levels = torch.tensor([0.8, 1.2])
    t1, t2, density = tissues(200)
    b1 = levels.repeat(100)[:, None, None]
    settings = DictionarySettings(step=0.1)
    field = load_field_dictionary(SEQUENCE, settings, b1)
    fingerprints = fisp_signal(t1, t2, SEQUENCE, b1.flatten()) @ field.basis
    found = match((density * fingerprints.T)[:, :, None, None], field)
    for name, true in (("t1", t1), ("t2", t2)):
        errors = relative(getattr(found, name), true)
        assert float(errors.median()) < 1e-3
        assert float(errors.quantile(0.95)) < 5e-3

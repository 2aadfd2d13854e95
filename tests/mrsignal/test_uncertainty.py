"""Predicted standard deviations of a match compared with those of many noisy voxels."""

import dataclasses

import pytest
import torch

from mri2qmap.mrsignal.dictionary import DictionarySettings, LookupTable, build_dictionary
from mri2qmap.mrsignal.field_dictionary import load_field_dictionary
from mri2qmap.mrsignal.matching import match
from mri2qmap.mrsignal.sequence import default_sequence
from mri2qmap.mrsignal.uncertainty import match_uncertainty

pytestmark = pytest.mark.usefixtures("own_cache")

SEQUENCE = default_sequence(120)
# White and grey matter are far from its ends, and its steps are small compared with the noise.
FINE = DictionarySettings(t1_range=(0.45, 2.2), t2_range=(0.035, 0.22), step=0.01)
COARSE = DictionarySettings(step=0.25)
TISSUES = [(0.75, 0.07), (1.25, 0.09)]
WEIGHTS = [(0.0, 0.0, 0.0), (0.5, 2.0, 0.1)]
MANY = 4000


@pytest.fixture(scope="module")
def fine():
    return build_dictionary(SEQUENCE, FINE)


@pytest.fixture(scope="module")
def coarse():
    return build_dictionary(SEQUENCE, COARSE)


def nearest(lut, t1, t2):
    return int(((lut.t1 / t1).log() ** 2 + (lut.t2 / t2).log() ** 2).argmin())


def part(dictionary, keep):
    """The dictionary of some of its pairs."""
    return dataclasses.replace(
        dictionary,
        lut=LookupTable(dictionary.lut.t1[keep], dictionary.lut.t2[keep]),
        mrf_atoms=dictionary.mrf_atoms[keep],
        mri_atoms=dictionary.mri_atoms[keep],
    )


def noisy(dictionary, index, weights, noise):
    """Signals (s, voxels, 1, 1), (3, voxels, 1, 1) of atoms, and white noise in x and sqrt(w) v."""
    generator = torch.Generator().manual_seed(0)
    density = torch.polar(torch.tensor(0.8), torch.tensor(2.0))
    scale = noise * dictionary.mrf_atoms[index].norm(dim=1).mean()
    shape = (len(index), 1, 1)

    def random(rows):
        return scale * torch.randn(rows, *shape, generator=generator)

    fingerprints = dictionary.mrf_atoms[index].T.reshape(-1, *shape)
    rows = len(fingerprints)
    tsmi = density * fingerprints + torch.complex(random(rows), random(rows))
    images = 0.8 * dictionary.mri_atoms[index].T.reshape(3, *shape)
    for image, error, weight in zip(images, random(3), weights, strict=True):
        image += error / weight**0.5 if weight else 0
    return tsmi, images


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize(("t1", "t2"), TISSUES)
def test_it_is_the_standard_deviation_over_noisy_voxels(fine, t1, t2, weights):
    index = torch.full((MANY,), nearest(fine.lut, t1, t2))
    found = match(*_with(fine, index, weights))
    deviations = match_uncertainty(found, fine, weights)
    for times, true, deviation in zip(
        (found.t1, found.t2),
        (fine.lut.t1[index[0]], fine.lut.t2[index[0]]),
        deviations,
        strict=True,
    ):
        spread = float((times - true).square().mean().sqrt())
        assert 0.02 * true < spread < 0.2 * true  # several table steps, far from the ends
        assert float(deviation.square().mean().sqrt()) == pytest.approx(spread, rel=0.15)
        within = (times - true).abs() <= 1.96 * deviation
        assert 0.85 < float(within.float().mean()) < 0.99


def _with(dictionary, index, weights, noise=0.02, scale=1.0):
    """Arguments of `match`."""
    tsmi, images = noisy(dictionary, index, weights, noise)
    return scale * tsmi, dictionary, scale * images, weights


@pytest.mark.parametrize("weights", WEIGHTS)
def test_it_is_independent_of_the_signal_scale(coarse, weights):
    index = torch.arange(0, len(coarse.lut), 7)
    one = match(*_with(coarse, index, weights))
    other = match(*_with(coarse, index, weights, scale=1e4))
    assert torch.equal(one.index, other.index)
    for a, b in zip(*(match_uncertainty(m, coarse, weights) for m in (one, other)), strict=True):
        torch.testing.assert_close(a, b, rtol=3e-2, atol=0)


def test_the_factor_multiplies_standard_deviations(fine):
    found = match(*_with(fine, torch.full((50,), nearest(fine.lut, 0.75, 0.07)), WEIGHTS[1]))
    for one, three in zip(
        match_uncertainty(found, fine, WEIGHTS[1]),
        match_uncertainty(found, fine, WEIGHTS[1], factor=3),
        strict=True,
    ):
        torch.testing.assert_close(three, 3 * one, rtol=1e-5, atol=0)


def test_without_noise_only_the_rounding_to_the_table_remains(coarse):
    """Where the table is too narrow for a match between its atoms; elsewhere nothing."""
    t1, t2 = (times.unique()[10:12] for times in (coarse.lut.t1, coarse.lut.t2))
    keep = torch.isin(coarse.lut.t1, t1) & torch.isin(coarse.lut.t2, t2)
    for table, relative in ((coarse, 0.0), (part(coarse, keep), 1.0)):
        found = match(*_with(table, torch.arange(len(table.lut)), WEIGHTS[1], noise=0.0))
        inside = (found.t1 > 0.5) & (found.t1 < 2) & (found.t2 > 0.05) & (found.t2 < 0.2)
        assert bool(inside.any())
        for deviation, times, values in zip(
            match_uncertainty(found, table, WEIGHTS[1]), (found.t1, found.t2), (t1, t2), strict=True
        ):
            expected = relative * float(values.log().diff()) / 12**0.5
            of_times = (deviation / times)[inside]
            torch.testing.assert_close(
                of_times, torch.full_like(of_times, expected), rtol=0.02, atol=2e-3
            )


@pytest.mark.parametrize("noise", [1e-6, 0.1, 100.0])
@pytest.mark.parametrize("weights", WEIGHTS)
def test_everywhere_in_the_table_it_is_positive_and_within_the_table(coarse, noise, weights):
    index = torch.arange(len(coarse.lut))
    found = match(*_with(coarse, index, weights, noise=noise))
    lut = coarse.lut
    for deviation, times, table in zip(
        match_uncertainty(found, coarse, weights, factor=4),
        (found.t1, found.t2),
        (lut.t1, lut.t2),
        strict=True,
    ):
        assert deviation.dtype == torch.float32
        signal = times > 0
        assert bool((deviation[signal] > 0).all())
        most = (table.max() / table.min()).log() / 12**0.5
        assert bool((deviation <= 1.001 * most * times).all())


def test_it_is_zero_without_signal(coarse):
    found = match(torch.zeros(5, 2, 3, 4, dtype=torch.complex64), coarse)
    for deviation in match_uncertainty(found, coarse):
        assert torch.equal(deviation, torch.zeros(2, 3, 4))


def test_it_is_zero_if_the_table_has_a_single_value(coarse):
    keep = coarse.lut.t1 == coarse.lut.t1[nearest(coarse.lut, 1.0, 0.1)]
    one = part(coarse, keep)
    found = match(*_with(one, torch.arange(len(one.lut)), WEIGHTS[0]))
    t1_std, t2_std = match_uncertainty(found, one)
    assert bool((t1_std == 0).all())
    assert bool((t2_std > 0).all())


@pytest.mark.parametrize("weights", WEIGHTS)
def test_each_voxel_has_the_curvature_of_its_transmit_field(weights):
    """Compare with a dictionary at a single field."""
    b1 = torch.tensor([0.8, 1.2, 1.0, 0.8])[:, None, None]
    field = load_field_dictionary(SEQUENCE, COARSE, b1)
    pair = nearest(build_dictionary(SEQUENCE, COARSE).lut, 1.25, 0.09)
    index = field.level.flatten() * field.pairs + pair
    tsmi, images = noisy(field, index, weights, 0.02)
    found = match_uncertainty(match(tsmi, field, images, weights), field, weights)
    assert all(deviation.shape == b1.shape for deviation in found)
    for voxel, value in enumerate(b1.flatten().tolist()):
        alone = build_dictionary(SEQUENCE, dataclasses.replace(COARSE, b1=round(value, 2)))
        part = match(tsmi[:, [voxel]], alone, images[:, [voxel]], weights)
        expected = match_uncertainty(part, alone, weights)
        for ours, other in zip(found, expected, strict=True):
            torch.testing.assert_close(ours[voxel], other[0], rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"weights": (1.0, 1.0)}, "one weight"),
        ({"weights": (1.0, -1.0, 1.0)}, "one weight"),
        ({"factor": 0.0}, "factor"),
        ({"factor": float("inf")}, "factor"),
        ({"factor": float("nan")}, "factor"),
    ],
)
def test_invalid_arguments_are_refused(coarse, arguments, words):
    found = match(torch.ones(5, 1, 1, 1, dtype=torch.complex64), coarse)
    with pytest.raises(ValueError, match=words):
        match_uncertainty(found, coarse, **arguments)


def test_too_few_coefficients_are_refused_without_images():
    two = build_dictionary(SEQUENCE, dataclasses.replace(COARSE, coefficients=2))
    tsmi, images = noisy(two, torch.tensor([300]), WEIGHTS[1], 0.02)
    with pytest.raises(ValueError, match="3 or more"):
        match_uncertainty(match(tsmi, two), two)
    found = match(tsmi, two, images, WEIGHTS[1])
    assert all(bool(d.isfinite().all()) for d in match_uncertainty(found, two, WEIGHTS[1]))

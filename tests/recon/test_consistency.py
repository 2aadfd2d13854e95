"""The map of consistency against noise of known covariance and differences of known size."""

import dataclasses
import math

import pytest
import torch
from scipy.ndimage import gaussian_filter

from mri2qmap.mrsignal.dictionary import DictionarySettings, build_dictionary
from mri2qmap.mrsignal.field_dictionary import load_field_dictionary
from mri2qmap.mrsignal.matching import Match, match
from mri2qmap.mrsignal.sequence import default_sequence
from mri2qmap.recon.consistency import prior_consistency

SHAPE = (24, 24, 24)
SEQUENCE = default_sequence(120)
SETTINGS = DictionarySettings(step=0.1)
OBJECT = (slice(4, 20),) * 3
BLOCK = (slice(9, 15),) * 3
NOISE = 0.02
MEDIAN = math.sqrt(math.log(2))
"""Of a chi distribution with two degrees of freedom, divided by sqrt(2)."""


@pytest.fixture(scope="module")
def dictionary():
    return build_dictionary(SEQUENCE, SETTINGS)


def nearest(lut, t1, t2):
    return int(((lut.t1 / t1).log() ** 2 + (lut.t2 / t2).log() ** 2).argmin())


def complex_noise(seed=0, shape=(5, *SHAPE)):
    generator = torch.Generator().manual_seed(seed)
    return math.sqrt(2) * torch.randn(shape, dtype=torch.complex64, generator=generator)


@dataclasses.dataclass
class Case:
    """Two tissues side by side, with a phase; X is exact and X0 has white noise."""

    dictionary: object
    tsmi: torch.Tensor
    matched: Match
    phase: torch.Tensor
    index: torch.Tensor

    def initial(self, seed=0):
        return self.tsmi + NOISE * complex_noise(seed)

    def map(self, initial, scale=1.0):
        matched = dataclasses.replace(
            self.matched, proton_density=scale * self.matched.proton_density
        )
        return prior_consistency(scale * initial, scale * self.tsmi, matched, self.dictionary)


@pytest.fixture(scope="module")
def case(dictionary):
    index = torch.full(SHAPE, nearest(dictionary.lut, 0.75, 0.07))
    index[:, :, 12:] = nearest(dictionary.lut, 1.25, 0.09)
    density = torch.zeros(SHAPE)
    density[OBJECT] = 10.0
    z, y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    phase = torch.polar(torch.ones(SHAPE), 3 * x - 2 * y + z * y)
    tsmi = density * phase * dictionary.mrf_atoms.T[:, index]
    return Case(dictionary, tsmi, match(tsmi, dictionary), phase, index)


def test_data_that_differ_by_noise_alone_give_the_known_distribution(case):
    found = case.map(case.initial())
    assert found.shape == SHAPE
    assert found.dtype == torch.float32
    inside = found[OBJECT]
    assert float(inside.median()) == pytest.approx(MEDIAN, rel=0.05)
    assert float(inside.square().mean()) == pytest.approx(1.0, rel=0.12)
    # of the square, exponential, 5 % are above log(20) and 1 in 10000 above 9
    assert float((inside > math.sqrt(math.log(20))).float().mean()) == pytest.approx(0.05, abs=0.02)
    assert float((inside > 3).float().mean()) < 2e-3
    for half in (inside[:, :, :8], inside[:, :, 8:]):  # both tissues
        assert float(half.median()) == pytest.approx(MEDIAN, rel=0.1)


def test_it_is_zero_outside_the_object(case):
    found = case.map(case.initial())
    inside = torch.zeros(SHAPE, dtype=torch.bool)
    inside[OBJECT] = True
    assert bool((found[~inside] == 0).all())
    assert bool((found[inside] > 0).all())


def smoothed_noise():
    """Standard deviation of real white noise after the filter."""
    width = 2 / math.sqrt(8 * math.log(2))
    point = torch.zeros(15, 15, 15)
    point[7, 7, 7] = 1
    return NOISE * float((gaussian_filter(point.numpy(), width) ** 2).sum() ** 0.5)


def change_of(case, name):
    """Unit vector (s,) in which the atoms of the first tissue change with T1 or T2, by hand."""
    lut, atoms = case.dictionary.lut, case.dictionary.mrf_atoms.double()
    own = int(case.index[0, 0, 0])
    t1, t2 = float(lut.t1[own]), float(lut.t2[own])
    ratio = 1.1
    pair = (t1 * ratio, t2) if name == "t1" else (t1, t2 * ratio)
    base, other = atoms[own], atoms[nearest(lut, *pair)]
    base = base / base.norm()
    rest = other / other.norm() - base
    rest -= (rest @ base) * base
    return rest / rest.norm()


@pytest.mark.parametrize("name", ["t1", "t2"])
def test_a_block_whose_data_differ_by_five_sigma_is_flagged_and_nothing_else(case, name):
    initial, change = case.initial(), change_of(case, name)
    block = (slice(9, 15), slice(9, 15), slice(5, 11))  # of the first tissue
    shift = 5 * smoothed_noise() * change.to(torch.complex64)[:, None, None, None]
    other = initial.clone()
    other[(slice(None), *block)] += shift * case.phase[block]
    before, found = case.map(initial), case.map(other)
    core = found[10:14, 10:14, 6:10]
    # Rice: 5 sigma along one of two axes, and noise
    assert float(core.median()) == pytest.approx(math.sqrt((25 + 1) / 2), rel=0.1)
    assert float((core > 2).float().mean()) > 0.95
    near = torch.zeros(SHAPE, dtype=torch.bool)
    near[6:18, 6:18, 2:14] = True  # what the filter reaches
    torch.testing.assert_close(found[~near], before[~near], rtol=0.2, atol=0)
    assert float((found[~near] > 3).float().mean()) < 1e-3


def test_a_change_that_leaves_t1_and_t2_is_not_flagged(case):
    """Neither a scale of the proton density nor a phase counts."""
    initial = case.initial()
    for factor in (1.02, complex(math.cos(0.02), math.sin(0.02))):
        other = initial.clone()
        other[(slice(None), *BLOCK)] += (factor - 1) * case.tsmi[(slice(None), *BLOCK)]
        size = (factor - 1) * case.tsmi[(slice(None), *BLOCK)].abs().mean()
        assert abs(size) > 2 * smoothed_noise()
        torch.testing.assert_close(case.map(other), case.map(initial), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e6, 1e12])
def test_it_is_independent_of_the_scale(case, scale):
    initial = case.initial()
    torch.testing.assert_close(case.map(initial, scale), case.map(initial), rtol=1e-3, atol=1e-4)


def test_correlated_noise_of_unequal_size_has_the_same_median(case):
    """Noise is measured, in each direction and between them."""
    t1, t2 = (change_of(case, name).float() for name in ("t1", "t2"))
    shared, own = complex_noise(1, (2, *SHAPE)).to(torch.complex64)
    noise = t1[:, None, None, None] * (0.2 * shared + 0.02 * own)
    noise = noise + t2[:, None, None, None] * 0.1 * own
    index = torch.full(SHAPE, int(case.index[0, 0, 0]))
    density = torch.zeros(SHAPE)
    density[OBJECT] = 10.0
    tsmi = density * case.phase * case.dictionary.mrf_atoms.T[:, index]
    found = prior_consistency(
        tsmi + noise * case.phase, tsmi, match(tsmi, case.dictionary), case.dictionary
    )
    assert float(found[OBJECT].median()) == pytest.approx(MEDIAN, rel=0.06)
    assert float(found[OBJECT].square().mean()) == pytest.approx(1, rel=0.15)


def test_each_voxel_has_the_directions_of_its_transmit_field(case, tmp_path, monkeypatch):
    monkeypatch.setenv("MRI2QMAP_CACHE", str(tmp_path))
    b1 = torch.ones(SHAPE)
    b1[12:] = 0.8
    field = load_field_dictionary(SEQUENCE, SETTINGS, b1)
    index = field.level * field.pairs + case.index
    tsmi = case.tsmi.abs().amax(0) * case.phase / 10 * field.mrf_atoms.T[:, index]
    initial = tsmi + NOISE * tsmi.abs().mean() * complex_noise()
    found = prior_consistency(initial, tsmi, match(tsmi, field), field)
    alone = build_dictionary(SEQUENCE, dataclasses.replace(SETTINGS, b1=0.8))
    upper = prior_consistency(initial, tsmi, match(tsmi, alone), alone)
    ratio = (found / upper)[14:20, 4:20, 4:20]  # the noise is that of other voxels too
    assert float(ratio.std() / ratio.mean()) < 0.1
    assert float((found / upper)[4:10, 4:20, 4:20].std()) > 0.1


def test_zero_data_give_zero(dictionary):
    zero = torch.zeros(5, 3, 4, 5, dtype=torch.complex64)
    found = prior_consistency(zero, zero, match(zero, dictionary), dictionary)
    assert torch.equal(found, torch.zeros(3, 4, 5))


def test_equal_data_give_zero(case):
    assert torch.equal(case.map(case.tsmi), torch.zeros(SHAPE))


def test_a_difference_without_any_noise_is_finite_and_large(case):
    other = case.tsmi.clone()
    other[:, 9:15, 9:15, 5:11] *= torch.linspace(0.5, 2, 5)[:, None, None, None]
    found = case.map(other)
    assert bool(found.isfinite().all())
    assert float(found[12, 12, 8]) > 100
    assert float(found[18, 18, 18]) == 0


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 5), (3, 1, 4)])
def test_small_objects_are_finite(dictionary, shape):
    tsmi = torch.zeros(5, *shape, dtype=torch.complex64)
    tsmi[:, 0, 0, 0] = dictionary.mrf_atoms[nearest(dictionary.lut, 1.0, 0.08)]
    for change in (0.0, 1e-3, 10.0, 1e30):
        initial = tsmi + change * torch.linspace(1, -1, 5)[:, None, None, None]
        found = prior_consistency(initial, tsmi, match(tsmi, dictionary), dictionary)
        assert bool(found.isfinite().all())
        assert bool((found >= 0).all())


def test_everywhere_in_the_table_it_is_finite(dictionary):
    index = torch.arange(len(dictionary.lut))[:, None, None]
    tsmi = dictionary.mrf_atoms.T[:, index]
    tsmi = (tsmi / tsmi.norm(dim=0)).to(torch.complex64)
    initial = tsmi + 0.1 * complex_noise(0, tsmi.shape)
    found = prior_consistency(initial, tsmi, match(tsmi, dictionary), dictionary)
    assert bool(found.isfinite().all())
    assert float(found.median()) == pytest.approx(MEDIAN, rel=0.1)


def test_wrong_arguments_are_refused(case):
    initial = case.initial()
    with pytest.raises(ValueError, match="do not belong together"):
        prior_consistency(initial[:, 1:], case.tsmi, case.matched, case.dictionary)
    with pytest.raises(ValueError, match="do not belong together"):
        prior_consistency(initial[:, 1:], case.tsmi[:, 1:], case.matched, case.dictionary)
    two = build_dictionary(SEQUENCE, dataclasses.replace(SETTINGS, coefficients=2))
    with pytest.raises(ValueError, match="use 3 or more"):
        prior_consistency(initial[:2], case.tsmi[:2], case.matched, two)

import pytest
import torch

from mri2qmap.mrsignal import matching
from mri2qmap.mrsignal.dictionary import DictionarySettings, build_dictionary
from mri2qmap.mrsignal.matching import at_table_end, match
from mri2qmap.mrsignal.sequence import default_sequence

SHAPE = (3, 4, 5)


@pytest.fixture(scope="module")
def dictionary():
    return build_dictionary(default_sequence(60), DictionarySettings(step=0.25))


@pytest.fixture
def truth(dictionary):
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(len(dictionary.lut), SHAPE, generator=generator)
    density = torch.randn(SHAPE, dtype=torch.complex64, generator=generator)
    tsmi = density * dictionary.mrf_atoms.T[:, index]
    images = density.abs() * dictionary.mri_atoms.T[:, index]
    return index, density, tsmi, images


def brute_force(tsmi, images, weights, dictionary):
    """Minimise ||x - PD d||^2 + sum w (v - |PD| b)^2 directly over all atoms."""
    best = torch.full(tsmi.shape[1:], torch.inf, dtype=torch.float64)
    index = torch.zeros(tsmi.shape[1:], dtype=torch.int64)
    x, v = tsmi.to(torch.complex128), images.double()
    w = torch.tensor(weights, dtype=torch.float64)[:, None, None, None]
    for j, (d, b) in enumerate(zip(dictionary.mrf_atoms, dictionary.mri_atoms, strict=True)):
        d, b = d.double()[:, None, None, None], b.double()[:, None, None, None]
        inner = (d * x).sum(0)
        score = inner.abs() + (w * b * v).sum(0)
        size = score.clamp_min(0) / (d.square().sum() + (w * b.square()).sum())
        density = torch.polar(size, inner.angle())
        cost = (x - density * d).abs().square().sum(0) + (w * (v - size * b) ** 2).sum(0)
        index = torch.where(cost < best - 1e-12, j, index)
        best = torch.minimum(cost, best)
    return index, best


@pytest.mark.parametrize("weights", [(0.0, 0.0, 0.0), (0.5, 2.0, 0.1), (0.0, 3.0, 0.0)])
def test_finds_the_atoms_of_noiseless_signals(dictionary, truth, weights):
    index, density, tsmi, images = truth
    found = match(tsmi, dictionary, images, weights)
    assert torch.equal(found.index, index)
    assert float(found.offset.abs().max()) < 0.01
    torch.testing.assert_close(found.t1, dictionary.lut.t1[index], rtol=2e-3, atol=0)
    torch.testing.assert_close(found.t2, dictionary.lut.t2[index], rtol=2e-3, atol=0)
    torch.testing.assert_close(found.proton_density, density, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.quality, torch.ones(SHAPE), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.tsmi(dictionary), tsmi, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.weighted_images(dictionary), images, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("weights", [(0.0, 0.0, 0.0), (0.5, 2.0, 0.1)])
def test_minimises_the_objective_on_noisy_signals(dictionary, truth, weights):
    _, _, tsmi, images = truth
    generator = torch.Generator().manual_seed(1)
    tsmi = tsmi + 0.3 * torch.randn(tsmi.shape, dtype=torch.complex64, generator=generator)
    images = images + 0.2 * torch.randn(images.shape, generator=generator)
    found = match(tsmi, dictionary, images, weights, between_atoms=False)
    assert float(found.offset.abs().max()) == 0
    expected, _ = brute_force(tsmi, images, weights, dictionary)
    assert float((found.index == expected).float().mean()) > 0.98  # ties at single precision


def test_negative_images_do_not_give_negative_density(dictionary, truth):
    _, _, tsmi, images = truth
    found = match(0.01 * tsmi, dictionary, -images, (1.0, 1.0, 1.0))
    nothing = found.proton_density == 0
    assert bool(nothing.any())
    assert bool((found.t1[nothing] == 0).all())
    assert bool((found.quality >= 0).all())


def test_no_signal_gives_zero(dictionary):
    found = match(torch.zeros(5, *SHAPE, dtype=torch.complex64), dictionary)
    for field in (found.t1, found.t2, found.proton_density.abs(), found.quality):
        assert float(field.abs().max()) == 0


def test_gpu_path_agrees_with_the_compiled_one(dictionary, truth, monkeypatch):
    _, _, tsmi, images = truth
    tsmi = tsmi + 0.3 * torch.randn(tsmi.shape, dtype=torch.complex64)
    compiled = match(tsmi, dictionary, images, (0.5, 0.2, 0.1))
    monkeypatch.setattr(matching, "SCORES_AT_ONCE", 1000)
    monkeypatch.setattr(matching, "on_cpu", lambda _: False)
    blocked = match(tsmi, dictionary, images, (0.5, 0.2, 0.1))
    assert float((compiled.index == blocked.index).float().mean()) > 0.98
    torch.testing.assert_close(compiled.quality, blocked.quality, atol=1e-5, rtol=1e-5)


def test_voxels_at_an_end_of_the_table_are_marked(dictionary):
    lut = dictionary.lut
    inner = (lut.t1 > lut.t1.min()) & (lut.t1 < lut.t1.max())
    inner &= (lut.t2 > lut.t2.min()) & (lut.t2 < lut.t2.max())
    assert torch.equal(at_table_end(lut.t1, lut.t2, lut), ~inner)
    assert 0 < int(inner.sum()) < len(lut)


def test_an_incomplete_block_of_voxels(dictionary, truth):
    index, _, tsmi, _ = truth
    found = match(tsmi[:, :1, :1, :1], dictionary)
    assert int(found.index) == int(index[0, 0, 0])


@pytest.mark.parametrize(
    ("coefficients", "images", "weights", "message"),
    [
        (4, (3, *SHAPE), (1, 1, 1), "4 coefficients"),
        (5, (2, *SHAPE), (1, 1, 1), "do not match"),
        (5, (3, 1, 1, 1), (1, 1, 1), "do not match"),
        (5, (3, *SHAPE), (1, 1, -1), "weight >= 0"),
        (5, (3, *SHAPE), (1, 1), "one weight"),
    ],
)
def test_inconsistent_arguments_are_refused(dictionary, coefficients, images, weights, message):
    with pytest.raises(ValueError, match=message):
        match(
            torch.zeros(coefficients, *SHAPE, dtype=torch.complex64),
            dictionary,
            torch.zeros(images),
            weights,
        )

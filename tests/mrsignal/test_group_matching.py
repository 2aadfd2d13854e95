import itertools

import pytest
import torch

from mri2qmap.errors import Mri2QmapError
from mri2qmap.mrsignal import group_matching, matching
from mri2qmap.mrsignal.dictionary import DictionarySettings, build_dictionary
from mri2qmap.mrsignal.group_matching import GroupSearch, group_atoms
from mri2qmap.mrsignal.matching import exact_search, match
from mri2qmap.mrsignal.matching_settings import MatchingSettings
from mri2qmap.mrsignal.sequence import default_sequence
from mri2qmap.pipeline.settings import parse_settings

SHAPE = (7, 9, 11)
WEIGHTS = [(0.0, 0.0, 0.0), (0.5, 2.0, 0.1)]


@pytest.fixture(scope="module")
def dictionary():
    return build_dictionary(default_sequence(80), DictionarySettings(step=0.1))


@pytest.fixture(scope="module")
def signals(dictionary):
    return signals_of(dictionary, SHAPE)


def signals_of(dictionary, shape):
    """A noisy TSMI and weighted images of random tissues, with some voxels of noise only."""
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(len(dictionary.lut), shape, generator=generator)
    density = torch.randn(shape, dtype=torch.complex64, generator=generator)
    density[0] = 0
    tsmi = density * dictionary.mrf_atoms.T[:, index]
    images = density.abs() * dictionary.mri_atoms.T[:, index]
    level = 0.1 * tsmi.abs().mean()
    tsmi = tsmi + level * torch.randn(tsmi.shape, dtype=torch.complex64, generator=generator)
    return tsmi, images + 0.05 * images.mean() * torch.randn(images.shape, generator=generator)


def atoms_of(dictionary):
    atoms = torch.cat([dictionary.mrf_atoms, dictionary.mri_atoms], 1)
    return torch.nn.functional.normalize(atoms, dim=1)


@pytest.mark.parametrize("groups", [1, 7, 100])
def test_every_atom_is_in_a_group_of_similar_ones(dictionary, groups):
    atoms = atoms_of(dictionary)
    grouped = group_atoms(atoms, groups)
    starts = grouped.starts.tolist()
    assert len(starts) == len(grouped.means) + 1 <= groups + 1
    assert set(grouped.index.tolist()) == set(range(len(atoms)))
    assert torch.equal(grouped.atoms, atoms[grouped.index])
    assert all((stop - first) % 2 == 0 for first, stop in itertools.pairwise(starts))
    assert len(grouped.index) <= len(atoms) + len(grouped.means)
    members = [grouped.atoms[a:b] for a, b in itertools.pairwise(starts)]
    if groups > 1:
        own = [float((m @ mean).mean()) for m, mean in zip(members, grouped.means, strict=True)]
        assert sum(own) / len(own) > float((atoms @ grouped.means.T).mean()) + 0.05
    torch.testing.assert_close(grouped.means.norm(dim=1), torch.ones(len(grouped.means)))


@pytest.mark.parametrize("weights", WEIGHTS)
def test_with_all_groups_it_is_the_exact_search(dictionary, signals, weights):
    tsmi, images = signals
    exact = match(tsmi, dictionary, images, weights)
    found = match(tsmi, dictionary, images, weights, GroupSearch(30, threshold=0.0))
    torch.testing.assert_close(found.quality, exact.quality, atol=1e-6, rtol=0)
    assert float((found.index == exact.index).float().mean()) > 0.99  # ties by rounding


@pytest.mark.parametrize("weights", WEIGHTS)
def test_few_groups_almost_always_find_the_same_atom(dictionary, signals, weights):
    tsmi, images = signals
    exact = match(tsmi, dictionary, images, weights)
    found = match(tsmi, dictionary, images, weights, GroupSearch(60, 0.99))
    assert float((found.index == exact.index).float().mean()) > 0.97
    assert float((exact.quality - found.quality).max()) < 0.01
    assert (
        float((found.quality - exact.quality).max()) < 1e-6
    )  # no match is better than the exact one


def test_few_groups_are_searched(dictionary, monkeypatch):
    """Count the scores that are computed, in many blocks: each needs the groups of its voxels."""
    tsmi, _ = signals_of(dictionary, (180, 9, 11))
    monkeypatch.setattr(group_matching, "on_cpu", lambda _: False)
    computed = []
    scores_of = group_matching.scores_of

    def counted(atoms, part, n_coefficients):
        scores = scores_of(atoms, part, n_coefficients)
        computed.append(scores.numel())
        return scores

    monkeypatch.setattr(group_matching, "scores_of", counted)
    match(tsmi[:, 1:], dictionary, search=GroupSearch(60, 0.99))
    assert sum(computed) < 0.25 * len(dictionary.lut) * tsmi[0, 1:].numel()


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("threshold", [0.0, 0.97])
@pytest.mark.parametrize("at_once", [500, 40 * 128 * 2, 2**26])
def test_gpu_path_finds_the_same_atoms(
    dictionary, signals, weights, threshold, at_once, monkeypatch
):
    tsmi, images = signals
    search = GroupSearch(40, threshold)
    compiled = match(tsmi, dictionary, images, weights, search, between_atoms=False)
    for module in (group_matching, matching):
        monkeypatch.setattr(module, "on_cpu", lambda _: False)
        monkeypatch.setattr(module, "SCORES_AT_ONCE", at_once)
    by_group = match(tsmi, dictionary, images, weights, search, between_atoms=False)
    torch.testing.assert_close(by_group.quality, compiled.quality, atol=1e-5, rtol=0)
    # Rounding decides between atoms of equal scores.
    assert float((by_group.index == compiled.index).float().mean()) > 0.997


@pytest.mark.parametrize("count", [1, 127, 128, 129])
def test_an_incomplete_block_of_voxels(dictionary, signals, count):
    flat = signals[0].reshape(5, -1)[:, -count:].reshape(5, 1, 1, count)
    exact = match(flat, dictionary)
    found = match(flat, dictionary, search=GroupSearch(30, 0.0))
    torch.testing.assert_close(found.quality, exact.quality, atol=1e-6, rtol=0)


def test_no_signal_gives_zero(dictionary):
    found = match(torch.zeros(5, *SHAPE, dtype=torch.complex64), dictionary, search=GroupSearch())
    for field in (found.t1, found.t2, found.proton_density.abs(), found.quality):
        assert float(field.abs().max()) == 0


def test_groups_are_computed_once_for_each_set_of_weights(dictionary, signals, monkeypatch):
    tsmi, images = signals
    made = []
    original = group_matching.group_atoms
    monkeypatch.setattr(
        group_matching, "group_atoms", lambda *args: made.append(args) or original(*args)
    )
    search = GroupSearch(30, cache_size=4)
    for weights in (*WEIGHTS, *WEIGHTS):
        match(tsmi, dictionary, images, weights, search)
    assert len(made) == len(WEIGHTS)
    for number in range(10):  # the size of the cache is limited
        match(tsmi, dictionary, images, (1.0, 1.0, 2.0 + number), search)
    assert len(search._known) <= 4


def test_more_groups_than_atoms(dictionary, signals):
    few = build_dictionary(default_sequence(20), DictionarySettings(step=1.0))
    found = match(signals[0], few, search=GroupSearch(10_000, 0.0))
    exact = match(signals[0], few)
    torch.testing.assert_close(found.quality, exact.quality, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("groups", "threshold"), [(0, 0.5), (10, -0.1), (10, 1.1)])
def test_values_out_of_range_are_refused(groups, threshold):
    with pytest.raises(ValueError, match=r"groups|threshold"):
        GroupSearch(groups, threshold)


@pytest.mark.parametrize(
    "properties",
    [{"search": "fast"}, {"groups": "0"}, {"group_threshold": "2"}, {"atom_step": "0"}],
)
def test_wrong_settings_are_refused(properties):
    with pytest.raises(Mri2QmapError, match=next(iter(properties)).removeprefix("atom_")):
        parse_settings(MatchingSettings, properties, "combined_matching")


def test_settings_choose_the_search():
    assert MatchingSettings().searcher() is exact_search
    assert isinstance(MatchingSettings(search="groups").searcher(), GroupSearch)


def test_compiled_searches_are_kept_on_disk(dictionary, signals):
    """Compilation takes seconds, which every new process would need."""
    tsmi, _ = signals
    for module, search in ((matching, exact_search), (group_matching, GroupSearch(30))):
        for _ in range(2):
            matching.compiled_scan.cache_clear()
            module._compiled_search.cache_clear()
            match(tsmi, dictionary, search=search)
        compiled = module._compiled_search(5, 3)
        assert sum(compiled.stats.cache_hits.values()) == 1
        assert not compiled.stats.cache_misses

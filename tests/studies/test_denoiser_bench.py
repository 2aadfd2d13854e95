import csv
import math

import pytest
import torch

from mri2qmap.denoiser.checkpoint import load_denoiser, save_denoiser
from mri2qmap.denoiser.network import ConditionalResidualUNet, DenoiserConfig
from mri2qmap.denoiser.volume import denoise_volumes
from mri2qmap.errors import Mri2QmapError
from mri2qmap.mrsignal.synthesis import Contrast
from mri2qmap.studies import denoiser_bench as bench
from mri2qmap.studies.bench_volumes import BenchVolume
from mri2qmap.studies.candidates import Candidate, load_networks
from mri2qmap.studies.denoiser_bench import Score
from mri2qmap.studies.result_table import ResultTable

CONTRASTS = tuple(Contrast)
T1W, T2W, PDW = CONTRASTS


@pytest.fixture
def table(tmp_path):
    return ResultTable(tmp_path / "psnr.csv", bench.PSNR_KEY, bench.PSNR_VALUES)


def volume(group="heads", index=0, level=0.5, contrasts=CONTRASTS):
    images = torch.full((len(contrasts), 16, 16, 16), level)
    images[:, :4] = 0
    return BenchVolume(group, index, images, contrasts)


def of_all(*values):
    """Values of T1w, T2w and PDw."""
    return dict(zip(CONTRASTS, values, strict=True))


class Double:
    """Multiplies noise by |setting - i| + 0.1: setting i is the best one for the i-th contrast."""

    def __init__(self, truth):
        self.truth, self.calls = truth, 0

    def restore(self, images, contrasts, sigma, setting):
        self.calls += 1
        errors = images - self.truth
        shares = [abs(setting - CONTRASTS.index(contrast)) + 0.1 for contrast in contrasts]
        return self.truth + torch.stack([s * e for s, e in zip(shares, errors, strict=True)])

    def candidate(self, version="1"):
        return Candidate(
            "double", version, "here", self.restore, lambda _: None, (0.0, 1.0, 2.0), "share"
        )


def test_psnr_and_choice_of_settings(table):
    double = Double(volume().images)
    candidates = [bench.noisy_images(), double.candidate()]
    noisy, denoised = bench.measure_psnr([volume()], candidates, [0.1], 3, table)
    assert noisy.psnr == pytest.approx(of_all(20, 20, 20), abs=0.2)
    assert denoised.settings == of_all(0, 1, 2)
    assert denoised.psnr == pytest.approx({c: v + 20 for c, v in noisy.psnr.items()}, abs=1e-3)


@pytest.mark.parametrize("contrasts", [(T2W, PDW), (PDW,), (T1W, PDW)])
def test_contrasts_without_images_are_left_out(table, contrasts):
    there = volume(contrasts=contrasts)
    candidates = [bench.noisy_images(), Double(there.images).candidate()]
    for used in (table, ResultTable(table.path, bench.PSNR_KEY, bench.PSNR_VALUES)):
        noisy, denoised = bench.measure_psnr([there], candidates, [0.1], 3, used)
        assert list(noisy.psnr) == list(denoised.settings) == list(contrasts)
        assert denoised.settings == {c: CONTRASTS.index(c) for c in contrasts}
        assert denoised.psnr == pytest.approx({c: v + 20 for c, v in noisy.psnr.items()}, abs=1e-3)
    with table.path.open() as file:
        for row in csv.DictReader(file):
            filled = {c for c in CONTRASTS if row[f"psnr_{c.lower()}"]}
            assert filled == set(contrasts)
    text = bench.in_columns(denoised.psnr, "{:.0f}")
    assert text == " / ".join("40" if c in contrasts else "-" for c in CONTRASTS)


def test_images_of_another_contrast_are_another_content():
    assert volume(contrasts=(T1W, T2W)).content != volume(contrasts=(T1W, PDW)).content


def test_mean_over_the_volumes_of_a_group(table):
    truths = [volume(level=0.5), volume(index=1, level=0.8), volume("brain", level=0.8)]

    def guess(images, contrasts, sigma, setting):
        dark = images.mean() < 0.5
        return truths[0].images + 0.1 if dark else truths[1].images + 0.01

    candidate = Candidate("guess", "", "", guess, lambda _: None)
    heads, brain = bench.measure_psnr(truths, [candidate], [0.02], 0, table)
    assert (heads.group, brain.group) == ("heads", "brain")
    assert heads.psnr == pytest.approx(of_all(30, 30, 30), abs=1e-3)
    assert brain.psnr == pytest.approx(of_all(40, 40, 40), abs=1e-3)


def test_nothing_is_measured_twice(table):
    double = Double(volume().images)
    arguments = ([volume()], [double.candidate()], [0.1, 0.2], 3)
    first = bench.measure_psnr(*arguments, table)
    assert double.calls == 6
    again = ResultTable(table.path, bench.PSNR_KEY, bench.PSNR_VALUES)
    second = bench.measure_psnr(*arguments, again)
    assert double.calls == 6
    for a, b in zip(first, second, strict=True):
        assert a == b


@pytest.mark.parametrize("changed", ["volume", "version", "sigma", "seed", "code"])
def test_a_change_of_anything_that_a_result_depends_on_measures_it_again(table, changed, new_code):
    double = Double(volume().images)
    bench.measure_psnr([volume()], [double.candidate()], [0.1], 3, table)
    before = double.calls
    if changed == "code":
        new_code("changed")
        table = ResultTable(table.path, bench.PSNR_KEY, bench.PSNR_VALUES)
    bench.measure_psnr(
        [volume(level=0.5 + 0.001 * (changed == "volume"))],
        [double.candidate("2" if changed == "version" else "1")],
        [0.2 if changed == "sigma" else 0.1],
        4 if changed == "seed" else 3,
        table,
    )
    assert double.calls == 2 * before


def score(denoiser, psnr, sigma=0.1, settings=(0.0, 0.0, 0.0), group="heads"):
    return Score(group, sigma, denoiser, of_all(*psnr), of_all(*settings))


def test_margin_over_the_best_classical_denoiser_of_each_contrast():
    scores = [
        score("noisy", (50, 50, 50)),
        score("gaussian", (20, 21, 22)),
        score("nlm", (19, 23, 22)),
        score("gaussian", (40, 40, 40), sigma=0.02),
        score("small", (22, 22, 25)),
    ]
    ((found, gain, rivals),) = bench.margins(scores, ["gaussian", "nlm"])
    assert found.denoiser == "small"
    assert gain == of_all(2, -1, 3)
    assert rivals == of_all("gaussian", "nlm", "gaussian")
    assert bench.margins(scores, []) == []


def test_margin_where_a_contrast_has_no_images():
    psnrs = {"gaussian": {T2W: 20, PDW: 21}, "nlm": {T2W: 22, PDW: 20}, "small": {T2W: 25, PDW: 25}}
    scores = [Score("a", 0.1, name, psnr, psnr) for name, psnr in psnrs.items()]
    ((_, gain, rivals),) = bench.margins(scores, ["gaussian", "nlm"])
    assert gain == {T2W: 3, PDW: 4}
    assert rivals == {T2W: "nlm", PDW: "gaussian"}


def test_settings_between_noise_levels():
    scores = [
        score("gaussian", (0, 0, 0), 0.2, (1.0, 2.0, 4.0)),
        score("gaussian", (0, 0, 0), 0.05, (0.5, 1.0, 2.0)),
        score("gaussian", (0, 0, 0), 0.1, (9.0, 9.0, 9.0), group="brain"),
    ]
    curve = bench.setting_curve(scores, "heads", "gaussian")
    assert curve(T1W, 0.1) == pytest.approx(0.75)
    assert curve(PDW, 0.05) == pytest.approx(2)
    assert curve(T2W, 0.5) == pytest.approx(2)
    assert curve(T2W, 0.01) == pytest.approx(1)
    with pytest.raises(ValueError, match="nlm on heads"):
        bench.setting_curve(scores, "heads", "nlm")


@pytest.mark.parametrize(("slow", "runs", "expected"), [(False, 4, 0.5), (True, 1, 5.0)])
def test_times_are_the_fastest_run(tmp_path, slow, runs, expected):
    now, sizes = [0.0], []
    durations = [5.0] * 8 if slow else [1.5, 0.7, 0.5, 0.6] * 2

    def restore(images, contrasts, sigma, setting):
        assert contrasts == list(CONTRASTS)[: len(images)]
        now[0] += durations[len(sizes)]
        sizes.append(tuple(images.shape))
        return images

    candidate = Candidate("timed", "1", "here", restore, lambda _: None)
    table = ResultTable(tmp_path / "t.csv", bench.TIME_KEY, bench.TIME_VALUES)
    for _ in range(2):
        times = bench.measure_times([candidate], 8, table, clock=lambda: (now[0], now[0] / 2))
        timing = bench.Timing(pytest.approx(expected), pytest.approx(expected / 2))
        assert times == {"timed": (timing, timing)}
    assert sizes == [(1, 8, 8, 8)] * runs + [(3, 8, 8, 8)] * runs


def save_network(path, seed, joint=False):
    torch.manual_seed(seed)
    network = ConditionalResidualUNet(
        DenoiserConfig(channels=(4, 8), blocks=(1, 1), embedding=8, joint=joint)
    )
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    path.parent.mkdir(exist_ok=True)
    save_denoiser(path, network, {})
    return str(path)


@pytest.mark.parametrize("joint", [False, True])
def test_networks_are_used_as_in_a_reconstruction(tmp_path, joint):
    path = save_network(tmp_path / "net.safetensors", 0, joint)
    (candidate,) = load_networks([path], torch.device("cpu"), seed=5)
    assert candidate.sigmas == pytest.approx((0.005, 0.5))
    assert candidate.trained
    images = 7 * torch.rand(3, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    network, generator = load_denoiser(path).network, torch.Generator().manual_seed(5)
    options = {"synthesised": True, "generator": generator}
    expected = denoise_volumes(network, images, 0.1, CONTRASTS, **options)
    second = denoise_volumes(network, images, 0.1, CONTRASTS, **options)
    prior = candidate.prior(lambda contrast, sigma: math.nan)
    found = prior(images, 0.1)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(prior(images, 0.1), second)
    assert not found.is_inference()
    unscaled = candidate.restore(images, CONTRASTS, 0.1, 0.0)
    assert not torch.allclose(unscaled, found, rtol=1e-3)
    torch.testing.assert_close(unscaled, candidate.restore(images, CONTRASTS, 0.1, 0.0))


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("contrasts", [(T2W, PDW), (PDW,)])
def test_a_network_is_told_which_contrasts_there_are(tmp_path, joint, contrasts):
    path = save_network(tmp_path / "net.safetensors", 0, joint)
    (candidate,) = load_networks([path], torch.device("cpu"), seed=5)
    images = torch.rand(len(contrasts), 16, 16, 16, generator=torch.Generator().manual_seed(1))
    expected = denoise_volumes(
        load_denoiser(path).network,
        images,
        0.1,
        contrasts,
        scale=torch.ones(len(contrasts)),
        generator=torch.Generator().manual_seed(5),
    )
    found = candidate.restore(images, contrasts, 0.1, 0.0)
    torch.testing.assert_close(found, expected)
    as_first = candidate.restore(images, CONTRASTS[: len(contrasts)], 0.1, 0.0)
    assert not torch.allclose(found, as_first, rtol=1e-3)


def test_names_and_versions_distinguish_networks(tmp_path):
    paths = [
        save_network(tmp_path / "a" / "weights.safetensors", 0),
        save_network(tmp_path / "b" / "weights.safetensors", 1),
        save_network(tmp_path / "gaussian.safetensors", 0),
    ]
    found = load_networks([*paths, paths[0]], torch.device("cpu"), 0, taken=["gaussian"])
    names = [candidate.name for candidate in found]
    assert names == ["weights", "b/weights", f"{tmp_path.name}/gaussian"]
    assert found[0].version == found[2].version != found[1].version
    with pytest.raises(Mri2QmapError, match="'unheard-of'"):
        load_networks(["unheard-of"], torch.device("cpu"), 0)

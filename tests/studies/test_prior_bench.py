import dataclasses
import math

import numpy as np
import pytest
from helpers.heads import write_heads

from mri2qmap.errors import Mri2QmapError
from mri2qmap.mrsignal.dictionary import DictionarySettings, build_dictionary
from mri2qmap.mrsignal.sequence import default_sequence
from mri2qmap.mrsignal.synthesis import Contrast
from mri2qmap.recon.plug_and_play_parameters import PlugAndPlayParameters, noise_schedule
from mri2qmap.studies import prior_bench
from mri2qmap.studies.candidates import Candidate
from mri2qmap.studies.prior_bench import (
    LOWER_BOUNDS,
    LRTV,
    NO_PRIOR,
    ORACLE,
    RECONSTRUCTION_KEY,
    RECONSTRUCTION_VALUES,
    START,
    VARIATION_ONLY,
    PriorBench,
    PriorBenchSettings,
)
from mri2qmap.studies.result_table import ResultTable

SEQUENCE = default_sequence(80)
SETTINGS = PriorBenchSettings(
    matrix=16,
    field_of_view=0.032,
    acceleration=1.0,
    parameters=PlugAndPlayParameters(
        nonlocal_iterations=0,
        iterations=5,
        cg_iterations=6,
        cg_reduction=0.0,
        coupling=40.0,
        sigma_start=0.2,
        sigma_end=0.02,
        total_variation=0.0,
    ),
)

QUICK = dataclasses.replace(
    SETTINGS,
    matrix=12,
    parameters=PlugAndPlayParameters(
        iterations=1, cg_iterations=1, cg_reduction=0.0, nonlocal_iterations=0
    ),
)


@pytest.fixture(scope="module")
def dictionary():
    return build_dictionary(SEQUENCE, DictionarySettings(step=0.08))


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    folder = write_heads(tmp_path_factory.mktemp("labels"), "head_a", "head_b")
    return [folder / "head_a.nii.gz", folder / "head_b.nii.gz"]


class Watcher:
    """A prior that returns its input and records its calls."""

    def __init__(self):
        self.sigmas, self.settings, self.shapes = [], set(), set()

    def candidate(self, version="1", parameter="width"):
        return Candidate("watcher", version, "here", lambda *_: None, self.prior, (0.0,), parameter)

    def prior(self, setting_at):
        def denoise(images, sigma):
            self.sigmas.append(sigma)
            self.settings.add(setting_at(Contrast.T2W, sigma))
            self.shapes.add(tuple(images.shape))
            return images

        return denoise


def one(contrast, sigma):
    return 1.0


@pytest.fixture
def bench(tmp_path, dictionary):
    def make(settings=SETTINGS):
        table = ResultTable(tmp_path / "r.csv", RECONSTRUCTION_KEY, RECONSTRUCTION_VALUES)
        return PriorBench(settings, SEQUENCE, dictionary, table)

    return make


def test_order_of_the_methods(bench, heads):
    watcher = Watcher()
    found = bench().run(heads[:1], [(watcher.candidate(), one)])
    errors = {e.method: e for e in found}
    assert list(errors) == [
        START,
        NO_PRIOR,
        LRTV,
        "watcher",
        ORACLE,
        LOWER_BOUNDS[1],
        LOWER_BOUNDS[0],
    ]
    assert {e.subject for e in found} == {"head_a"}
    assert errors[LOWER_BOUNDS[0]].both <= errors[ORACLE].both
    assert errors[LOWER_BOUNDS[0]].both < errors[LOWER_BOUNDS[1]].both
    assert errors[ORACLE].both < 0.4 * min(errors[NO_PRIOR].both, errors[START].both)
    assert errors[ORACLE].both < errors[LRTV].both < errors[START].both
    levels = noise_schedule(SETTINGS.parameters)
    assert watcher.sigmas[:-1] == levels
    assert 0 < watcher.sigmas[-1] < 1
    assert watcher.settings == {1.0}
    assert watcher.shapes == {(3, 16, 16, 16)}


def test_the_final_images_have_their_own_denoiser(bench, heads, monkeypatch):
    monkeypatch.setattr("mri2qmap.recon.plug_and_play.relative_noise", lambda tsmi: 0.02)
    loop, final = Watcher(), Watcher()
    candidate = dataclasses.replace(loop.candidate(), final_denoiser=final.prior)
    bench(QUICK).run(heads[:1], [(candidate, one)])
    assert loop.sigmas == noise_schedule(QUICK.parameters)
    assert final.sigmas == [0.02 * QUICK.parameters.final_sigma]


def test_nothing_is_reconstructed_twice(bench, heads, monkeypatch):
    watcher = Watcher()
    first = bench(QUICK).run(heads, [(watcher.candidate(), one)])
    calls = len(watcher.sigmas)
    assert calls == 2 * (QUICK.parameters.iterations + 1)
    monkeypatch.setattr(prior_bench, "simulate", None)
    second = bench(QUICK).run(heads, [(watcher.candidate(), one)])
    assert [(e.subject, e.method) for e in second] == [(e.subject, e.method) for e in first]
    for a, b in zip(first, second, strict=True):
        assert (a.t1, a.t2) == pytest.approx((b.t1, b.t2), rel=1e-5)
    assert len(watcher.sigmas) == calls


@pytest.mark.parametrize("changed", ["version", "setting", "scan", "parameters", "subject", "code"])
def test_a_change_of_anything_that_a_result_depends_on_recomputes_it(
    bench, heads, tmp_path, changed, new_code
):
    watcher = Watcher()
    bench(QUICK).run(heads[:1], [(watcher.candidate(), one)])
    before = len(watcher.sigmas)
    settings = QUICK
    if changed == "code":
        new_code("changed")
    if changed == "scan":
        settings = dataclasses.replace(QUICK, noise=0.3)
    if changed == "parameters":
        parameters = dataclasses.replace(QUICK.parameters, coupling=20.0)
        settings = dataclasses.replace(QUICK, parameters=parameters)
    path = heads[0]
    if changed == "subject":
        path = tmp_path / path.name
        path.write_bytes(heads[1].read_bytes())
    candidate = watcher.candidate("2" if changed == "version" else "1")
    setting_at = (lambda contrast, sigma: 2.0) if changed == "setting" else one
    bench(settings).run([path], [(candidate, setting_at)])
    assert len(watcher.sigmas) == 2 * before


def test_diverging_iterations_make_a_row(bench, heads, monkeypatch):
    def diverge(*arguments, **options):
        raise FloatingPointError("the residual is not finite")

    monkeypatch.setattr(prior_bench, "plug_and_play", diverge)
    errors = {e.method: e for e in bench(QUICK).run(heads[:1], [])}
    assert math.isnan(errors[NO_PRIOR].both)
    assert np.isfinite(errors[START].both)


def test_a_subject_without_white_and_grey_matter_is_refused(bench, heads):
    coarse = dataclasses.replace(SETTINGS, matrix=8, field_of_view=0.12)
    with pytest.raises(Mri2QmapError, match=r"head_a.*smaller voxels"):
        bench(coarse).run(heads[:1], [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"matrix": 6}, "matrix 6: an even number of 8 or more"),
        ({"matrix": 17}, "matrix 17: an even number"),
        ({"field_of_view": 110.0}, "metres"),
        ({"noise": -1.0}, "noise is -1"),
        ({"acceleration": 0.0}, "acceleration is 0"),
    ],
)
def test_wrong_settings_are_refused(change, message):
    with pytest.raises(Mri2QmapError, match=message):
        PriorBenchSettings(**change)


def test_total_variation_has_its_own_row_and_the_baseline_is_without_it(bench, heads):
    parameters = dataclasses.replace(SETTINGS.parameters, total_variation=4.0)
    with_it = dataclasses.replace(SETTINGS, parameters=parameters)
    plain = {e.method: e.both for e in bench(SETTINGS).run(heads[:1], [])}
    found = {e.method: e.both for e in bench(with_it).run(heads[:1], [])}
    assert VARIATION_ONLY not in plain
    assert found[NO_PRIOR] == plain[NO_PRIOR]
    assert found[VARIATION_ONLY] < found[NO_PRIOR]

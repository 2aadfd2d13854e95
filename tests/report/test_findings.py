"""The traffic light, by table."""

import dataclasses
import math

import pytest

from mri2qmap.report.findings import (
    RULES,
    Facts,
    Finding,
    Light,
    findings,
    overall,
    tissue_findings,
)
from mri2qmap.report.tissue_peaks import TissuePeak

FINE = Facts(
    incomplete="",
    voxels_not_finite=0,
    match_quality=0.999,
    at_table_limit=0.01,
    coils=8,
    noise_samples=1000,
    noise_correlation=0.3,
    noise_deviation_ratio=2.0,
    energy_kept=0.97,
    subspace_energy=0.999,
    relative_noise=0.05,
    cg_residual=1e-3,
    primal=(0.3, 0.2, 0.1),
    peak_bytes=9e8,
    grown_bytes=5e8,
    planned_bytes=1e9,
)


@pytest.mark.parametrize(
    ("changes", "light", "words"),
    [
        ({}, Light.GREEN, "The scan is complete"),
        ({"incomplete": "3 of 500 readouts are missing"}, Light.AMBER, "3 of 500 readouts"),
        ({"incomplete": None}, Light.GREEN, "prewhitened"),
        ({"voxels_not_finite": 12}, Light.AMBER, "12 voxels had a value that is not finite"),
        ({"match_quality": 0.9}, Light.AMBER, "0.9000"),
        ({"match_quality": 0.5}, Light.RED, "Check the sequence in the header"),
        ({"match_quality": math.nan}, Light.RED, "nan"),
        ({"at_table_limit": 0.2}, Light.AMBER, "20.0% of the voxels"),
        ({"at_table_limit": 0.5}, Light.RED, "50.0% of the voxels"),
        ({"noise_samples": 0}, Light.AMBER, "There is no noise scan"),
        ({"noise_samples": 0, "coils": 1}, Light.GREEN, "The scan is complete"),
        ({"noise_correlation": 0.7}, Light.AMBER, "correlated by up to 0.70"),
        ({"noise_correlation": 0.99}, Light.RED, "correlated by up to 0.99"),
        ({"noise_deviation_ratio": 8}, Light.AMBER, "8.0 times the noise"),
        ({"noise_deviation_ratio": 50}, Light.RED, "preamplifier"),
        ({"energy_kept": 0.85}, Light.AMBER, "keeps 85.0%"),
        ({"energy_kept": 0.5}, Light.RED, "keeps 50.0%"),
        ({"subspace_energy": 0.99}, Light.AMBER, "99.000%"),
        ({"subspace_energy": 0.9}, Light.RED, "90.000%"),
        ({"relative_noise": 0.7}, Light.AMBER, "70.0% of the signal"),
        ({"relative_noise": 2.0}, Light.RED, "200.0% of the signal"),
        ({"cg_residual": 0.1}, Light.AMBER, "1.0e-01"),
        ({"cg_residual": 0.9}, Light.RED, "9.0e-01"),
        ({"primal": (0.5, 0.4, 0.35)}, Light.AMBER, "data and prior do not agree"),
        ({"primal": (0.1, 0.05, 0.2)}, Light.AMBER, "it diverges"),
        ({"primal": (0.1, math.nan)}, Light.RED, "ADMM diverged"),
        ({"peak_bytes": 2e9, "grown_bytes": 1.5e9}, Light.AMBER, "200% of the plan"),
        ({"peak_bytes": 2e9}, Light.GREEN, "The scan is complete"),
        ({"incomplete_record": "the run could not be described"}, Light.AMBER, "not be described"),
    ],
)
def test_one_fact_decides(changes, light, words):
    found = findings(dataclasses.replace(FINE, **changes))
    assert overall(found) is light
    decisive = [finding.text for finding in found if finding.light is light]
    assert any(words in text for text in decisive)
    if light > Light.GREEN:
        assert len(decisive) == 1


def test_memory_of_the_process_before_the_run_is_not_judged():
    found = findings(dataclasses.replace(FINE, peak_bytes=2e9))
    (note,) = [finding for finding in found if finding.light is Light.NOTE]
    assert "had used memory before the run" in note.text


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.fact)
def test_a_threshold_itself_is_on_its_better_side(rule):
    assert rule.light(rule.amber) is Light.GREEN
    if not math.isnan(rule.red):
        assert rule.light(rule.red) is Light.AMBER
        assert (rule.red > rule.amber) == (rule.worse == "above")


def test_what_is_not_known_is_not_judged():
    assert findings(Facts()) == []
    assert overall([]) is Light.AMBER  # nothing was looked at
    assert overall([Finding(Light.NOTE, "a note")]) is Light.AMBER
    assert overall([Finding(Light.NOTE, "a note"), Finding(Light.GREEN, "good")]) is Light.GREEN


def peaks(white=(840.0, 70.0), grey=(1350.0, 90.0)):
    return [TissuePeak("white matter", *white, 999), TissuePeak("grey matter", *grey, 999)]


@pytest.mark.parametrize(
    ("found", "field", "light", "words"),
    [
        (peaks(), 3.0, Light.GREEN, "T1 of white matter is 840 ms, within"),
        (peaks(), 2.89, Light.GREEN, "at 3 T"),
        (peaks(white=(1100.0, 70.0)), 3.0, Light.AMBER, "T1 of white matter is 1100 ms, outside"),
        (peaks(white=(1900.0, 70.0)), 3.0, Light.RED, "T1 of white matter is 1900 ms, outside"),
        (peaks(white=(840.0, 20.0)), 3.0, Light.RED, "T2 of white matter is 20 ms, outside"),
        (peaks(grey=(1350.0, 140.0)), 3.0, Light.AMBER, "T2 of grey matter is 140 ms, outside"),
        (peaks(grey=(1350.0, 110.0)), 7.0, Light.RED, "T2 of grey matter is 110 ms, outside"),
        (peaks(grey=(1350.0, None)), 3.0, Light.NOTE, "T2 of grey matter has no peak"),
        (peaks(), 0.55, Light.NOTE, "is 0.55 T, so T1 and T2 are compared with nothing"),
        (peaks(), None, Light.NOTE, "is not in the header"),
        ([], 3.0, Light.NOTE, "were not told apart"),
    ],
)
def test_tissues_against_published_ranges(found, field, light, words):
    judged = tissue_findings(found, field)
    assert any(words in finding.text and finding.light is light for finding in judged)
    worst = max(finding.light for finding in judged)
    assert light is Light.NOTE or worst is light

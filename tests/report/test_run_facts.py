"""What a report takes from the record of a run, and what it does not."""

import math

import pytest
from helpers.report_samples import record

from mri2qmap.pipeline.pipeline_file import read_pipeline
from mri2qmap.pipeline.settings import settings_as_dict
from mri2qmap.report.run_facts import Busy, RunFacts


def with_settings(**settings):
    made = record()
    for gadget in made["gadgets"]:
        gadget["settings"] = settings.get(gadget["name"], {})
    return RunFacts(made)


def test_facts_of_a_run():
    run = RunFacts(record())
    facts = run.facts(match_quality=0.99)
    assert facts.match_quality == 0.99
    assert (facts.coils, facts.noise_samples, facts.noise_correlation) == (8, 8000, 0.4)
    assert (facts.energy_kept, facts.subspace_energy) == (0.97, 0.9986)
    assert (facts.relative_noise, facts.cg_residual) == (0.01, 2.5e-3)
    assert len(facts.primal) == 8
    assert (facts.peak_bytes, facts.grown_bytes, facts.planned_bytes) == (1e9, 6e8, 1.2e9)
    assert not run.at_server
    assert "cufinufft" not in run.versions


def test_memory_of_a_gpu_comes_first():
    made = record()
    made["gadgets"][3]["gpu_peak_bytes"] = 5e9
    assert (RunFacts(made).peak_bytes, RunFacts(made).grown_bytes) == (5e9, 5e9)


def test_a_residual_that_is_not_a_number_is_kept_as_one():
    made = record()
    made["gadgets"][3]["iterations"][-1]["primal"] = None
    assert math.isnan(RunFacts(made).facts(None).primal[-1])


def test_a_run_at_a_server_has_the_facts_of_the_server():
    run = RunFacts({"server": "host:1", "configuration": "x", "at_server": record()})
    assert run.at_server
    assert run.pipeline == "mri2qmap"
    assert run.measured("coils") == 8


def test_a_gadgetron_server_gives_times_only():
    nodes = [{"name": "pnp_admm", "busy_s": 3.0}, {"name": "toeplitz_cg", "busy_s": None}]
    record = {"server": "host:1", "configuration": "/srv/cfg.xml", "at_server": None}
    run = RunFacts({**record, "nodes": nodes})
    assert run.pipeline == "cfg.xml"
    assert run.busy == [Busy("pnp_admm", None, 3.0), Busy("toeplitz_cg", None, 0.0)]
    assert (run.gadgets, run.iterations, run.changed_settings, run.log) == ([], [], [], [])
    assert run.facts(None).coils is None


@pytest.mark.parametrize("made", [{}, {"incomplete_record": "no", "gadgets": None}])
def test_an_incomplete_record_is_no_error(made):
    run = RunFacts(made)
    assert run.pipeline == "unknown"
    assert run.peak_bytes is None
    assert run.facts(None).incomplete_record == made.get("incomplete_record", "")


def test_settings_are_compared_with_the_defaults():
    nodes = read_pipeline("mri2qmap", {"pnp_admm": {"iterations": "7"}}).nodes
    run = with_settings(**{node.name: settings_as_dict(node.settings) for node in nodes})
    changed = {(c.gadget, c.name): (c.value, c.default) for c in run.changed_settings}
    assert changed[("pnp_admm", "iterations")] == ("7", "16")
    assert ("pnp_admm", "coupling") not in changed


@pytest.mark.parametrize(
    ("gadget", "name", "value", "shown"),
    [
        ("pnp_admm", "b1_map", "/data/Lovelace^Ada/b1.nii.gz", "(a file)"),
        ("pnp_admm", "b1_map", "lovelace.nii", "(a file)"),
        ("pnp_admm", "denoiser", "C:\\lovelace", "(a file)"),
        ("pnp_admm", "denoiser", "none", "none"),
        ("pnp_admm", "consistency", True, "true"),
        ("coil_sensitivity", "merged_counters", ["set", "slice"], "set slice"),
    ],
)
def test_changed_settings_are_shown_without_names_of_files(gadget, name, value, shown):
    (changed,) = with_settings(**{gadget: {name: value}}).changed_settings
    assert (changed.gadget, changed.name, changed.value) == (gadget, name, shown)


@pytest.mark.parametrize("name", ["somebodys_gadget", "os"])
def test_settings_of_unknown_gadgets_are_left_out(name):
    made = record()
    made["gadgets"] = [{"name": name, "settings": {"a": 1}, "busy_s": 1}]
    assert RunFacts(made).changed_settings == []


def test_the_log_has_lines_of_gadgets_without_paths():
    lines = [
        "2031-01-01T10:00:00.123Z /data/Lovelace/scan.h5: 500 acquisitions",
        "2031-01-01T10:00:00.123Z memory: 1 GiB are planned of 2 GiB available",
        "2031-01-01T10:00:01.123Z coil_sensitivity: 8 coils are compressed",
        "2031-01-01T10:00:02.123Z pnp_admm: read /data/Lovelace/b1.nii.gz",
        "2031-01-01T10:00:03.123Z parametric_maps: patientName 'Lovelace' is too long",
    ]
    assert RunFacts(record(log=lines)).log == [
        "memory: 1 GiB are planned of 2 GiB available",
        "coil_sensitivity: 8 coils are compressed",
        "pnp_admm: read (a file)",
    ]

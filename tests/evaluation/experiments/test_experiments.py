"""The paper's experiments: that each can be run, resumed and read."""

import csv
import math

import numpy as np
import pytest

from mri2qmap.cli.main import main
from mri2qmap.evaluation.experiments import runner as runner_module
from mri2qmap.evaluation.experiments.catalogue import EXPERIMENTS
from mri2qmap.evaluation.experiments.report import cases_of, markdown_table, values_of
from mri2qmap.evaluation.experiments.runner import (
    KEY,
    METRICS,
    ExperimentRunner,
    Subject,
)
from mri2qmap.evaluation.result_table import ResultTable
from mri2qmap.simulation.anatomy import Region
from mri2qmap.simulation.simulator import SimulationSettings
from mri2qmap.stream.pipeline import read_pipeline


def settings(**changes) -> SimulationSettings:
    return SimulationSettings(
        **{
            "region": Region.BRAIN,
            "matrix": (16, 16, 16),
            "field_of_view": (0.128,) * 3,
            "coils": 1,
            "acceleration": 1.0,
            "noise": 0.1,
            **changes,
        }
    )


@pytest.fixture
def made_up(monkeypatch):
    """Reconstructions that take no time; what was asked for."""
    asked = []

    def reconstruct(self, file, truth, pipeline, report):
        asked.append((truth.record["settings"], pipeline))
        return {name: float(len(asked)) for name in METRICS}

    monkeypatch.setattr(ExperimentRunner, "_reconstruct", reconstruct)
    return asked


def run(tmp_path, experiment, label_folder, **changes):
    table = ResultTable(tmp_path / "results.csv", KEY, METRICS)
    subjects = [Subject(f.stem, str(f)) for f in sorted(label_folder.iterdir())]
    runner = ExperimentRunner(table, settings(**changes), "cpu")
    return runner.run(EXPERIMENTS[experiment], subjects, [0, 1])


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.parametrize("single_coil", [True, False])
def test_every_case_is_a_pipeline_with_known_settings(name, single_coil):
    experiment = EXPERIMENTS[name]
    cases = experiment.cases(single_coil)
    assert len({case.label for case in cases}) == len(cases) >= 2
    for case in cases:
        pipeline = read_pipeline(case.pipeline, case.overrides)
        assert [node.name for node in pipeline.nodes][-1] == "parametric_maps"
    assert set(experiment.columns) <= set(METRICS)


def test_what_is_there_is_not_computed_again(tmp_path, label_folder, made_up):
    first = run(tmp_path, "table1", label_folder)
    assert len(first) == len(made_up) == 5 * 2 * 2
    again = run(tmp_path, "table1", label_folder)
    assert len(made_up) == 5 * 2 * 2
    assert [r.metrics for r in again] == [r.metrics for r in first]
    run(tmp_path, "table3", label_folder)  # the same reconstructions, other columns
    assert len(made_up) == 5 * 2 * 2
    run(tmp_path, "table1", label_folder, noise=0.2)
    assert len(made_up) == 2 * 5 * 2 * 2


def test_a_run_that_was_stopped_goes_on(tmp_path, label_folder, made_up, monkeypatch):
    reconstruct = ExperimentRunner._reconstruct

    def stopped(self, *args):
        if len(made_up) == 7:
            raise KeyboardInterrupt
        return reconstruct(self, *args)

    monkeypatch.setattr(ExperimentRunner, "_reconstruct", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "table1", label_folder)
    monkeypatch.setattr(ExperimentRunner, "_reconstruct", reconstruct)
    assert len(run(tmp_path, "table1", label_folder)) == 20
    assert len(made_up) == 20


def test_another_file_settings_or_weights_are_another_result(
    tmp_path, label_folder, made_up, monkeypatch
):
    count = len(run(tmp_path, "group_matching", label_folder))
    monkeypatch.setattr(Subject, "content", lambda self: "another")
    run(tmp_path, "group_matching", label_folder)
    assert len(made_up) == 2 * count
    monkeypatch.setattr(runner_module, "_weights", lambda pipeline: b"other weights")
    run(tmp_path, "group_matching", label_folder)
    assert len(made_up) == 3 * count


def test_scans_have_the_seeds_and_accelerations_that_were_asked_for(
    tmp_path, label_folder, made_up
):
    results = run(tmp_path, "table6", label_folder)
    asked = {(s["seed"], s["acceleration"]) for s, _ in made_up}
    assert asked == {(seed, r) for seed in (0, 1) for r in (2.0, 4.0, 6.0, 8.0)}
    labels = [case.label for case in cases_of(results)]
    assert labels == [case.label for case in EXPERIMENTS["table6"].cases(True)]


def test_the_table_has_means_spreads_floors_and_the_paper(tmp_path, label_folder, made_up):
    results = run(tmp_path, "table1", label_folder)
    experiment = EXPERIMENTS["table1"]
    lines = markdown_table(experiment, results).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    ours = next(line for line in lines if line.startswith("| MRI2Qmap"))
    (case,) = (c for c in cases_of(results) if c.label == "MRI2Qmap")
    values = values_of(results, case, "mape_t1_t2")
    assert f"{np.mean(values):.2f} ({np.std(values, ddof=1):.2f})" in ours
    assert ours.endswith("| 8.97 |")
    assert sum("floor" in line for line in lines) == 2


def test_what_was_not_measured_is_a_dash(tmp_path, label_folder, monkeypatch):
    monkeypatch.setattr(
        ExperimentRunner, "_reconstruct", lambda *args: {**dict.fromkeys(METRICS), "seconds": 1.0}
    )
    results = run(tmp_path, "table3", label_folder)
    assert all(math.isnan(result.metrics["seconds_admm"]) for result in results)
    assert "| - |" in markdown_table(EXPERIMENTS["table3"], results)


def test_table_1_in_small(tmp_path, label_folder, capsys):
    """All methods, by the command, at 32^3."""
    out = tmp_path / "results"
    arguments = ["evaluate", str(out), "--experiment", "table1", "--labels", str(label_folder)]
    arguments += ["--subjects", "subject_0", "--matrix", "32", "--fov", "0.128", "--coils", "1"]
    arguments += ["--acceleration", "2", "--noise", "0.25", "--device", "cpu"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    text = (out / "table1.md").read_text()
    assert printed.strip() in text
    assert (out / "table1.png").stat().st_size > 5_000
    with (out / "table1.csv").open() as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    errors = {name: float(row["mape_t1_t2"]) for name, row in rows.items()}
    assert errors["SVDMRF"] > errors["MRF-ADMM"] > max(errors["LLR"], errors["LRTV"])
    assert errors["MRI2Qmap"] < errors["MRF-ADMM"]
    assert main(arguments) == 0  # from what is there


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--experiment", "tabel1"], 'did you mean "table1"'),
        (["--experiment", "fig8"], 'did you mean "fig7"'),
        (["--experiment", "table1", "--truth", "x"], "makes its own"),
        (["--experiment", "fig6", "--seeds", "-1"], "seed"),
        (["--experiment", "table1", "--subjects", "a"], "--labels DIR is needed"),
        (["--experiment", "table1", "--matrix", "2"], "matrix"),
        ([], "--experiment NAME"),
        (["--truth", "x", "--matrix", "32"], "--matrix is for --experiment"),
        (["--truth", "x", "--seeds", "1"], "--seeds is for --experiment"),
    ],
)
def test_what_cannot_be_asked_for(tmp_path, capsys, more, words):
    assert main(["evaluate", str(tmp_path / "out"), *more]) == 2
    assert words in capsys.readouterr().err

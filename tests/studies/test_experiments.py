"""The experiments of the paper: running, resuming, and their tables."""

import csv
import dataclasses
import math

import nibabel
import numpy as np
import pytest
from helpers.brainweb_files import GRID, write_subject
from helpers.phantoms import write_labels

from mri2qmap.anatomy import fraction_maps
from mri2qmap.anatomy.voxel_model import Region
from mri2qmap.cli.main import main
from mri2qmap.pipeline.pipeline_file import read_pipeline
from mri2qmap.pipeline.progress import Reporter
from mri2qmap.simulation.simulator import SimulationSettings
from mri2qmap.studies import experiment_runner as runner_module
from mri2qmap.studies.catalogue import EXPERIMENTS, TRUE_B1
from mri2qmap.studies.experiment_report import cases_of, markdown_table, values_of
from mri2qmap.studies.experiment_runner import (
    KEY,
    METRICS,
    ExperimentRunner,
    Subject,
)
from mri2qmap.studies.result_table import ResultTable

SCANS_OF_TABLE1 = len(EXPERIMENTS["table1"].cases(True)) * 2 * 2  # two subjects, two seeds


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
    """Replace reconstructions; the scans and pipelines that would have run."""
    requested = []

    def reconstruct(self, file, truth, pipeline, report):
        requested.append((truth.record["settings"], pipeline))
        return {name: float(len(requested)) for name in METRICS}, []

    monkeypatch.setattr(ExperimentRunner, "_reconstruct", reconstruct)
    return requested


class Log(Reporter):
    """Appends log lines to a list."""

    def __init__(self, lines):
        self.lines = lines

    def emit(self, line):
        self.lines.append(line)


def run(tmp_path, experiment, label_folder, log=None, **changes):
    table = ResultTable(tmp_path / "results.csv", KEY, METRICS)
    subjects = [Subject(f.stem, str(f)) for f in sorted(label_folder.iterdir())]
    runner = ExperimentRunner(table, settings(**changes), "cpu", Log([] if log is None else log))
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


@pytest.mark.slow
def test_existing_results_are_not_computed_again(tmp_path, label_folder, made_up):
    first = run(tmp_path, "table1", label_folder)
    assert len(first) == len(made_up) == SCANS_OF_TABLE1
    again = run(tmp_path, "table1", label_folder)
    assert len(made_up) == SCANS_OF_TABLE1
    assert [r.metrics for r in again] == [r.metrics for r in first]
    run(tmp_path, "table3", label_folder)  # the same reconstructions, other columns
    assert len(made_up) == SCANS_OF_TABLE1
    run(tmp_path, "table1", label_folder, noise=0.2)
    assert len(made_up) == 2 * SCANS_OF_TABLE1


def test_an_interrupted_run_is_resumed(tmp_path, label_folder, made_up, monkeypatch):
    reconstruct = ExperimentRunner._reconstruct

    def stopped(self, *args):
        if len(made_up) == 7:
            raise KeyboardInterrupt
        return reconstruct(self, *args)

    monkeypatch.setattr(ExperimentRunner, "_reconstruct", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "table1", label_folder)
    monkeypatch.setattr(ExperimentRunner, "_reconstruct", reconstruct)
    assert len(run(tmp_path, "table1", label_folder)) == SCANS_OF_TABLE1
    assert len(made_up) == SCANS_OF_TABLE1


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


def test_other_code_computes_results_again_and_keeps_the_old_ones(
    tmp_path, label_folder, made_up, new_code
):
    log = []

    def run_with(code):
        new_code(code)
        run(tmp_path, "group_matching", label_folder, log=log)
        return len(made_up)

    count = run_with("one")
    assert not any("again" in line for line in log)
    assert run_with("one") == count
    assert run_with("two") == 2 * count
    again = [line for line in log if "again: results.csv has it of other code, one" in line]
    assert len(again) == count
    assert run_with("one") == 2 * count
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["code"] for row in rows) == ["one"] * count + ["two"] * count


def test_scans_have_the_requested_seeds_and_accelerations(tmp_path, label_folder, made_up):
    results = run(tmp_path, "table6", label_folder)
    scans = {(s["seed"], s["acceleration"]) for s, _ in made_up}
    assert scans == {(seed, r) for seed in (0, 1) for r in (2.0, 4.0, 6.0, 8.0)}
    labels = [case.label for case in cases_of(results)]
    assert labels == [case.label for case in EXPERIMENTS["table6"].cases(True)]


def test_limits_are_measured_with_more_samples_and_less_noise(tmp_path, label_folder, made_up):
    run(tmp_path, "limits", label_folder, acceleration=2.0, noise=0.25)
    scans = [(s["acceleration"], s["noise"]) for s, _ in made_up]
    assert set(scans) == {(2.0, 0.25), (1.0, 0.25), (2.0, 0.0), (1.0, 0.0)}
    assert len(scans) == 4 * 2 * 2 * 2  # scans, methods, subjects, seeds


def test_the_true_map_is_that_of_the_scan(tmp_path, label_folder, monkeypatch):
    given = []

    def reconstruct(file, pipeline, device, report):
        found = {getattr(node.settings, "b1_map", "") for node in pipeline.nodes} - {""}
        assert all(nibabel.load(path).shape == (16, 16, 16) for path in found)
        given.append(found)
        raise InterruptedError

    monkeypatch.setattr(runner_module, "reconstruct", reconstruct)
    cases = EXPERIMENTS["b1"].cases(True)
    known = [case for case in cases if case.overrides]
    assert known
    assert {case.b1_spread for case in known} == {0.3}
    assert {case.b1_spread for case in cases if not case.overrides} == {0.3, 0.0}
    experiment = dataclasses.replace(EXPERIMENTS["b1"], cases=lambda _: known[:1])
    table = ResultTable(tmp_path / "results.csv", KEY, METRICS)
    runner = ExperimentRunner(table, settings(), "cpu")
    with pytest.raises(InterruptedError):
        runner.run(experiment, [Subject("0", str(label_folder / "subject_0.nii.gz"))], [0])
    ((path,),) = given
    assert path.endswith(TRUE_B1)


@pytest.mark.slow
def test_results_with_the_map_are_not_computed_again(tmp_path, label_folder, made_up):
    run(tmp_path, "b1", label_folder)
    assert len(made_up) == 6 * 2 * 2
    run(tmp_path, "b1", label_folder)
    assert len(made_up) == 6 * 2 * 2
    spreads = [scan["b1_spread"] for scan, _ in made_up]
    assert spreads.count(0.3) == 2 * spreads.count(0.0)


def test_the_table_has_means_spreads_lower_bounds_and_the_paper(tmp_path, label_folder, made_up):
    results = run(tmp_path, "table1", label_folder)
    experiment = EXPERIMENTS["table1"]
    lines = markdown_table(experiment, results).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    ours = next(line for line in lines if line.startswith("| MRI2Qmap"))
    (case,) = (c for c in cases_of(results) if c.label == "MRI2Qmap")
    values = values_of(results, case, "mape_t1_t2")
    assert f"{np.mean(values):.2f} ({np.std(values, ddof=1):.2f})" in ours
    assert ours.endswith("| 8.97 |")
    assert sum("lower bound" in line for line in lines) == 2


def test_a_metric_that_was_not_measured_is_a_dash(tmp_path, label_folder, monkeypatch):
    monkeypatch.setattr(
        ExperimentRunner,
        "_reconstruct",
        lambda *args: ({**dict.fromkeys(METRICS), "seconds": 1.0}, []),
    )
    results = run(tmp_path, "table3", label_folder)
    assert all(math.isnan(result.metrics["seconds_admm"]) for result in results)
    assert "| - |" in markdown_table(EXPERIMENTS["table3"], results)


@pytest.mark.slow
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
    assert main(arguments) == 0  # from the stored results


def test_brainweb_subjects_are_taken_by_name(tmp_path, made_up, monkeypatch):
    monkeypatch.setattr(fraction_maps, "RAW_GRIDS", (GRID,))
    folder = write_subject(tmp_path / "anatomies")
    write_subject(folder, "subject05", ".mnc.gz")
    write_labels(folder / "head.nii.gz")
    out = tmp_path / "results"
    arguments = ["evaluate", str(out), "--experiment", "group_matching", "--labels", str(folder)]
    arguments += ["--matrix", "16", "--fov", "0.24", "--coils", "1", "--device", "cpu"]

    def simulated(*names):
        made_up.clear()
        assert main([*arguments, *(("--subjects", *names) if names else ())]) == 0
        return list(dict.fromkeys(settings["anatomy"] for settings, _ in made_up))

    assert simulated("subject05", "subject04") == [
        str(folder / name) for name in ("subject05", "subject04")
    ]
    assert "subject05, subject04; brain" in (out / "group_matching.md").read_text()
    assert simulated() == [str(folder / "head.nii.gz")]  # the others are stored
    changed = folder / "subject04_muscles_skin_v.rawb"
    changed.write_bytes(changed.read_bytes().replace(b"\x7f", b"\x7e"))
    assert simulated() == [str(folder / "subject04")]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--experiment", "tabel1"], 'did you mean "table1"'),
        (["--experiment", "fig8"], 'did you mean "fig7"'),
        (["--experiment", "table1", "--truth", "x"], "makes its own"),
        (["--experiment", "fig6", "--seeds", "-1"], "seed"),
        (["--experiment", "table1", "--subjects", "a"], "--labels DIR is needed"),
        (["--experiment", "table1", "--matrix", "2"], "matrix"),
        (["--experiment", "table1", "--matrix", "15"], "even numbers from 4 to 1024, 14 or 16"),
        (["--experiment", "nist", "--matrix", "15"], "even numbers from 4 to 1024, 14 or 16"),
        (["--experiment", "table1", "--device", "abacus"], "'abacus' is unknown"),
        (["--experiment", "nist", "--device", "abacus"], "'abacus' is unknown"),
        ([], "--experiment NAME"),
        (["--truth", "x", "--matrix", "32"], "--matrix is for --experiment"),
        (["--truth", "x", "--seeds", "1"], "--seeds is for --experiment"),
    ],
)
def test_wrong_options_are_refused(tmp_path, capsys, more, words):
    assert main(["evaluate", str(tmp_path / "out"), *more]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

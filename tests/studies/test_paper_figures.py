"""The experiments of the paper's figures: other echo times, and errors along the iterations."""

import csv

import pytest
import torch
from helpers.truths import entry, small_dictionary, truth_of

from mri2qmap.anatomy.voxel_model import Region
from mri2qmap.cli.main import main
from mri2qmap.mrsignal.matching import Match
from mri2qmap.mrsignal.synthesis import DEFAULT_SYNTHESIS
from mri2qmap.pipeline.pipeline_file import read_pipeline
from mri2qmap.pipeline.progress import Reporter
from mri2qmap.recon.iteration_statistics import IterationStatistics
from mri2qmap.recon.plug_and_play import Iteration
from mri2qmap.recon.plug_and_play_parameters import PlugAndPlayParameters, noise_schedule
from mri2qmap.simulation.simulator import SimulationSettings
from mri2qmap.studies.catalogue import EXPERIMENTS
from mri2qmap.studies.experiment_report import write_figure
from mri2qmap.studies.experiment_runner import (
    EXTRA_TABLES,
    KEY,
    METRICS,
    ExperimentRunner,
    Result,
    Subject,
)
from mri2qmap.studies.extra_tables import ExtraTables
from mri2qmap.studies.iteration_report import (
    iteration_rows,
    iteration_table,
    write_iteration_figure,
)
from mri2qmap.studies.iterations import (
    IterationError,
    IterationWatch,
    admm_iterations,
)
from mri2qmap.studies.result_table import ResultTable

SCAN = SimulationSettings(
    region=Region.BRAIN,
    matrix=(16, 16, 16),
    field_of_view=(0.128,) * 3,
    coils=1,
    acceleration=2.0,
)


def command(out, label_folder, experiment) -> list[str]:
    arguments = ["evaluate", str(out), "--experiment", experiment, "--labels", str(label_folder)]
    arguments += ["--subjects", "subject_0", "--matrix", "16", "--fov", "0.128", "--coils", "1"]
    return [*arguments, "--acceleration", "2", "--device", "cpu"]


def table_of(path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("single_coil", [True, False])
def test_figure_6_varies_one_time_of_both_gadgets_at_a_time(single_coil):
    cases = EXPERIMENTS["fig6"].cases(single_coil)
    curves = {case.point.curve for case in cases}
    assert curves == {"TR of T1w", "TE of T2w"}
    for curve in curves:
        changes = [case.point.x for case in cases if case.point.curve == curve]
        assert (changes[0], changes[-1]) == (-50, 50)
        assert 0 in changes
    t1w, t2w, pdw = DEFAULT_SYNTHESIS
    for case in cases:
        nodes = read_pipeline(case.pipeline, case.overrides).nodes
        (admm,) = (node.settings.echoes for node in nodes if node.name == "pnp_admm")
        (last,) = (node.settings.echoes for node in nodes if node.name == "combined_matching")
        assert admm == last
        factor = 1 + case.point.x / 100
        if case.point.curve == "TR of T1w":
            assert admm[0].repetition_time == pytest.approx(factor * t1w.repetition_time)
            assert (admm[0].echo_time, *admm[1:]) == (t1w.echo_time, t2w, pdw)
            assert case.point.usual == (case.point.x >= -40)
        else:
            assert admm[1].echo_time == pytest.approx(factor * t2w.echo_time)
            assert (admm[0], admm[1].repetition_time, admm[2]) == (t1w, t2w.repetition_time, pdw)
            assert case.point.usual == (abs(case.point.x) <= 20)


@pytest.mark.parametrize("single_coil", [True, False])
def test_figure_7_follows_schedules_of_table_4(single_coil):
    cases = EXPERIMENTS["fig7"].cases(single_coil)
    assert {case.label for case in cases} < {
        case.label for case in EXPERIMENTS["table4"].cases(single_coil)
    }
    pipelines = [read_pipeline(case.pipeline, case.overrides) for case in cases]
    assert len({admm_iterations(pipeline) for pipeline in pipelines}) == 1
    (first, *_) = (node.settings for node in pipelines[0].nodes if node.name == "pnp_admm")
    assert first.sigma_start == first.sigma_end  # not annealed


@pytest.mark.slow
def test_figure_6_in_small(tmp_path, label_folder, fewer, capsys):
    """By the command; the unchanged case is on both curves, and computed once."""
    fewer(
        "fig6", "TR of T1w -50 %", "TR of T1w unchanged", "TE of T2w unchanged", "TE of T2w +50 %"
    )
    arguments = command(tmp_path / "out", label_folder, "fig6")
    assert main(arguments) == 0
    assert capsys.readouterr().out.strip() in (tmp_path / "out" / "fig6.md").read_text()
    assert (tmp_path / "out" / "fig6.png").stat().st_size > 5_000
    assert len(table_of(tmp_path / "out" / "results.csv")) == 3
    rows = table_of(tmp_path / "out" / "fig6.csv")
    errors = {row["case"]: float(row["mape_t1_t2"]) for row in rows}
    unchanged = errors["TR of T1w unchanged"]
    assert errors["TE of T2w unchanged"] == unchanged
    for changed in ("TR of T1w -50 %", "TE of T2w +50 %"):
        assert errors[changed] != unchanged
        assert 0.5 * unchanged < errors[changed] < 2 * unchanged


@pytest.mark.slow
def test_figure_7_in_small(tmp_path, label_folder, fewer, monkeypatch, capsys):
    """By the command; the second run uses the stored results."""
    fewer("fig7", "sigma_1 0.03, T = 32", "sigma_1 0.2, T = 32")
    arguments = command(tmp_path / "out", label_folder, "fig7")
    assert main(arguments) == 0
    text = (tmp_path / "out" / "fig7.md").read_text()
    assert capsys.readouterr().out.strip() in text
    assert "| after iteration | 1 | 2 | 4 | 8 | 16 | 32 |" in text
    assert (tmp_path / "out" / "fig7.png").stat().st_size > 10_000
    rows = table_of(tmp_path / "out" / "fig7.csv")
    for label, start in (("sigma_1 0.03, T = 32", 0.03), ("sigma_1 0.2, T = 32", 0.2)):
        curve = [row for row in rows if row["case"] == label]
        assert [int(row["iteration"]) for row in curve] == list(range(1, 33))
        schedule = noise_schedule(PlugAndPlayParameters(iterations=32, sigma_start=start))
        assert [float(row["sigma"]) for row in curve] == pytest.approx(schedule, rel=1e-5)
        errors = [float(row["mape_t1_t2"]) for row in curve]
        assert min(errors) < 0.8 * errors[0]
    assert len(table_of(tmp_path / "out" / "iterations.csv")) == len(rows) == 64

    monkeypatch.setattr(ExperimentRunner, "_reconstruct", None)
    assert main(arguments) == 0
    assert table_of(tmp_path / "out" / "fig7.csv") == rows


@pytest.fixture
def made_up(monkeypatch):
    """Replace reconstructions; the pipelines that would have run."""
    requested = []

    def reconstruct(self, file, truth, pipeline, report):
        requested.append(pipeline)
        count = admm_iterations(pipeline)
        report.errors += [IterationError(n, 0.1, 10 / n, 20 / n) for n in range(1, count + 1)]
        return dict.fromkeys(METRICS, 1.0), []

    monkeypatch.setattr(ExperimentRunner, "_reconstruct", reconstruct)
    return requested


def run(folder, name, label_folder) -> list[Result]:
    runner = ExperimentRunner(
        ResultTable(folder / "results.csv", KEY, METRICS),
        SCAN,
        "cpu",
        extra_tables=ExtraTables(folder, KEY, EXTRA_TABLES),
    )
    subject = Subject("subject_0", str(label_folder / "subject_0.nii.gz"))
    return runner.run(EXPERIMENTS[name], [subject], [0])


def test_iterations_are_shared_with_other_experiments(tmp_path, label_folder, made_up):
    run(tmp_path, "table4", label_folder)
    count = len(made_up)
    results = run(tmp_path, "fig7", label_folder)
    assert len(made_up) == count
    assert [e.number for e in results[0].extra_rows] == list(range(1, 33))
    assert results[0].extra_rows[1].mape_t1_t2 == pytest.approx(15)


def test_a_result_whose_iterations_are_missing_is_computed_again(tmp_path, label_folder, made_up):
    run(tmp_path, "fig7", label_folder)
    rows = (tmp_path / "iterations.csv").read_text().splitlines(keepends=True)
    (tmp_path / "iterations.csv").write_text("".join(rows[:-1]))  # one of the last case
    run(tmp_path, "fig7", label_folder)
    assert len(made_up) == 5 + 1
    (tmp_path / "iterations.csv").unlink()
    run(tmp_path, "table4", label_folder)  # does not use the iterations
    assert len(made_up) == 6 + 15


def test_a_method_without_the_admm_has_no_iterations(tmp_path, label_folder, made_up):
    results = run(tmp_path, "table6", label_folder)
    methods = {row["pipeline"] for row in table_of(tmp_path / "iterations.csv")}
    assert methods == {"mri2qmap"}
    assert all(result.extra_rows == () for result in results)


def test_iterations_without_a_table_of_them_are_refused(tmp_path):
    runner = ExperimentRunner(ResultTable(tmp_path / "results.csv", KEY, METRICS), SCAN, "cpu")
    with pytest.raises(ValueError, match="iterations needs extra_tables"):
        runner.run(EXPERIMENTS["fig7"], [], [0])


class Listener(Reporter):
    """Records all calls."""

    def __init__(self):
        self.heard = []

    def progress(self, iterable, description, total=None):
        for element in iterable:
            yield element
            self.heard.append(description)

    def log(self, text):
        self.heard.append(text)


def test_a_watch_compares_each_match_with_the_truth_and_passes_everything_on():
    dictionary = small_dictionary()
    truth = truth_of(dictionary, entry(dictionary, 0.8, 0.07), entry(dictionary, 1.3, 0.1))
    listener = Listener()
    watch = IterationWatch(truth, listener)
    t1, t2 = torch.from_numpy(truth.t1), torch.from_numpy(truth.t2)

    def state(number, t1, t2):
        index, offset = torch.zeros_like(t1, dtype=torch.int64), torch.zeros(2, *t1.shape)
        found = Match(index, offset, t1, t2, t1 + 0j, t1)
        statistics = IterationStatistics(number, 1.0, 1, 0.0, 0.0, 0.0, 0.0)
        return Iteration(statistics, t1[None] + 0j, 0.1 / number, found)

    done = watch.steps(2, "ADMM")
    done(state(1, 1.1 * t1, 0.8 * t2))
    done(state(2, t1, 1.05 * t2))
    watch.steps(1, "conjugate gradients")(None)
    watch.log("a line")
    assert list(watch.progress([7], "frames")) == [7]
    assert listener.heard == ["ADMM", "ADMM", "conjugate gradients", "a line", "frames"]
    first, second = watch.errors
    assert (first.number, first.sigma) == (1, 0.1)
    assert (first.mape_t1, first.mape_t2) == pytest.approx((10, 20), rel=1e-5)
    assert second.mape_t1_t2 == pytest.approx(5, rel=1e-5)


def test_the_table_of_iterations_has_means_over_scans():
    case = EXPERIMENTS["fig7"].cases(True)[0]
    results = [
        Result(
            case, "a", seed, {}, tuple(IterationError(n, 0.1, *errors) for n, errors in enumerate(
                ((8.0 + seed, 9.0), (3.0 + seed, 2.0), (4.0, 4.0)), start=1
            ))
        )
        for seed in (0, 2)
    ]  # fmt: skip
    lines = iteration_table(results).splitlines()
    assert "| after iteration | 1 | 2 | smallest, after |" in lines
    assert lines[-1] == f"| {case.label} | 18.00 | 6.00 | 6.00, 2 |"
    rows = iteration_rows(results)
    assert len(rows) == 1 + 6
    assert rows[1] == [case.label, "a", "0", "1", "0.1", "8", "9", "17"]


@pytest.mark.parametrize(
    ("name", "draw"), [("fig6", write_figure), ("fig7", write_iteration_figure)]
)
def test_figures_of_several_scans_show_their_spread(tmp_path, name, draw):
    experiment = EXPERIMENTS[name]
    for file, spread in (("one", 0.0), ("other", 3.0)):
        results = [
            Result(
                case,
                "a",
                seed,
                {"mape_t1_t2": 10.0 + seed * spread, "lower_bound_sphere_t1_t2": 2.0},
                tuple(IterationError(n, 0.1 / n, 9.0 / n, seed * spread) for n in range(1, 5)),
            )
            for case in experiment.cases(True)
            for seed in (0, 1)
        ]
        draw(tmp_path / f"{file}.png", experiment, results)
    assert (tmp_path / "one.png").read_bytes() != (tmp_path / "other.png").read_bytes()


def test_another_file_in_the_place_of_the_iterations_is_refused(tmp_path, label_folder, capsys):
    (tmp_path / "iterations.csv").write_text("something,else\n")
    assert main(command(tmp_path, label_folder, "fig7")) == 2
    assert "iterations.csv: its columns are not those" in capsys.readouterr().err

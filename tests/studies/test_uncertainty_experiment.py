"""Standard deviations against errors: the numbers, and the experiment that measures them."""

import csv
import dataclasses

import numpy as np
import pytest
from helpers.truths import entry, small_dictionary, truth_of

from mri2qmap.cli.main import main
from mri2qmap.export.quantity import Quantity
from mri2qmap.studies.catalogue import EXPERIMENTS
from mri2qmap.studies.experiment_runner import ExperimentRunner, Result
from mri2qmap.studies.reliability import (
    ALL,
    BORDERS,
    DECILES,
    LESIONS,
    Reliability,
    reliability,
)
from mri2qmap.studies.reliability_report import (
    reliability_rows,
    reliability_table,
    write_reliability_figure,
)


@pytest.fixture(scope="module")
def truth():
    dictionary = small_dictionary()
    white, grey = entry(dictionary, 0.8, 0.07), entry(dictionary, 1.3, 0.1)
    return truth_of(dictionary, white, grey, whole=True)


def maps_of(truth, factor=1.0):
    """Gaussian errors with relative standard deviations of 1 to 10 %, and maps of these."""
    random = np.random.default_rng(0)
    maps = {}
    for quantity, std, true in (
        (Quantity.T1, Quantity.T1_STD, truth.t1),
        (Quantity.T2, Quantity.T2_STD, truth.t2),
    ):
        deviation = true * random.uniform(0.01, 0.1, true.shape).astype(np.float32)
        maps[quantity] = true + deviation * random.normal(size=true.shape).astype(np.float32)
        maps[std] = factor * deviation
    return maps


def of_all(rows, time, group=ALL):
    (row,) = (row for row in rows if (row.time, row.group) == (time, group))
    return row


@pytest.mark.parametrize("time", ["T1", "T2"])
def test_gaussian_errors_have_the_nominal_coverage(truth, time):
    rows = reliability(maps_of(truth), truth)
    assert len(rows) == 2 * (3 + len(DECILES))
    whole = of_all(rows, time)
    assert whole.coverage_68 == pytest.approx(68.3, abs=2)
    assert whole.coverage_95 == pytest.approx(95, abs=1.5)
    assert whole.deviation == pytest.approx(whole.error, rel=0.05)
    assert 0.3 < whole.rank_correlation < 0.7
    deciles = [row for row in rows if row.time == time and row.group in DECILES]
    for row in deciles:
        assert row.deviation == pytest.approx(row.error, rel=0.15)
    assert deciles == sorted(deciles, key=lambda row: row.deviation)
    assert deciles[-1].deviation > 5 * deciles[0].deviation


def test_borders_and_lesions_are_groups_of_their_own(truth):
    lesions = np.zeros(truth.t1.shape, dtype=np.int16)
    lesions[2:4, 2:4, 2:4] = 1
    hurt = dataclasses.replace(truth, lesions=lesions)
    maps = maps_of(hurt)
    maps[Quantity.T1_STD] = np.where(lesions > 0, 1e-6, 1e3).astype(np.float32)
    rows = reliability(maps, hurt)
    assert of_all(rows, "T1", LESIONS).coverage_68 == 0
    healthy = 1 - 8 / np.count_nonzero(truth.white_matter | truth.grey_matter | (lesions > 0))
    assert of_all(rows, "T1").coverage_68 == pytest.approx(100 * healthy)
    edge = np.zeros(truth.t1.shape, dtype=bool)
    for axis in range(3):
        change = np.diff(truth.t1, axis=axis) != 0
        for margin in ((0, 1), (1, 0)):
            edge |= np.pad(change, [margin if a == axis else (0, 0) for a in range(3)])
    maps[Quantity.T1_STD] = np.where(edge, 1e-6, 1e3).astype(np.float32)
    assert of_all(reliability(maps, hurt), "T1", BORDERS).coverage_68 == 0
    assert np.isnan(of_all(reliability(maps, truth), "T1", LESIONS).error)


def test_too_small_deviations_cover_less(truth):
    one = of_all(reliability(maps_of(truth), truth), "T1")
    half = of_all(reliability(maps_of(truth, 0.5), truth), "T1")
    assert half.coverage_68 == pytest.approx(38.3, abs=2)
    assert half.error == one.error
    assert half.rank_correlation == pytest.approx(one.rank_correlation)


def test_without_deviations_there_are_no_rows_and_without_signal_no_coverage(truth):
    maps = maps_of(truth)
    assert reliability({q: maps[q] for q in (Quantity.T1, Quantity.T2)}, truth) == []
    empty = {quantity: np.zeros_like(values) for quantity, values in maps.items()}
    whole = of_all(reliability(empty, truth), "T1")
    assert (whole.coverage_68, whole.coverage_95, whole.error) == (0, 0, 100)
    assert np.isnan(whole.rank_correlation)


def test_table_rows_and_figure(tmp_path):
    experiment = EXPERIMENTS["uncertainty"]
    results = [
        Result(
            case,
            "a",
            seed,
            {},
            tuple(
                Reliability(time, group, number, 2.0 * number, 60.0 + 10 * seed, 90.0, 0.5)
                for time in ("T1", "T2")
                for number, group in enumerate((ALL, BORDERS, LESIONS, *DECILES), start=1)
            ),
        )
        for case in experiment.cases(True)
        for seed in (0, 1)
    ]
    lines = reliability_table(results).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    row = "| MRI2Qmap, T1 | 65.00 (7.07) | 90.00 (0.00) | 65.00 (7.07) | 65.00 (7.07) | 0.50 (0.00)"
    assert lines[2].startswith(row)
    rows = reliability_rows(results)
    assert len(rows) == 1 + 4 * 26
    assert rows[2] == ["MRI2Qmap", "a", "0", "T1", "borders", "2", "4", "60", "90", "0.5"]
    nothing = [
        dataclasses.replace(row, error=np.nan, coverage_68=np.nan) if row.group == LESIONS else row
        for row in results[1].extra_rows
    ]
    without = dataclasses.replace(results[1], extra_rows=tuple(nothing))
    cells = reliability_table([results[0], without]).splitlines()[2].split(" | ")
    assert cells[4] == "60.00"  # of the scan with lesions
    cells = reliability_table([without, without]).splitlines()[2].split(" | ")
    assert cells[4] == "-"
    write_reliability_figure(tmp_path / "figure.png", experiment, results)
    assert (tmp_path / "figure.png").stat().st_size > 5_000


@pytest.mark.slow
def test_the_experiment_in_small(tmp_path, label_folder, monkeypatch, capsys):
    """One method by the command, at 24^3, and again from the stored results."""
    experiment = EXPERIMENTS["uncertainty"]
    lrtv = [case for case in experiment.cases(True) if case.label == "LRTV"]
    chosen = dataclasses.replace(experiment, cases=lambda single_coil: lrtv)
    monkeypatch.setitem(EXPERIMENTS, "uncertainty", chosen)
    out = tmp_path / "results"
    arguments = ["evaluate", str(out), "--experiment", "uncertainty"]
    arguments += ["--labels", str(label_folder), "--subjects", "subject_0", "--matrix", "24"]
    arguments += ["--fov", "0.128", "--coils", "1", "--acceleration", "2", "--device", "cpu"]
    assert main(arguments) == 0
    assert capsys.readouterr().out.strip() in (out / "uncertainty.md").read_text()
    with (out / "uncertainty.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * (3 + len(DECILES))
    for time in ("T1", "T2"):
        whole, _, _, *deciles = (row for row in rows if row["time"] == time)
        assert float(whole["rank_correlation"]) > 0.3
        assert float(deciles[-1]["error"]) > 2 * float(deciles[0]["error"])
    before = (out / "uncertainty.csv").read_bytes()
    monkeypatch.setattr(ExperimentRunner, "_reconstruct", None)
    assert main(arguments) == 0
    assert (out / "uncertainty.csv").read_bytes() == before

"""Each table of the paper at small size, by its command: reconstructions of the ICBM brain at 32^3.

Table I is in `test_experiments`. All tests share one folder, so that a reconstruction that several
tables show is computed once.
"""

import csv

import pytest

from mri2qmap.cli.main import main
from mri2qmap.studies.catalogue import EXPERIMENTS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.fixture
def table(folder, fewer):
    """Function that runs an experiment, or some of its cases; its rows by case."""

    def run(name, *labels):
        if labels:
            fewer(name, *labels)
        arguments = ["evaluate", str(folder), "--experiment", name, "--region", "ball"]
        arguments += ["--matrix", "32", "--fov", "0.064", "--coils", "1", "--acceleration", "2"]
        arguments += ["--device", "cpu"]
        assert main(arguments) == 0
        assert (folder / f"{name}.png").stat().st_size > 5_000
        text = (folder / f"{name}.md").read_text()
        with (folder / f"{name}.csv").open() as file:
            rows = {row.pop("case"): row for row in csv.DictReader(file)}
        assert all(f"| {label} |" in text for label in rows)
        return {
            label: {k: float(v) for k, v in row.items() if v and k != "subject"}
            for label, row in rows.items()
        }

    return run


def errors(rows):
    return {label: row["mape_t1_t2"] for label, row in rows.items()}


@pytest.mark.slow
def test_table_2_leaving_a_contrast_out_raises_the_error(table):
    found = errors(table("table2"))
    everything = found.pop("all")
    nothing = found.pop("none")
    assert len(found) == 3
    # On average: at this size, one contrast more or less changes the error by 1 to 4 %.
    assert everything < sum(found.values()) / 3
    assert max(everything, *found.values()) < nothing


@pytest.mark.slow
def test_table_3_has_times_and_memory(table):
    rows = table("table3", "SVDMRF", "LRTV", "MRI2Qmap")
    for row in rows.values():
        parts = sum(row.get(f"seconds_{part}", 0) for part in ("cg", "admm", "matching"))
        assert 0 < parts < row["seconds"]
    assert "seconds_admm" not in rows["LRTV"]
    assert rows["MRI2Qmap"]["seconds_admm"] > rows["MRI2Qmap"]["seconds_matching"]
    assert "seconds_cg" not in rows["SVDMRF"]


@pytest.mark.slow
def test_table_4_more_iterations_are_better_and_take_longer(table):
    rows = table("table4", "sigma_1 0.2, T = 4", "sigma_1 0.2, T = 16")
    few, many = rows.values()
    assert many["mape_t1_t2"] < few["mape_t1_t2"]
    assert many["seconds"] > few["seconds"]


@pytest.mark.slow
def test_table_5_preconditioned_steps_count_more(table):
    found = errors(
        table(
            "table5", "1 preconditioned CG steps", "2 preconditioned CG steps", "2 plain CG steps"
        )
    )
    one, two, plain = found.values()
    assert two < one
    assert two < plain


@pytest.mark.slow
def test_table_6_fewer_samples_raise_the_error(table):
    found = errors(
        table("table6", "R = 2, LRTV", "R = 8, LRTV", "R = 2, MRI2Qmap", "R = 8, MRI2Qmap")
    )
    for method in ("LRTV", "MRI2Qmap"):
        assert found[f"R = 8, {method}"] > 1.3 * found[f"R = 2, {method}"]


@pytest.mark.slow
def test_group_matching_changes_hardly_anything(table):
    found = errors(table("group_matching"))
    assert found["group matching"] == pytest.approx(found["exact search"], abs=0.5)


@pytest.mark.slow
def test_options_differ_from_what_is_shipped(table):
    found = errors(table("options", "as shipped", "10 iterations", "without total variation"))
    assert len(set(found.values())) == 3


@pytest.mark.slow
def test_limits_come_down_with_noise_and_more_samples(table):
    labels = [f"{m}, {s}" for m in ("LRTV", "MRI2Qmap") for s in ("unchanged", "R = 1, no noise")]
    found = errors(table("limits", *labels))
    for method in ("LRTV", "MRI2Qmap"):
        assert found[f"{method}, R = 1, no noise"] < 0.8 * found[f"{method}, unchanged"]


@pytest.mark.slow
def test_a_sweep_has_the_settings_as_rows(table):
    labels = [case.label for case in EXPERIMENTS["sweep"].cases(True)]
    weakest, *_, strongest = (label for label in labels if label.startswith("LRTV, strength"))
    found = errors(table("sweep", weakest, strongest))
    assert found[weakest] != found[strongest]

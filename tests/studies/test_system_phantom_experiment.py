import numpy as np
import pytest

from mri2qmap.anatomy.system_phantom import SPHERES
from mri2qmap.cli.main import main
from mri2qmap.pipeline.pipeline_file import read_pipeline
from mri2qmap.studies import system_phantom as module
from mri2qmap.studies.sphere_report import linear_fit, sphere_table, write_sphere_figure
from mri2qmap.studies.system_phantom import (
    CASES,
    SPHERE_KEY,
    SPHERE_VALUES,
    SphereResult,
)

ARGUMENTS = ["--experiment", "nist", "--fov", "0.144", "--coils", "1", "--noise", "0"]


def exact(factor=1.0):
    return [SphereResult("m", s, factor * s.t1, 0.0, factor * s.t2, 0.0, 0.0, 5) for s in SPHERES]


def test_errors_and_range():
    results = {result.sphere.name: result for result in exact(1.05)}
    assert results["NiCl2 6"].errors == pytest.approx((5, 5))
    outside = {name for name, result in results.items() if not result.in_range}
    assert outside == {*(f"NiCl2 {n}" for n in range(1, 6)), "MnCl2 1", "MnCl2 2"}


def test_a_perfect_method_is_linear():
    assert linear_fit(exact(), "t1") == pytest.approx((1.0, 1.0))
    assert linear_fit(exact(1.1), "t2") == pytest.approx((1.1, 1.0))


def test_spheres_outside_the_table_are_marked_and_not_counted():
    results = exact()
    results[0] = SphereResult("m", SPHERES[0], 9.0, 0.0, 9.0, 0.0, at_end=0.8, voxels=5)
    text = sphere_table(results)
    assert "| NiCl2 1 (outside the table) | 21.7 | 15.8 | at the table's end |" in text
    assert "| NiCl2 6 |" in text
    assert "| m | 0.0, 0.0 | 1.000, 1.000 | 1.00000, 1.00000 |" in text


def test_the_figure(tmp_path):
    write_sphere_figure(tmp_path / "nist.png", exact(1.01))
    assert (tmp_path / "nist.png").stat().st_size > 10_000


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_every_case_is_a_pipeline(case):
    assert read_pipeline(case.pipeline, case.overrides).nodes


@pytest.mark.slow
def test_one_command_runs_it_once_for_each_code(tmp_path, monkeypatch, capsys, new_code):
    measured = []

    def measure(file, pipeline, regions, device, report):
        measured.append(pipeline.name)
        assert all(region.any() for region in regions.values())
        for sphere in SPHERES:
            yield sphere.name, (sphere.t1, 0.0, sphere.t2, 0.0, 0.0, 3)

    monkeypatch.setattr(module, "_measure", measure)
    arguments = ["evaluate", str(tmp_path / "out"), *ARGUMENTS, "--matrix", "64"]
    for _ in range(2):
        assert main(arguments) == 0
    assert measured == [case.pipeline for case in CASES]
    assert "outside the table" in capsys.readouterr().out
    new_code("changed")
    assert main(arguments) == 0
    assert measured == 2 * [case.pipeline for case in CASES]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "spheres.csv",
        "nist.md",
        "nist.csv",
        "nist.png",
        "written.json",
    }
    header = (tmp_path / "out" / "spheres.csv").read_text().splitlines()[0]
    assert header == ",".join((*SPHERE_KEY, "code", *SPHERE_VALUES))


@pytest.mark.slow
def test_least_squares_finds_the_spheres(tmp_path, monkeypatch, capsys):
    """With full sampling and no noise, T1 and T2 of the spheres within the table are correct."""
    monkeypatch.setattr(module, "CASES", CASES[:1])
    arguments = ["evaluate", str(tmp_path / "out"), *ARGUMENTS, "--matrix", "48"]
    assert main([*arguments, "--acceleration", "0.1", "--device", "cpu"]) == 0
    rows = np.genfromtxt(
        tmp_path / "out" / "nist.csv", delimiter=",", names=True, dtype=None, encoding="utf-8"
    )
    inside = rows[rows["in_range"]]
    assert (rows["at_end"][~rows["in_range"]] > 0.9).all()
    assert (inside["at_end"] == 0).all()
    assert len(inside) == 21
    for name in ("t1", "t2"):
        error = 100 * np.abs(inside[name] / inside[f"{name}_true"] - 1)
        assert error.max() < 2, dict(zip(inside["sphere"], error, strict=True))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--region", "ball"], "anatomy of its own"),
        (["--seeds", "0", "1"], "one seed"),
        (["--matrix", "16"], "no voxel is completely inside"),
    ],
)
def test_wrong_options_are_refused(tmp_path, capsys, more, words):
    assert main(["evaluate", str(tmp_path / "out"), *ARGUMENTS, *more]) == 2
    assert words in capsys.readouterr().err

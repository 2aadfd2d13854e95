"""Times of the steps: what is counted is what is computed, and the command writes its files."""

import json
import math

import pytest
import torch

from mri2qmap.cli.main import main
from mri2qmap.pipeline.progress import Reporter
from mri2qmap.studies import reconstruction_steps as steps
from mri2qmap.studies.step_bench import (
    Limits,
    StepSettings,
    StepTime,
    growth_exponents,
    measure_limits,
    measure_steps,
    steps_report,
)

SMALL = StepSettings((8, 12), (1, 2), (20, 40), (0.6, 0.3), (16,), rounds=2)
NAMES = {
    "gram, one coil",
    "gram",
    "adjoint",
    "search, exact",
    "search, groups",
    "simulation",
    "denoising",
}


@pytest.fixture(scope="module")
def timings():
    return measure_steps(SMALL, Reporter())


def test_every_step_is_timed_at_every_size(timings):
    assert {timing.name for timing in timings} == NAMES
    assert all(len(timing.seconds) == SMALL.rounds for timing in timings)
    assert all(second > 0 for timing in timings for second in timing.seconds)
    sizes = {(t.name, t.axis, t.size) for t in timings}
    assert len(sizes) == len(timings)
    assert {t.size for t in timings if t.axis == "matrix"} == {8, 12}


def test_steps_compute_what_they_say():
    generator = torch.Generator().manual_seed(0)
    assert steps.gram(8, 2, generator).run().shape == (steps.COEFFICIENTS, 8, 8, 8)
    assert steps.adjoint(8, 20).run().shape == (8, 8, 8)
    assert steps.simulation(30, 7).run().shape == (7, 30)
    assert steps.denoising(16, generator).run().shape == (3, 16, 16, 16)
    found = {kind: steps.search(kind, 8, 0.6, generator).run()[0] for kind in ("exact", "groups")}
    assert found["exact"].shape == (8**3,)
    assert (found["exact"] == found["groups"]).float().mean() > 0.9


def test_work_grows_as_it_must():
    generator = torch.Generator().manual_seed(0)
    one, two = (steps.gram(8, coils, generator) for coils in (1, 2))
    assert two.flops == 2 * one.flops
    assert one.traffic < two.traffic < 2 * one.traffic  # the kernels are read once for both
    small, large = (steps.denoising(side, generator) for side in (16, 32))
    assert large.flops / small.flops == pytest.approx(8, rel=0.05)
    assert steps.simulation(40, 8).flops == 4 * steps.simulation(20, 8).flops
    assert steps.search("groups", 8, 0.6, generator).flops is None


def test_limits_of_the_machine():
    limits = measure_limits(1, rounds=2, elements=2**20)
    assert 1e8 < limits.bandwidth < 1e13
    assert 1e8 < limits.flops < 1e14
    assert Limits(10.0, 5.0).seconds(20, 5) == 2
    assert Limits(10.0, 5.0).seconds(20, 50) == 10


def test_growth_is_that_of_the_largest_sizes():
    made = [StepTime("a", "matrix", n, 1.0, 1.0, [n**3 if n > 8 else 1.0]) for n in (8, 16, 32)]
    alone = StepTime("b", "patch", 16, 1.0, 1.0, [1.0])
    assert growth_exponents([*made, alone]) == {("a", "matrix"): pytest.approx(3.0)}


def test_the_report_compares_with_the_limits():
    made = [
        StepTime("fast", "matrix", 8, 4e9, 1e6, [0.5, 2.0, 1.0]),
        StepTime("unknown", "matrix", 8, None, 1e6, [1.0]),
    ]
    text = steps_report(SMALL, Limits(8e9, 1e9), made)
    assert "| fast | matrix 8 | 1e+03 | 4 | 1 | 4e+03 | 4 | 500 | 0.50 |" in text
    assert "| unknown | matrix 8 | 1e+03 |  | 1 |  |  |  |  |" in text


SIZES = [
    *("--matrix", "8", "12", "--coils", "1", "--frames", "20", "--atom-step", "0.6"),
    *("--patch", "16", "--rounds", "1", "--threads", "1"),
]


def test_command(tmp_path, capsys):
    whole = ["--whole", "16", "--whole-coils", "2", "--pipeline", "svdmrf"]
    assert main(["bench", "steps", *SIZES, *whole, "-o", str(tmp_path)]) == 0
    names = {"steps.md", "steps.json", "growth.png", "roofline.png", "written.json"}
    assert {path.name for path in tmp_path.iterdir()} == names
    text = (tmp_path / "steps.md").read_text()
    assert text.rstrip("\n") in capsys.readouterr().out
    assert "| 16^3 |" in text
    numbers = json.loads((tmp_path / "steps.json").read_text())
    (run,) = numbers["whole_runs"]
    assert set(run["gadget_seconds"]) >= {"coil_sensitivity", "parametric_maps"}
    assert run["seconds"] > sum(run["gadget_seconds"].values())
    assert run["peak"] > 2**26
    assert all(math.isfinite(second) for step in numbers["steps"] for second in step["seconds"])
    assert all((tmp_path / name).read_bytes()[:4] == b"\x89PNG" for name in names if "png" in name)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--matrix", "7"], "--matrix 7: expected even numbers from 8"),
        (["--matrix", "8", "2048"], "--matrix 2048"),
        (["--coils", "0"], "--coils 0"),
        (["--frames", "1"], "--frames 1"),
        (["--atom-step", "nan"], "--atom-step nan"),
        (["--patch", "20"], "--patch 20"),
        (["--whole", "9"], "--whole 9"),
        (["--whole-coils", "0"], "--whole-coils 0"),
        (["--rounds", "0"], "--rounds 0"),
        (["--seed", "-1"], "--seed -1"),
        (["--pipeline", "none such"], "none such"),
    ],
)
def test_bad_input(words, message, capsys, tmp_path):
    assert main(["bench", "steps", "-o", str(tmp_path / "out"), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error

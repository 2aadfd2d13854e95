"""Speed compared with other libraries: all solve the same problem; what fails is said."""

import json
import subprocess
import sys

import numpy as np
import pytest

from mri2qmap.cli.main import main
from mri2qmap.pipeline.progress import Reporter
from mri2qmap.studies import speed_bench, speed_peers
from mri2qmap.studies.speed_bench import SpeedSettings, Timing, measure_speed, speed_report
from mri2qmap.studies.speed_peers import PEERS, Peer, run_peer
from mri2qmap.studies.speed_problem import SpeedProblem, conjugate_gradients, make_problem

SMALL = SpeedSettings(matrix=12, coils=2, coefficients=2, frames=40, rounds=2)


@pytest.fixture(scope="module")
def problem():
    return make_problem(12, 2, 2, 40, 2.0, 0)


@pytest.fixture(scope="module")
def solution(problem, tmp_path_factory):
    return run_peer("reference", problem, 10, tmp_path_factory.mktemp("place"))["solution"]


def distance(one, other):
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


# BART and sigpy interpolate less accurately.
@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("mri2qmap", 1e-3),
        ("finufft", 5e-3),
        ("mri-nufft", 1e-3),
        ("mrpro", 1e-3),
        ("sigpy", 2e-2),
        ("bart", 5e-2),
    ],
)
@pytest.mark.filterwarnings("ignore")  # of other libraries
def test_all_solve_the_same_problem(problem, solution, name, limit, tmp_path):
    if not PEERS[name].installed:
        pytest.skip(f"{PEERS[name].module} is not installed")
    found = run_peer(name, problem, 10, tmp_path)
    assert distance(found["solution"], solution) < limit
    assert 0 < found["total"]
    assert len(found["steps"]) >= 1
    assert 2**20 < found["peak"] < 2**36
    assert 0 < found["cpu"]
    assert not list(tmp_path.iterdir())


def test_conjugate_gradients_solve_a_small_system():
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((6, 4)) + 1j * rng.standard_normal((6, 4))
    gram = mixing.conj().T @ mixing
    right = (rng.standard_normal(4) + 1j * rng.standard_normal(4)).reshape(4, 1, 1, 1)
    found, seconds = conjugate_gradients(
        lambda x: (gram @ x.reshape(4)).reshape(4, 1, 1, 1), right, 4
    )
    np.testing.assert_allclose(found.reshape(4), np.linalg.solve(gram, right.reshape(4)), rtol=1e-6)
    assert len(seconds) == 4


def test_problem_survives_a_file(problem, tmp_path):
    problem.save(tmp_path / "problem.npz")
    again = SpeedProblem.load(tmp_path / "problem.npz")
    for name in ("trajectory", "basis", "maps", "samples"):
        np.testing.assert_array_equal(getattr(again, name), getattr(problem, name))
    assert again.weights.shape == (2, len(again.points))


def test_arrays_for_bart(tmp_path):
    array = (np.arange(24) + 1j).reshape(2, 3, 4).astype(np.complex64)
    speed_peers._write_cfl(tmp_path / "array", array)
    assert (tmp_path / "array.hdr").read_text() == "# Dimensions\n2 3 4\n"
    first = np.fromfile(tmp_path / "array.cfl", np.complex64, count=2)
    np.testing.assert_array_equal(first, array[:2, 0, 0])  # the first index is the fastest
    np.testing.assert_array_equal(speed_peers._read_cfl(tmp_path / "array"), array)


def test_table_of_a_small_run(tmp_path, capsys):
    out = tmp_path / "out"
    words = "--matrix 12 --coils 2 --coefficients 2 --frames 40 --rounds 2 --threads 1".split()
    assert main(["bench", "speed", *words, "--peers", "mri2qmap", "reference", "-o", str(out)]) == 0
    text = (out / "speed.md").read_text()
    assert text.strip() == capsys.readouterr().out.strip()
    assert "| mri2qmap " in text
    numbers = json.loads((out / "speed.json").read_text())
    (timing,) = numbers["timings"]
    assert timing["name"] == "mri2qmap"
    assert len(timing["total"]) == 2
    assert timing["error"] < 1e-3


def test_who_is_not_installed_or_fails_is_named(monkeypatch):
    def fail(name, *_):
        return "" if name == "mri2qmap" else "ValueError: no threads"

    monkeypatch.setitem(PEERS, "sigpy", Peer("sigpy", "no_such_module", lambda problem: None))
    monkeypatch.setitem(PEERS, "bart", Peer("BART pics", "no-such-program", None))
    monkeypatch.setattr(speed_bench, "_run", fail)
    monkeypatch.setattr(speed_bench.np, "load", lambda file: _Found())
    settings = SpeedSettings(
        matrix=12, coils=1, frames=40, rounds=2, peers=("mri2qmap", "sigpy", "bart", "finufft")
    )
    timings, left_out = measure_speed(settings, Reporter())
    assert [timing.name for timing in timings] == ["mri2qmap"]
    assert left_out == [
        "sigpy: no_such_module is not installed",
        "BART pics: no-such-program is not installed",
        "finufft, no convolution: ValueError: no threads",
    ]
    text = speed_report(settings, timings, left_out)
    assert all(f"* {line}" in text for line in left_out)


class _Found(dict):
    """What a library has written."""

    def __init__(self):
        numbers = {"set_up": 1.0, "total": 2.0, "cpu": 3.0, "peak": 2.0**30}
        super().__init__(numbers, steps=np.array([0.1, 0.2]), solution=np.ones(3))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_own_failure_is_an_error(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(speed_bench, "_run", lambda *_: "MemoryError")
    words = ["bench", "speed", "--matrix", "12", "--peers", "mri2qmap", "-o", str(tmp_path / "out")]
    assert main(words) == 2
    assert "bench speed: MemoryError" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("speed*"))


def test_last_line_of_a_failed_process(tmp_path):
    (tmp_path / "problem.npz").write_bytes(b"")
    failure = speed_bench._run("mri2qmap", tmp_path / "problem.npz", tmp_path / "out.npz", SMALL)
    assert failure
    assert "\n" not in failure
    assert not (tmp_path / "out.npz").exists()


def test_ratios():
    timings = [
        Timing("mri2qmap", [1.0], [0.2, 0.3, 0.4], [4.0], [4.0], [2.0**30], 1e-4),
        Timing("bart", [9.0], [0.6], [16.0], [30.0], [2.0**31], 1e-2),
    ]
    text = speed_report(SpeedSettings(rounds=1, threads=2), timings, [])
    assert "| BART pics | 0.50 | 0.25 | 0.50 |" in text
    assert "0.30 (0.20 to 0.40)" in text
    assert "2 threads" in text
    assert "Left out" not in text


def test_without_reference_there_is_no_distance():
    timing = Timing("mri2qmap", [1.0], [0.2], [4.0], [4.0], [2.0**30])
    text = speed_report(SpeedSettings(coils=1, rounds=1), [timing], [])
    assert text.rstrip().endswith("| - |")
    assert "one coil" not in text
    assert "1 coil," in text


def test_other_libraries_wait_as_without_this_package(monkeypatch, tmp_path):
    seen = {}

    class Process:
        returncode, pid = 0, 0

        def __init__(self, command, env, **_):
            seen[command[3]] = env

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def communicate(self):
            return "", ""

        def poll(self):
            return 0

    monkeypatch.setattr(speed_bench.subprocess, "Popen", Process)
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    for name in ("mri2qmap", "bart"):
        assert not speed_bench._run(name, tmp_path / "p.npz", tmp_path / "o.npz", SMALL)
    assert seen["mri2qmap"]["OMP_WAIT_POLICY"] == "passive"
    assert "OMP_WAIT_POLICY" not in seen["bart"]
    assert seen["bart"]["KMP_BLOCKTIME"] == "200"
    assert all(env["OMP_NUM_THREADS"] == "1" for env in seen.values())


def test_an_interrupted_run_ends_the_library_and_its_children(tmp_path, monkeypatch):
    program = "import subprocess, sys, time; subprocess.run([sys.executable, '-c', 'input()'])"
    started = []
    popen = subprocess.Popen

    class Interrupted(popen):
        def __init__(self, command, **options):
            started.append(self)
            super().__init__([sys.executable, "-c", program], stdin=subprocess.PIPE, **options)

        def communicate(self, *_):
            raise KeyboardInterrupt

    monkeypatch.setattr(speed_bench.subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        speed_bench._run("bart", tmp_path / "problem.npz", tmp_path / "out.npz", SMALL)
    assert started[0].wait(timeout=60) == -9


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--matrix", "7"], "--matrix 7"),
        (["--matrix", "6"], "--matrix 6"),
        (["--coils", "0"], "--coils 0"),
        (["--coefficients", "0"], "--coefficients 0"),
        (["--coefficients", "9", "--frames", "8"], "--coefficients 9"),
        (["--coefficients", "33"], "--coefficients 33"),
        (["--acceleration", "0"], "--acceleration 0"),
        (["--acceleration", "nan"], "--acceleration nan"),
        (["--iterations", "2"], "--iterations 2"),
        (["--rounds", "0"], "--rounds 0"),
        (["--threads", "0"], "--threads 0"),
        (["--seed", "-1"], "--seed -1"),
        (["--seed", "1" + 22 * "0"], "--seed 1000"),
        (["--peers", "bart", "gadgetron"], "--peers gadgetron: unknown; known are mri2qmap"),
    ],
)
def test_bad_input(words, message, capsys, tmp_path):
    assert main(["bench", "speed", "-o", str(tmp_path / "out"), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_a_library_runs_in_its_own_process(tmp_path, problem):
    problem.save(tmp_path / "problem.npz")
    module = [sys.executable, "-m", "mri2qmap.studies.speed_peers"]
    files = [str(tmp_path / "problem.npz"), str(tmp_path / "out.npz")]
    subprocess.run([*module, "mri2qmap", *files, "4"], check=True, timeout=250)
    with np.load(tmp_path / "out.npz") as found:
        assert len(found["steps"]) == 4
        assert found["solution"].shape == (2, 12, 12, 12)
        assert found["peak"] > 2**20
        assert found["cpu"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.npz", "problem.npz"]

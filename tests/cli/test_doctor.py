import importlib
import os
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import pytest

import mri2qmap
from mri2qmap.cli import doctor
from mri2qmap.cli.doctor import Finding, examine
from mri2qmap.cli.main import COMMANDS, main
from mri2qmap.machine import compiled_loops, folders
from mri2qmap.storage.cache_size import dictionary_file


def found(topic: str) -> Finding:
    return next(finding for finding in examine() if finding.topic == topic)


def test_the_report_says_what_is_there_and_what_is_missing(monkeypatch, capsys):
    findings = [
        Finding("NUFFT on the CPU", "finufft 2.5", "for any reconstruction", needed=True),
        Finding("GPU", None, "for speed"),
    ]
    monkeypatch.setattr(doctor, "examine", lambda: findings)
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "ok       NUFFT on the CPU  finufft 2.5\n" in text
    assert "missing  GPU               for speed\n" in text
    assert "can run" in text


def test_the_exit_code_tells_when_the_main_job_cannot_run(monkeypatch, capsys):
    findings = [Finding("NUFFT on the CPU", None, "for any reconstruction", needed=True)]
    monkeypatch.setattr(doctor, "examine", lambda: findings)
    assert main(["doctor"]) == 2
    text = capsys.readouterr().out
    assert "MISSING  NUFFT on the CPU  for any reconstruction\n" in text
    assert "cannot run" in text


def test_this_machine_has_what_the_tests_run_on():
    import finufft
    import torch

    assert found("NUFFT on the CPU").found == f"finufft {finufft.__version__}"
    assert found("torch").found == f"torch {torch.__version__}"
    assert (found("GPU").found is not None) == torch.cuda.is_available()
    assert "mri2qmap" in found("pipelines").found.split(", ")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ModuleNotFoundError("No module named 'finufft'"), "for any reconstruction"),
        (ImportError("libfftw3.so is missing"), "it does not load: libfftw3.so is missing"),
        (OSError("libfinufft.so: bad image"), "it does not load: libfinufft.so: bad image"),
    ],
)
def test_a_package_that_does_not_import_is_missing(monkeypatch, error, words):
    original = importlib.import_module

    def broken(name, *more):
        if name == "finufft":
            raise error
        return original(name, *more)

    monkeypatch.setattr(importlib, "import_module", broken)
    finding = found("NUFFT on the CPU")
    assert finding.found is None
    assert finding.needed
    assert words in finding.missing_for


def test_missing_weights_are_needed_for_the_main_job(monkeypatch, tmp_path):
    monkeypatch.setattr(folders, "model_folders", lambda: (tmp_path,))
    finding = found("denoiser weights")
    assert finding.found is None
    assert finding.needed
    assert str(tmp_path) in finding.missing_for
    (tmp_path / "small.safetensors").touch()
    assert found("denoiser weights").found == "small"


def test_the_cache_folder_is_tried_and_named(monkeypatch, tmp_path):
    chosen = tmp_path / "new" / "cache"
    monkeypatch.setenv("MRI2QMAP_CACHE", str(chosen))
    monkeypatch.setenv("MRI2QMAP_CACHE_SIZE", "1MiB")
    assert found("cache folder").found == f"{chosen}; dictionaries: 0, 0 MiB of at most 1 MiB"
    (chosen / dictionary_file("0" * 24)).write_bytes(bytes(3 * 2**20))
    assert found("cache folder").found == f"{chosen}; dictionaries: 1, 3 MiB of at most 1 MiB"
    (tmp_path / "file").touch()
    for name in ("MRI2QMAP_CACHE", "XDG_CACHE_HOME", "TMPDIR"):
        monkeypatch.setenv(name, str(tmp_path / "file" / name))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    monkeypatch.setattr(folders, "home_folder", lambda: None)
    folders._choose.cache_clear()
    finding = found("cache folder")
    assert finding.found is None
    assert not finding.needed
    for words in ("MRI2QMAP_CACHE: Not a directory", "no home folder", "set MRI2QMAP_CACHE"):
        assert words in finding.missing_for


def test_compiled_loops_and_what_is_in_their_way_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(compiled_loops.numba.config, "CACHE_DIR", "")
    monkeypatch.setenv("MRI2QMAP_CACHE", str(tmp_path / "cache"))
    finding = found("compiled loops")
    assert finding.found is None
    assert not finding.needed
    assert "mri2qmap warm-up" in finding.missing_for
    shipped = tmp_path / "shipped"
    loops = shipped / "numba" / compiled_loops._digest()
    loops.mkdir(parents=True)
    monkeypatch.setenv("MRI2QMAP_SHIPPED_CACHE", str(shipped))
    assert found("compiled loops").found is None  # an empty folder has none
    (loops / "loop.nbc").touch()
    assert found("compiled loops").found == str(loops)
    assert str(shipped) in found("cache folder").found
    (tmp_path / "file").touch()
    monkeypatch.setattr(compiled_loops.numba.config, "CACHE_DIR", str(tmp_path / "file"))
    assert f"NUMBA_CACHE_DIR={tmp_path / 'file'} cannot be used" in found("compiled loops").found


def test_a_current_folder_without_rights_is_named(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert found("current folder").found == str(tmp_path)
    monkeypatch.setattr(folders, "unwritable_reason", lambda folder: "Permission denied")
    finding = found("current folder")
    assert finding.found is None
    assert not finding.needed
    assert f"{tmp_path} cannot be written for user {os.getuid()}" in finding.missing_for


BROKEN = {
    "torch": "raise OSError('libtorch_cpu.so: cannot open shared object file')",
    "numba": "raise AttributeError('module numpy has no attribute long')",
    "nibabel": "print('out'); import sys; print('err', file=sys.stderr); raise SystemExit(3)",
    "rich": "raise RuntimeError('compiled for another Python')",
    "cupy": "raise ValueError('no driver')",
    "ismrmrd": "import xsdata_that_is_not_there",
}


@pytest.fixture(scope="module")
def broken_libraries(tmp_path_factory):
    """Environment of a process in which some libraries fail as they are imported."""
    folder = tmp_path_factory.mktemp("broken")
    for name, body in BROKEN.items():
        (folder / f"{name}.py").write_text(body + "\n")
    package = str(Path(mri2qmap.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), package])}


def run(environment, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "mri2qmap.cli.main", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_doctor_survives_whatever_is_broken(broken_libraries):
    done = run(broken_libraries, "doctor")
    assert done.returncode == 2
    assert done.stderr == ""
    lines = {line[9:].split("  ")[0]: line for line in done.stdout.splitlines()}
    for name, mark, words in (
        ("torch", "MISSING", "for any reconstruction (it does not load: libtorch_cpu.so"),
        ("numba", "MISSING", "AttributeError: module numpy has no attribute long"),
        ("nibabel", "MISSING", "SystemExit: 3"),
        ("rich", "MISSING", "RuntimeError: compiled for another Python"),
        ("ismrmrd", "MISSING", "No module named 'xsdata_that_is_not_there'"),
        ("CuPy", "missing", "ValueError: no driver"),
        ("GPU", "missing", "PyTorch does not load"),
    ):
        assert lines[name].startswith(mark), lines[name]
        assert words in lines[name]
    for name in ("numpy", "h5py", "pipelines", "denoiser weights", "cache folder"):
        assert lines[name].startswith("ok"), lines[name]
    assert "cannot run" in done.stdout


@pytest.mark.parametrize("library", ["numba", "torch"])
def test_a_library_that_fails_is_one_line_of_every_command(broken_libraries, tmp_path, library):
    only = tmp_path / "only"
    only.mkdir()
    (only / f"{library}.py").write_text(BROKEN[library] + "\n")
    folders = [str(only), broken_libraries["PYTHONPATH"].split(os.pathsep)[-1]]
    environment = {**broken_libraries, "PYTHONPATH": os.pathsep.join(folders)}
    done = run(environment, "replay", "scan.h5", "-o", "maps")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"mri2qmap: error: {library} cannot be loaded (")
    assert "mri2qmap doctor" in done.stderr


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != "doctor"])
def test_any_error_of_an_import_is_one_line(monkeypatch, capsys, tmp_path, command):
    """Also one that is no ImportError, for each command, in the handler's own words."""
    (tmp_path / "a_broken_library.py").write_text("raise SystemExit('wrong processor')\n")
    monkeypatch.syspath_prepend(tmp_path)

    def run(args):
        import a_broken_library  # noqa: F401

    module = types.ModuleType(command)
    module.add_parser = lambda subparsers: subparsers.add_parser(command)
    module.run = run
    monkeypatch.setitem(sys.modules, f"mri2qmap.cli.{command.replace('-', '_')}", module)
    assert main([command]) == 1
    assert capsys.readouterr().err == (
        "mri2qmap: error: a_broken_library cannot be loaded (SystemExit: wrong processor); "
        "mri2qmap doctor says what is missing for what\n"
    )


def test_a_version_that_is_too_old_is_missing(monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda name: "1.4.0" if name == "ismrmrd" else None)
    finding = found("ismrmrd")
    assert finding.found is None
    assert finding.needed
    assert "version 1.4.0 is too old: pip install 'ismrmrd>=1." in finding.missing_for


@pytest.mark.parametrize(
    ("cuda", "installed", "finding"),
    [
        (None, {"cupy-cuda12x": "14.2.0"}, "cupy 14.2.0"),
        ("12.6", {"cupy-cuda12x": "14.2.0"}, "cupy 14.2.0"),
        ("13.0", {"cupy-cuda13x": "14.2.0"}, "cupy 14.2.0"),
        ("13.0", {"cupy": "14.2.0"}, "cupy 14.2.0"),  # built from source
        (
            "13.0",
            {"cupy-cuda12x": "14.2.0"},
            "cupy-cuda12x does not fit PyTorch, which is built for CUDA 13.0: pip uninstall "
            "cupy-cuda12x, then pip install 'mri2qmap[gpu-cuda13]'",
        ),
        (
            "12.8",
            {"cupy-cuda13x": "14.2.0"},
            "pip uninstall cupy-cuda13x, then pip install 'mri2qmap[gpu]'",
        ),
        (
            "12.8",
            {"cupy-cuda12x": "14.2.0", "cupy-cuda13x": "14.2.0"},
            "cupy-cuda13x does not fit PyTorch, which is built for CUDA 12.8: pip uninstall "
            "cupy-cuda12x cupy-cuda13x, then pip install 'mri2qmap[gpu]'",
        ),
        ("11.8", {"cupy-cuda11x": "14.2.0"}, "cupy 14.2.0"),
        (
            "11.8",
            {"cupy-cuda12x": "14.2.0"},
            "pip uninstall cupy-cuda12x, then pip install 'mri2qmap[gpu-cuda11]'",
        ),
        ("10.2", {"cupy-cuda12x": "14.2.0"}, "no extra of this package fits it"),
        ("13.0", {"cupy-cuda13x": "13.0.0"}, "too old: pip install 'cupy-cuda13x>=13.6'"),
        ("13.0", {}, "pip install 'mri2qmap[gpu-cuda13]'"),
        ("12.6", {}, "pip install 'mri2qmap[gpu]'"),
        (None, {}, "pip install 'mri2qmap[gpu]'"),
    ],
)
def test_cupy_must_fit_the_cuda_of_torch(monkeypatch, cuda, installed, finding):
    monkeypatch.setattr("torch.version.cuda", cuda)
    monkeypatch.setattr(doctor, "_version", installed.get)
    cupy = types.ModuleType("cupy")
    cupy.__version__ = "14.2.0"
    monkeypatch.setitem(sys.modules, "cupy", cupy if installed else None)
    result = found("CuPy")
    assert result.needed is False
    if finding.startswith("cupy "):
        assert result.found == finding
    else:
        assert result.found is None
        assert finding in result.missing_for


@pytest.mark.parametrize(
    ("cuda", "loads", "words"),
    [
        ("12.6", True, None),
        ("13.0", True, None),  # a build of one's own, or libraries of both releases
        ("12.6", False, "than by CuPy: pip install 'mri2qmap[gpu]'"),
        (None, False, "than by CuPy: pip install 'mri2qmap[gpu]'"),
        ("13.0", False, "need libraries of CUDA 12, and PyTorch is built for CUDA 13.0"),
        ("11.8", False, "need libraries of CUDA 12, and PyTorch is built for CUDA 11.8"),
    ],
)
def test_cufinufft_must_fit_the_cuda_of_torch(monkeypatch, cuda, loads, words):
    monkeypatch.setattr("torch.version.cuda", cuda)
    monkeypatch.setattr(doctor, "_version", {"cufinufft": "2.5.1"}.get)
    monkeypatch.setitem(sys.modules, "cufinufft", types.ModuleType("cufinufft") if loads else None)
    finding = found("NUFFT on a GPU")
    assert finding.found == ("cufinufft 2.5.1" if loads else None)
    if words is not None:
        assert words in finding.missing_for
        assert cuda == "12.6" or cuda is None or "pip install" not in finding.missing_for


@pytest.mark.parametrize(
    ("version", "numbers"),
    [("1.14", (1, 14)), ("2.0.0", (2,)), ("2.13.0+cpu", (2, 13)), ("3rc1", (3,)), ("x", ())],
)
def test_versions_are_compared_by_number(version, numbers):
    assert doctor._numbers(version) == numbers

import importlib

import pytest

from mri2qmap.cli import doctor
from mri2qmap.cli.doctor import Finding, examine
from mri2qmap.cli.main import main


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
    from mri2qmap.denoiser import checkpoint

    monkeypatch.setattr(checkpoint, "model_folders", lambda: (tmp_path,))
    finding = found("denoiser weights")
    assert finding.found is None
    assert finding.needed
    assert str(tmp_path) in finding.missing_for
    (tmp_path / "small.safetensors").touch()
    assert found("denoiser weights").found == "small"


def test_a_cache_that_cannot_be_written_is_said(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MRI2QMAP_CACHE", str(tmp_path / "new" / "cache"))
    assert found("cache folder").found == str(tmp_path / "new" / "cache")
    monkeypatch.setattr(doctor, "_writable", lambda folder: False)
    assert found("cache folder").found is None

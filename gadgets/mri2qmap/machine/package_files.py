"""Where the files that come with the package are: of a source checkout, and of a wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def model_folders() -> tuple[Path, ...]:
    """Folders that hold the project's models."""
    return _PACKAGE.parents[1] / "models", _PACKAGE / "_models"


def pipeline_folders() -> tuple[Path, ...]:
    """Folders that hold the project's pipelines."""
    return _PACKAGE.parents[1] / "pipelines", _PACKAGE / "_pipelines"


def project_file() -> Path:
    """Project file of a source checkout; there may be none."""
    return _PACKAGE.parents[1] / "pyproject.toml"

"""Which code computed a result: a digest of the source files of this package."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
from collections.abc import Iterator
from pathlib import Path

import mri2qmap
from mri2qmap.errors import Mri2QmapError
from mri2qmap.pipeline.provenance import numerical_packages

WITHOUT_EFFECT = (
    "cli/*.py",
    "scan_queue/*.py",
    "studies/*_report.py",
    "studies/*_figures.py",
    "studies/catalogue.py",
)
"""Files that do not change a result: all that the catalogue selects is in the keys of the rows,
reports and figures are made from the rows, and the queue runs commands."""


@functools.cache
def code_version() -> str:
    """Return the version of the code of this process, 12 hexadecimal digits.

    It changes with every statement of this package that can change a result, and with the versions
    of the numerical libraries. Weights and settings are not part of it; rows have them in their
    keys. It takes about a second, once for each process.

    Raises
    ------
    Mri2QmapError
        If the source files of the package are not installed.
    """
    scikit_image = importlib.metadata.version("scikit-image")
    versions = [*numerical_packages().items(), ("scikit-image", scikit_image)]
    digest = hashlib.sha256(repr(versions).encode())
    digest.update(code_digest(Path(mri2qmap.__file__).parent).encode())
    return digest.hexdigest()[:12]


def code_digest(package: Path) -> str:
    """SHA-256 of the statements of all modules of a package, as 64 hexadecimal digits.

    Comments, docstrings, blank lines and the files `WITHOUT_EFFECT` do not count.

    Parameters
    ----------
    package
        Folder of the package.

    Raises
    ------
    Mri2QmapError
        If there are no source files, or one cannot be read.
    """
    digest = hashlib.sha256()
    modules = list(_modules(package))
    for path in modules:
        try:
            tree = ast.parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError) as error:
            raise Mri2QmapError(
                f"{path}: this source file cannot be read ({error}), so results cannot be assigned "
                "to a version of the code; install the package again"
            ) from error
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                node.body = [line for line in node.body if not _is_text(line)]
        digest.update(f"{path.relative_to(package).as_posix()}\n{ast.dump(tree)}\n".encode())
    if not modules:
        raise Mri2QmapError(
            f"{package}: it contains no source files, so results cannot be assigned to a version "
            "of the code; install the package with its .py files"
        )
    return digest.hexdigest()


def _modules(package: Path) -> Iterator[Path]:
    """All source files that count, in a fixed order."""
    for path in sorted(package.rglob("*.py")):
        if not any(path.relative_to(package).match(pattern) for pattern in WITHOUT_EFFECT):
            yield path


def _is_text(statement: ast.stmt) -> bool:
    """Whether a statement is only a string, such as a docstring."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )

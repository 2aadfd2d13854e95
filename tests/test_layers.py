"""Imports run downwards: no package imports from one above it, and there is no circle."""

import ast
import functools
import graphlib
from pathlib import Path

import mri2qmap

PACKAGE = Path(mri2qmap.__file__).parent
LAYERS = (
    "errors",
    "machine",
    "storage",
    "mrsignal",
    "pulseq",
    "operators",
    "recon",
    "denoiser",
    "pipeline",
    "openrecon",
    "hosts",
    "stream",
    "files",
    "export",
    "pacs",
    "report",
    "gadgets",
    "anatomy",
    "simulation",
    "evaluation",
    "validation",
    "scan_queue",
    "api",
    "cohort",
    "training",
    "studies",
    "cli",
)
"""From the bottom to the top. "gadgets" are the six modules beside the packages."""


def imported(path: Path) -> set[str]:
    """Modules of this package that a file imports, whether at its top or in a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if is_module(full) else node.module)
    return {name for name in found if name.startswith("mri2qmap.")}


def is_module(name: str) -> bool:
    path = PACKAGE.parent / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


@functools.cache
def imports() -> dict[str, set[str]]:
    """Imports of every module, by its name."""
    return {
        "mri2qmap." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts): imported(path)
        for path in PACKAGE.rglob("*.py")
    }


def layer(module: str) -> int:
    part = module.split(".")[1]
    return LAYERS.index(part if part in LAYERS else "gadgets")


def test_imports_run_downwards():
    upwards = [
        f"{module} imports {name}"
        for module, names in imports().items()
        if module != "mri2qmap.__init__"
        for name in names
        if layer(name) > layer(module)
    ]
    assert not upwards


def test_there_is_no_circle():
    graph = {module: names & imports().keys() for module, names in imports().items()}
    tuple(graphlib.TopologicalSorter(graph).static_order())

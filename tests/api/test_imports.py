"""What importing the package and its parts loads, and what each package exports."""

import ast
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mri2qmap

PACKAGE = Path(mri2qmap.__file__).parent
INTERNAL = {"_models", "_pipelines", "cli", "machine", "storage", "stream", "studies"}
"""Packages without exports of their own."""
PUBLIC = sorted(
    path.parent.name for path in PACKAGE.glob("*/__init__.py") if path.parent.name not in INTERNAL
)
HEAVY = {
    *("torch", "numpy", "scipy", "numba", "finufft", "h5py", "ismrmrd", "nibabel", "pydicom"),
    *("highdicom", "matplotlib", "nilearn", "skimage", "monai", "rich", "safetensors", "xsdata"),
}
OPTIONAL = {
    *("matplotlib", "nilearn", "skimage", "monai", "bm4d", "sklearn", "pandas"),
    *("dask", "distributed", "cryptography", "pynetdicom", "dicomweb_client"),
}
"""Modules of packages that the extras install (numba imports PyYAML where it is installed)."""
GADGETS = (
    "coil_sensitivity",
    "subspace_compression",
    "toeplitz_cg",
    "pnp_admm",
    "combined_matching",
    "parametric_maps",
)


def run(code: str, **environment: str) -> str:
    """Standard output of a program in a fresh interpreter."""
    path = os.pathsep.join([str(PACKAGE.parent), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, **environment},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a statement loads."""
    code = f"import sys; {statement}; import json; print(json.dumps(sorted(sys.modules)))"
    return {name.partition(".")[0] for name in json.loads(run(code))}


def test_importing_the_package_loads_nothing_heavy():
    assert not loaded_by("import mri2qmap; dir(mri2qmap)") & HEAVY


def test_exports_of_the_package_are_found_on_first_use():
    assert set(mri2qmap.__all__) <= set(dir(mri2qmap))
    assert mri2qmap.Maps is importlib.import_module("mri2qmap.evaluation.maps").Maps
    assert "Maps" in vars(mri2qmap)  # and is kept
    with pytest.raises(AttributeError, match="no attribute 'reconstrukt'"):
        _ = mri2qmap.reconstrukt


@pytest.mark.parametrize("name", ["", *PUBLIC])
def test_every_public_package_says_what_it_exports(name):
    module = importlib.import_module(f"mri2qmap.{name}".rstrip("."))
    assert module.__doc__
    assert len(module.__all__) == len(set(module.__all__))
    for exported in module.__all__:
        assert getattr(module, exported) is not None
    folder = PACKAGE / name
    assert not {path.stem for path in folder.glob("*.py")} & set(module.__all__)
    tree = ast.parse((folder / "__init__.py").read_text())
    for_checkers = {
        alias.name
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert for_checkers == set(module.__all__) - {"__version__"}


@pytest.mark.parametrize("gadget", GADGETS)
def test_a_gadget_starts_without_what_it_does_not_need(gadget):
    loaded = loaded_by(f"import mri2qmap.hosts.gadget_run, mri2qmap.{gadget}")
    assert "torch" in loaded
    assert not loaded & {"highdicom", "nibabel", *OPTIONAL}


def test_a_node_checks_its_configuration_before_it_loads_what_computes():
    loaded = loaded_by("import mri2qmap.hosts.external_node")
    assert not loaded & {"torch", "numba", "scipy", "finufft"}


def test_reconstructing_needs_no_extra():
    loaded = loaded_by(
        "import mri2qmap; mri2qmap.reconstruct, mri2qmap.evaluate, mri2qmap.simulate"
    )
    assert not loaded & {"highdicom", *OPTIONAL}


WITHOUT_EXTRAS = """
import importlib.abc, os, signal, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {optional!r} | {{"yaml"}}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
import mri2qmap
from mri2qmap.cli.main import main

scan = mri2qmap.simulate(anatomy={labels!r}, matrix=12, field_of_view=0.2, coils=2, frames=20)
scan.save("scan.h5", "truth")
maps = mri2qmap.reconstruct("scan.h5", "svdmrf", progress=False)
maps.save("maps")
assert mri2qmap.evaluate(maps, scan)["mape_t1"] > 0
assert main(["replay", "scan.h5", "-p", "svdmrf", "-o", "replayed"]) == 0
for command in (["demo", "-o", "demo"], ["simulate", "other.h5"]):
    assert main(command) == 2  # the ICBM brain and pictures
try:
    maps.plot()
except mri2qmap.Mri2QmapError as error:
    print("plot:", error)

from mri2qmap.cli import serving

said = serving.say

def say(text):
    said(text)
    if "listening on" in text:
        os.kill(os.getpid(), signal.SIGTERM)

serving.say = say
assert main(["serve", "--port", "0", "--device", "cpu"]) == 0
print("loaded:", sorted({optional!r} & {{name.partition(".")[0] for name in sys.modules}}))
"""


@pytest.mark.slow
def test_scans_are_reconstructed_and_served_without_extras(tmp_path):
    from helpers.phantoms import write_labels

    labels = write_labels(tmp_path / "labels.nii.gz")
    code = WITHOUT_EXTRAS.format(optional=OPTIONAL, labels=str(labels))
    code = f"import os; os.chdir({str(tmp_path)!r})\n{code}"
    printed = run(code, MRI2QMAP_CACHE=str(tmp_path / "cache"), OMP_NUM_THREADS="1")
    assert "loaded: []" in printed
    assert "listening on" in printed
    assert "pip install 'mri2qmap[demo]'" in printed
    for name in ("maps", "replayed"):
        assert (tmp_path / name / "nifti/T1map.nii.gz").exists()
    assert not (tmp_path / "demo").exists()

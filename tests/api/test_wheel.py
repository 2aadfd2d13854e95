"""The wheel in an empty environment: it is built and installed, which takes gigabytes.

Skipped unless MRI2QMAP_WHEEL_TEST names the PyTorch to install, as ``make wheel-test`` does.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TORCH = os.environ.get("MRI2QMAP_WHEEL_TEST")
ABSENT = {"matplotlib", "nilearn", "scikit-image", "scikit-learn", "pandas", "monai"}

VIEWER = [f"gadgets/mri2qmap/report/{n}" for n in ("viewer.js", "viewer.licences.txt")]

pytestmark = [
    pytest.mark.skipif(
        not TORCH,
        reason="MRI2QMAP_WHEEL_TEST=torch==... installs the wheel in an empty environment",
    ),
    pytest.mark.timeout(3600),
]


def run(*command: object, folder: Path) -> str:
    """Standard output of a command that knows nothing of this checkout."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL"))}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**environment, "MRI2QMAP_CACHE": str(folder / "cache")},
        timeout=3000,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> tuple[Path, Path, Path]:
    """Interpreter of an environment with PyTorch and the wheel, the wheel, and an empty folder."""
    base = tmp_path_factory.mktemp("wheel")
    wheels, folder = base / "dist", base / "elsewhere"
    folder.mkdir()
    source = base / "source"
    run("git", "clone", "-q", ROOT, source, folder=base)
    for file in VIEWER:
        if (ROOT / file).exists():
            shutil.copy(ROOT / file, source / file)
    run(sys.executable, "-m", "venv", base / "venv", folder=base)
    python = base / "venv/bin/python"
    pip = (python, "-m", "pip", "install", "--quiet", "--no-cache-dir")
    run(*pip, TORCH, folder=base)
    run(python, "-m", "pip", "wheel", "-q", "--no-deps", "-w", wheels, source, folder=base)
    (wheel,) = wheels.glob("mri2qmap-*.whl")
    run(*pip, wheel, folder=base)
    return python, wheel, folder


def installed(python: Path, folder: Path) -> set[str]:
    listed = json.loads(run(python, "-m", "pip", "list", "--format", "json", folder=folder))
    return {entry["name"].lower() for entry in listed}


SCAN = """
import numpy, nibabel, mri2qmap
z, y, x = numpy.mgrid[-20:20, -20:20, -20:20]
r = z**2 + y**2 + x**2
labels = numpy.where(r < 15**2, numpy.where(x > 0, 3, 2), 0).astype(numpy.uint8)
nibabel.save(nibabel.Nifti1Image(labels, numpy.diag([2.0, 2.0, 2.0, 1.0])), "labels.nii.gz")
scan = mri2qmap.simulate(
    anatomy="labels.nii.gz", matrix=16, field_of_view=0.08, coils=2, acceleration=1, frames=60
)
scan.save("scan.h5", "truth")
"""


@contextlib.contextmanager
def serving(command: Path, folder: Path) -> Iterator[str]:
    """Address of `mri2qmap serve`."""
    words = [str(command), "serve", "--port", "0", "--device", "cpu"]
    with subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().split()[-1]
        finally:
            server.terminate()
            assert server.wait(60) == 0


def test_a_wheel_without_extras_reconstructs_and_serves(environment):
    python, _, folder = environment
    assert not installed(python, folder) & ABSENT
    run(python, "-c", SCAN, folder=folder)
    command = "import mri2qmap; m = mri2qmap.reconstruct('scan.h5'); m.save('maps'); print(m)"
    assert "<Maps 16 x 16 x 16" in run(python, "-W", "error", "-c", command, folder=folder)
    assert (folder / "maps/dicom/T1map").is_dir()
    where = run(python, "-c", "import mri2qmap; print(mri2qmap.__file__)", folder=folder)
    assert str(ROOT) not in where
    mri2qmap = python.with_name("mri2qmap")
    run(mri2qmap, "replay", "scan.h5", "-o", "replayed", folder=folder)
    assert "mape_t1" in run(
        python,
        "-c",
        "import mri2qmap; print(mri2qmap.evaluate('replayed', 'truth'))",
        folder=folder,
    )
    with serving(mri2qmap, folder) as address:
        run(mri2qmap, "replay", "scan.h5", "--server", address, "-o", "served", folder=folder)
    assert (folder / "served/dicom/T1map").is_dir()
    failing = "import mri2qmap; mri2qmap.reconstruct('scan.h5', 'svdmrf').plot()"
    done = subprocess.run(
        [python, "-c", failing], cwd=folder, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 1
    assert "pip install 'mri2qmap[demo]'" in done.stderr.splitlines()[-1]


def test_the_sources_of_cuda_kernels_are_part_of_it(environment):
    with zipfile.ZipFile(environment[1]) as wheel:
        found = {Path(name).name for name in wheel.namelist() if name.endswith(".cu")}
    assert found == {path.name for path in (ROOT / "gadgets").rglob("*.cu")}


def test_the_built_viewer_is_part_of_it(environment):
    if not (ROOT / VIEWER[0]).exists():
        pytest.skip("`make viewer` builds the viewer, with npm")
    with zipfile.ZipFile(environment[1]) as wheel:
        assert {file.removeprefix("gadgets/") for file in VIEWER} <= set(wheel.namelist())


def test_the_sources_make_the_same_wheel(environment, tmp_path):
    """With pipelines, weights and the viewer."""
    source = environment[1].parents[1] / "source"
    run(sys.executable, "-m", "build", "--sdist", "--outdir", tmp_path, source, folder=tmp_path)
    (sources,) = tmp_path.glob("mri2qmap-*.tar.gz")
    pip = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path)
    run(*pip, sources, folder=tmp_path)
    (wheel,) = tmp_path.glob("mri2qmap-*.whl")
    contents = []
    for path in (wheel, environment[1]):
        with zipfile.ZipFile(path) as file:
            contents.append({info.filename: info.CRC for info in file.infolist()})
    changed = {name for name in contents[0] if contents[0][name] != contents[1].get(name)}
    assert contents[0].keys() == contents[1].keys()
    assert all(name.endswith("RECORD") for name in changed), changed


def test_with_its_extra_it_plots(environment):
    python, wheel, folder = environment
    run(python, "-m", "pip", "install", "-q", "--no-cache-dir", f"{wheel}[demo]", folder=folder)
    if not (folder / "scan.h5").exists():
        run(python, "-c", SCAN, folder=folder)
    command = "import mri2qmap; m = mri2qmap.reconstruct('scan.h5'); m.plot()"
    run(python, "-W", "error", "-c", command, folder=folder)

"""The notebook of the documentation runs, with warnings as errors, and shows what it made."""

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs/tutorial.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]


@pytest.mark.slow
def test_it_runs(tmp_path, monkeypatch):
    pytest.importorskip("nilearn", reason="nilearn has the ICBM brain")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MRI2QMAP_CACHE", str(tmp_path / "cache"))
    names = {}
    for number, cell in enumerate(CODE):
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    assert names["maps"].t1.shape == (32, 32, 32)
    assert names["quick"].t1_std.any()
    for name in ("maps/dicom/T1map", "maps/nifti/T2map.nii.gz", "maps/run.json", "scan.h5"):
        assert (tmp_path / name).exists()


def test_its_output_is_stored():
    """The site shows the notebook without running it."""
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    shown = [data for cell in CODE for out in cell["outputs"] for data in out.get("data", {})]
    assert shown.count("image/png") == 3
    streams = "".join("".join(out.get("text", "")) for cell in CODE for out in cell["outputs"])
    assert 'did you mean "iterations"' in streams
    assert all(out["output_type"] != "error" for cell in CODE for out in cell["outputs"])
    for place in ("/tmp", "/home", "/work"):
        assert place not in NOTEBOOK.read_text(encoding="utf-8")

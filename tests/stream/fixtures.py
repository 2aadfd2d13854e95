"""Fixtures that the tests of the stream and of the command line share."""

import sys
from pathlib import Path

import pytest
from stream.scans import external, fake_modules, pipeline_xml


@pytest.fixture
def fake_gadgets(monkeypatch):
    """Let coil_sensitivity be `gain` and parametric_maps `sum_up`."""
    for name, module in fake_modules().items():
        monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def small_pipeline(tmp_path: Path, fake_gadgets) -> Path:
    path = tmp_path / "small.xml"
    gain = external("coil_sensitivity", factor=2)
    path.write_text(pipeline_xml(gain, external("parametric_maps")))
    return path

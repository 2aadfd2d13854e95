"""Fixtures that the tests of the stream and of the command line share."""

import sys
import threading
import time
from pathlib import Path

import pytest
from stream.scans import SumSettings, external, fake_modules, pipeline_xml


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


@pytest.fixture
def endless_maps(monkeypatch, fake_gadgets) -> threading.Event:
    """Let parametric_maps work for ever; the event is set when that ends all the same."""
    ended = threading.Event()

    def endless(items, scan, settings):
        list(items)
        try:
            for _ in scan.report.progress(range(10**6), "ADMM"):
                time.sleep(0.01)
        finally:
            ended.set()
        yield from ()

    endless.__annotations__["settings"] = SumSettings
    monkeypatch.setattr(sys.modules["mri2qmap.parametric_maps"], "parametric_maps", endless)
    return ended

"""Fixtures that the tests of the stream and of the command line share."""

import itertools
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import ismrmrd
import numpy as np
import pytest
import torch
from helpers.scans import (
    GainSettings,
    SumSettings,
    external,
    fake_module,
    fake_modules,
    gain,
    pipeline_xml,
)

from mri2qmap.pipeline.geometry import Geometry
from mri2qmap.pipeline.items import Item, ParameterMaps, Tsmi
from mri2qmap.pipeline.scan_header import ScanInfo


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
def large_items(monkeypatch, fake_gadgets):
    """Replace the first gadget by one that sends a TSMI, and the last by one that sums it."""

    def make(items, scan, settings):
        factor = settings.factor
        list(items)
        geometry = Geometry(scan.matrix, scan.voxel_size)
        yield Tsmi(torch.full((5, 32, 32, 32), factor, dtype=torch.complex64), geometry)

    def add(items, scan, settings):
        for item in items:
            assert isinstance(item, Tsmi)
            volume = item.tsmi.real.sum(0, keepdim=True).numpy()
            yield ismrmrd.Image(data=np.ascontiguousarray(volume))

    make.__annotations__["settings"] = GainSettings
    add.__annotations__["settings"] = SumSettings
    monkeypatch.setattr(sys.modules["mri2qmap.coil_sensitivity"], "coil_sensitivity", make)
    monkeypatch.setattr(sys.modules["mri2qmap.parametric_maps"], "parametric_maps", add)


@dataclass(frozen=True)
class EndlessWork:
    """Set when work without an end has started, and when it was ended."""

    started: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def endless_maps(monkeypatch, fake_gadgets) -> EndlessWork:
    """Let parametric_maps work until it is interrupted."""
    work = EndlessWork()

    def endless(items, scan, settings):
        list(items)
        try:
            for _ in scan.report.progress(itertools.repeat(None), "ADMM"):
                work.started.set()
                os.sched_yield()
        finally:
            work.ended.set()
        yield from ()

    endless.__annotations__["settings"] = SumSettings
    monkeypatch.setattr(sys.modules["mri2qmap.parametric_maps"], "parametric_maps", endless)
    return work


@dataclass(frozen=True)
class QuickSettings:
    """Settings of `quick_matching`."""

    uncertainty: bool = False


def quick_matching(
    items: Iterator[Item], scan: ScanInfo, settings: QuickSettings
) -> Iterator[Item]:
    """T1 of 1 s and T2 of 0.1 s everywhere; PD is the sum of all magnitudes."""
    total = 0.0
    for item in items:
        if not isinstance(item, ismrmrd.Acquisition):
            yield item
        elif not item.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT):
            total += float(np.abs(item.data).sum())
    one = torch.ones(scan.matrix)
    yield ParameterMaps(
        t1=one,
        t2=0.1 * one,
        proton_density=(total * one).to(torch.complex64),
        match_quality=one,
        weighted=torch.stack([one, one, one]),
        geometry=Geometry(scan.matrix, scan.voxel_size),
    )


@pytest.fixture
def maps_pipeline(tmp_path: Path, monkeypatch) -> Path:
    """A pipeline of tiny gadgets that ends in the real `parametric_maps`."""
    for name, function in (("coil_sensitivity", gain), ("combined_matching", quick_matching)):
        module = fake_module(name, function)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    path = tmp_path / "maps.xml"
    last = external("parametric_maps", dicom="classic", synthetic_images="false")
    gadgets = external("coil_sensitivity", factor=2), external("combined_matching"), last
    path.write_text(pipeline_xml(*gadgets))
    return path

"""Estimated and available memory."""

import dataclasses
import resource

import pytest
import torch
from helpers.scans import header

from mri2qmap.pipeline import memory_plan
from mri2qmap.pipeline.memory_plan import available_bytes, check_memory, planned_bytes
from mri2qmap.pipeline.pipeline_file import read_pipeline
from mri2qmap.pipeline.scan_header import ScanInfo

MIB, GIB = 2**20, 2**30


def scan_of(size: int) -> ScanInfo:
    return dataclasses.replace(ScanInfo.from_header(header()), matrix=(size,) * 3)


def nodes(pipeline: str, **compression: object):
    overrides = {"subspace_compression": {k: str(v) for k, v in compression.items()}}
    return read_pipeline(pipeline, overrides if compression else None).nodes


def test_estimate_depends_on_the_coefficients():
    scan = scan_of(256)
    five, ten = (
        planned_bytes(scan, nodes("mri2qmap")),
        planned_bytes(scan, nodes("mri2qmap", coefficients=10)),
    )
    assert 25 * GIB < five < 35 * GIB
    assert ten > 75 * GIB
    assert planned_bytes(scan, nodes("mri2qmap", coefficients=1)) < five
    assert planned_bytes(scan) == five  # the default of the gadget


def test_estimate_of_gridding_has_no_kernels():
    scan = scan_of(256)
    assert planned_bytes(scan, nodes("svdmrf")) < planned_bytes(scan, nodes("mri2qmap")) / 2
    check_memory(scan, nodes("svdmrf"), 16 * GIB)


# Peaks of whole runs on a CPU [MiB], from run.json.
MEASURED = [
    (32, "svdmrf", {}, 584),
    (32, "mri2qmap", {}, 645),
    (64, "svdmrf", {}, 686),
    (64, "mri2qmap", {}, 1102),
    (64, "mri2qmap", {}, 1086),
    (64, "mri2qmap", {"coefficients": 10}, 1954),
    (64, "lrtv", {}, 997),
    (64, "llr", {}, 929),
]


@pytest.mark.parametrize(("size", "pipeline", "more", "peak"), MEASURED)
def test_estimate_is_close_above_the_measured_peak(size, pipeline, more, peak):
    planned = planned_bytes(scan_of(size), nodes(pipeline, **more)) / MIB
    assert peak < planned < 2.3 * peak


def test_container_limit_applies(monkeypatch):
    device = torch.device("cpu")
    free = available_bytes(device)
    monkeypatch.setattr(memory_plan, "memory_left", lambda proc: 3 * MIB)
    assert available_bytes(device) == 3 * MIB < free


def test_process_limit_applies(monkeypatch):
    limits = {resource.RLIMIT_AS: (2**62, 2**62)}
    monkeypatch.setattr(resource, "getrlimit", limits.__getitem__)
    free = available_bytes(torch.device("cpu"))
    limits[resource.RLIMIT_AS] = (10 * MIB, 10 * MIB)  # less than the current size
    assert available_bytes(torch.device("cpu")) == 0 < free

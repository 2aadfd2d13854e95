"""Estimated and available memory."""

import dataclasses
import resource

import ismrmrd
import pytest
import torch
from helpers.scans import header

from mri2qmap.pipeline import memory_plan
from mri2qmap.pipeline.memory_plan import available_bytes, fitted_to_memory, planned_bytes
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
    assert 30 * GIB < five < 37 * GIB
    assert ten > 75 * GIB
    assert planned_bytes(scan, nodes("mri2qmap", coefficients=1)) < five
    assert planned_bytes(scan) == five  # the default of the gadget


def test_estimate_of_gridding_has_no_kernels():
    scan = scan_of(256)
    assert planned_bytes(scan, nodes("svdmrf")) < planned_bytes(scan, nodes("mri2qmap")) / 2
    assert not fitted_to_memory(scan, nodes("svdmrf"), 16 * GIB).spare_memory


# Peaks of whole runs on a CPU [MiB], from run.json: matrix, coils, pipeline.
MEASURED = [
    (32, 1, "svdmrf", 673),
    (32, 8, "svdmrf", 718),
    (32, 1, "lrtv", 723),
    (32, 8, "lrtv", 722),
    (32, 1, "mri2qmap", 776),
    (32, 8, "mri2qmap", 779),
    (64, 1, "svdmrf", 757),
    (64, 8, "svdmrf", 793),
    (64, 1, "lrtv", 1045),
    (64, 8, "lrtv", 1134),
    (64, 1, "mri2qmap", 1176),
    (64, 8, "mri2qmap", 1253),
    (96, 1, "mri2qmap", 2365),
    (96, 8, "mri2qmap", 2452),
    (96, 8, "lrtv", 2411),
    (128, 1, "mri2qmap", 4714),
    (128, 1, "lrtv", 4088),
]


@pytest.mark.parametrize(("size", "coils", "pipeline", "peak"), MEASURED)
def test_estimate_is_close_to_the_measured_peak(size, coils, pipeline, peak):
    scan = scan_of(size)
    system = ismrmrd.xsd.acquisitionSystemInformationType(receiverChannels=coils)
    scan.header.acquisitionSystemInformation = system
    planned = planned_bytes(scan, nodes(pipeline)) / MIB
    assert 0.97 * peak < planned < 1.16 * peak


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

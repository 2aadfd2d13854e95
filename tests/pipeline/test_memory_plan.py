"""Estimated and available memory."""

import dataclasses
import resource
import types

import ismrmrd
import numpy as np
import pytest
import torch
from helpers.scans import COILS, acquisitions, header

from mri2qmap.errors import Mri2QmapError
from mri2qmap.mrsignal.sequence import default_sequence
from mri2qmap.pipeline import buffer_sizes, memory_plan
from mri2qmap.pipeline.acquisition_policy import AcquisitionPolicy
from mri2qmap.pipeline.memory_plan import (
    available_bytes,
    fitted_to_memory,
    planned_bytes,
    with_channels,
    with_channels_of,
)
from mri2qmap.pipeline.pipeline_file import read_pipeline
from mri2qmap.pipeline.scan_header import ScanInfo
from mri2qmap.pipeline.scan_limits import SCAN_LIMITS

MIB, GIB = 2**20, 2**30


def scan_of(size: int) -> ScanInfo:
    """A scan of a header that announces a sample for four voxels."""
    scan = dataclasses.replace(ScanInfo.from_header(header()), matrix=(size,) * 3)
    limits = scan.header.encoding[0].encodingLimits
    groups = max(1, size**2 // 32 // scan.sequence.n_frames)
    for name, count in {"kspace_encoding_step_0": 8 * size, "segment": groups}.items():
        setattr(limits, name, ismrmrd.xsd.limitType(minimum=0, maximum=count - 1, center=0))
    return scan


def nodes(pipeline: str, **compression: object):
    overrides = {"subspace_compression": {k: str(v) for k, v in compression.items()}}
    return read_pipeline(pipeline, overrides if compression else None).nodes


def test_estimate_depends_on_the_coefficients():
    scan = scan_of(256)
    five, ten = (
        planned_bytes(scan, nodes("mri2qmap")),
        planned_bytes(scan, nodes("mri2qmap", coefficients=10)),
    )
    assert 26 * GIB < five < 37 * GIB
    assert ten > 70 * GIB
    assert planned_bytes(scan, nodes("mri2qmap", coefficients=1)) < five
    assert planned_bytes(scan) == five  # the default of the gadget


def test_estimate_of_gridding_has_no_kernels():
    scan = scan_of(256)
    assert planned_bytes(scan, nodes("svdmrf")) < planned_bytes(scan, nodes("mri2qmap")) / 2
    assert not fitted_to_memory(scan, nodes("svdmrf"), 16 * GIB).spare_memory


# Peaks of whole runs on a CPU [MiB], from run.json: matrix, coils, pipeline, whether spared.
MEASURED = [
    (32, 1, "svdmrf", False, 673),
    (32, 8, "svdmrf", False, 718),
    (64, 1, "svdmrf", False, 757),
    (64, 8, "svdmrf", False, 793),
    (64, 1, "lrtv", False, 876),
    (64, 8, "lrtv", False, 974),
    (96, 1, "lrtv", False, 1720),
    (96, 8, "lrtv", False, 1948),
    (64, 1, "llr", False, 910),
    (64, 8, "llr", False, 956),
    (96, 1, "llr", False, 1804),
    (64, 1, "mrf_pnp", False, 1054),
    (64, 8, "mrf_pnp", False, 1068),
    (32, 1, "mri2qmap", False, 776),
    (32, 8, "mri2qmap", False, 779),
    (64, 1, "mri2qmap", False, 1016),
    (64, 8, "mri2qmap", False, 1043),
    (96, 1, "mri2qmap", False, 1912),
    (96, 8, "mri2qmap", False, 2242),
    (128, 1, "mri2qmap", False, 3989),
    (128, 8, "mri2qmap", False, 4410),
    (64, 1, "mri2qmap", True, 792),
    (64, 8, "mri2qmap", True, 951),
    (96, 8, "mri2qmap", True, 1419),
    (128, 8, "mri2qmap", True, 2619),
]
# Peaks on the pretend GPU of the tests [MiB].
MEASURED_ON_GPU = [(32, 8, 570), (48, 1, 651), (48, 8, 656)]


def with_coils(scan, coils):
    system = ismrmrd.xsd.acquisitionSystemInformationType(receiverChannels=coils)
    scan.header.acquisitionSystemInformation = system
    return scan


def kept(pipeline, coils):
    """The pipeline without coil compression."""
    return read_pipeline(pipeline, {"coil_sensitivity": {"virtual_coils": str(coils)}}).nodes


@pytest.mark.parametrize(("size", "coils", "pipeline", "spare", "peak"), MEASURED)
def test_estimate_is_close_to_the_measured_peak(size, coils, pipeline, spare, peak):
    scan = dataclasses.replace(with_coils(scan_of(size), coils), spare_memory=spare)
    assert 0.9 * peak < planned_bytes(scan, kept(pipeline, coils)) / MIB < 1.1 * peak


@pytest.mark.parametrize(("size", "coils", "peak"), MEASURED_ON_GPU)
def test_estimate_for_a_gpu(size, coils, peak):
    """Without fused kernels, the convolution of coils needs less than is planned for it."""
    scan = dataclasses.replace(with_coils(scan_of(size), coils), device=torch.device("cuda:0"))
    assert 0.9 * peak < planned_bytes(scan, kept("mri2qmap", coils)) / MIB < 1.3 * peak


# Peaks of `coil_sensitivity` alone on a CPU [MiB], with its readouts of 1000 samples: channels,
# matrix, virtual coils, frames, calibration resolution [m].
MEASURED_CALIBRATION = [
    (64, 64, 64, 500, 0.008, 2041),
    (32, 220, 16, 500, 0.008, 2235),
    (64, 64, 48, 100, 0.004, 5069),
    (16, 64, 16, 100, 0.002, 1683),
    (16, 64, 16, 500, 0.008, 933),
    (16, 64, 16, 500, 0.004, 1425),
]


@pytest.mark.parametrize(
    ("channels", "size", "coils", "frames", "resolution", "peak"), MEASURED_CALIBRATION
)
def test_estimate_of_the_calibration(channels, size, coils, frames, resolution, peak, monkeypatch):
    scan = dataclasses.replace(
        scan_of(size),
        sequence=default_sequence(frames),
        voxel_size=(0.22 / size,) * 3,
        channels=channels,
    )
    limits = scan.header.encoding[0].encodingLimits
    limits.segment = None  # one group
    limits.kspace_encoding_step_0.maximum = 999
    monkeypatch.setattr(buffer_sizes, "_LEAST_SAMPLES", 1)
    settings = {"virtual_coils": str(coils), "calibration_resolution": str(resolution)}
    nodes = read_pipeline("svdmrf", {"coil_sensitivity": settings}).nodes
    assert peak < memory_plan._calibration_bytes(scan, nodes) / MIB < 1.2 * peak
    assert planned_bytes(scan, nodes) >= memory_plan._calibration_bytes(scan, nodes)


def test_coils_of_the_data_go_before_those_of_the_header():
    scan = with_coils(scan_of(64), 1)
    assert with_channels(scan, 64).receive_channels == 64
    assert planned_bytes(with_channels(scan, 64)) > planned_bytes(scan)
    assert planned_bytes(with_channels(scan, None)) == planned_bytes(scan)
    scan.header.acquisitionSystemInformation = None
    assert planned_bytes(with_channels(scan, None)) == planned_bytes(scan)


def test_long_readouts_that_the_header_announces_are_planned():
    scan = dataclasses.replace(with_coils(scan_of(32), 64), sequence=default_sequence(500))
    limits = scan.header.encoding[0].encodingLimits
    limits.segment = None  # one group
    known = planned_bytes(scan)
    limits.kspace_encoding_step_0 = ismrmrd.xsd.limitType(minimum=0, maximum=1999, center=0)
    assert planned_bytes(scan) > known + 64 * 500 * 1700 * 8


def test_acquisitions_are_read_ahead_to_the_first_of_the_images_and_kept():
    scan = ScanInfo.from_header(header())
    adjustment = ismrmrd.Acquisition.from_array(np.ones((1, 8), np.complex64))
    adjustment.set_flag(ismrmrd.ACQ_IS_NAVIGATION_DATA)
    noise = ismrmrd.Acquisition.from_array(np.ones((COILS - 1, 8), np.complex64))
    noise.set_flag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
    items = ["other", adjustment, noise, *acquisitions()]
    planned, stream = with_channels_of(iter(items), scan)
    assert planned.channels == COILS
    assert list(stream) == items
    planned, stream = with_channels_of(iter(["other"]), with_coils(scan, 5))
    assert planned.channels == 5
    assert list(stream) == ["other"]


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_a_whole_brain_with_twelve_coils_fits_into_11_gigabytes(device):
    scan = with_coils(scan_of(220), 12)
    scan = dataclasses.replace(scan, device=torch.device(device))
    nodes = kept("mri2qmap", 12)
    assert 16 * GIB < planned_bytes(scan, nodes) < 21 * GIB
    lines = []
    scan = dataclasses.replace(scan, report=types.SimpleNamespace(log=lines.append))
    with pytest.MonkeyPatch.context() as patch:  # the setting is of the whole process
        patch.setattr(memory_plan, "return_freed_memory", lambda: None)
        assert fitted_to_memory(scan, nodes, 11 * 10**9).spare_memory
        assert not fitted_to_memory(scan, nodes, 24 * GIB).spare_memory
        with pytest.raises(Mri2QmapError, match=r"needs about .* GiB of memory with this pipeline"):
            fitted_to_memory(scan, nodes, 9 * 10**9)
    assert "at the cost of time" in lines[0]
    assert "cost" not in lines[1]


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


def test_what_a_scan_buffers_is_bounded_by_what_its_header_announces():
    scan = dataclasses.replace(scan_of(32), sequence=default_sequence(500))
    limits = scan.header.encoding[0].encodingLimits
    limits.segment.maximum = 0
    samples = 500 * 8 * 32
    held = buffer_sizes.held_bytes(scan, 8, 1024, AcquisitionPolicy())
    assert 1 <= held / (samples * buffer_sizes.sample_bytes(8)) < 1.2
    steps = ismrmrd.xsd.limitType(minimum=0, maximum=2, center=0)
    limits.kspace_encoding_step_1 = steps  # three shots of each frame
    assert buffer_sizes.held_bytes(scan, 8, 1024, AcquisitionPolicy()) == 3 * held
    assert buffer_sizes.held_bytes(scan, 8, 5, AcquisitionPolicy()) == 5 * MIB
    assert buffer_sizes.held_bytes(scan, 8, 1, AcquisitionPolicy()) == 64 * held // 500
    assert buffer_sizes.held_bytes(scan, 512, 1024, AcquisitionPolicy()) == GIB
    limits.kspace_encoding_step_0 = None  # it may be a spiral
    assert buffer_sizes.held_bytes(scan, 8, 1024, AcquisitionPolicy()) > 20 * held
    assert buffer_sizes.gridded_samples(scan) == 1.5 * samples
    assert buffer_sizes.batch_size(scan, 10**6) == 2**17
    limits.kspace_encoding_step_0 = ismrmrd.xsd.limitType(minimum=0, maximum=0, center=0)
    assert buffer_sizes.held_bytes(scan, 8, 1024, AcquisitionPolicy()) > 20 * held  # not in use
    limits.segment = None
    assert buffer_sizes.gridded_samples(scan) == buffer_sizes.GRIDDED_SAMPLES
    assert buffer_sizes.batch_size(scan, 10**4) == 32**3
    assert buffer_sizes.most_readouts(scan) == SCAN_LIMITS.unannounced

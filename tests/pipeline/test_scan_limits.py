"""Scans beyond any real one are refused before anything is computed; large ones are not."""

import dataclasses

import ismrmrd
import numpy as np
import pytest
from helpers.scans import header, noise_scan, readout, scan_info

from mri2qmap.api.simulation import flip_angle_train
from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts.in_process import InProcessHost
from mri2qmap.mrsignal.dictionary import DictionarySettings
from mri2qmap.mrsignal.sequence import default_sequence
from mri2qmap.pipeline import buffer_sizes
from mri2qmap.pipeline.acquisition_checks import checked_acquisitions
from mri2qmap.pipeline.memory_plan import planned_bytes
from mri2qmap.pipeline.pipeline_file import Pipeline, read_pipeline
from mri2qmap.pipeline.scan_header import ScanInfo
from mri2qmap.pipeline.scan_limits import SCAN_LIMITS, ScanLimits

GIB = 2**30


def frames(count: int, groups: int = 1) -> str:
    limits = f"<minimum>0</minimum><maximum>{groups - 1}</maximum><center>0</center>"
    text = header(angles=" ".join(["30"] * count), limit=count - 1)
    return text.replace("</encodingLimits>", f"<segment>{limits}</segment></encodingLimits>")


def coils(count: int) -> str:
    system = f"<receiverChannels>{count}</receiverChannels>"
    return header().replace(
        "<experimentalConditions>",
        f"<acquisitionSystemInformation>{system}</acquisitionSystemInformation>"
        "<experimentalConditions>",
    )


ACCEPTED = {
    "many frames": frames(SCAN_LIMITS.frames),
    "many groups": frames(1000, 1000),
    "a fine matrix": header(matrix="1024 1024 1024", fov="400 400 400"),
    "many coils": coils(1024),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_the_largest_scans_are_accepted(name):
    ScanInfo.from_header(ACCEPTED[name])


REFUSED = {
    "frames": (frames(SCAN_LIMITS.frames + 1), "describes 8193 frames; at most 8192"),
    "frames by a counter alone": (
        header(angles="30", limit=65_535),
        "describes 65536 frames; at most 8192",
    ),
    "groups": (frames(4, 2**16 + 1), "encodingLimits.segment is 0 to 65536"),
    "readouts": (frames(4096, 1025), "1025 groups of 4096 readouts .* at most 1048576"),
    "an axis": (header(matrix="4096 8 8", fov="1600 4 4"), "at most 2048 voxels along an axis"),
    "voxels": (header(matrix="2048 2048 2048", fov="800 800 800"), "and 1073741824 voxels"),
    "coils": (coils(1025), "receiverChannels is 1025; at most 1024 coils"),
    "fewer coils than none": (coils(-(10**9)), "receiverChannels is -1000000000; .* negative"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_larger_scans_are_refused(name):
    document, words = REFUSED[name]
    with pytest.raises(Mri2QmapError, match=words):
        ScanInfo.from_header(document)


def test_acquisitions_of_too_many_coils_are_refused():
    wide = ismrmrd.Acquisition.from_array(np.ones((1025, 4), np.complex64))
    wide.set_flag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
    with pytest.raises(Mri2QmapError, match=r"has 1025 coils .* at most 1024"):
        list(checked_acquisitions([wide], scan_info()))


def test_groups_that_are_not_announced_are_counted(monkeypatch):
    """Tables of frames and groups stay small, though each group has one readout only."""
    monkeypatch.setattr(buffer_sizes, "SCAN_LIMITS", ScanLimits(readouts=10))
    items = [noise_scan(), *(readout(0, group) for group in range(3))]
    with pytest.raises(Mri2QmapError, match=r"3 readouts in 3 groups of 4 frames; at most 10"):
        list(checked_acquisitions(items, scan_info()))


def long_scan(n_frames: int) -> ScanInfo:
    return dataclasses.replace(ScanInfo.from_header(header()), sequence=default_sequence(n_frames))


def pipeline(**matching: object) -> Pipeline:
    settings = {name: str(value) for name, value in matching.items()}
    return read_pipeline("mri2qmap", {g: settings for g in ("pnp_admm", "combined_matching")})


def test_long_simulations_are_refused():
    InProcessHost(pipeline(), long_scan(SCAN_LIMITS.frames))
    InProcessHost(pipeline(b1_map="field.nii"), long_scan(SCAN_LIMITS.frames))
    InProcessHost(pipeline(atom_step=0.01), long_scan(4000))
    with pytest.raises(
        Mri2QmapError, match=r"gadget pnp_admm: the dictionary of 160070 pairs .* use a coarser"
    ):
        InProcessHost(pipeline(atom_step=0.01), long_scan(SCAN_LIMITS.frames))
    with pytest.raises(Mri2QmapError, match="at 19 fields for 4000 frames"):
        InProcessHost(pipeline(atom_step=0.01, b1_map="field.nii"), long_scan(4000))


def test_tables_without_end_are_refused():
    with pytest.raises(ValueError, match=r"step 0\.001 gives .* of T1 .* at most 262144"):
        DictionarySettings(step=0.001)


def test_the_memory_of_long_simulations_is_planned():
    usual, dense = pipeline().nodes, pipeline(atom_step=0.01).nodes
    small = planned_bytes(long_scan(500), usual)
    assert small + GIB < planned_bytes(long_scan(1000), dense) < small + 3 * GIB


def test_simulated_scans_have_the_same_bound():
    with pytest.raises(Mri2QmapError, match="expected 2 to 8192"):
        flip_angle_train(SCAN_LIMITS.frames + 1)

"""Standard scans, rewritten in the convention of a profile: the reverse of its conversion."""

from __future__ import annotations

from collections.abc import Sequence

import ismrmrd
import numpy as np

from mri2qmap.pipeline.acquisition_kinds import is_imaging
from mri2qmap.pipeline.counters import limits_name, set_counter
from mri2qmap.pipeline.scan_header import ScanInfo
from mri2qmap.pipeline.scan_profile import ScanProfile


def limit(least: int, most: int, center: int = 0) -> ismrmrd.xsd.limitType:
    return ismrmrd.xsd.limitType(minimum=least, maximum=most, center=center)


def scale(unit: str, scan: ScanInfo) -> np.ndarray:
    """What a component of 1 cycle per voxel is in a unit, (x, y, z)."""
    matrix, size = np.array(scan.matrix[::-1]), np.array(scan.voxel_size[::-1])
    return np.broadcast_to(
        {
            "cycles/voxel": 1.0,
            "cycles/FOV": matrix,
            "1/m": 1 / size,
            "1/mm": 1e-3 / size,
            "rad/voxel": 2 * np.pi,
            "rad/m": 2 * np.pi / size,
            "half_width": 2.0,
        }[unit],
        3,
    )


def foreign_trajectory(trajectory: np.ndarray, profile: ScanProfile, scan: ScanInfo) -> np.ndarray:
    """Columns of a trajectory [cycles/voxel] as the profile stores them."""
    columns = trajectory.astype(np.float64) * scale(profile.trajectory_units, scan)
    stored = [
        (-1 if axis[0] == "-" else 1) * columns[:, "xyz".index(axis[-1])]
        for axis in profile.trajectory_axes
    ]
    return np.ascontiguousarray(np.stack(stored, axis=1), np.float32)


def foreign_acquisition(
    acquisition: ismrmrd.Acquisition,
    profile: ScanProfile,
    scan: ScanInfo,
    partition_step: float = 1.0,
    partition_center: int = 0,
) -> ismrmrd.Acquisition:
    """An acquisition as the profile stores it, without its trajectory if that is in a file."""
    head = acquisition.getHead()
    if profile.encoding and head.encoding_space_ref in (0, profile.encoding):
        head.encoding_space_ref = profile.encoding - head.encoding_space_ref
    if not is_imaging(acquisition):
        return ismrmrd.Acquisition(head, acquisition.data, acquisition.traj)
    frame, group = head.idx.contrast, head.idx.segment
    head.idx.contrast = head.idx.segment = 0
    for counter, value in (
        (profile.frame_counter, frame + profile.first_frame),
        (profile.group_counter, group + profile.first_group),
    ):
        if counter != "arrival":
            set_counter(head.idx, counter, value)
    trajectory = acquisition.traj
    if profile.partition_counter is not None:
        kz = trajectory[0, "xyz".index(*({*"xyz"} - {a[-1] for a in profile.trajectory_axes}))]
        set_counter(
            head.idx, profile.partition_counter, round(kz / partition_step) + partition_center
        )
    data = acquisition.data
    if profile.sign_counter is not None and getattr(head.idx, profile.sign_counter) % 2:
        data = -data
    if profile.trajectory_file:
        head.trajectory_dimensions = 0
        return ismrmrd.Acquisition(head, data, np.zeros((len(trajectory), 0), np.float32))
    stored = foreign_trajectory(trajectory, profile, scan)
    head.trajectory_dimensions = stored.shape[1]
    return ismrmrd.Acquisition(head, data, stored)


def foreign_header(document: bytes | str, profile: ScanProfile) -> bytes:
    """The header as the profile stores it; the sequence stays where the header has it."""
    header = ismrmrd.xsd.CreateFromDocument(document)
    limits = header.encoding[0].encodingLimits
    found = {"contrast": limits.contrast, "segment": limits.segment}
    limits.contrast = limits.segment = None
    for counter, first, name in (
        (profile.frame_counter, profile.first_frame, "contrast"),
        (profile.group_counter, profile.first_group, "segment"),
    ):
        own = found[name]
        if counter != "arrival" and own is not None:
            moved = limit(own.minimum + first, own.maximum + first, own.center)
            setattr(limits, limits_name(counter), moved)
    return ismrmrd.xsd.ToXML(header).encode()


def same_acquisitions(
    found: Sequence[ismrmrd.Acquisition], expected: Sequence[ismrmrd.Acquisition], tolerance: float
) -> None:
    """Headers and samples must be the same, trajectories up to a relative error."""
    assert len(found) == len(expected)
    for own, other in zip(found, expected, strict=True):
        assert bytes(own.getHead()) == bytes(other.getHead())
        np.testing.assert_array_equal(own.data, other.data)
        np.testing.assert_allclose(own.traj, other.traj, rtol=tolerance, atol=0)

import dataclasses

import ismrmrd
import numpy as np
import pytest

from mri2qmap.files.mrd_file import MrdFile
from mri2qmap.mrsignal.sequence import default_sequence
from mri2qmap.pipeline.acquisition_checks import checked_acquisitions
from mri2qmap.pipeline.geometry import Geometry
from mri2qmap.pipeline.scan_header import ScanInfo, geometry_from_acquisition
from mri2qmap.simulation.mrd_writer import RawScan, ismrmrd_header, write_scan

GROUPS, FRAMES, COILS, SAMPLES, NOISE = 2, 6, 3, 25, 4
GEOMETRY = Geometry(
    (8, 10, 12),
    (0.002, 0.003, 0.004),
    (0.01, -0.02, 0.03),
    (0.0, 1.0, 0.0),
    (0.0, 0.0, -1.0),
    (-1.0, 0.0, 0.0),
)


@pytest.fixture
def scan():
    rng = np.random.default_rng(3)

    def numbers(*shape):
        return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)

    trajectory = rng.uniform(-0.28, 0.28, (GROUPS, FRAMES, SAMPLES, 3)).astype(np.float32)
    trajectory[:, :, -1] = 0.5 * np.eye(3)[np.arange(FRAMES) % 3]
    return RawScan(
        numbers(GROUPS, FRAMES, COILS, SAMPLES),
        trajectory,
        numbers(NOISE, COILS, SAMPLES),
        default_sequence(FRAMES),
        GEOMETRY,
        "somebody",
        "test",
    )


@pytest.fixture
def written(scan, tmp_path):
    write_scan(tmp_path / "scan.h5", scan)
    return tmp_path / "scan.h5"


def test_ismrmrd_can_read_the_file(scan, written):
    dataset = ismrmrd.Dataset(str(written), mode="r")
    assert dataset.number_of_acquisitions() == NOISE + GROUPS * FRAMES
    for number in range(NOISE):
        acquisition = dataset.read_acquisition(number)
        assert acquisition.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
        assert acquisition.trajectory_dimensions == 0
        np.testing.assert_array_equal(acquisition.data, scan.noise[number])
    for group in range(GROUPS):
        for frame in range(FRAMES):
            number = NOISE + group * FRAMES + frame
            acquisition = dataset.read_acquisition(number)
            assert acquisition.scan_counter == number
            assert (acquisition.idx.segment, acquisition.idx.contrast) == (group, frame)
            np.testing.assert_array_equal(acquisition.data, scan.kspace[group, frame])
            np.testing.assert_array_equal(acquisition.traj, scan.trajectory[group, frame])
            assert not acquisition.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
            for flag, expected in (
                (ismrmrd.ACQ_FIRST_IN_SEGMENT, frame == 0),
                (ismrmrd.ACQ_LAST_IN_SEGMENT, frame == FRAMES - 1),
                (ismrmrd.ACQ_LAST_IN_MEASUREMENT, (group, frame) == (GROUPS - 1, FRAMES - 1)),
            ):
                assert bool(acquisition.is_flag_set(flag)) == expected
            assert acquisition.active_channels == COILS
            assert list(acquisition.channel_mask)[:2] == [0b111, 0]
            np.testing.assert_allclose(list(acquisition.position), (10, -20, 30))
    dataset.close()


def test_time_stamps_follow_the_sequence(scan, written):
    dataset = ismrmrd.Dataset(str(written), mode="r")
    stamps = [
        dataset.read_acquisition(n).acquisition_time_stamp
        for n in range(NOISE, NOISE + GROUPS * FRAMES)
    ]
    dataset.close()
    seconds = 2.5e-3 * np.array(stamps).reshape(GROUPS, FRAMES)
    np.testing.assert_allclose(
        seconds - seconds[:, :1], [0.012 * np.arange(FRAMES)] * 2, atol=2.6e-3
    )
    assert seconds[1, 0] - seconds[0, 0] == pytest.approx(0.012 * FRAMES + 0.02 + 1.5, abs=3e-3)


def test_header_round_trip(scan, written):
    with MrdFile(written) as file:
        info = ScanInfo.from_header(file.header)
        acquisitions = list(file.items())
    assert info.matrix == GEOMETRY.matrix
    np.testing.assert_allclose(info.voxel_size, GEOMETRY.voxel_size)
    np.testing.assert_allclose(info.sequence.flip_angles, scan.sequence.flip_angles, atol=1e-6)
    for name in ("repetition_times", "echo_times", "inversion_time"):
        np.testing.assert_allclose(getattr(info.sequence, name), getattr(scan.sequence, name))
    # The checks for data from scanners, and the geometry in the acquisitions.
    *passed, _ = checked_acquisitions(acquisitions, info)
    assert len(passed) == NOISE + GROUPS * FRAMES
    found = geometry_from_acquisition(passed[-1], info)
    np.testing.assert_allclose(found.affine_lps, GEOMETRY.affine_lps, atol=1e-8)


def test_the_header_has_the_fields_required_by_ismrmrd(scan):
    header = ismrmrd_header(scan)
    system = header.acquisitionSystemInformation
    assert system.systemFieldStrength_T == 3
    assert system.receiverChannels == COILS
    assert [label.coilNumber for label in system.coilLabel] == [0, 1, 2]
    assert header.experimentalConditions.H1resonanceFrequency_Hz == 127732434
    limits = header.encoding[0].encodingLimits
    assert (limits.contrast.maximum, limits.segment.maximum) == (FRAMES - 1, GROUPS - 1)
    assert header.encoding[0].trajectory is ismrmrd.xsd.trajectoryType.SPIRAL
    assert header.sequenceParameters.TR == [12]
    assert header.sequenceParameters.TI == [20]


def test_unequal_times_are_listed(scan):
    times = tuple(0.012 + 0.001 * n for n in range(FRAMES))
    sequence = dataclasses.replace(scan.sequence, repetition_times=times)
    header = ismrmrd_header(dataclasses.replace(scan, sequence=sequence))
    np.testing.assert_allclose(header.sequenceParameters.TR, [12, 13, 14, 15, 16, 17])


def test_many_channels_fill_several_mask_words(scan, tmp_path):
    many = dataclasses.replace(
        scan,
        kspace=np.repeat(scan.kspace, 22, axis=2),
        noise=np.zeros((0, 66, SAMPLES), np.complex64),
    )
    write_scan(tmp_path / "many.h5", many)
    dataset = ismrmrd.Dataset(str(tmp_path / "many.h5"), mode="r")
    first = dataset.read_acquisition(0)
    dataset.close()
    assert list(first.channel_mask)[:3] == [2**64 - 1, 3, 0]
    assert not first.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
    np.testing.assert_array_equal(first.data, many.kspace[0, 0])

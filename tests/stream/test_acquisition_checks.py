import ismrmrd
import numpy as np
import pytest
from stream.scans import (
    COILS,
    N_FRAMES,
    NOISE_SCANS,
    SAMPLES,
    acquisitions,
    header,
    noise_scan,
    readout,
    with_sample,
    with_trajectory,
    without_coils,
)

from mri2qmap.errors import Mri2QmapError
from mri2qmap.stream.acquisition_checks import checked_acquisitions
from mri2qmap.stream.items import Provenance
from mri2qmap.stream.report import TerminalReporter
from mri2qmap.stream.scan_info import ScanInfo


def scan() -> ScanInfo:
    return ScanInfo.from_header(header(), report=TerminalReporter())


def test_a_good_scan_passes_unchanged():
    info = scan()
    wave = ismrmrd.Waveform.from_array(np.ones((1, 4), np.uint32))
    items = [wave, *acquisitions()]
    *passed, provenance = checked_acquisitions(items, info)
    assert passed == items
    assert isinstance(provenance, Provenance)
    assert info.report.lines == [f"noise scans: {NOISE_SCANS} before imaging"]


def test_missing_noise_scans_are_logged():
    info = scan()
    list(checked_acquisitions(acquisitions()[NOISE_SCANS:], info))
    assert info.report.lines == ["noise scans: none before imaging"]


def test_items_pass_as_they_come():
    def source():
        yield from acquisitions()[:3]
        raise AssertionError("the third item was asked for before the second was passed on")

    stream = checked_acquisitions(source(), scan())
    assert next(stream) == acquisitions()[0]
    assert next(stream) == acquisitions()[1]


def test_navigators_and_calibration_are_left_out():
    navigator, calibration = readout(0, 0), noise_scan()
    navigator.set_flag(ismrmrd.ACQ_IS_NAVIGATION_DATA)
    calibration.clear_all_flags()
    calibration.set_flag(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION)
    info = scan()
    items = [calibration, *acquisitions(), navigator]
    *passed, _ = checked_acquisitions(items, info)
    assert passed == acquisitions()
    assert "2 acquisitions are flagged as neither" in info.report.lines[-1]


def test_discarded_samples_are_cut_off():
    items = acquisitions()
    longer = readout(0, 0)
    longer.discard_pre, longer.discard_post, longer.center_sample = 3, 2, 5
    longer.data[0, :3] = np.nan  # what is discarded may be anything
    items[NOISE_SCANS] = longer
    passed = list(checked_acquisitions(items, scan()))[NOISE_SCANS]
    assert passed.number_of_samples == SAMPLES - 5
    assert (passed.discard_pre, passed.discard_post, passed.center_sample) == (0, 0, 2)
    np.testing.assert_array_equal(passed.data, readout(0, 0).data[:, 3:-2])
    np.testing.assert_array_equal(passed.traj, readout(0, 0).traj[3:-2])


def all_discarded():
    items = acquisitions()
    items[-1].discard_pre = SAMPLES + 3
    return items


def other_coil_count():
    return [*acquisitions(), ismrmrd.Acquisition.from_array(np.ones((COILS + 1, 4), np.complex64))]


def zero_data():
    items = acquisitions()
    for item in items[NOISE_SCANS:]:
        item.data[:] = 0
    return items


def frames(*numbers):
    return [readout(f, g) for g in range(2) for f in numbers]


def two_scans(**second):
    """The scan, then an acquisition of another one."""
    other = readout(0, 0)
    for name, value in second.items():
        setattr(other.idx if name == "repetition" else other, name, value)
    return [*acquisitions(), other]


BAD = {
    "no trajectory": (
        lambda: with_trajectory(lambda k: k[:, :0]),
        ["acquisition 1", "no trajectory"],
    ),
    "2-D trajectory": (lambda: with_trajectory(lambda k: k[:, :2]), ["2-D trajectory", "3-D"]),
    "4-D trajectory": (lambda: with_trajectory(lambda k: k[:, [0, 1, 2, 0]]), ["4-D trajectory"]),
    "NaN trajectory": (lambda: with_trajectory(lambda k: k * np.nan), ["trajectory is not finite"]),
    "zero trajectory": (lambda: with_trajectory(lambda k: k * 0), ["zero", "not filled in"]),
    "flat trajectory": (
        lambda: with_trajectory(lambda k: k * [1, 1, 0]),
        ["along kz", "three dimensions"],
    ),
    "rad/voxel": (lambda: with_trajectory(lambda k: k * 2 * np.pi), ["might be in rad/voxel"]),
    "cycles/FOV": (
        lambda: with_trajectory(lambda k: k * 8),
        ["might be in cycles/FOV, that is -N/2..N/2", "rad/voxel", "1/m"],
    ),
    "1/m": (lambda: with_trajectory(lambda k: k / 2e-3), ["might be in 1/m ("]),
    "1/mm": (lambda: with_trajectory(lambda k: k / 2), ["reach 0.25 only", "might be in 1/mm ("]),
    "-1..1": (lambda: with_trajectory(lambda k: k * 2), ["might be in a scale of -1..1"]),
    "a little too far": (lambda: with_trajectory(lambda k: k * 1.02), ["0.51", "discard_pre"]),
    "NaN sample": (
        lambda: with_sample(4, complex(np.nan, 0)),
        ["acquisition 4", "sample 3 of coil 1", "nan"],
    ),
    "infinite sample": (lambda: with_sample(4, complex(0, np.inf)), ["acquisition 4", "inf"]),
    "NaN noise": (lambda: with_sample(0, complex(np.nan, 0)), ["acquisition 0", "nan"]),
    "zero coils": (without_coils, ["acquisition 0", "zero coils"]),
    "changing coils": (other_coil_count, ["acquisition 10", "3 coils", "have 2"]),
    "no samples": (all_discarded, ["acquisition 9", "no samples"]),
    "zero data": (zero_data, ["all samples", "zero"]),
    "no imaging": (lambda: [noise_scan()], ["no imaging acquisitions (1 noise scans"]),
    "nothing": (list, ["no imaging acquisitions"]),
    "frame beyond the header": (
        lambda: frames(0, 1, 2, 3, 4),
        ["acquisition 4", "frame 4", "4 frames, 0 to 3"],
    ),
    "a repetition": (
        lambda: two_scans(repetition=1),
        ["acquisition 10", "repetition 1", "one scan"],
    ),
    "another measurement": (
        lambda: two_scans(measurement_uid=7),
        ["acquisition 10", "measurement 7", "send each by itself"],
    ),
    "frame not in the data": (lambda: frames(0, 2, 3), ["1 of the 4 frames", "idx.contrast 1)"]),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_scan_is_refused(name):
    make, words = BAD[name]
    with pytest.raises(Mri2QmapError) as caught:
        list(checked_acquisitions(make(), scan()))
    for word in words:
        assert word in str(caught.value)


def test_small_units_are_noticed_after_one_group_not_at_the_end():
    taken = []

    def source():
        for item in with_trajectory(lambda k: k / 2)[1:]:
            taken.append(item)
            yield item

    with pytest.raises(Mri2QmapError, match="1/mm"):
        list(checked_acquisitions(source(), scan()))
    assert len(taken) == N_FRAMES

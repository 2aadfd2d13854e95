import dataclasses

import ismrmrd
import numpy as np
import pytest
from helpers.scans import (
    COILS,
    GROUPS,
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
from mri2qmap.pipeline.acquisition_checks import checked_acquisitions
from mri2qmap.pipeline.acquisition_policy import AcquisitionPolicy
from mri2qmap.pipeline.items import Provenance
from mri2qmap.pipeline.progress import TerminalReporter
from mri2qmap.pipeline.scan_header import ScanInfo


def scan(**limits: tuple[int, int]) -> ScanInfo:
    """Scan header with the given limits of some counters."""
    info = ScanInfo.from_header(header(), report=TerminalReporter())
    for name, (least, most) in limits.items():
        limit = ismrmrd.xsd.limitType(minimum=least, maximum=most, center=0)
        setattr(info.header.encoding[0].encodingLimits, name, limit)
    return info


def changed(acquisition: ismrmrd.Acquisition, **values: object) -> ismrmrd.Acquisition:
    """Return the acquisition with changed values in its header or its idx."""
    head = acquisition.getHead()
    for name, value in values.items():
        owner = head.idx if hasattr(head.idx, name) else head
        if isinstance(value, tuple):
            getattr(owner, name)[: len(value)] = value
        else:
            setattr(owner, name, value)
    return ismrmrd.Acquisition(head, acquisition.data, acquisition.traj)


def imaging(frames=range(N_FRAMES), groups=range(GROUPS), **values) -> list[ismrmrd.Acquisition]:
    return [changed(readout(f, g), **values) for g in groups for f in frames]


def check(items, info: ScanInfo | None = None, **policy):
    """Return the items that pass, without the final provenance."""
    *passed, provenance = checked_acquisitions(items, info or scan(), AcquisitionPolicy(**policy))
    assert isinstance(provenance, Provenance)
    return passed, provenance


def test_more_coils_than_memory_is_planned_for_are_refused():
    """The first acquisition may be a noise scan of fewer coils."""
    with pytest.raises(Mri2QmapError, match=r"acquisition 0: it has 2 coils.* planned for 1"):
        check(acquisitions(), dataclasses.replace(scan(), channels=1))
    check(acquisitions(), dataclasses.replace(scan(), channels=2))


def test_valid_scan_passes_unchanged():
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


def test_table_position_that_is_not_finite_becomes_zero():
    items = acquisitions()
    for item in items:
        item.patient_table_position[:] = (float("nan"), float("inf"), 3.0)
    *_, provenance = checked_acquisitions(items, scan())
    assert provenance.patient_table_position == (0.0, 0.0, 3.0)


def test_items_pass_as_they_arrive():
    def source():
        yield from acquisitions()[:3]
        raise AssertionError("the third item was asked for before the second was passed on")

    stream = checked_acquisitions(source(), scan())
    assert next(stream) == acquisitions()[0]
    assert next(stream) == acquisitions()[1]


def test_navigators_and_calibration_are_ignored():
    navigator, calibration = readout(0, 0), noise_scan()
    navigator.set_flag(ismrmrd.ACQ_IS_NAVIGATION_DATA)
    calibration.clear_all_flags()
    calibration.set_flag(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION)
    info = scan()
    items = [calibration, *acquisitions(), navigator]
    *passed, _ = checked_acquisitions(items, info)
    assert passed == acquisitions()
    assert "ignored 2 acquisitions flagged as neither" in info.report.lines[-1]


def test_discarded_samples_are_removed():
    items = acquisitions()
    longer = readout(0, 0)
    longer.discard_pre, longer.discard_post, longer.center_sample = 3, 2, 5
    longer.data[0, :3] = np.nan  # discarded samples may have any value
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


def scaled(factor, first=0):
    """Return the scan with all samples from an acquisition on multiplied."""
    items = acquisitions()
    for item in items[first:]:
        item.data[:] *= np.float32(factor)
    return items


def frames(*numbers):
    return [readout(f, g) for g in range(2) for f in numbers]


def another(**values):
    """Return the scan, followed by an acquisition with changed values."""
    return [*acquisitions(), changed(readout(0, 7), **values)]


def two_scans_counted():
    first = [changed(a, scan_counter=n) for n, a in enumerate(acquisitions())]
    return [*first, changed(readout(0, 2), scan_counter=5)]


def coils_of(*masks):
    return [changed(readout(f, 0), channel_mask=(masks[f % len(masks)],)) for f in range(N_FRAMES)]


BAD = {
    "no trajectory": (
        lambda: with_trajectory(lambda k: k[:, :0]),
        ["acquisition 1", "no trajectory"],
    ),
    "2D trajectory": (lambda: with_trajectory(lambda k: k[:, :2]), ["2D trajectory", "3D"]),
    "4D trajectory": (lambda: with_trajectory(lambda k: k[:, [0, 1, 2, 0]]), ["4D trajectory"]),
    "NaN trajectory": (lambda: with_trajectory(lambda k: k * np.nan), ["trajectory is not finite"]),
    "zero trajectory": (lambda: with_trajectory(lambda k: k * 0), ["zero", "not set"]),
    "flat trajectory": (
        lambda: with_trajectory(lambda k: k * [1, 1, 0]),
        ["along kz", "three dimensions"],
    ),
    "rad/voxel": (lambda: with_trajectory(lambda k: k * 2 * np.pi), ["may be in rad/voxel"]),
    "cycles/FOV": (
        lambda: with_trajectory(lambda k: k * 8),
        ["may be in cycles/FOV, that is -N/2..N/2", "rad/voxel", "1/m"],
    ),
    "1/m": (lambda: with_trajectory(lambda k: k / 2e-3), ["may be in 1/m ("]),
    "1/mm": (lambda: with_trajectory(lambda k: k / 2), ["reach only 0.25", "may be in 1/mm ("]),
    "-1..1": (lambda: with_trajectory(lambda k: k * 2), ["may be in half_width, that is -1..1"]),
    "a little too far": (lambda: with_trajectory(lambda k: k * 1.02), ["0.51", "discard_pre"]),
    "NaN sample": (
        lambda: with_sample(4, complex(np.nan, 0)),
        ["acquisition 4", "sample 3 of coil 1", "nan"],
    ),
    "infinite sample": (lambda: with_sample(4, complex(0, np.inf)), ["acquisition 4", "inf"]),
    "NaN noise": (lambda: with_sample(0, complex(np.nan, 0)), ["acquisition 0", "nan"]),
    "a sample beyond single precision": (
        lambda: with_sample(4, complex(0, -1e15)),
        ["acquisition 4: sample 3 of coil 1 is", "parts of at most 1e+14", "divide all samples"],
    ),
    "large noise": (lambda: with_sample(0, 3e38), ["acquisition 0", "divide all samples"]),
    "nearly zero data": (
        lambda: scaled(1e-30, NOISE_SCANS),
        ["imaging acquisitions are nearly zero, the largest part is", "multiply all samples"],
    ),
    "denormal data": (lambda: scaled(1e-40), ["nearly zero", "parts of 1e-14 and more"]),
    "zero coils": (without_coils, ["acquisition 0", "zero coils"]),
    "changing coils": (other_coil_count, ["acquisition 10", "3 coils", "have 2"]),
    "no samples": (all_discarded, ["acquisition 9", "no samples"]),
    "zero data": (zero_data, ["all samples", "zero"]),
    "no imaging": (lambda: [noise_scan()], ["no imaging acquisitions (it has 1 noise scans"]),
    "nothing": (list, ["no imaging acquisitions"]),
    "frame beyond the header": (
        lambda: frames(0, 1, 2, 3, 4),
        ["acquisition 4", "frame 4", "4 frames, 0 to 3"],
    ),
    "a repetition": (
        lambda: another(repetition=1),
        ["acquisition 10", "repetition 1", "one scan"],
    ),
    "another measurement": (
        lambda: another(measurement_uid=7),
        ["acquisition 10", "measurement 7", "send each scan separately"],
    ),
    **{
        f"another {name}": (
            lambda name=name: another(**{name: 1}),
            [
                f"acquisition 10: it belongs to {name} 1, but the first imaging acquisition "
                f"(acquisition 2) belongs to {name} 0",
                f"set coil_sensitivity.merged_counters={name} (--set, or settings=)",
            ],
        )
        for name in ("set", "slice", "phase", "average")
    },
    "another place": (
        lambda: another(position=(0.0, 0.0, 100.0)),
        ["acquisition 10", "position is (0, 0, 100) mm", "acquisition 2 is (0, 0, 0)"],
    ),
    "another place of the table": (
        lambda: another(patient_table_position=(0.0, 0.0, 1.0)),
        ["patient_table_position is (0, 0, 1) mm", "coil_sensitivity.position_tolerance"],
    ),
    "another orientation": (
        lambda: another(slice_dir=(0.0, 0.01, 1.0)),
        ["slice_dir is (0, 0.01, 1)", "(0, 0, 0)", "coil_sensitivity.orientation_tolerance"],
    ),
    "a place that is not finite": (
        lambda: another(position=(np.nan,)),
        ["position is (nan, 0, 0)"],
    ),
    "other coils, as many": (lambda: coils_of(3, 12), ["acquisition 1", "0xc", "0x3"]),
    "a dwell time that is no number": (
        lambda: [changed(noise_scan(), sample_time_us=float("nan")), *imaging()],
        ["acquisition 0: sample_time_us is nan; 0.01 to 10000 us are expected (0 if it is unknown"],
    ),
    "a tiny dwell time": (
        lambda: [changed(noise_scan(), sample_time_us=1e-38), *imaging(sample_time_us=5)],
        ["acquisition 0: sample_time_us is 1e-38"],
    ),
    "a negative dwell time": (
        lambda: imaging(sample_time_us=-5),
        ["acquisition 0: sample_time_us is -5"],
    ),
    "an infinite dwell time": (
        lambda: imaging(sample_time_us=float("inf")),
        ["acquisition 0: sample_time_us is inf"],
    ),
    "a dwell time in seconds": (
        lambda: imaging(sample_time_us=5e-6),
        ["acquisition 0: sample_time_us is 5e-06", "is it in seconds?"],
    ),
    "a readout twice": (
        lambda: [*acquisitions(), readout(1, 0)],
        ["acquisition 10: frame 1", "group 0", "as acquisition 3", "group_counter"],
    ),
    "a scan counter twice": (
        two_scans_counted,
        ["acquisition 10: its scan_counter is 5, the same as that of acquisition 5"],
    ),
    "a readout lost": (
        lambda: acquisitions()[:-1],
        ["the scan is incomplete", "frame 3 missing in readout group 1", "incomplete=warn"],
    ),
    "a group without readouts": (
        lambda: imaging(groups=(0, 2)),
        ["1 of 3 readout groups are not in the data (idx.segment 1)"],
    ),
    "an uneven number of shots": (
        lambda: [*imaging(), *imaging(range(3), kspace_encode_step_1=1)],
        ["2 frames of readout groups have 1 readouts, most have 2"],
    ),
    "frame not in the data": (lambda: frames(0, 2, 3), ["1 of the 4 frames", "idx.contrast 1)"]),
}


@pytest.mark.parametrize("name", BAD)
def test_invalid_scan_is_refused(name):
    make, words = BAD[name]
    with pytest.raises(Mri2QmapError) as caught:
        list(checked_acquisitions(make(), scan()))
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("value", [1e14, -1e14, 1e14j, 1e14 - 1e14j])
def test_the_largest_sample_is_accepted(value):
    check(with_sample(4, value))
    check(with_sample(0, value))
    with pytest.raises(Mri2QmapError, match="acquisition 4: sample 3 of coil 1"):
        check(with_sample(4, 1.00001 * value))


@pytest.mark.parametrize("value", [1e-14, -1e-14, 1e-14j])
def test_the_smallest_signal_is_accepted(value):
    def faint(value):
        items = scaled(0, NOISE_SCANS)
        items[4].data[1, 3] = value
        return items

    check(faint(value))
    with pytest.raises(Mri2QmapError, match="nearly zero"):
        check(faint(0.9999 * value))


def test_small_units_are_detected_after_one_group():
    taken = []

    def source():
        for item in with_trajectory(lambda k: k / 2)[1:]:
            taken.append(item)
            yield item

    with pytest.raises(Mri2QmapError, match="1/mm"):
        list(checked_acquisitions(source(), scan()))
    assert len(taken) == N_FRAMES


PROMISES = {
    "one of five groups": (
        {"segment": (0, 4)},
        lambda: imaging(groups=[0]),
        ["4 of 5 readout groups are not in the data (idx.segment 1 to 4)", "incomplete=warn"],
    ),
    "the end of all groups": (
        {"segment": (0, 1)},
        lambda: imaging(range(3)),
        ["1 of the 4 frames in the header are not in the data (idx.contrast 3)"],
    ),
    "the end of one group": (
        {"segment": (0, 1)},
        lambda: [*imaging(groups=[0]), *imaging(range(2), groups=[1])],
        ["frames 2 to 3 missing in readout group 1"],
    ),
    "more groups": (
        {"segment": (0, 1)},
        lambda: imaging(groups=range(3)),
        ["acquisition 8: it belongs to readout group 2", "announces 0 to 1", "different scans"],
    ),
    "one of three shots": (
        {"kspace_encoding_step_1": (0, 2)},
        lambda: [*imaging(), *imaging(kspace_encode_step_1=2)],
        ["1 of 3 values of idx.kspace_encode_step_1 are not in the data (1)"],
    ),
}


@pytest.mark.parametrize("name", PROMISES)
def test_announced_readouts_are_required(name):
    limits, make, words = PROMISES[name]
    with pytest.raises(Mri2QmapError) as caught:
        list(checked_acquisitions(make(), scan(**limits)))
    for word in words:
        assert word in str(caught.value)


def test_limits_of_unused_steps_are_ignored():
    check(imaging(), scan(kspace_encoding_step_1=(0, 63)))
    with_arms = [changed(a, kspace_encode_step_1=n) for n, a in enumerate(imaging())]
    check(with_arms, scan(kspace_encoding_step_1=(0, 63)))


def test_incomplete_scan_passes_with_warn_and_is_marked():
    info = scan(segment=(0, 4))
    passed, provenance = check(imaging(), info, incomplete="warn")
    assert len(passed) == GROUPS * N_FRAMES
    words = "3 of 5 readout groups are not in the data (idx.segment 2 to 4)"
    assert provenance.incomplete == words
    assert info.report.lines[-1] == f"the scan is incomplete: {words}"
    assert check(imaging())[1].incomplete == ""
    assert "frames" in check(imaging([0, 3]), incomplete="warn")[1].incomplete
    with pytest.raises(Mri2QmapError, match="too incomplete"):
        check(imaging([0]), incomplete="warn")


@pytest.mark.parametrize("seed", range(3))
def test_readouts_may_arrive_in_any_order(seed):
    items = acquisitions()
    items = [items[i] for i in np.random.default_rng(seed).permutation(len(items))]
    assert check(items, scan(segment=(0, GROUPS - 1)))[0] == items


def test_other_encoding_spaces_are_ignored():
    other = ismrmrd.Acquisition.from_array(np.ones((COILS + 1, 4), np.complex64))
    other.encoding_space_ref = 1
    info = scan()
    items = [other, *acquisitions(), changed(readout(0, 0), encoding_space_ref=1, slice=3)]
    assert check(items, info)[0] == acquisitions()
    assert info.report.lines[-1].startswith("ignored 2 acquisitions of encoding space 1")


def test_late_noise_scans_are_logged_once():
    info = scan()
    items = [*acquisitions(), *(noise_scan(n) for n in range(5))]
    assert check(items, info)[0] == items
    assert info.report.lines[1:] == [
        "5 noise scans came after the start of imaging, the first is acquisition 10"
    ]


def test_frame_and_group_counters_can_be_set():
    plain = [(a.idx.contrast, a.idx.segment) for a in imaging()]
    other = [changed(a, contrast=0, segment=0) for a in imaging()]
    for (frame, group), item in zip(plain, other, strict=True):
        item.idx.repetition, item.idx.set = frame, group
        item.idx.user[3] = group
    info = scan(contrast=(0, 0), repetition=(0, N_FRAMES - 1), set=(0, 1))
    for groups, merged in (("set", ()), ("user_3", ("set",)), ("arrival", ("set",))):
        policy = {"group_counter": groups, "merged_counters": merged}
        passed, _ = check(other, info, frame_counter="repetition", **policy)
        assert [(a.idx.contrast, a.idx.segment) for a in passed] == plain
        with pytest.raises(Mri2QmapError, match=r"frame 3 missing in readout group|2 or 1|1 or 2"):
            check(other[:-1], info, frame_counter="repetition", **policy)
    with pytest.raises(Mri2QmapError, match="is inconsistent"):
        check(other, scan(contrast=(0, 0)))
    assert [a.idx.contrast for a in other] == [0] * len(other)  # the input is not modified


def test_merged_counters_belong_to_one_scan():
    items = [*imaging(), *imaging(average=1)]
    assert check(items, merged_counters=("average",))[0] == items
    for limits, made, words in (
        ({"average": (0, 2)}, items, r"1 of 3 values of idx.average are not in the data \(2\)"),
        ({}, items[:-1], "1 frames of readout groups have 1 readouts, most have 2"),
        ({}, [*items, readout(0, 0)], "already received as acquisition 0, with the same .*average"),
    ):
        with pytest.raises(Mri2QmapError, match=words):
            check(made, scan(**limits), merged_counters=("average",))


def test_positions_may_differ_by_rounding():
    items = [
        changed(a, position=(1234.5 + 1e-3 * n, 0.0, 0.0), read_dir=(1.0, 1e-4 * n, 0.0))
        for n, a in enumerate(imaging())
    ]
    assert check(items)[0] == items
    moved = [*items[:-1], changed(items[-1], position=(1236.0, 0.0, 0.0))]
    assert check(moved, position_tolerance=0.002)[0] == moved
    with pytest.raises(Mri2QmapError, match="position is"):
        check(moved)


def test_reversed_readouts_and_dwell_times_are_logged():
    info = scan()
    items = imaging(sample_time_us=4.0)
    items[-1].sample_time_us = 5.0
    items[2].set_flag(ismrmrd.ACQ_IS_REVERSE)
    assert check(items, info)[0] == items
    assert "1 acquisitions are flagged as reversed" in info.report.lines[-2]
    assert "ranges from 4 to 5" in info.report.lines[-1]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"frame_counter": "segment"}, "both segment"),
        ({"merged_counters": ("set", "contrast")}, "contrast, which is also the frame_counter"),
        ({"merged_counters": ("segment",)}, "segment, which is also the group_counter"),
        ({"merged_counters": ("set", "set")}, "twice"),
        ({"position_tolerance": -1.0}, "position_tolerance"),
        ({"orientation_tolerance": 3.0}, "orientation_tolerance"),
    ],
)
def test_invalid_policies_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        AcquisitionPolicy(**settings)

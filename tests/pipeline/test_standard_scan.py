"""Scans in any convention become the same standard scan, or are refused."""

import itertools
from dataclasses import replace

import ismrmrd
import numpy as np
import pytest
from helpers.conventions import (
    foreign_acquisition,
    foreign_header,
    foreign_trajectory,
    limit,
    same_acquisitions,
)
from helpers.scans import (
    GROUPS,
    N_FRAMES,
    NOISE_SCANS,
    SAMPLES,
    acquisitions,
    header,
    noise_scan,
    readout,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from mri2qmap.errors import Mri2QmapError
from mri2qmap.pipeline.acquisition_checks import checked_acquisitions
from mri2qmap.pipeline.counters import COUNTERS, set_counter
from mri2qmap.pipeline.progress import TerminalReporter
from mri2qmap.pipeline.scan_header import ScanInfo
from mri2qmap.pipeline.scan_profile import STANDARD, ScanProfile
from mri2qmap.pipeline.standard_scan import standard_scan
from mri2qmap.pipeline.trajectory_units import UNITS

ROUNDING = 3e-7
HEADER = header(fov="16 20 24")


def with_segment_limits(document: str) -> str:
    segment = (
        f"<segment><minimum>0</minimum><maximum>{GROUPS - 1}</maximum><center>0</center></segment>"
    )
    return document.replace("</contrast>", f"</contrast>{segment}")


def converted(document, items, profile):
    """The standard header, parsed, and the standard acquisitions; they pass all checks."""
    document, conversion = standard_scan(
        document if isinstance(document, bytes) else document.encode(), profile
    )
    scan = ScanInfo.from_header(document, report=TerminalReporter())
    found = list(conversion.items(iter(items), scan))
    list(checked_acquisitions(found, scan))
    return scan, found


axes = st.sampled_from(list(itertools.permutations("xyz"))).flatmap(
    lambda order: st.tuples(*(st.sampled_from((axis, f"-{axis}")) for axis in order))
)
counters = st.sampled_from((*COUNTERS, "arrival"))


@given(
    frames=counters,
    groups=counters,
    first=st.integers(0, 3),
    axes=axes,
    unit=st.sampled_from(UNITS),
    encoding=st.integers(0, 1),
    sign=st.sampled_from((None, "kspace_encode_step_1", "kspace_encode_step_2")),
)
@settings(max_examples=60, deadline=None)
def test_any_convention_becomes_the_standard_one(frames, groups, first, axes, unit, encoding, sign):
    if frames == groups != "arrival":
        groups = "arrival"
    profile = ScanProfile(
        name="foreign",
        frame_counter=frames,
        first_frame=0 if frames == "arrival" else first,
        group_counter=groups,
        first_group=0 if groups == "arrival" else 2 * first,
        trajectory_axes=axes,
        trajectory_units=unit,
        encoding=encoding,
        sign_counter=sign,
    )
    document = with_segment_limits(HEADER)
    own = ScanInfo.from_header(document)
    navigator = readout(3, 1)
    navigator.set_flag(ismrmrd.ACQ_IS_NAVIGATION_DATA)
    expected = [*acquisitions(), noise_scan(7), navigator]
    stored = foreign_header(document, profile)
    if encoding:
        stored = with_other_encoding_first(stored)
    scan, found = converted(
        stored, [foreign_acquisition(a, profile, own) for a in expected], profile
    )
    same_acquisitions(found, expected, ROUNDING)
    assert (scan.sequence, scan.matrix, scan.voxel_size) == (
        own.sequence,
        own.matrix,
        own.voxel_size,
    )
    announced = None if groups == "arrival" else N_FRAMES * GROUPS
    assert scan.expected_readouts == announced


def with_other_encoding_first(document: bytes) -> bytes:
    parsed = ismrmrd.xsd.CreateFromDocument(document)
    other = ismrmrd.xsd.CreateFromDocument(header(matrix="4 4 4", limit=None)).encoding[0]
    parsed.encoding.insert(0, other)
    return ismrmrd.xsd.ToXML(parsed).encode()


def test_a_standard_scan_is_not_touched():
    items = acquisitions()
    for profile in (STANDARD, ScanProfile(name="another name", dataset="group")):
        document, conversion = standard_scan(HEADER.encode(), profile)
        assert document == HEADER.encode()
        found = list(conversion.items(iter(items), ScanInfo.from_header(document)))
        assert all(a is b for a, b in zip(found, items, strict=True))


def test_a_converted_scan_is_not_converted_again():
    """A client may have converted it before a server with the same pipeline receives it."""
    profile = ScanProfile(name="twice", trajectory_units="cycles/FOV")
    once, conversion = standard_scan(HEADER.encode(), profile)
    items = [foreign_acquisition(a, profile, ScanInfo.from_header(HEADER)) for a in acquisitions()]
    first = list(conversion.items(iter(items), ScanInfo.from_header(once)))
    for document in (once, once.decode().replace("UTF-8", "UTF-16").encode("utf-16")):
        again, conversion = standard_scan(document, profile)
        assert again == document
        scan = ScanInfo.from_header(again, report=TerminalReporter())
        assert list(conversion.items(iter(first), scan)) == first
        assert "it is not again" in scan.report.lines[0]


def test_whole_numbers_in_cycles_per_field_of_view():
    profile = ScanProfile(trajectory_units="cycles/FOV")
    corners = np.array(list(itertools.product((-4, 0, 3), repeat=3)), np.float32)
    items = []
    for acquisition in acquisitions()[NOISE_SCANS:]:
        own = corners[:SAMPLES]
        changed = ismrmrd.Acquisition(acquisition.getHead(), acquisition.data, own)
        items.append(changed)
    _, found = converted(header(), items, profile)
    np.testing.assert_array_equal(found[0].traj, corners[:SAMPLES] / 8)


@pytest.mark.parametrize("center", [None, 5])
@pytest.mark.parametrize("missing", "xyz")
def test_stack_of_trajectories(missing, center):
    """Partitions are 1/FOV of the encoded space apart, which is twice the reconstructed one."""
    others = [axis for axis in "xyz" if axis != missing]
    parsed = ismrmrd.xsd.CreateFromDocument(header())
    setattr(parsed.encoding[0].encodedSpace.fieldOfView_mm, missing, 32.0)
    setattr(parsed.encoding[0].encodedSpace.matrixSize, missing, 16)
    parsed.encoding[0].encodingLimits.kspace_encoding_step_2 = limit(0, 15, 7)
    document = ismrmrd.xsd.ToXML(parsed)
    profile = ScanProfile(
        trajectory_axes=tuple(others), partition_counter="kspace_encode_step_2",
        partition_center=center,
    )  # fmt: skip
    middle = 7 if center is None else center
    expected, stored = [], []
    for number, acquisition in enumerate(acquisitions()[NOISE_SCANS:]):
        trajectory = acquisition.traj.copy()
        trajectory[:, "xyz".index(missing)] = (number % 12 - middle) / 16
        trajectory[0, "xyz".index(others[0])] = 0.5
        trajectory[1, "xyz".index(others[1])] = 0.5
        head = acquisition.getHead()
        head.idx.kspace_encode_step_2 = number % 12
        expected.append(ismrmrd.Acquisition(head, acquisition.data, trajectory))
        stored.append(foreign_acquisition(expected[-1], profile, ScanInfo.from_header(document),
                                          1 / 16, middle))  # fmt: skip
        assert stored[-1].trajectory_dimensions == 2
    _, found = converted(document, stored, profile)
    same_acquisitions(found, expected, 0)


@pytest.mark.parametrize("index", [("group", "frame"), ("frame", "set"), ("arrival",)])
@pytest.mark.parametrize("discarded", ["all samples", "kept samples"])
def test_trajectories_in_a_file(index, discarded, tmp_path):
    """A file has trajectories of all samples, or only of those that are not discarded."""
    expected = []
    for acquisition in acquisitions()[NOISE_SCANS:]:
        head = acquisition.getHead()
        head.idx.set, head.discard_pre, head.discard_post = head.idx.segment, 2, 3
        trajectory = acquisition.traj.copy()
        trajectory[-4] = trajectory[-1]
        trajectory[:2] = trajectory[-3:] = 0
        expected.append(ismrmrd.Acquisition(head, acquisition.data, trajectory))
        head.idx.set = 0
    profile = ScanProfile(
        trajectory_file=str(tmp_path / "t.npy"),
        trajectory_index=index,
        trajectory_units="rad/voxel",
        frame_counter="user_3",
        group_counter="set",
    )
    own = ScanInfo.from_header(HEADER)
    every = np.stack([foreign_trajectory(a.traj, profile, own) for a in expected])
    if discarded == "kept samples":
        every = every[:, 2:-3]
    if index != ("arrival",):
        every = every.reshape(GROUPS, N_FRAMES, *every.shape[1:])
    if index == ("frame", "set"):
        every = every.swapaxes(0, 1)
    np.save(profile.trajectory_file, every.astype(np.float64))
    stored = [foreign_acquisition(a, profile, own) for a in expected]
    for acquisition, other in zip(expected, stored, strict=True):
        acquisition.idx.set = 0
        assert other.trajectory_dimensions == 0
    _, found = converted(foreign_header(HEADER, profile), stored, profile)
    for acquisition, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(acquisition.traj, other.traj, rtol=ROUNDING)
        assert bytes(acquisition.getHead()) == bytes(other.getHead())


def set_all(counter, items, value=0):
    for acquisition in items:
        set_counter(acquisition.idx, counter, value)
    return items


def imaging(change=lambda number, idx: None):
    items = acquisitions()
    for number, acquisition in enumerate(items[NOISE_SCANS:]):
        change(number, acquisition.idx)
    return items


def repetitions(number, idx):
    idx.repetition, idx.contrast = idx.contrast, 0


def two_sets_of_echoes(number, idx):
    repetitions(number, idx)
    idx.contrast = number // N_FRAMES


def from_one(number, idx):
    idx.repetition, idx.contrast = idx.contrast + 1, 0


def lines(number, idx):
    idx.kspace_encode_step_1, idx.segment = idx.segment, 0


def times(factor):
    items = acquisitions()
    for number, a in enumerate(items[NOISE_SCANS:], NOISE_SCANS):
        items[number] = ismrmrd.Acquisition(a.getHead(), a.data, a.traj * np.float32(factor))
    return items


def flat():
    items = acquisitions()
    for number, a in enumerate(items[NOISE_SCANS:], NOISE_SCANS):
        head = a.getHead()
        head.trajectory_dimensions = 2
        items[number] = ismrmrd.Acquisition(head, a.data, np.ascontiguousarray(a.traj[:, :2]))
    return items


CONTRADICTIONS = {
    "counter from 1": (
        {"frame_counter": "repetition"},
        lambda: imaging(from_one),
        ["acquisition 5", "idx.repetition is 4", "flip angles for 4 frames", "first_frame = 1"],
    ),
    "counter from 0": (
        {"frame_counter": "repetition", "first_frame": 1},
        lambda: imaging(repetitions),
        ["acquisition 2", "idx.repetition is 0", "less than first_frame = 1"],
    ),
    "group from 0": (
        {"group_counter": "segment", "first_group": 1},
        imaging,
        ["acquisition 2", "idx.segment is 0", "less than first_group = 1"],
    ),
    "constant group counter": (
        {"group_counter": "set"},
        lambda: imaging(lines),
        ["idx.set is the same in all 8", "2 for each of 4 frames",
         "group_counter = 'kspace_encode_step_1' or group_counter = 'arrival'"],
    ),
    "counter that would be lost": (
        {"frame_counter": "repetition", "group_counter": "arrival"},
        lambda: imaging(two_sets_of_echoes),
        ["acquisition 6: idx.contrast is 1", "does contrast count the frames"],
    ),
    "too many of a group": (
        {"frame_counter": "arrival", "ignored_counters": ("contrast",)},
        lambda: set_all("segment", acquisitions()),
        ["acquisition 6: it is readout 4 of its group", "is group_counter right?"],
    ),
    "no such encoding": (
        {"encoding": 1}, acquisitions, ["encoding is 1", "the header has 1"]
    ),
    "unit too small": (
        {"trajectory_units": "1/m"},
        acquisitions,
        ["acquisitions reach only 0.001", "if trajectory_units is 1/m",
         "try trajectory_units = 'cycles/voxel'"],
    ),
    "unit too large": (
        {"trajectory_units": "half_width"},
        lambda: times(8),
        ["acquisition 2: its trajectory reaches", "may be in cycles/FOV",
         "try trajectory_units = 'cycles/FOV'"],
    ),
    "two columns": (
        {"trajectory_axes": ("z", "y", "x")},
        flat,
        ["acquisition 2: it has a 2D trajectory, but 3 columns", "partition_counter"],
    ),
    "three columns": (
        {"trajectory_axes": ("y", "x"), "partition_counter": "set"},
        acquisitions,
        ["acquisition 2: it has a 3D trajectory, but 2 columns", "name three trajectory_axes"],
    ),
    "no user parameter": (
        {"flip_angles_from": "Alpha"},
        acquisitions,
        ["'Alpha', which the header does not have (it has 0 other user parameters)"],
    ),
    "other number of frames": (
        {"flip_angles": (10.0, 20.0, 30.0)},
        acquisitions,
        ["number of frames is inconsistent", "flipAngle_deg: 3", "contrast: 4"],
    ),
    "seconds": (
        {"time_units": "s"}, acquisitions, ["TR", "12000", "is it in microseconds?"]
    ),
    "radians": (
        {"angle_units": "rad"}, acquisitions, ["flipAngle_deg", "572.958", "degrees are expected"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_profile_that_contradicts_the_data(name):
    changes, make, words = CONTRADICTIONS[name]
    with pytest.raises(Mri2QmapError) as caught:
        converted(header(), make(), ScanProfile(name="own", **changes))
    for word in words:
        assert word in str(caught.value)


def archive(path):
    with path.open("wb") as file:
        np.savez(file, a=np.zeros(3))


BAD_FILES = {
    "missing": (lambda path: None, "cannot be read"),
    "text": (lambda path: path.write_text("1 2 3"), "no array of numbers in NumPy format"),
    "empty": (lambda path: path.write_bytes(b""), "no array of numbers in NumPy format"),
    "pickle": (
        lambda path: np.save(path, np.array([{}], object), allow_pickle=True),
        "no array of numbers in NumPy format",
    ),
    "complex": (
        lambda path: np.save(path, np.zeros((GROUPS, N_FRAMES, SAMPLES, 3), complex)),
        "real numbers",
    ),
    "archive": (lambda path: archive(path), "no array of numbers in NumPy format"),
    "axes": (lambda path: np.save(path, np.zeros((N_FRAMES, SAMPLES, 3))), "(4, 24, 3); (group, f"),
    "columns": (
        lambda path: np.save(path, np.zeros((GROUPS, N_FRAMES, SAMPLES, 2))),
        "with 3 columns",
    ),
    "few frames": (
        lambda path: np.save(path, np.full((GROUPS, 3, SAMPLES, 3), 0.4)),
        "its frame is 3, but trajectory_file has 3",
    ),
    "few samples": (
        lambda path: np.save(path, np.zeros((GROUPS, N_FRAMES, 9, 3))),
        "24 samples, of which 0 are discarded, but trajectory_file has 9",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_file_of_trajectories_that_cannot_be_used(name, tmp_path):
    write, words = BAD_FILES[name]
    path = tmp_path / "t.npy"
    write(path)
    profile = ScanProfile(name="own", trajectory_file=str(path))
    with pytest.raises(Mri2QmapError, match="scan profile own") as caught:
        converted(header(), acquisitions(), profile)
    assert words in str(caught.value)


PARAMETERS = (
    "<userParameters>"
    "<userParameterLong><name>TI_us</name><value>20000</value></userParameterLong>"
    "<userParameterDouble><name>fa_1</name><value>20</value></userParameterDouble>"
    "<userParameterDouble><name>fa_0</name><value>10</value></userParameterDouble>"
    "<userParameterDouble><name>fa_10</name><value>40</value></userParameterDouble>"
    "<userParameterDouble><name>fa_2</name><value>30</value></userParameterDouble>"
    "<userParameterDouble><name>tr</name><value>12000</value></userParameterDouble>"
    "<userParameterDouble><name>te</name><value>700</value></userParameterDouble>"
    "<userParameterString><name>list</name><value>10, 20;30 40</value></userParameterString>"
    "<userParameterString><name>site</name><value>here</value></userParameterString>"
    "</userParameters>"
)


@pytest.mark.parametrize("prefixed", [False, True])
@pytest.mark.parametrize("angles", ["fa", "list"])
def test_sequence_from_user_parameters(angles, prefixed):
    document = header(angles="5", tr="", te="", ti="", limit=None, extra=PARAMETERS)
    if prefixed:
        document = document.replace("</", "</mrd:").replace("<", "<mrd:")
        document = document.replace("<mrd:/mrd:", "</mrd:").replace("<mrd:?xml", "<?xml")
        document = document.replace("xmlns=", "xmlns:mrd=")
    profile = ScanProfile(
        flip_angles_from=angles,
        repetition_times_from="tr",
        echo_times_from="te",
        inversion_time_from="TI_us",
        time_units="us",
    )
    scan, _ = converted(document, acquisitions(), profile)
    assert scan.sequence == ScanInfo.from_header(header()).sequence
    wrong = replace(profile, flip_angles_from="site")
    with pytest.raises(Mri2QmapError, match="'site', which holds something else than numbers"):
        standard_scan(document.encode(), wrong)


def test_the_error_does_not_tell_names_of_user_parameters():
    """A converter may write the name of a patient there."""
    document = header(extra=PARAMETERS.replace("site", "DOE JOHN")).encode()
    with pytest.raises(Mri2QmapError, match="9 other user parameters") as caught:
        standard_scan(document, ScanProfile(flip_angles_from="Alpha"))
    assert not any(name in str(caught.value) for name in ("DOE", "fa_1", "TI_us"))


def test_sequence_from_the_profile_in_other_units():
    expected = ScanInfo.from_header(header())
    document = header(angles="3", tr="", te="", ti="", limit=None)
    profile = ScanProfile(
        flip_angles=expected.sequence.flip_angles,
        repetition_times=(0.012,),
        echo_times=(0.0007,) * N_FRAMES,
        inversion_time=0.02,
        time_units="s",
        angle_units="rad",
    )
    scan, _ = converted(document, acquisitions(), profile)
    np.testing.assert_allclose(scan.sequence.numbers(), expected.sequence.numbers(), rtol=1e-6)
    whole = document.replace("<sequenceParameters><flipAngle_deg>3</flipAngle_deg>", "")
    scan, _ = converted(whole.replace("</sequenceParameters>", ""), acquisitions(), profile)
    assert scan.sequence.n_frames == N_FRAMES


def test_limits_that_are_not_in_use_or_wrong():
    """Limits of 0 to 0 stand for a counter that the converter does not describe."""
    profile = ScanProfile(frame_counter="repetition", group_counter="set")
    parsed = ismrmrd.xsd.CreateFromDocument(header(limit=0))
    parsed.encoding[0].encodingLimits.repetition = limit(0, 0)
    parsed.encoding[0].encodingLimits.set = limit(0, GROUPS - 1)
    items = imaging(repetitions)
    for acquisition in items[NOISE_SCANS:]:
        acquisition.idx.set, acquisition.idx.segment = acquisition.idx.segment, 0
    scan, _ = converted(ismrmrd.xsd.ToXML(parsed), items, profile)
    assert scan.expected_readouts == N_FRAMES * GROUPS
    parsed.encoding[0].encodingLimits.repetition = limit(0, 9)
    with pytest.raises(Mri2QmapError, match=r"flipAngle_deg: 4.*contrast: 10"):
        converted(ismrmrd.xsd.ToXML(parsed), items, profile)
    scan, _ = converted(ismrmrd.xsd.ToXML(parsed), items, replace(profile, use_limits=False))
    assert scan.expected_readouts is None


def test_counters_that_mean_nothing():
    """Counted by arrival, whatever labels the sequence has set."""
    items = imaging()
    for number, acquisition in enumerate(items[NOISE_SCANS:]):
        idx = acquisition.idx
        idx.contrast, idx.segment, idx.set, idx.user[4] = number, 7, number % 3, number
    ignored = ("contrast", "set", "user_4")
    profile = ScanProfile(
        frame_counter="arrival", group_counter="arrival", ignored_counters=ignored
    )
    _, found = converted(header(), items, profile)
    same_acquisitions(found, acquisitions(), 0)

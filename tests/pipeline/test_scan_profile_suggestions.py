"""What a scan in another convention looks like."""

import tomllib

import ismrmrd
import numpy as np
import pytest
from helpers.conventions import foreign_acquisition, foreign_header, foreign_trajectory
from helpers.scans import (
    GROUPS,
    N_FRAMES,
    NOISE_SCANS,
    acquisitions,
    header,
    noise_scan,
    readout,
)

import mri2qmap
from mri2qmap.errors import Mri2QmapError
from mri2qmap.pipeline.acquisition_checks import checked_acquisitions
from mri2qmap.pipeline.scan_header import ScanInfo
from mri2qmap.pipeline.scan_profile import ScanProfile
from mri2qmap.pipeline.scan_profile_files import load_scan_profile
from mri2qmap.pipeline.scan_profile_suggestions import (
    ScanProfileSuggestion,
    shipped_base,
    suggest_scan_profile,
)
from mri2qmap.pipeline.settings import settings_as_dict
from mri2qmap.pipeline.standard_scan import standard_scan
from mri2qmap.pipeline.trajectory_units import UNITS

LARGE = header(matrix="64 64 64", fov="220 220 220")
"""In this grid, no two units reach similar values."""


def suggested(document, items) -> dict[str, object]:
    return {s.key: s.value for s in suggest_scan_profile(document, items)}


def full_scan() -> list[ismrmrd.Acquisition]:
    """With noise scans, a navigator, and a calibration of another encoding."""
    navigator, calibration = readout(3, 1), readout(2, 1)
    navigator.set_flag(ismrmrd.ACQ_IS_NAVIGATION_DATA)
    navigator.idx.repetition = 77
    calibration.encoding_space_ref = 2
    calibration.idx.set = 5
    return [*acquisitions(), navigator, calibration, noise_scan(3)]


def test_a_standard_scan():
    assert suggest_scan_profile(LARGE, full_scan()) == ()
    assert suggest_scan_profile(LARGE, [noise_scan()]) == ()
    assert suggest_scan_profile(LARGE, []) == ()
    assert mri2qmap.suggest_scan_profile is suggest_scan_profile


PROFILES = {
    **{unit: {"trajectory_units": unit} for unit in UNITS[1:]},
    "frames": {"frame_counter": "repetition"},
    "frames from 1": {"frame_counter": "set", "first_frame": 1},
    "standard counter from 1": {"first_frame": 1},
    "groups": {"group_counter": "average"},
    "groups from 1": {"group_counter": "set", "first_group": 1},
    "steps": {"frame_counter": "kspace_encode_step_1", "group_counter": "slice"},
    "arrival of groups": {"group_counter": "arrival"},
    "arrival": {"frame_counter": "arrival", "group_counter": "arrival"},
    "encoding": {"encoding": 1},
    "several": {
        "frame_counter": "user_3",
        "group_counter": "kspace_encode_step_2",
        "trajectory_units": "1/m",
    },
}


@pytest.mark.parametrize("name", PROFILES)
def test_the_profile_of_a_scan_is_found(name):
    """With what is suggested, the scan is read without errors."""
    profile = ScanProfile(**PROFILES[name])
    scan = ScanInfo.from_header(LARGE)
    items = [foreign_acquisition(a, profile, scan) for a in full_scan()]
    document = foreign_header(LARGE, profile)
    if profile.encoding:
        parsed = ismrmrd.xsd.CreateFromDocument(document)
        parsed.encoding *= 2
        document = ismrmrd.xsd.ToXML(parsed)
    found = suggested(document, items)
    assert found == PROFILES[name]
    encoded = document if isinstance(document, bytes) else document.encode()
    converted, conversion = standard_scan(encoded, ScanProfile(**found))
    own = ScanInfo.from_header(converted)
    list(checked_acquisitions(conversion.items(iter(items), own), own))


def test_two_columns():
    stored = []
    for number, a in enumerate(acquisitions()[NOISE_SCANS:]):
        head = a.getHead()
        head.trajectory_dimensions, head.idx.kspace_encode_step_2 = 2, number
        plane = np.ascontiguousarray(a.traj[:, :2]) * 64
        stored.append(ismrmrd.Acquisition(head, a.data, plane))
    assert suggested(LARGE, stored) == {
        "trajectory_axes": ("x", "y"),
        "partition_counter": "kspace_encode_step_2",
        "trajectory_units": "cycles/FOV",
    }
    for a in stored:
        a.idx.kspace_encode_step_2 = 0
    assert suggested(LARGE, stored)["partition_counter"] is None


def test_no_trajectory():
    stored = []
    for a in acquisitions():
        head = a.getHead()
        head.trajectory_dimensions = 0
        empty = np.zeros((head.number_of_samples, 0), np.float32)
        stored.append(ismrmrd.Acquisition(head, a.data, empty))
    assert suggested(LARGE, stored) == {"trajectory_file": None}


def test_header_without_a_sequence():
    """The counter with most values, from 0 or 1, may be that of the frames."""
    document = header(angles="10", tr="", te="", ti="", limit=None)
    items = []
    for group in range(GROUPS):
        for frame in range(20):
            a = readout(frame % N_FRAMES, group)
            a.idx.contrast, a.idx.set = 0, frame
            items.append(a)
    assert suggested(document, items) == {"frame_counter": "set", "flip_angles": None}
    assert suggested(document, acquisitions()) == {}  # four values may be anything


def test_a_few_echoes_are_no_frames():
    """A header with one flip angle, two echo times and two contrasts, as of a GE scanner."""
    document = header(angles="10", te="2 0", limit=1, matrix="64 64 64", fov="220 220 220")
    items = []
    for group in range(GROUPS):
        for frame in range(20):
            a = readout(frame % N_FRAMES, group)
            a.idx.contrast = a.idx.segment = 0
            a.idx.kspace_encode_step_1, a.idx.slice = frame, group
            items.append(a)
    assert suggested(document, items) == {
        "frame_counter": "kspace_encode_step_1",
        "flip_angles": None,
        "group_counter": "slice",
    }


def test_words_of_a_suggestion():
    scan = ScanInfo.from_header(LARGE)
    per_metre = ScanProfile(trajectory_units="1/m")
    items = [foreign_acquisition(a, per_metre, scan) for a in acquisitions()]
    (found,) = suggest_scan_profile(ScanInfo.from_header(LARGE).header, items)
    assert str(found) == (
        "the trajectories reach 145.5; these look like 1/m: try --scan-profile with "
        "trajectory_units = '1/m'"
    )
    assert found.toml == "trajectory_units = '1/m'"
    reason = "a reason"
    for key, value, line in (
        ("first_frame", 1, "first_frame = 1"),
        ("trajectory_axes", ("x", "y"), "trajectory_axes = ['x', 'y']"),
        ("flip_angles", None, "flip_angles = ..."),
    ):
        assert ScanProfileSuggestion(key, value, reason).toml == line


def test_discarded_samples_do_not_count():
    items = acquisitions()
    for number, a in enumerate(items[NOISE_SCANS:], NOISE_SCANS):
        trajectory = a.traj.copy()
        trajectory[-3:] = np.nan if number % 2 else 1e6
        head = a.getHead()
        head.discard_post = 3
        items[number] = ismrmrd.Acquisition(head, a.data, trajectory)
    assert suggest_scan_profile(LARGE, items) == ()


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("<x/>", "ismrmrdHeader"),
        (header(matrix="1 8 8"), "matrixSize"),
        (LARGE, "no such"),
    ],
)
def test_header_that_cannot_be_read(document, words):
    items = acquisitions()
    if words == "no such":
        words = "encoding"
        for a in items:
            a.encoding_space_ref = 3
    with pytest.raises(Mri2QmapError, match=words):
        suggest_scan_profile(document, items)


@pytest.mark.parametrize("unit", UNITS[1:])
def test_errors_of_a_standard_run_name_the_unit(unit):
    scan = ScanInfo.from_header(LARGE)
    profile = ScanProfile(trajectory_units=unit)
    items = acquisitions()
    for number, a in enumerate(items[NOISE_SCANS:], NOISE_SCANS):
        stored = foreign_trajectory(a.traj, profile, scan)
        items[number] = ismrmrd.Acquisition(a.getHead(), a.data, stored)
    with pytest.raises(Mri2QmapError, match="--scan-profile") as caught:
        list(checked_acquisitions(items, scan))
    assert f"try trajectory_units = '{unit}'" in str(caught.value)


def proposed(**values: object) -> tuple[ScanProfileSuggestion, ...]:
    return tuple(ScanProfileSuggestion(key, value, "because") for key, value in values.items())


E2 = {"frame_counter": "repetition", "group_counter": "kspace_encode_step_2"}
STACK = {"trajectory_axes": ("x", "y"), "partition_counter": "kspace_encode_step_2"}
OF_VIEWS = {"frame_counter": "kspace_encode_step_1", "group_counter": "slice"}


@pytest.mark.parametrize(
    ("values", "names", "rest"),
    [
        (OF_VIEWS, ("ge",), ()),
        ({**OF_VIEWS, "trajectory_units": "1/m"}, ("ge",), ("trajectory_units",)),
        (E2, ("philips", "siemens"), ()),
        ({**E2, "flip_angles": None}, ("philips", "siemens"), ("flip_angles",)),
        ({**E2, **STACK}, ("siemens_spiral",), ()),
        ({**E2, **STACK, "first_group": 1}, ("siemens_spiral",), ("first_group",)),
        ({**E2, "group_counter": "slice"}, None, ()),
        ({"frame_counter": "repetition"}, None, ()),
        ({"trajectory_units": "1/m"}, None, ()),
        ({}, None, ()),
    ],
)
def test_profiles_of_the_package_that_agree_are_found(values, names, rest):
    base = shipped_base(proposed(**values), header())
    if names is None:
        assert base is None
        return
    assert base.names == names
    assert tuple(suggestion.key for suggestion in base.rest) == rest
    written = tomllib.loads("\n".join([base.toml, *(s.toml for s in base.rest if s.value)]))
    assert written.pop("base") == names[0]
    merged = {**settings_as_dict(load_scan_profile(names[0])), **written}
    for key, value in values.items():
        assert value is None or merged[key] in (value, list(value) if key in STACK else value)


@pytest.mark.parametrize(
    ("vendor", "first"), [("SIEMENS", "siemens"), ("Philips", "philips"), ("other", "philips")]
)
def test_the_profile_of_the_vendor_comes_first(vendor, first):
    system = f"<acquisitionSystemInformation><systemVendor>{vendor}</systemVendor>"
    document = header().replace(
        "<experimentalConditions>",
        f"{system}</acquisitionSystemInformation><experimentalConditions>",
    )
    assert vendor in document
    assert shipped_base(proposed(**E2), document).names[0] == first

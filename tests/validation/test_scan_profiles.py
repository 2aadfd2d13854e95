"""Scans in another convention: what to try is named, and with the profile the scan fits."""

import json
import tomllib

import ismrmrd
import numpy as np
import pytest
from helpers.conventions import foreign_acquisition, foreign_header
from helpers.scans import write_scan
from validation.test_wrong_scans import FRAMES, GROUPS, NOISE, good, nan_sample, with_lines, xml

import mri2qmap
from mri2qmap.cli.main import main
from mri2qmap.cli.validate import DOES_NOT_FIT
from mri2qmap.pipeline.findings import Level
from mri2qmap.pipeline.pipeline_file import pipeline_path
from mri2qmap.pipeline.scan_header import ScanInfo
from mri2qmap.pipeline.scan_profile import ScanProfile

LARGE = {"matrix": "64 64 64", "fov": "220 220 220"}
"""In this grid, no two units reach similar values."""
PER_METRE = 1e3 * 64 / 220
SECTION = '<scan><property name="trajectory_units" value="1/m"/></scan>'


def per_metre(path, **changes):
    return write_scan(path, xml(**(LARGE | changes)), with_lines(lambda k: k * PER_METRE))


def validated(scan, profile=None, pipeline="svdmrf", **arguments):
    return mri2qmap.validate(scan, pipeline, time=False, scan_profile=profile, **arguments)


def suggested(result):
    """The TOML that the hint names."""
    (hint,) = [f for f in result.findings if f.code == "scan-profile"]
    assert hint.level is Level.HINT
    return hint.advice.partition("TOML file of: ")[2].replace("; ", "\n")


CONVENTIONS = {
    "1/m": ({"trajectory_units": "1/m"}, "trajectory-unit"),
    "rad/m": ({"trajectory_units": "rad/m"}, "trajectory-unit"),
    "frames in repetition": (
        {"frame_counter": "repetition"},
        "duplicate-readout repetition-changes incomplete",
    ),
    "groups in set, from 1": (
        {"group_counter": "set", "first_group": 1},
        "duplicate-readout set-changes",
    ),
    "another encoding": ({"encoding": 1}, "no-imaging"),
    "several": (
        {"frame_counter": "user_3", "group_counter": "slice", "trajectory_units": "cycles/FOV"},
        "trajectory-unit duplicate-readout slice-changes incomplete",
    ),
}


@pytest.mark.parametrize("name", CONVENTIONS)
def test_what_to_try_is_named_and_then_the_scan_fits(name, tmp_path):
    keys, codes = CONVENTIONS[name]
    profile = ScanProfile(**keys)
    document = xml(**LARGE)
    standard = ScanInfo.from_header(document)
    header = ismrmrd.xsd.CreateFromDocument(foreign_header(document, profile))
    header.encoding *= 1 + profile.encoding
    items = [foreign_acquisition(a, profile, standard) for a in good()]
    scan = write_scan(tmp_path / "scan.h5", ismrmrd.xsd.ToXML(header), items)
    result = validated(scan)
    assert {f.code for f in result.findings if f.level is Level.ERROR} == set(codes.split())
    toml = suggested(result)
    assert tomllib.loads(toml) == keys
    site = tmp_path / "site.toml"
    site.write_text(toml)
    found = validated(scan, site)
    several = ["several-encodings"] * profile.encoding
    assert list(found.codes) == several, [f.message for f in found.findings]
    assert found.scan_profile == "site"
    assert found.description.groups == GROUPS
    assert found.description.frames == FRAMES
    assert found.description.trajectory_extent == pytest.approx((0.5, 0.5, 0.5))
    shown = {s.name: s.value for s in found.settings if s.gadget == "scan" and s.changed}
    assert shown == keys


def test_an_iterator_is_read_once(tmp_path):
    items = with_lines(lambda k: k * PER_METRE)
    result = validated(mri2qmap.Scan(xml(**LARGE), iter(items)))
    assert suggested(result) == "trajectory_units = '1/m'"
    scan = mri2qmap.Scan(xml(**LARGE), iter(items))
    assert validated(scan, ScanProfile(trajectory_units="1/m")).findings == ()


def test_no_hint_where_another_convention_is_no_help(tmp_path):
    scan = good()
    nan_sample(scan[-1])
    path = write_scan(tmp_path / "scan.h5", xml(tr="0"), scan)
    assert validated(path).codes == ("tr-range", "data-not-finite")


def test_counters_that_a_setting_names_are_not_suggested(tmp_path):
    profile = ScanProfile(frame_counter="repetition")
    standard = ScanInfo.from_header(xml(**LARGE))
    items = [foreign_acquisition(a, profile, standard) for a in good()]
    nan_sample(items[-1])
    path = write_scan(tmp_path / "scan.h5", xml(limit=None, **LARGE), items)
    counter = {"coil_sensitivity.frame_counter": "repetition"}
    assert validated(path, settings=counter).codes == ("data-not-finite",)


def test_a_section_of_the_pipeline(tmp_path):
    scan = per_metre(tmp_path / "scan.h5")
    own = tmp_path / "own.xml"
    text = pipeline_path("svdmrf").read_text()
    own.write_text(text.replace("<version>2</version>", f"<version>2</version>{SECTION}"))
    assert validated(scan, pipeline=own).findings == ()
    twice = validated(scan, "siemens", own)
    assert [f.code for f in twice.findings if "give one of them" in f.message] == ["pipeline"]
    unfit = write_scan(tmp_path / "standard.h5", xml(**LARGE), good())
    assert validated(unfit, pipeline=own).codes == ("scan-profile-unfit",)


UNFIT = {
    "no such profile": ("nosuch", {}, "scan-profile-invalid", "nosuch"),
    "an unknown key": ('colour = "red"', {}, "scan-profile-invalid", "colour"),
    "no such encoding": ("encoding = 3", {}, "scan-profile-unfit", "has 1"),
    "no such group of the file": ('dataset = "meas"', {}, "group-missing", "meas"),
    "another unit": ('trajectory_units = "rad/voxel"', {}, "scan-profile-unfit", "1/m"),
    "no such file": (
        'trajectory_file = "nowhere.npy"',
        {},
        "scan-profile-unfit",
        "cannot be read",
    ),
    "no flip angles": (
        'trajectory_units = "1/m"\nflip_angles_from = "Angles"',
        {},
        "scan-profile-unfit",
        "Angles",
    ),
    # acquisitions that cannot be converted without these are not looked at
    "a field of view of zero": (
        'trajectory_units = "1/m"',
        {"fov": "0 1 1"},
        "field-of-view",
        "is 0.0",
    ),
    "a TR of zero": ('trajectory_units = "1/m"', {"tr": "0"}, "tr-range", "TR is 0 ms"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_a_profile_or_scan_that_does_not_fit(name, tmp_path):
    text, changes, code, words = UNFIT[name]
    scan = per_metre(tmp_path / "scan.h5", **changes)
    profile = tmp_path / "site.toml"
    profile.write_text(text)
    result = validated(scan, "nosuch" if text == "nosuch" else profile)
    assert list(result.codes) == [code], [f.message for f in result.findings]
    assert words in result.findings[0].message
    assert not result.fits


def test_the_errors_of_converted_acquisitions_are_all_found(tmp_path):
    items = with_lines(lambda k: k * PER_METRE)
    nan_sample(items[NOISE + 1])
    items[-1].idx.set = 3
    scan = write_scan(tmp_path / "scan.h5", xml(**LARGE), items)
    found = validated(scan, ScanProfile(trajectory_units="1/m"))
    assert found.codes == ("data-not-finite", "set-changes")
    assert found.scan_profile == "own"


def test_settings_that_are_wrong_are_told_with_a_profile(tmp_path):
    scan = per_metre(tmp_path / "scan.h5")
    wrong = {"combined_matching.atom_steps": 1, "coil_sensitivity.frame_counter": "set"}
    profile = ScanProfile(trajectory_units="1/m", frame_counter="repetition")
    result = validated(scan, profile, settings=wrong)
    assert result.codes[:2] == ("setting", "setting")
    assert "the scan profile own gives the counters" in result.findings[1].message


def test_a_profile_counts_where_the_pipeline_cannot_be_read(tmp_path):
    scan = per_metre(tmp_path / "scan.h5")
    profile = ScanProfile(trajectory_units="1/m")
    assert validated(scan, profile, "nosuch").codes == ("pipeline",)
    assert validated(scan, 7).codes == ("scan-profile-invalid",)


def test_from_the_command_line(tmp_path, capsys):
    scan = per_metre(tmp_path / "scan.h5")
    command = ["validate", str(scan), "-p", "svdmrf", "--no-time"]
    assert main(command) == DOES_NOT_FIT
    text = capsys.readouterr().out
    assert "hint     scan-profile" in text
    assert "trajectory_units = '1/m'" in text
    profile = tmp_path / "site.toml"
    profile.write_text(f"trajectory_units = '1/m'\nflip_angles = {list(range(10, 50, 5))}\n")
    assert main([*command, "--scan-profile", str(profile)]) == 0
    text = capsys.readouterr().out
    assert "scan profile    site" in text
    assert "scan.trajectory_units" in text
    assert "The scan fits" in text
    assert main([*command, "--scan-profile", str(profile), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scan_profile"] == "site"
    assert main([*command, "--scan-profile", "nosuch"]) == DOES_NOT_FIT


def test_a_run_makes_the_same_checks(tmp_path, capsys):
    items = with_lines(lambda k: k * PER_METRE)
    items[-1] = ismrmrd.Acquisition(items[-1].getHead(), items[-1].data * np.nan, items[-1].traj)
    scan = write_scan(tmp_path / "scan.h5", xml(**LARGE), items)
    profile = tmp_path / "site.toml"
    profile.write_text("trajectory_units = '1/m'")
    command = ["replay", str(scan), "-p", "svdmrf", "-o", str(tmp_path / "maps")]
    assert main([*command, "--scan-profile", str(profile)]) == 2
    (finding,) = validated(scan, profile).findings
    assert finding.what in capsys.readouterr().err
    assert not (tmp_path / "maps").exists()

"""Scan profiles from files, from the package and from pipelines."""

from pathlib import Path

import pytest
from helpers.scans import external, pipeline_xml

from mri2qmap.api.run_output import settings_inputs
from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.file_access import FileAccess
from mri2qmap.pipeline.pipeline_file import parse_pipeline, read_pipeline
from mri2qmap.pipeline.scan_profile import STANDARD, ScanProfile
from mri2qmap.pipeline.scan_profile_files import (
    load_scan_profile,
    profile_of_properties,
    properties_of_profile,
    scan_profile_path,
    shipped_scan_profiles,
)
from mri2qmap.pipeline.scan_section import scan_sections, set_scan_sections, taken_profile
from mri2qmap.pipeline.server_pipeline import server_pipeline
from mri2qmap.pipeline.xml_document import parse_xml, xml_bytes

FULL = ScanProfile(
    name="site 7 T",
    frame_counter="repetition",
    first_frame=1,
    group_counter="user_2",
    first_group=3,
    ignored_counters=("set", "average"),
    use_limits=False,
    encoding=1,
    dataset="dataset_2",
    sign_counter="slice",
    trajectory_units="rad/m",
    trajectory_axes=("-z", "x"),
    partition_counter="kspace_encode_step_1",
    partition_center=8,
    trajectory_file="/data/trajectory.npy",
    trajectory_index=("arrival",),
    flip_angles=(0.1, 0.25),
    repetition_times=(0.01,),
    echo_times_from="TE",
    inversion_time=0.02,
    angle_units="rad",
    time_units="s",
)
FULL_TOML = """
name = "site 7 T"
frame_counter = "repetition"
first_frame = 1
group_counter = "user_2"
first_group = 3
ignored_counters = ["set", "average"]
use_limits = false
encoding = 1
dataset = "dataset_2"
sign_counter = "slice"
trajectory_units = "rad/m"
trajectory_axes = ["-z", "x"]
partition_counter = "kspace_encode_step_1"
partition_center = 8
trajectory_file = "/data/trajectory.npy"
trajectory_index = "arrival"
flip_angles = [0.1, 0.25]
repetition_times = 0.01
echo_times_from = "TE"
inversion_time = 0.02
angle_units = "rad"
time_units = "s"
"""


def written(folder: Path, text: str, name: str = "own.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def section(**properties: object) -> str:
    inner = "".join(f'<property name="{k}" value="{v}"/>' for k, v in properties.items())
    return f"<scan>{inner}</scan>"


def document(where: str, content: str, **settings: object) -> bytes:
    """A pipeline with a section at its root, in its nodes or in both."""
    nodes = [
        external("coil_sensitivity", **settings),
        external("subspace_compression", output="gridded"),
        external("combined_matching"),
        external("parametric_maps"),
    ]
    if where in ("nodes", "both"):
        nodes = [node.replace("</configuration>", f"{content}</configuration>") for node in nodes]
    text = pipeline_xml(*nodes)
    if where in ("root", "both"):
        text = text.replace("<readers>", f"{content}<readers>", 1)
    return text.encode()


def test_every_key_of_a_file(tmp_path):
    assert load_scan_profile(written(tmp_path, FULL_TOML)) == FULL


def test_properties_hold_every_key(tmp_path):
    properties = properties_of_profile(FULL)
    assert profile_of_properties(properties, "here") == FULL
    assert properties["flip_angles"] == "0.1 0.25"
    assert properties_of_profile(STANDARD) == {}
    assert profile_of_properties({}, "here") == STANDARD


@pytest.mark.parametrize("name", shipped_scan_profiles())
def test_shipped_profiles(name):
    profile = load_scan_profile(name)
    assert profile.name == name
    assert scan_profile_path(name) is None
    assert profile_of_properties({"base": name}, "here") == profile
    assert profile.is_standard == (name == "standard")


def test_names_of_the_shipped_profiles():
    assert shipped_scan_profiles() == (
        "standard", "ge", "philips", "pulseq", "siemens", "siemens_spiral",
    )  # fmt: skip


def test_profiles_based_on_others(tmp_path):
    """Keys replace those of the base; a file of trajectories is beside the file that names it."""
    (tmp_path / "site").mkdir()
    own = 'base = "ge"\ntrajectory_file = "t.npy"\nencoding = 2\nsequence_file = "s.seq"'
    written(tmp_path / "site", own, "a.toml")
    path = written(tmp_path, 'base = "site/a.toml"\nencoding = 1')
    profile = load_scan_profile(path)
    assert profile.name == "own"
    assert profile.frame_counter == "kspace_encode_step_1"
    assert profile.encoding == 1
    assert Path(profile.trajectory_file) == tmp_path / "site/t.npy"
    assert Path(profile.sequence_file) == tmp_path / "site/s.seq"
    by_section = profile_of_properties({"base": str(path), "encoding": "3"}, "here")
    assert (by_section.encoding, by_section.group_counter) == (3, "slice")
    assert by_section.name == "pipeline"


def test_a_file_is_preferred_to_a_shipped_profile(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "first_frame = 4", "ge")
    assert load_scan_profile("ge").first_frame == 4


BAD_FILES = {
    "unknown key": ("frame_count = 'set'", ['key "frame_count" is not known', '"frame_counter"']),
    "section": ("[scan]\nencoding = 1", ['key "scan" is not known']),
    "word for a number": ("first_frame = 'one'", ["first_frame is 'one'", "a whole number"]),
    "unknown counter": ("frame_counter = 'line'", ["frame_counter is 'line'", "repetition"]),
    "unknown unit": ("trajectory_units = 'mm'", ["trajectory_units is 'mm'", "1/m"]),
    "unknown axis": ("trajectory_axes = ['x', 'y', 'w']", ["trajectory_axes[2] is 'w'"]),
    "same axes": ("trajectory_axes = ['x', '-x', 'y']", ["two or three different axes"]),
    "one axis": ("trajectory_axes = ['z']", ["two or three different axes"]),
    "axes without partitions": (
        "trajectory_axes = ['x', 'z']", ["2 axes and partition_counter is none"]
    ),
    "partitions with three axes": (
        "partition_counter = 'set'", ["3 axes and partition_counter is set"]
    ),
    "centre of nothing": ("partition_center = 3", ["partition_center needs a partition_counter"]),
    "negative centre": (
        "partition_center = -1\ntrajectory_axes = ['x', 'y']\npartition_counter = 'set'",
        ["partition_center must lie between 0 and"],
    ),
    "no index": ("trajectory_index = []", ["trajectory_index must name"]),
    "index twice": ("trajectory_index = ['frame', 'frame']", ["each once"]),
    "one counter for both": (
        "frame_counter = 'set'\ngroup_counter = 'set'", ["are both set", "different counters"]
    ),
    "offset of arrival": (
        "frame_counter = 'arrival'\nfirst_frame = 1", ["first_frame is 1", "counts from 0"]
    ),
    "negative offset": ("first_group = -1", ["first_group must lie between 0 and"]),
    "encoding": ("encoding = 99", ["encoding must lie between 0 and 15, got 99"]),
    "ignored twice": ("ignored_counters = ['set', 'set']", ["contains a counter twice"]),
    "ignored frames": ("ignored_counters = ['contrast']", ["contrast, the frame_counter"]),
    "angles twice": (
        "flip_angles = [10.0, 20.0]\nflip_angles_from = 'fa'", ["are both given"]
    ),
    "sequence twice": (
        "sequence_file = 'a.seq'\nflip_angles = [10.0, 20.0]",
        ["sequence_file and flip_angles are both given", "remove one"],
    ),
    "sequence and parameter": (
        "sequence_file = 'a.seq'\necho_times_from = 'TE'",
        ["sequence_file and echo_times_from are both given"],
    ),
    "another kind of file": ("sequence_file = 'a.txt'", ["a.txt'; a Pulseq file", "flip_angles"]),
    "time twice": ("inversion_time = 20\ninversion_time_from = 'ti'", ["are both given"]),
    "not a number": ("flip_angles = [nan]", ["flip_angles[0] is nan", "a finite number"]),
    "date": ("inversion_time = 2020-01-01", ["inversion_time is", "a finite number"]),
    "empty name": ("name = ''", ["name must have 1 to 80 printable characters"]),
    "line in a name": ("name = \"a\\nb\"", ["printable"]),
    "no TOML": ("frame_counter: set", ["this is not TOML"]),
    "no UTF-8": (b"name = '\xff'", ["this is not TOML"]),
    "long": (b"#" * 2**21, ["more than 1048576 bytes"]),
    "unknown base": ("base = 'simens'", ["there is no such file", "siemens"]),
    "number as base": ("base = 3", ["base is 3; a name or file is expected"]),
    "circle": ("base = 'own.toml'", ["is there a circle?"]),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file(name, tmp_path):
    content, words = BAD_FILES[name]
    path = tmp_path / "own.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(Mri2QmapError) as caught:
        load_scan_profile(path)
    for word in ("scan profile", *words):
        assert word in str(caught.value)


@pytest.mark.parametrize("given", ["", None, 3, "nosuch", "nosuch.toml", "/"])
def test_what_is_no_profile(given):
    with pytest.raises(Mri2QmapError, match="scan profile"):
        load_scan_profile(given)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"frame_counter": "line"}, "frame_counter is 'line'"),
        ({"encoding": 1.0}, "encoding is 1.0"),
        ({"flip_angles": ("10", "20")}, "flip_angles"),
        ({"use_limits": 0}, "use_limits is 0"),
    ],
)
def test_wrong_types_from_python(values, words):
    """A dataclass takes any value; the reconstruction does not."""
    with pytest.raises(Mri2QmapError, match="scan profile own") as caught:
        load_scan_profile(ScanProfile(**values))
    assert words in str(caught.value)
    lists = ScanProfile(trajectory_axes=["z", "y", "x"], flip_angles=[10, 20])
    assert load_scan_profile(lists).flip_angles == (10.0, 20.0)
    assert load_scan_profile(lists).name == "own"
    assert load_scan_profile(STANDARD) == STANDARD


@pytest.mark.parametrize("where", ["root", "nodes", "both"])
def test_section_of_a_pipeline(where):
    """A Gadgetron server passes only the configuration of a node to the node."""
    found = parse_pipeline(document(where, section(base="siemens", first_frame=1)), "own", "own")
    assert found.scan_profile.frame_counter == "repetition"
    assert found.scan_profile.first_frame == 1
    assert parse_pipeline(document("none", ""), "own", "own").scan_profile == STANDARD


BAD_SECTIONS = {
    "unknown property": (section(frames="set"), 'property "frames" is not known'),
    "bad value": (section(encoding="one"), 'property encoding="one": a whole number'),
    "out of range": (section(encoding="99"), "encoding must lie between"),
    "no property": ("<scan><frame_counter/></scan>", "found <frame_counter>"),
    "nested": ("<scan><scan/></scan>", "found <scan>"),
    "twice": (section(encoding=1) + section(encoding=2), "differs from that in line"),
    "unknown base": (section(base="nosuch"), "nosuch"),
}


@pytest.mark.parametrize("where", ["root", "nodes"])
@pytest.mark.parametrize("name", BAD_SECTIONS)
def test_bad_section(name, where):
    content, words = BAD_SECTIONS[name]
    with pytest.raises(Mri2QmapError) as caught:
        parse_pipeline(document(where, content), "own", "own.xml")
    assert words in str(caught.value)
    assert "own.xml" in str(caught.value)


def test_a_profile_and_a_section_are_refused(tmp_path):
    path = tmp_path / "own.xml"
    path.write_bytes(document("root", section(encoding=1)))
    with pytest.raises(Mri2QmapError, match=r"own.xml: .*<scan>.*give one of them"):
        read_pipeline(path, profile="siemens")
    with pytest.raises(Mri2QmapError, match="give one of them"):
        taken_profile(path.read_bytes(), "siemens", "own.xml")


def test_counters_in_the_settings_of_a_gadget_are_refused():
    """They would be looked for after the profile has moved them."""
    for properties in ({"frame_counter": "repetition"}, {"trajectory_file": "/data/t.npy"}):
        content = document("root", section(**properties), group_counter="set")
        with pytest.raises(Mri2QmapError, match=r'group_counter="set".* in the profile'):
            parse_pipeline(content, "own", "own.xml")
    units = document("root", section(trajectory_units="1/m"), group_counter="set")
    assert parse_pipeline(units, "own", "own").nodes[0].settings.group_counter == "set"


def test_pipelines_from_the_network_name_files_of_allowed_folders(tmp_path):
    path = written(tmp_path, "encoding = 1")
    allowed = FileAccess(folders=(tmp_path,))
    secret = Path("/etc/hostname")
    for properties, files in (
        ({"base": path}, FileAccess()),
        ({"base": secret}, allowed),
        ({"trajectory_file": secret}, allowed),
        ({"base": written(tmp_path, f"trajectory_file = '{secret}'", "t.toml")}, allowed),
        ({"sequence_file": tmp_path.parent / "train.seq"}, allowed),
        ({"base": written(tmp_path, "sequence_file = '/t.seq'", "s.toml")}, allowed),
        ({"base": written(tmp_path, f"base = '{secret}'", "b.toml")}, allowed),
    ):
        with pytest.raises(Mri2QmapError, match="came over the network"):
            parse_pipeline(document("root", section(**properties)), "own", "own", files=files)
    for base in (path, "siemens"):
        parse_pipeline(document("root", section(base=base)), "own", "own", files=allowed)


def test_client_takes_the_section_out(tmp_path):
    content = document("both", section(base="ge"))
    profile, rest = taken_profile(content, None, "own")
    assert profile == load_scan_profile("ge")
    assert b"<scan>" not in rest
    assert taken_profile(rest, None, "own") == (STANDARD, rest)
    assert taken_profile(rest, "ge", "own") == (profile, rest)
    assert taken_profile(None, "ge", "own") == (profile, None)


def test_sections_of_nodes_are_written_and_read(tmp_path):
    root = parse_xml(document("root", section(encoding=5)), "own")
    set_scan_sections(root, FULL)
    again = parse_xml(xml_bytes(root), "own")
    assert again.all("scan") == []
    assert profile_of_properties(scan_sections(again, "own"), "own") == FULL
    for configuration in again.everywhere("configuration"):
        if configuration is not again:
            assert scan_sections(configuration, "own") == properties_of_profile(FULL)


def test_files_have_absolute_names(tmp_path, monkeypatch):
    """Nodes and workers have other current folders."""
    monkeypatch.chdir(tmp_path)
    content = document("root", section(sequence_file="t.seq", trajectory_file="t.npy"))
    found = parse_pipeline(content, "own", "own").scan_profile
    assert found.sequence_file == str(tmp_path / "t.seq")
    assert found.trajectory_file == str(tmp_path / "t.npy")
    assert settings_inputs(parse_pipeline(content, "own", "own")) == {
        "scan_profile.sequence_file": tmp_path / "t.seq",
        "scan_profile.trajectory_file": tmp_path / "t.npy",
    }


def test_origin_of_the_sequence():
    assert STANDARD.sequence_origin == "the header"
    assert ScanProfile(sequence_file="t.seq").sequence_origin == "the Pulseq file t.seq"
    assert FULL.sequence_origin == (
        "the scan profile site 7 T (flip_angles, repetition_times, inversion_time); "
        "the user parameter TE (echo_times)"
    )


@pytest.mark.parametrize("mode", ["execute", "connect"])
def test_pipeline_for_a_gadgetron_server(mode, tmp_path):
    path = written(tmp_path, 'base = "ge"\nflip_angles = [10, 20, 30]')
    text = server_pipeline("svdmrf", mode, profile=path)
    root = parse_xml(text, "own")
    assert root.all("scan") == []
    assert text.count(b"<scan>") == len(list(root.everywhere("external")))
    found = parse_pipeline(text, "own", "own").scan_profile
    assert found == load_scan_profile(path)

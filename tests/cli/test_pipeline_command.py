"""`mri2qmap pipeline`: settings listed, and pipelines for a Gadgetron server."""

from pathlib import Path

import pytest

from mri2qmap.cli.main import REFUSED, main
from mri2qmap.pipeline.pipeline_file import read_pipeline
from mri2qmap.pipeline.server_pipeline import server_pipeline
from mri2qmap.pipeline.xml_document import parse_xml
from mri2qmap.storage.written import XML_MARK

FOLDER = Path(__file__).parents[2] / "pipelines"
MODES = ("execute", "connect")


@pytest.mark.parametrize("mode", MODES)
def test_the_shipped_files_for_a_server_are_those_of_the_generator(mode, tmp_path):
    out = tmp_path / "out.xml"
    source = FOLDER / "mri2qmap.xml"
    assert main(["pipeline", "--for-server", mode, str(source), "-o", str(out)]) == 0
    written, mark, _ = out.read_bytes().partition(XML_MARK)
    assert written == (FOLDER / f"mri2qmap_{mode}.xml").read_bytes()
    assert mark
    assert read_pipeline(out).nodes == read_pipeline(source).nodes
    assert XML_MARK not in server_pipeline(out, mode)


def edited(path):
    path.write_text(path.read_text().replace("mri2qmap", "mine", 1))


@pytest.mark.parametrize("action", [["--check"], ["--for-server", "connect"]])
@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (None, ["--overwrite"], None),
        (None, [], "it exists already"),
        (edited, ["--overwrite"], "not written by this program, or was changed since"),
        (lambda path: path.write_text("mine"), ["--overwrite"], "not written by this program"),
    ],
)
def test_only_a_file_of_this_command_is_replaced(action, change, options, words, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["pipeline", *action, str(FOLDER / "mri2qmap.xml"), "-o", str(out)]
    assert main(command) == 0
    if change is not None:
        change(out)
    before = out.read_bytes()
    assert main([*command, *options]) == (0 if words is None else REFUSED)
    assert out.read_bytes() == before
    assert (words or "") in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("former", MODES)
def test_a_file_for_a_server_can_be_made_again_for_the_other_way(mode, former):
    again = server_pipeline(FOLDER / f"mri2qmap_{former}.xml", mode)
    expected = (FOLDER / f"mri2qmap_{mode}.xml").read_bytes()
    assert again == expected.replace(b"from mri2qmap.xml", f"from mri2qmap_{former}.xml".encode())


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.xml")), ids=lambda path: path.stem)
@pytest.mark.parametrize("mode", MODES)
def test_a_pipeline_for_a_server_has_the_same_settings(mode, path, tmp_path):
    changes = {"combined_matching": {"search": "groups"}}
    out = tmp_path / "out.xml"
    out.write_bytes(server_pipeline(path, mode, changes))
    assert read_pipeline(out).nodes == read_pipeline(path, changes).nodes


def test_comments_and_the_place_of_the_worker_are_in_the_file(tmp_path):
    own = tmp_path / "own.xml"
    text = (FOLDER / "lrtv.xml").read_text()
    own.write_text(text.replace('<property name="prior"', '<!-- mine --><property name="prior"'))
    options = ["--for-server", "connect", "--address", "10.0.0.7", "--port", "18001"]
    out = tmp_path / "out.xml"
    assert main(["pipeline", str(own), *options, "-o", str(out)]) == 0
    assert "<!-- mine -->" in out.read_text()
    root = parse_xml(out.read_bytes(), "out.xml")
    places = [connect.attributes for connect in root.everywhere("connect")]
    assert places == [{"address": "10.0.0.7", "port": "18001"}] * 5


@pytest.mark.parametrize("overrides", [None, {"pnp_admm": {"iterations": "3"}}])
def test_former_names_become_the_present_ones(overrides, tmp_path, caplog):
    old = tmp_path / "old.xml"
    document = (FOLDER / "mri2qmap_connect.xml").read_text()
    old.write_text(document.replace('"transport"', '"hand_over"'))
    with caplog.at_level("WARNING"):
        document = server_pipeline(old, "connect", overrides)
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == len(set(warnings)) == 5
    assert all('property "hand_over" is now called "transport"' in text for text in warnings)
    assert b'"hand_over"' not in document
    assert document.count(b'"transport" value="reference"') == 5


def test_the_check_lists_settings_and_marks_changed_ones(capsys):
    changes = ["--set", "coil_sensitivity.prewhiten=no"]
    assert main(["pipeline", "--check", str(FOLDER / "llr.xml"), *changes]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("llr: 5 gadgets")
    marked = [" ".join(line.split()) for line in lines[1:] if "*" in line]
    assert marked == [
        '* prewhiten = "false" (true or false; default "true")',
        '* prior = "low_rank" (one of none, total_variation, low_rank, denoiser, ...; '
        'default "none")',
        '* strength = "10" (a finite number; default "5")',
        '* method = "LLR" (text; default "MRI2Qmap")',
    ]
    assert any("  iterations " in line and '= "20" (a whole number)' in line for line in lines)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--check", "--set", "pnp_admm.coupling=-1"], "coupling must be positive, got -1.0"),
        (
            ["--check", "--set", "pnp_admm.b1=0.9"],
            "set combined_matching.b1=0.9 (--set, or settings=)",
        ),
        (["--for-server", "execute", "--set", "pnp_admm.iterations=x"], "a whole number"),
        (["--for-server", "execute", "--port", "9"], "--for-server connect"),
        (["--for-server", "connect", "--port", "0"], "1 to 65535"),
        (["--for-server", "connect", "-o", str(FOLDER / "mri2qmap.xml")], "choose another name"),
        (["--check", "-o", "/dev/null"], "not a regular file"),
        (["--check", "--overwrite"], "--overwrite is for -o"),
    ],
)
def test_wrong_settings_and_options_are_refused(options, words, capsys):
    before = (FOLDER / "mri2qmap.xml").read_bytes()
    assert main(["pipeline", str(FOLDER / "mri2qmap.xml"), *options]) == REFUSED
    assert words in capsys.readouterr().err
    assert (FOLDER / "mri2qmap.xml").read_bytes() == before


def test_the_scan_profile_is_listed_and_goes_to_the_nodes(tmp_path, capsys):
    profile = tmp_path / "own.toml"
    profile.write_text('base = "ge"\nencoding = 1\n')
    assert main(["pipeline", "--check", "svdmrf", "--scan-profile", str(profile)]) == 0
    listed = capsys.readouterr().out
    assert '* group_counter         = "slice"' in listed
    assert '* encoding              = "1"' in listed
    out = tmp_path / "out.xml"
    command = ["pipeline", "--for-server", "connect", "svdmrf", "-o", str(out)]
    assert main([*command, "--scan-profile", str(profile)]) == 0
    assert read_pipeline(out).scan_profile.group_counter == "slice"
    again = ["pipeline", "--check", str(out), "--scan-profile", "siemens"]
    assert main(again) == REFUSED
    assert "give one of them" in capsys.readouterr().err
    assert main(["pipeline", "--check", "svdmrf"]) == 0
    assert "group_counter         =" not in capsys.readouterr().out

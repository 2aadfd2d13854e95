"""The OpenRecon package: PDF, zip, the check of the saved image, and the command."""

import io
import json
import re
import shutil
import subprocess
import tarfile
import zipfile

import pytest

from mri2qmap.cli.main import main
from mri2qmap.errors import Mri2QmapError
from mri2qmap.openrecon.label import LABEL_NAME
from mri2qmap.openrecon.leaflet import leaflet
from mri2qmap.openrecon.offers import offered_parameters
from mri2qmap.openrecon.package import package_label, write_leaflet, write_package
from mri2qmap.openrecon.text_pdf import Paragraph, text_pdf

DESCRIPTION = """
[general]
vendor = "clinic"
name = "MRF"
version = "1.0.2"
[general.regulatory_information]
manufacturer_address = "Street 5"
[reconstruction]
min_required_memory = 24000
"""


@pytest.fixture
def described(tmp_path):
    path = tmp_path / "package.toml"
    path.write_text(DESCRIPTION)
    return path


@pytest.fixture
def label(described):
    return package_label(described)


def image_config(label, **changes) -> dict:
    run = {
        "Labels": {LABEL_NAME: label.encoded(), "other": "x"},
        "ExposedPorts": {"9002/tcp": {}},
        "User": "root",
    }
    return {"os": "linux", "architecture": "amd64", "config": run} | changes


def saved_image(path, config, manifest=None):
    """A tar file of the layout that docker save writes."""
    usual = [{"Config": "abc.json", "Layers": ["layer/layer.tar"]}]
    members = {
        "layer/layer.tar": b"x" * 5000,
        "abc.json": json.dumps(config).encode(),
        "manifest.json": json.dumps(usual if manifest is None else manifest).encode(),
    }
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def drawn(pdf: bytes) -> list[str]:
    """Lines of text on all pages, in their order."""
    found = re.findall(rb"\(((?:[^\\()]|\\.)*)\) Tj", pdf)
    return [re.sub(rb"\\(.)", rb"\1", text).decode("cp1252") for text in found]


def test_description_changes_the_label(label):
    document = label.document()
    assert document["general"]["vendor"] == "clinic"
    regulatory = document["general"]["regulatory_information"]
    assert regulatory["manufacturer_address"] == "Street 5"
    assert regulatory["device_trade_name"] == "MRI2Qmap"
    assert document["reconstruction"]["min_required_memory"] == 24000
    assert document["reconstruction"]["port"] == 9002
    assert package_label().general.vendor == "mri2qmap"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[general]\nvendr = 'x'", 'key "vendr" is not known; did you mean "vendor"'),
        ("[parameters]", 'key "parameters" is not known'),
        ("[general]\nvendor = 5", "general.vendor is 5, expected text"),
        ("[reconstruction]\nmin_required_memory = '5 GB'", "expected a whole number"),
        ("[reconstruction]\nmin_required_memory = -5", "a whole number from 0"),
        ("[reconstruction]\nemitter = 'both'", "one of raw, image"),
        ("[reconstruction.channel_compression]\nrequire_state = 'x'", "channel_compression"),
        ("[general]\nversion = '1.0'", "a semantic version"),
        ("general = 5", "general is 5, expected a mapping"),
        ("[general", "this is not TOML"),
        ("[general]\nname = '\udcff'", "this is not TOML"),
    ],
)
def test_wrong_descriptions_are_refused(tmp_path, text, words):
    path = tmp_path / "wrong.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(Mri2QmapError) as refused:
        package_label(path)
    assert words in str(refused.value)


def test_a_description_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(Mri2QmapError, match="cannot be read"):
        package_label(tmp_path / "none.toml")


def test_package_has_the_image_and_a_pdf_of_its_name(tmp_path, label):
    image = saved_image(tmp_path / "saved.tar", image_config(label))
    path = write_package(image, label, tmp_path / "out")
    assert path.name == "OpenRecon_clinic_MRF_V1.0.2.zip"
    with zipfile.ZipFile(path) as package:
        assert package.testzip() is None
        assert package.namelist() == [
            "OpenRecon_clinic_MRF_V1.0.2.tar",
            "OpenRecon_clinic_MRF_V1.0.2.pdf",
        ]
        assert package.read("OpenRecon_clinic_MRF_V1.0.2.tar") == image.read_bytes()
        assert package.read("OpenRecon_clinic_MRF_V1.0.2.pdf") == leaflet(label)
    assert [file.name for file in (tmp_path / "out").iterdir()] == [path.name]
    again = write_package(image, label, tmp_path / "again")
    assert again.read_bytes() == path.read_bytes()
    with pytest.raises(Mri2QmapError, match="exists already; remove it"):
        write_package(image, label, tmp_path / "out")


def test_images_that_a_host_cannot_start_are_refused(tmp_path, label):
    config = image_config(label)
    other = image_config(package_label())
    run = config["config"]
    cases = [
        (other, None, "it has the label of mri2qmap MRI2Qmap"),
        (config | {"architecture": "arm64"}, None, "it is for linux, arm64; linux, amd64 is"),
        (config | {"config": run | {"Labels": None}}, None, "it has no label"),
        (config | {"config": run | {"Labels": {LABEL_NAME: "e30"}}}, None, "JSON in base64"),
        (config | {"config": run | {"Labels": {LABEL_NAME: "e30="}}}, None, "general is missing"),
        (config | {"config": run | {"ExposedPorts": {"80/tcp": {}}}}, None, "9002/tcp"),
        (config | {"config": None}, None, "a dict is expected"),
        ([], None, "a dict is expected"),
        (config, [], "it has 0 images, one is expected"),
        (config, [{"Config": "abc.json"}] * 2, "it has 2 images"),
        (config, {}, "a list is expected"),
        (config, [{"Config": "../abc.json"}], "../abc.json is not in it"),
        (config, [{}], "its Config is None, a str is expected"),
    ]
    for number, (changed, manifest, words) in enumerate(cases):
        image = saved_image(tmp_path / f"{number}.tar", changed, manifest)
        with pytest.raises(Mri2QmapError) as refused:
            write_package(image, label, tmp_path / "out")
        assert words in str(refused.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"no tar" * 1000, None])
def test_what_is_no_saved_image_is_refused(tmp_path, label, content):
    image = tmp_path / "image.tar"
    if content is not None:
        image.write_bytes(content)
    with pytest.raises(Mri2QmapError, match="as docker save writes it is expected"):
        write_package(image, label, tmp_path)


def test_leaflet_has_every_parameter_and_string(tmp_path, label):
    text = " ".join(drawn(write_leaflet(label, tmp_path).read_bytes()))
    for parameter in offered_parameters():
        assert f"{parameter.label} ({parameter.id})" in text
        assert parameter.information in text
    for words in (
        "Version 1.0.2, clinic",
        "Memory: 24000 MB",
        "not for diagnostic use",
        "Manufacturer address: Street 5",
        "Made in: none",
        "0 to 99 %. Default: 5 %",
        "One of Removed, Mapped, Kept. Default: Removed",
    ):
        assert words in text


def test_text_is_wrapped_and_goes_on_on_the_next_page():
    long = Paragraph("word " * 2000 + "(last) \\ \N{DEGREE SIGN} \N{BRAIN}")
    pdf = text_pdf("a (title)", [Paragraph("first", heading=True, size=16), long, Paragraph("")])
    lines = drawn(pdf)
    assert lines[0] == "first"
    assert max(map(len, lines)) <= 80
    assert " ".join(lines[1:]).split()[-4:] == ["(last)", "\\", "\N{DEGREE SIGN}", "?"]
    assert pdf.count(b"/Type /Page ") == 3
    assert b"/Count 3" in pdf
    heights = [float(y) for y in re.findall(rb" ([\d.]+) Td", pdf)]
    assert min(heights) >= 56
    assert max(heights) < 842 - 56


def test_places_of_objects_in_the_pdf_are_right(label):
    pdf = leaflet(label)
    start = int(re.search(rb"startxref\n(\d+)\n%%EOF\n$", pdf)[1])
    table = re.match(rb"xref\n0 (\d+)\n", pdf[start:])
    entries = pdf[start + table.end() :].split(b"trailer")[0]
    assert len(entries) == 20 * int(table[1])
    places = [int(place) for place in re.findall(rb"(\d{10}) 00000 n ", entries)]
    for number, place in enumerate(places, start=1):
        assert pdf[place:].startswith(b"%d 0 obj\n" % number)
    for length, content in re.findall(rb"/Length (\d+) >>\nstream\n(.*?)\nendstream", pdf, re.S):
        assert len(content) == int(length)


@pytest.mark.skipif(shutil.which("gs") is None, reason="no Ghostscript on the PATH")
def test_ghostscript_reads_the_pdf(tmp_path, label):
    path = write_leaflet(label, tmp_path)
    run = subprocess.run(
        ["gs", "-q", "-dSAFER", "-dNOPAUSE", "-dBATCH", "-sDEVICE=txtwrite", "-o", "-", str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Standard deviations (uncertainty)" in run.stdout
    assert run.stderr == ""
    assert "rror" not in run.stdout.split("Results")[0]


def test_command_prints_what_others_need(capsys, label, described):
    assert main(["openrecon", "label", "--package", str(described)]) == 0
    assert json.loads(capsys.readouterr().out) == label.document()
    assert main(["openrecon", "build", "--package", str(described)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        "OpenRecon_clinic_MRF_V1.0.2",
        "openrecon_clinic_mrf:v1.0.2",
        label.encoded(),
    ]
    assert main(["openrecon", "parameters"]) == 0
    sent = json.loads(capsys.readouterr().out)
    assert sent["parameters"]["config"] == "mri2qmap"
    assert sent["parameters"]["uncertainty"] is False


def test_command_writes_pdf_and_zip(capsys, tmp_path, label, described):
    image = saved_image(tmp_path / "saved.tar", image_config(label))
    given = ["--package", str(described), "-o", str(tmp_path / "out")]
    assert main(["openrecon", "zip", "--image", str(image), *given]) == 0
    assert main(["openrecon", "pdf", *given]) == 0
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".zip", ".pdf"}
    assert capsys.readouterr().out.count("written") == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["zip"], "--image TAR is needed with zip"),
        (["pdf", "--image", "x.tar"], "only with it"),
        (["label", "-o", "x"], "-o is for pdf and zip"),
        (["zip", "--image", "none.tar"], "as docker save writes it is expected"),
    ],
)
def test_command_refuses_options_that_do_not_go_together(capsys, options, words):
    assert main(["openrecon", *options]) == 2
    assert words in capsys.readouterr().err

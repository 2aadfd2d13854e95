import importlib
from pathlib import Path

import pytest
from helpers.scans import GainSettings, SumSettings, external, gain, pipeline_xml, sum_up

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts import external_node
from mri2qmap.hosts.external_node import node_properties
from mri2qmap.pipeline import pipeline_file as module
from mri2qmap.pipeline.pipeline_file import (
    EXTERNAL_MODULE,
    FORMER_MODULE,
    kept_pipeline_path,
    parse_pipeline,
    pipeline_document,
    pipeline_path,
    read_pipeline,
)
from mri2qmap.pipeline.settings import warn_of_former_name

GAIN = external("coil_sensitivity", factor=2)
SUM = external("parametric_maps")
CONNECT = (
    '<external><connect address="127.0.0.1" port="18000"/><configuration>'
    '<property name="gadget" value="coil_sensitivity"/><property name="factor" value="3"/>'
    "</configuration></external>"
)


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "toy.xml"
    path.write_text(text)
    return path


def test_nodes_come_in_order_with_their_settings(small_pipeline):
    pipeline = read_pipeline(small_pipeline)
    assert pipeline.name == "small"
    assert [n.name for n in pipeline.nodes] == ["coil_sensitivity", "parametric_maps"]
    assert [n.function for n in pipeline.nodes] == [gain, sum_up]
    assert [n.settings for n in pipeline.nodes] == [GainSettings(factor=2.0), SumSettings()]


def test_overrides_replace_properties_of_the_file(small_pipeline):
    overrides = {"coil_sensitivity": {"factor": "3", "seed": "5"}}
    pipeline = read_pipeline(small_pipeline, overrides)
    assert pipeline.nodes[0].settings == GainSettings(factor=3.0, seed=5)


@pytest.mark.usefixtures("fake_gadgets")
def test_comments_and_readers_inside_a_node_are_read_over(tmp_path):
    node = SUM.replace("<external>", "<external><!-- why --><readers/><writers/>")
    pipeline = read_pipeline(written(tmp_path, pipeline_xml(node)))
    assert [n.name for n in pipeline.nodes] == ["parametric_maps"]


BILLION_LAUGHS = (
    '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    "<configuration><version>&b;</version></configuration>"
)
FOREIGN = external("parametric_maps").replace("mri2qmap.hosts.external_node", "os")


@pytest.mark.usefixtures("fake_gadgets")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["line 1", "not well-formed"]),
        ("<configuration><version>2</version>\n<stream>", ["line 2", "not well-formed"]),
        (BILLION_LAUGHS, ["line 1", "<!DOCTYPE", "not allowed"]),
        (
            '<!DOCTYPE x SYSTEM "file:///etc/passwd"><configuration/>',
            ["<!DOCTYPE", "not allowed"],
        ),
        ("<configuration>&undefined;</configuration>", ["not well-formed", "undefined entity"]),
        ('<?xml version="1.0" encoding="klingon"?><a/>', ["not"]),
        ("<gadgetronStreamConfiguration/>", ["<configuration>", "version 2"]),
        (pipeline_xml(SUM, version=""), ["<version>2</version>", "none"]),
        (pipeline_xml(SUM, version="<version>1</version>"), ["<version>2</version>", "found: 1"]),
        ("<configuration><version>2</version></configuration>", ["one <stream>", "found 0"]),
        (pipeline_xml(), ["line 3", "no gadgets"]),
        (
            pipeline_xml(SUM).replace("<readers>", "<reeders>").replace("</readers>", "</reeders>"),
            ['element "reeders"', 'did you mean "readers"'],
        ),
        (
            pipeline_xml(SUM, "<gadget><dll>x</dll><classname>Y</classname></gadget>"),
            ["line 5", "<gadget>", "Gadgetron server only"],
        ),
        (pipeline_xml("<parallel/>"), ["<parallel>", "Gadgetron server only"]),
        (
            pipeline_xml('<external><connect port="9"/><configuration/></external>'),
            ["line 4", "<connect>", 'name="gadget"', "pnp_admm"],
        ),
        (
            pipeline_xml(CONNECT.replace("coil_sensitivity", "coil")),
            ["line 4", 'gadget "coil" is not known'],
        ),
        (
            pipeline_xml(GAIN.replace("<configuration>", '<connect port="9"/><configuration>')),
            ["one <execute> or <connect>", "found 2"],
        ),
        (
            pipeline_xml(external("coil_sensitivity", transport="both")),
            ['transport="both"', "value, reference"],
        ),
        (pipeline_xml("<external/>"), ["one <execute> or <connect>", "found 0"]),
        (pipeline_xml(FOREIGN), ["os", "mri2qmap.hosts.external_node"]),
        (pipeline_xml(SUM.replace("python", "matlab")), ["matlab", 'type="python"']),
        (
            pipeline_xml(GAIN, external("pnp_admmm")),
            ["line 5", 'gadget "pnp_admmm" is not known', 'did you mean "pnp_admm"'],
        ),
        (pipeline_xml(external("os.system")), ['gadget "os.system" is not known']),
        (
            pipeline_xml(GAIN.replace("factor", "factr")),
            ["line 4", "coil_sensitivity", 'property "factr"', 'did you mean "factor"'],
        ),
        (
            pipeline_xml(external("coil_sensitivity", factor="loud")),
            ["coil_sensitivity", 'factor="loud"', "finite number"],
        ),
        (
            pipeline_xml(external("coil_sensitivity", factor=-1)),
            ["coil_sensitivity", "factor must be positive"],
        ),
        (
            pipeline_xml(
                GAIN.replace(
                    "</configuration>", '<property name="factor" value="1"/></configuration>'
                )
            ),
            ['property "factor" is given twice'],
        ),
        (
            pipeline_xml(GAIN.replace('value="2"', 'val="2"')),
            ["<property", "val="],
        ),
        (
            pipeline_xml(SUM.replace("</external>", "<configuration/></external>")),
            ["one <configuration>"],
        ),
    ],
)
def test_what_cannot_be_run_is_refused(tmp_path, text, words):
    path = written(tmp_path, text)
    with pytest.raises(Mri2QmapError) as caught:
        read_pipeline(path)
    message = str(caught.value)
    assert str(path) in message
    for word in words:
        assert word in message


def test_overrides_of_what_is_not_there_are_refused(small_pipeline):
    words = r'no gadget "pnp_admm" \(it has: coil_sensitivity, parametric_maps\), so its settings'
    for read in (read_pipeline, pipeline_document):
        with pytest.raises(Mri2QmapError, match=words):
            read(small_pipeline, {"pnp_admm": {"iterations": "3"}})
        with pytest.raises(Mri2QmapError, match='gadget "pnp" is not known'):
            read(small_pipeline, {"pnp": {"iterations": "3"}})
    with pytest.raises(Mri2QmapError, match='property "volume" is not known'):
        read_pipeline(small_pipeline, {"coil_sensitivity": {"volume": "3"}})


def test_a_bare_name_is_looked_up_in_the_folders(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "pipeline_folders", lambda: (tmp_path / "none", tmp_path))
    monkeypatch.chdir(tmp_path.parent)
    file = written(tmp_path, pipeline_xml(SUM))
    assert pipeline_path("toy") == file
    assert pipeline_path("toy.xml") == file
    assert pipeline_path(file) == file
    with pytest.raises(Mri2QmapError, match=r"'other'.*known: toy"):
        pipeline_path("other")
    with pytest.raises(Mri2QmapError, match="no such file"):
        pipeline_path("elsewhere/toy")
    for what in (".", "/dev/null", tmp_path):
        with pytest.raises(Mri2QmapError, match="it is not a file"):
            pipeline_path(what)


@pytest.mark.parametrize("name", [None, 3, ["mri2qmap"], b"mri2qmap"])
def test_a_pipeline_is_named_by_text_or_path(name):
    with pytest.raises(Mri2QmapError, match=f"pipeline: .* got {type(name).__name__}"):
        pipeline_path(name)


def test_connect_nodes_and_options_of_the_host_run_in_process_too(tmp_path, fake_gadgets):
    nodes = CONNECT, external("parametric_maps", transport="reference", report="text")
    pipeline = read_pipeline(written(tmp_path, pipeline_xml(*nodes)))
    assert [node.name for node in pipeline.nodes] == ["coil_sensitivity", "parametric_maps"]
    assert pipeline.nodes[0].settings.factor == 3


@pytest.mark.parametrize("name", ["mri2qmap", "mri2qmap.xml"])
def test_a_name_from_the_network_finds_a_pipeline_of_the_project(name):
    assert kept_pipeline_path(name).name == "mri2qmap.xml"


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../pipelines/mri2qmap", "/etc/passwd", "pipelines/mri2qmap", "a\0b", "nope"],
)
def test_a_name_from_the_network_leads_nowhere_else(tmp_path, monkeypatch, name):
    written(tmp_path, pipeline_xml(SUM))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Mri2QmapError, match="there is no pipeline"):
        kept_pipeline_path(name)


OLD = GAIN.replace("mri2qmap.hosts.external_node", FORMER_MODULE).replace(
    "</configuration>", '<property name="hand_over" value="reference"/></configuration>'
)


@pytest.fixture
def warnings(caplog):
    """Texts of warnings in the log, each place warned of anew."""
    warn_of_former_name.cache_clear()
    yield lambda: [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    warn_of_former_name.cache_clear()


@pytest.mark.usefixtures("fake_gadgets")
def test_former_names_are_read_with_a_warning_that_gives_the_new_ones(tmp_path, warnings):
    path = written(tmp_path, pipeline_xml(OLD, SUM))
    assert read_pipeline(path).nodes[0].settings.factor == 2
    first, second = warnings()
    assert first.startswith(f'{path}, line 4: module "mri2qmap.stream.external" is now called')
    assert '"mri2qmap.hosts.external_node"' in first
    assert second.startswith(f'{path}, line 4: gadget coil_sensitivity: property "hand_over" is')
    assert 'now called "transport"' in second
    read_pipeline(path)
    assert len(warnings()) == 2


@pytest.mark.usefixtures("fake_gadgets")
def test_a_node_reads_former_names_with_a_warning(warnings):
    own = OLD[OLD.index("<configuration>") : OLD.index("</external>")].encode()
    options, rest = node_properties(own, "coil_sensitivity")
    assert options.transport == "reference"
    assert rest == {"factor": "2"}
    assert ['"transport"' in text for text in warnings()] == [True]


@pytest.mark.usefixtures("fake_gadgets")
def test_a_module_under_its_former_name_runs_with_a_warning(warnings):
    former = importlib.reload(importlib.import_module(FORMER_MODULE))
    assert former.coil_sensitivity is external_node.coil_sensitivity
    assert [EXTERNAL_MODULE in text for text in warnings()] == [True]


@pytest.mark.usefixtures("fake_gadgets", "warnings")
@pytest.mark.parametrize("name", ["hand_over", "transport"])
def test_a_change_replaces_a_property_under_its_former_name(tmp_path, name):
    path = written(tmp_path, pipeline_xml(OLD, SUM))
    changes = {"coil_sensitivity": {name: "value"}}
    read_pipeline(path, changes)
    document = pipeline_document(path, changes)
    assert b"hand_over" not in document
    assert b'<property name="transport" value="value"/>' in document


@pytest.mark.usefixtures("fake_gadgets", "warnings")
def test_both_names_of_a_property_are_refused(tmp_path):
    both = OLD.replace('name="factor"', 'name="transport"').replace('"2"', '"value"')
    with pytest.raises(Mri2QmapError, match='"hand_over" is the former name of "transport"'):
        read_pipeline(written(tmp_path, pipeline_xml(both, SUM)))


def test_a_document_for_a_server_is_the_file_itself(tmp_path):
    path = written(tmp_path, pipeline_xml(GAIN, "<gadget><dll>a</dll></gadget>"))
    assert pipeline_document(path) == path.read_bytes()


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_a_document_for_a_server_has_no_zero_bytes(tmp_path, fake_gadgets, encoding):
    text = pipeline_xml(GAIN, SUM).replace('"1.0"?', f'"1.0" encoding="{encoding[:6]}"?')
    path = tmp_path / "wide.xml"
    path.write_bytes(text.encode(encoding) + b"\0\0")
    for overrides in (None, {"coil_sensitivity": {"seed": "4"}}):
        document = pipeline_document(path, overrides)
        assert b"\0" not in document
        assert len(parse_pipeline(document, "toy", "toy.xml").nodes) == 2


def test_properties_of_a_document_for_a_server_can_be_replaced(tmp_path, fake_gadgets):
    path = written(tmp_path, pipeline_xml(CONNECT, SUM))
    overrides = {"coil_sensitivity": {"factor": "5", "seed": "4"}}
    pipeline = parse_pipeline(pipeline_document(path, overrides), "toy", "toy.xml")
    assert pipeline.nodes[0].settings.factor == 5
    assert pipeline.nodes[0].settings.seed == 4
    with pytest.raises(Mri2QmapError, match="cannot be changed"):
        pipeline_document(path, {"pnp_admm": {"iterations": "1"}})

"""Every file in pipelines/ must load, with real gadgets and all settings understood."""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from helpers.scans import external, pipeline_xml

from mri2qmap.cli.replay import parse_overrides
from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts.protocol import MessageId
from mri2qmap.mrsignal.matching_settings import SHARED, MatchingSettings
from mri2qmap.pipeline.contradictions import refuse_contradictions
from mri2qmap.pipeline.items import Consistency, Tsmi, WeightedImages
from mri2qmap.pipeline.node_options import split_properties
from mri2qmap.pipeline.pipeline_file import (
    GADGETS,
    load_gadget,
    parse_pipeline,
    pipeline_document,
    pipeline_path,
    read_pipeline,
)
from mri2qmap.pipeline.settings import parse_settings, settings_as_dict
from mri2qmap.pipeline.xml_document import parse_xml
from mri2qmap.pnp_admm import PnpAdmmSettings

FOLDER = Path(__file__).parents[2] / "pipelines"
FILES = sorted(FOLDER.glob("*.xml"))
ITERATIVE = ["mri2qmap", "mrf_admm", "mrf_admm_single_coil"]


def test_all_promised_pipelines_are_there():
    assert {*ITERATIVE, "svdmrf", "llr", "lrtv"} <= {path.stem for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_pipeline_loads(path):
    pipeline = read_pipeline(path)
    names = [node.name for node in pipeline.nodes]
    assert names == [name for name in GADGETS if name in names]
    assert names[0] == "coil_sensitivity"
    assert names[-2:] == ["combined_matching", "parametric_maps"]
    assert pipeline_path(path.stem) == pipeline_path(path.name) == path


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_server_is_told_how_to_read_and_write(path):
    root = ElementTree.parse(path).getroot()
    readers = {(r.findtext("dll"), r.findtext("classname")) for r in root.find("readers")}
    writers = {(w.findtext("dll"), w.findtext("classname")) for w in root.iter("writer")}
    assert readers == {
        ("gadgetron_core_readers", "AcquisitionReader"),
        ("gadgetron_core_readers", "WaveformReader"),
    }
    assert writers == {("gadgetron_core_writers", "ImageWriter")}


def settings(name: str, gadget: str):
    return next(n.settings for n in read_pipeline(name).nodes if n.name == gadget)


@pytest.mark.parametrize(
    ("name", "iterations", "cg_iterations"),
    [("mrf_admm", 10, 10), ("mrf_admm_single_coil", 60, 20)],
)
def test_the_baseline_has_the_settings_of_the_paper(name, iterations, cg_iterations):
    admm = settings(name, "pnp_admm")
    assert (admm.iterations, admm.cg_iterations) == (iterations, cg_iterations)
    assert (admm.sigma_start, admm.sigma_end) == (0.2, 0.02)
    assert (admm.denoiser, admm.total_variation) == ("none", 0.0)
    assert not admm.preconditioned


def test_the_settings_are_those_of_the_algorithm():
    assert settings("mri2qmap", "pnp_admm") == PnpAdmmSettings()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_pipeline_repeats_a_default(path):
    given = 0
    for node in parse_xml(path.read_bytes(), path.name).everywhere("external"):
        properties = {
            p.attributes["name"]: p.attributes["value"] for p in node.everywhere("property")
        }
        target = properties.get("gadget") or node.all("execute")[0].attributes["target"]
        _, own = split_properties(properties, target)
        found = parse_settings(load_gadget(target)[1], own, target)
        default = type(found)()
        assert {name for name in own if getattr(found, name) == getattr(default, name)} == set()
        given += len(own)
    assert (given == 0) == path.stem.startswith("mri2qmap")  # whose settings are the defaults


def test_the_settings_of_the_pipelines_are_those_of_their_first_release():
    """Their files leave out what equals a default, so that a new default would change them too."""
    known = json.loads((Path(__file__).parent / "shipped_settings.json").read_text())
    for name, gadgets in known.items():
        nodes = {node.name: settings_as_dict(node.settings) for node in read_pipeline(name).nodes}
        assert nodes.keys() == gadgets.keys()
        for gadget, values in gadgets.items():
            assert {setting: nodes[gadget][setting] for setting in values} == values


@pytest.mark.parametrize("baseline", ["mrf_admm", "mrf_admm_single_coil"])
def test_the_baseline_differs_by_the_admm_only(baseline):
    assert settings(baseline, "pnp_admm").denoiser == "none"
    assert settings("mri2qmap", "pnp_admm").denoiser != "none"
    assert settings(baseline, "pnp_admm").atom_step == settings("mri2qmap", "pnp_admm").atom_step
    for gadget in ("subspace_compression", "toeplitz_cg", "combined_matching"):
        assert settings("mri2qmap", gadget) == settings(baseline, gadget)
    coils = 1 if baseline == "mrf_admm_single_coil" else 0
    ours = settings("mri2qmap", "coil_sensitivity")
    assert replace(ours, virtual_coils=coils) == settings(baseline, "coil_sensitivity")


@pytest.mark.parametrize("name", ["mri2qmap_execute", "mri2qmap_connect"])
def test_under_a_server_the_settings_are_the_same(name):
    assert read_pipeline(name).nodes == read_pipeline("mri2qmap").nodes


@pytest.mark.parametrize(
    ("name", "start"), [("mri2qmap_execute", "execute"), ("mri2qmap_connect", "connect")]
)
def test_nodes_under_a_server_report_to_the_client(name, start):
    externals = list(ElementTree.parse(pipeline_path(name)).getroot().iter("external"))
    assert len(externals) == len(GADGETS)
    for node, gadget in zip(externals, GADGETS, strict=True):
        assert node.find(start) is not None
        properties = {p.get("name"): p.get("value") for p in node.iter("property")}
        assert properties["report"] == "text"
        readers = {r.findtext("classname"): r.findtext("slot") for r in node.iter("reader")}
        assert readers == {
            "AcquisitionReader": None,
            "WaveformReader": None,
            "ImageReader": None,
            "TextReader": str(int(MessageId.RELAYED_TEXT)),
        }
        if start == "connect":
            assert properties["gadget"] == gadget
            last = gadget == GADGETS[-1]  # what leaves it goes to the client
            assert properties.get("transport") == (None if last else "reference")


NOT_DEFAULT = {
    "atom_step": "0.1",
    "b1": "0.9",
    "b1_map": "map.nii.gz",
    "tr_t1w": "0.6",
    "te_t1w": "0.02",
    "tr_t2w": "4",
    "te_t2w": "0.05",
    "tr_pdw": "4",
    "te_pdw": "0.02",
}


def test_what_gadgets_share_is_known():
    """A field of `MatchingSettings` is either shared, or belongs to the search."""
    own = {"search", "groups", "group_threshold"}
    assert {*SHARED} | own == {*MatchingSettings.__dataclass_fields__}
    assert {*SHARED} == {*NOT_DEFAULT}


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize(
    ("gadget", "other"),
    [("pnp_admm", "combined_matching"), ("combined_matching", "pnp_admm")],
)
def test_the_message_gives_the_change_to_add(gadget, other, name):
    changes = {gadget: {name: NOT_DEFAULT[name]}}
    for read in (read_pipeline, pipeline_document):
        with pytest.raises(Mri2QmapError) as caught:
            read("mri2qmap", changes)
        addition = f"{other}.{name}={NOT_DEFAULT[name]}"
        assert str(caught.value).endswith(f"; set {addition} (--set, or settings=)")
    read_pipeline("mri2qmap", {**changes, **parse_overrides([addition])})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"pnp_admm": {"atom_step": "0.1", "tr_t1w": "0.6"}},
            "; set combined_matching.atom_step=0.1 and combined_matching.tr_t1w=0.6 (--set, or",
        ),
        (
            {"pnp_admm": {"b1": "0.9"}, "combined_matching": {"b1": "0.8"}},
            'b1 (pnp_admm: "0.9", combined_matching: "0.8"); give all of them the same',
        ),
        (
            {"pnp_admm": {"b1": "0.9"}, "combined_matching": {"b1_map": "a.nii"}},
            'b1_map (pnp_admm: "", combined_matching: "a.nii"); give all of them the same',
        ),
    ],
)
def test_several_contradictions_come_in_one_message(changes, words):
    with pytest.raises(Mri2QmapError) as caught:
        read_pipeline("mri2qmap", changes)
    assert words in str(caught.value)


def test_a_contradiction_within_a_file_is_refused():
    nodes = [external(g, atom_step="0.1" if g == "pnp_admm" else "0.2") for g in GADGETS[3:5]]
    with pytest.raises(Mri2QmapError, match=r"disagree on atom_step .*; give all of them the same"):
        parse_pipeline(
            pipeline_xml(*map(external, GADGETS[:3]), *nodes, external(GADGETS[5])).encode(),
            "some",
            "some.xml",
        )


@pytest.mark.parametrize("name", ["search", "groups", "group_threshold"])
def test_how_a_gadget_searches_is_its_own_choice(name):
    value = {"search": "groups", "groups": "30", "group_threshold": "0.9"}[name]
    assert read_pipeline("mri2qmap", {"pnp_admm": {name: value}})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("b1", "0.9"),
        ("b1_map", "map.nii.gz"),
        ("atom_step", "0.1"),
        ("tr_t1w", "0.6"),
        ("te_pdw", "0.02"),
    ],
)
def test_all_gadgets_that_match_must_be_told_the_same(name, value):
    both = {gadget: {name: value} for gadget in ("pnp_admm", "combined_matching")}
    assert str(getattr(settings("lrtv", "combined_matching"), name)) != value
    read_pipeline("mri2qmap", both)
    read_pipeline("lrtv", {"combined_matching": {name: value}})
    for gadget in both:
        with pytest.raises(Mri2QmapError, match=f"disagree on {name} .*{gadget}: "):
            read_pipeline("mri2qmap", {gadget: {name: value}})
        with pytest.raises(Mri2QmapError, match=f"disagree on {name} "):
            pipeline_document("mri2qmap_connect", {gadget: {name: value}})


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        ("mri2qmap", {"subspace_compression": {"output": "gridded"}}, "toeplitz_cg needs AdjointT"),
        ("svdmrf", {"subspace_compression": {"output": "normal_equations"}}, "matching needs Tsmi"),
        (
            "svdmrf",
            {"parametric_maps": {"dicom": "none", "mrd": "none", "nifti": "false"}},
            "switch off all of its outputs",
        ),
        (
            "lrtv",
            {
                "subspace_compression": {"coefficients": "2"},
                "combined_matching": {"uncertainty": "true"},
            },
            "coefficients of 3 or more, found 2",
        ),
        (
            "mri2qmap",
            {
                "subspace_compression": {"coefficients": "2"},
                "pnp_admm": {"consistency": "true"},
            },
            "pnp_admm.consistency needs .*coefficients of 3 or more, found 2",
        ),
        (
            "mri2qmap",
            {
                "toeplitz_cg": {"prior": "total_variation"},
                "pnp_admm": {"consistency": "true"},
            },
            'with the data alone, but toeplitz_cg.prior is "total_variation"; set',
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused_when_they_are_read(name, overrides, words):
    with pytest.raises(Mri2QmapError, match=words):
        read_pipeline(name, overrides)


def test_a_consistency_that_no_gadget_would_take_up_is_refused():
    """Also where a server has other gadgets, which this program does not know."""
    wanted = {"pnp_admm": {"consistency": True}}
    for later in ({}, {"combined_matching": {}}, {"combined_matching": {}, "parametric_maps": {}}):
        refuse_contradictions(wanted | later, "here")
    for rest in ({"parametric_maps": {}}, {"lrtv_of_the_site": {}, "parametric_maps": {}}):
        with pytest.raises(Mri2QmapError, match=r"here: pnp_admm\.consistency needs"):
            refuse_contradictions(wanted | rest, "here")
        with pytest.raises(Mri2QmapError, match="needs combined_matching after pnp_admm"):
            refuse_contradictions({"combined_matching": {}} | wanted | rest, "here")
        refuse_contradictions({"pnp_admm": {"consistency": False}} | rest, "here")


@pytest.mark.parametrize("name", ["mri2qmap", "mri2qmap_connect", "mrf_admm"])
def test_consistency_is_possible_with_and_without_a_denoiser(name):
    pipeline_document(name, {"pnp_admm": {"consistency": "true", "total_variation": "0"}})


def test_consistency_is_one_of_the_items_where_it_is_asked_for():
    plain, wanted = (
        read_pipeline("mri2qmap", {"pnp_admm": {"consistency": value}}).nodes[3:5]
        for value in ("false", "true")
    )
    assert Consistency not in plain[0].settings.item_flow.gives
    assert wanted[0].settings.item_flow.gives == (Tsmi, WeightedImages, Consistency)
    assert Consistency in wanted[1].settings.item_flow.ends


def in_order(*gadgets: str) -> bytes:
    return pipeline_xml(*(external(gadget) for gadget in gadgets)).encode()


@pytest.mark.parametrize(
    ("gadgets", "words"),
    [
        (("subspace_compression", "coil_sensitivity"), "coil_sensitivity gives only after it"),
        (("coil_sensitivity", "toeplitz_cg"), "which no other gadget of this pipeline gives"),
        (
            ("coil_sensitivity", "subspace_compression", "pnp_admm"),
            "pnp_admm needs Tsmi, which no other gadget",
        ),
        (
            ("coil_sensitivity", "subspace_compression", "pnp_admm", "toeplitz_cg"),
            "pnp_admm needs Tsmi, which toeplitz_cg gives only after it",
        ),
        (GADGETS[:5], "its last gadget, combined_matching, gives ParameterMaps and no images"),
        (GADGETS[:2], "gives AdjointTsmi, ToeplitzKernels and no images or files"),
        (
            ("coil_sensitivity", "subspace_compression", "toeplitz_cg", "combined_matching") * 2,
            "Acquisition, which subspace_compression consumes",
        ),
        (
            (*GADGETS[:3], "combined_matching", "combined_matching", "parametric_maps"),
            "combined_matching needs Tsmi, which combined_matching consumes",
        ),
    ],
)
def test_gadgets_that_would_wait_in_vain_are_refused(gadgets, words):
    with pytest.raises(Mri2QmapError, match=words):
        parse_pipeline(in_order(*gadgets), "some", "some.xml")

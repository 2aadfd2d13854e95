"""What an operator may choose, and what becomes of it."""

import json

import pytest

from mri2qmap.errors import Mri2QmapError
from mri2qmap.openrecon.offers import (
    PIPELINES,
    chosen_pipeline,
    has_parameters,
    is_offered,
    offered_parameters,
    offers,
    sent_parameters,
)
from mri2qmap.pipeline import pipeline_file as pipeline_module
from mri2qmap.pipeline.pipeline_file import load_gadget, parse_pipeline, read_pipeline
from mri2qmap.pipeline.settings import field_types, property_text


def settings(chosen) -> dict:
    return {node.name: node.settings for node in chosen.pipeline.nodes}


@pytest.mark.parametrize("name", dict(PIPELINES))
def test_every_offered_pipeline_sends_what_hosts_need(name):
    chosen = chosen_pipeline({"config": name})
    maps = settings(chosen)["parametric_maps"]
    assert (maps.mrd, maps.mrd_layout, maps.dicom, maps.nifti) == (
        "uint16",
        "slices",
        "none",
        False,
    )
    assert parse_pipeline(chosen.document, name, "test").nodes == chosen.pipeline.nodes
    usual = {node.name: node.settings for node in read_pipeline(name).nodes}
    assert {n: s for n, s in settings(chosen).items() if n != "parametric_maps"} == {
        n: s for n, s in usual.items() if n != "parametric_maps"
    }


def test_offers_are_settings_of_gadgets_with_their_defaults():
    for offer in offers()[1:]:
        for gadget, setting in offer.targets:
            assert setting in field_types(load_gadget(gadget)[1])
        if offer.as_is is None:
            gadget, setting = offer.targets[0]
            usual = getattr(load_gadget(gadget)[1](), setting)
            assert offer.property(offer.parameter.initial) == property_text(usual)
    assert offered_parameters()[0].id == "config"


def test_nothing_is_offered_for_the_resolution():
    assert not any("resolution" in parameter.id for parameter in offered_parameters())


@pytest.mark.parametrize(
    ("sent", "gadget", "setting", "value"),
    [
        ({}, "pnp_admm", "iterations", 16),
        ({"iterations": 5}, "pnp_admm", "iterations", 5),
        ({"iterations": "5"}, "pnp_admm", "iterations", 5),
        ({"iterations": 5.0}, "pnp_admm", "iterations", 5),
        ({"iterations": 0}, "pnp_admm", "iterations", 16),
        ({"config": "mrf_admm"}, "pnp_admm", "iterations", 10),
        ({"config": "mrf_admm", "iterations": 7}, "pnp_admm", "iterations", 7),
        ({"config": "lrtv", "iterations": 7}, "toeplitz_cg", "prior_iterations", 7),
        ({"config": "mrf_pnp"}, "toeplitz_cg", "prior_iterations", 16),
        ({"config": "mrf_pnp", "iterations": 3}, "toeplitz_cg", "prior_iterations", 3),
        ({"uncertainty": True}, "combined_matching", "uncertainty", True),
        ({"uncertainty": "True"}, "combined_matching", "uncertainty", True),
        ({"uncertainty": "false"}, "combined_matching", "uncertainty", False),
        ({"uncertaintyfactor": 2}, "combined_matching", "uncertainty_factor", 2.0),
        ({"uncertaintyfactor": " 1.9 "}, "combined_matching", "uncertainty_factor", 1.9),
        ({"consistency": True}, "pnp_admm", "consistency", True),
        ({"config": "lrtv", "consistency": False}, "toeplitz_cg", "iterations", 20),
        ({"receivefield": "mapped"}, "combined_matching", "receive_field", "mapped"),
        ({"syntheticimages": "FALSE"}, "parametric_maps", "synthetic_images", False),
        ({"maskthreshold": 12}, "parametric_maps", "mask_threshold", 0.12),
        ({"maskthreshold": 0}, "parametric_maps", "mask_threshold", 0.0),
        ({"maskthreshold": "99"}, "parametric_maps", "mask_threshold", 0.99),
        ({"colourtable": "Hot.pal"}, "parametric_maps", "lut", "Hot.pal"),
    ],
)
def test_parameters_become_settings(sent, gadget, setting, value):
    assert getattr(settings(chosen_pipeline(sent))[gadget], setting) == value


def test_a_pipeline_that_was_named_is_the_usual_one():
    assert chosen_pipeline({}, "lrtv").name == "lrtv"
    assert chosen_pipeline({"config": "llr"}, "lrtv").name == "llr"
    assert chosen_pipeline({}).name == "mri2qmap"


def test_words_for_the_log_have_all_values():
    words = chosen_pipeline({"config": "lrtv", "uncertainty": True}).words
    assert words.startswith("config=lrtv, iterations=0, uncertainty=true, ")
    assert words.count("=") == len(offers())


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ({"uncertain": True}, 'parameter "uncertain" is not known; did you mean "uncertainty"'),
        ({"customconfig": ""}, "known: config, iterations"),
        ({"Config": "lrtv"}, '"Config" is not known'),
        ({"config": "arnet"}, "config is 'arnet': one of mri2qmap, mrf_pnp"),
        ({"config": "../lrtv"}, "one of mri2qmap"),
        ({"config": ""}, "one of mri2qmap"),
        ({"config": ["lrtv"]}, "one of mri2qmap"),
        ({"config": None}, "one of mri2qmap"),
        ({"iterations": 101}, "iterations is 101: a whole number from 0 to 100"),
        ({"iterations": -1}, "a whole number from 0 to 100"),
        ({"iterations": 1.5}, "a whole number"),
        ({"iterations": "1.5"}, "a whole number"),
        ({"iterations": "1_0"}, "a whole number"),
        ({"iterations": "٣"}, "a whole number"),
        ({"iterations": True}, "iterations is True: a whole number"),
        ({"iterations": float("inf")}, "a whole number"),
        ({"iterations": 10**400}, "a whole number"),
        ({"uncertainty": 1}, "uncertainty is 1: true or false"),
        ({"uncertainty": "ja"}, "true or false"),
        ({"uncertainty": None}, "true or false"),
        ({"uncertaintyfactor": 0}, "a number from 0.1 to 10"),
        ({"uncertaintyfactor": float("nan")}, "a number from 0.1 to 10"),
        ({"uncertaintyfactor": 10**400}, "a number from 0.1 to 10"),
        ({"uncertaintyfactor": "nan"}, "a number from 0.1 to 10"),
        ({"uncertaintyfactor": "1e400"}, "a number from 0.1 to 10"),
        ({"uncertaintyfactor": False}, "a number from 0.1 to 10"),
        ({"receivefield": "Removed"}, "one of removed, mapped, kept"),
        ({"maskthreshold": 100}, "a whole number from 0 to 99"),
        ({"colourtable": 5}, "colourtable is 5: text"),
        ({"colourtable": "../../x.pal"}, "lut must be the name of a file without a path"),
        ({"config": "svdmrf", "iterations": 4}, "svdmrf has nothing that it changes: 0 is"),
        ({"config": "lrtv", "consistency": True}, "lrtv has nothing that it changes: false is"),
    ],
)
def test_wrong_parameters_are_refused(sent, words):
    with pytest.raises(Mri2QmapError) as refused:
        chosen_pipeline(sent)
    assert words in str(refused.value)


def test_a_long_value_is_shortened():
    with pytest.raises(Mri2QmapError) as refused:
        chosen_pipeline({"config": "x" * 50_000})
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"parameters": {}}', {}),
        ('{"version": "1.1.0", "parameters": {"a": "b"}}', {"a": "b"}),
        (json.dumps({"parameters": {"config": "lrtv"}}, indent=4), {"config": "lrtv"}),
    ],
)
def test_texts_of_hosts_are_read(text, found):
    assert has_parameters(text)
    assert sent_parameters(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "{",
        "5",
        "null",
        '["parameters"]',
        '{"Parameters": {}}',
        "[" * 60_000,
        f'{{"parameters": {{}}, "more": "{"x" * 2**16}"}}',
    ],
)
def test_other_texts_have_no_parameters(text):
    assert not has_parameters(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"parameters": 5}', "are 5: an object"),
        ('{"parameters": [{"config": "lrtv"}]}', "an object with a value"),
        ('{"parameters": null}', "an object"),
        ('{"parameters": {"config": "lrtv", "config": "llr"}}', "'config' is given twice"),
    ],
)
def test_parameters_that_are_no_object_of_values_are_refused(text, words):
    assert has_parameters(text)
    with pytest.raises(Mri2QmapError) as refused:
        sent_parameters(text)
    assert words in str(refused.value)


def test_pipelines_for_one_coil_and_of_a_server_are_not_offered():
    assert not any(map(is_offered, ("arnet", "mrf_admm_single_coil", "mri2qmap_connect", "")))


def test_a_site_that_pushes_to_its_pacs_still_does(tmp_path, monkeypatch):
    document = pipeline_module.pipeline_document(
        "svdmrf", {"parametric_maps": {"push": "PACS@10.0.0.1:104", "lut": "Site.pal"}}
    )
    (tmp_path / "svdmrf.xml").write_bytes(document)
    monkeypatch.setattr(pipeline_module, "pipeline_folders", lambda: (tmp_path,))
    maps = settings(chosen_pipeline({"config": "svdmrf"}))["parametric_maps"]
    assert (maps.dicom, maps.mrd, maps.lut) == ("both", "uint16", "Site.pal")

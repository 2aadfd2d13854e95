"""The label of the OpenRecon image, and its rules."""

import base64
import copy
import json
import os
from pathlib import Path

import pytest

from mri2qmap.errors import Mri2QmapError
from mri2qmap.openrecon.label import (
    ChannelCompression,
    General,
    Label,
    Reconstruction,
    semantic_version,
)
from mri2qmap.openrecon.label_rules import (
    MOST_PARAMETERS,
    decoded_label,
    label_problems,
    refuse_broken_label,
)
from mri2qmap.openrecon.offers import offered_parameters
from mri2qmap.openrecon.parameters import Choice, DecimalNumber, Line, Switch, WholeNumber

SCHEMA = os.environ.get("MRI2QMAP_OPENRECON_SCHEMA", "")
CONFIG = Choice("config", "Reconstruction", "", (("lrtv", "LRTV"),), "lrtv")


def label(general=None, reconstruction=None, parameters=None) -> Label:
    return Label(
        general or General(version="1.2.3"),
        reconstruction or Reconstruction(),
        offered_parameters() if parameters is None else parameters,
    )


EVERY_KIND = (
    CONFIG,
    Switch("switch", "A switch", "yes or no", True),
    Line("line", "A line", "of text", "text"),
    WholeNumber("whole", "A number", "of something", -3, 5, 0, "ms"),
    DecimalNumber("tenths", "A number", "in tenths", -1.5, 2.5, 0.5, "mm"),
)
FULL = label(
    General(version="1.2.3-rc.1+abc", license_string="L1"),
    Reconstruction(
        can_use_gpu=True,
        min_count_required_gpus=1,
        channel_compression=ChannelCompression("on", 12),
    ),
    EVERY_KIND,
)


def changed(path: str, value: object) -> dict:
    """The full label with the value at a path replaced; without it for None."""
    document = copy.deepcopy(FULL.document())
    *parents, last = [int(key) if key.isdecimal() else key for key in path.split("/")]
    place = document
    for key in parents:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return document


def test_label_is_json_in_base64_and_keeps_the_rules():
    made = label()
    document = decoded_label(made.encoded(), "test")
    assert document == made.document() == json.loads(made.text())
    assert label_problems(document) == []
    regulatory = document["general"]["regulatory_information"]
    assert len(regulatory) == 11
    assert all(isinstance(text, str) for text in regulatory.values())
    assert document["reconstruction"]["transfer_protocol"] == {
        "protocol": "ISMRMRD",
        "version": "1.4.1",
    }
    assert (document["reconstruction"]["emitter"], document["reconstruction"]["injector"]) == (
        "raw",
        "image",
    )
    assert "license_string" not in document["general"]
    assert "channel_compression" not in document["reconstruction"]


def test_every_kind_of_parameter_is_in_a_label_as_the_schema_names_it():
    parameters = {p["id"]: p for p in FULL.document()["parameters"]}
    assert [p["type"] for p in parameters.values()] == [
        "choice",
        "boolean",
        "string",
        "int",
        "double",
    ]
    assert parameters["config"]["values"] == [{"id": "lrtv", "name": {"en": "LRTV"}}]
    assert parameters["whole"]["unit"] == {"en": "ms"}
    assert parameters["tenths"]["minimum"] == -1.5
    assert FULL.document()["reconstruction"]["channel_compression"] == {
        "require_state": "on",
        "require_number_target_channels": 12,
    }


def test_names_of_package_and_image():
    made = label(General(vendor="Clinic-1", name="MRF", version="1.0.0-rc.1+gab"))
    assert made.base_name == "OpenRecon_Clinic-1_MRF_V1.0.0-rc.1+gab"
    assert made.image_name == "openrecon_clinic-1_mrf:v1.0.0-rc.1-gab"


@pytest.mark.parametrize("name", ["A clinic", "a_b", "", "../x", "-x", "ä"])
def test_names_that_are_no_part_of_a_file_name_are_refused(name):
    with pytest.raises(Mri2QmapError, match=r"general\.vendor is .* letters, digits and hyphens"):
        label(General(vendor=name, version="1.0.0"))


@pytest.mark.parametrize(
    ("version", "semantic"),
    [
        ("1.2.3", "1.2.3"),
        ("1.2", "1.2.0"),
        ("1.2.3.4", "1.2.3"),
        ("0.1.0.dev0", "0.1.0-dev0"),
        ("0.1.0.dev708+g7ff5b477b.d20261130", "0.1.0-dev708+g7ff5b477b.d20261130"),
        ("1.2.3rc1", "1.2.3-rc1"),
        ("2026.01.05", "2026.1.5"),
        ("1!2.0.post3", "2.0.0-post3"),
    ],
)
def test_versions_become_semantic_ones(version, semantic):
    assert semantic_version(version) == semantic
    assert label_problems(changed("general/version", semantic)) == []


def test_a_version_without_numbers_is_refused():
    with pytest.raises(Mri2QmapError, match="has no numbers"):
        semantic_version("unknown")


LONG_LIST = [CONFIG.document()] + [
    {"id": f"p{i}", "type": "boolean", "label": {"en": "x"}, "default": True}
    for i in range(MOST_PARAMETERS)
]
SWITCH = EVERY_KIND[1].document()
BROKEN_FOR_THE_SCHEMA = [
    ("general", None, "label.general is missing"),
    ("extra", {}, "the key 'extra' is not one of general, reconstruction, parameters"),
    ("parameters", {}, "a list is expected"),
    ("general/name", "MRI2Qmap", "a text by language"),
    ("general/vendor", 5, "general.vendor is 5, text is expected"),
    ("general/version", "1.2", "semantic version"),
    ("general/version", "v1.2.3", "semantic version"),
    ("general/version", "01.2.3", "semantic version"),
    ("general/version", "1.2.3-01", "semantic version"),
    ("general/licence", "x", "the key 'licence' is not one of"),
    ("general/regulatory_information/udi", None, "regulatory_information.udi is missing"),
    ("general/regulatory_information/gtin", 86, "text is expected"),
    ("general/regulatory_information/note", "x", "the key 'note'"),
    ("reconstruction/transfer_protocol/version", "1.4.2", "version 1.4.1"),
    ("reconstruction/transfer_protocol/protocol", None, "protocol ISMRMRD"),
    ("reconstruction/port", "9002", "a whole number from 1 to 65535"),
    ("reconstruction/emitter", "images", "one of raw, image"),
    ("reconstruction/injector", "raw", "one of compleximage, image"),
    ("reconstruction/can_use_gpu", 1, "true or false"),
    ("reconstruction/min_required_memory", -1, "a whole number from 0"),
    ("reconstruction/min_required_memory", None, "min_required_memory is missing"),
    ("reconstruction/min_count_required_cpu_cores", 0, "a whole number from 1"),
    ("reconstruction/min_required_gpu_memory", 0.5, "a whole number from 0"),
    ("reconstruction/content_qualification_type", "CLINICAL", "RESEARCH"),
    ("reconstruction/channel_compression/require_state", "maybe", "one of on, off"),
    ("reconstruction/channel_compression/require_number_target_channels", 0, "from 1"),
    ("reconstruction/memory", 5, "the key 'memory'"),
    ("parameters", LONG_LIST, "there are 15, at most 14"),
    ("parameters/1", SWITCH | {"id": "send_all"}, "without an underscore"),
    ("parameters/1", SWITCH | {"id": ""}, "letters and digits"),
    ("parameters/1", SWITCH | {"default": "yes"}, "true or false"),
    ("parameters/1", SWITCH | {"type": "bool"}, "type of boolean, string, choice, int, double"),
    ("parameters/1", SWITCH | {"type": ["boolean"]}, "type of boolean"),
    ("parameters/1", SWITCH | {"unit": {"en": "s"}}, "the key 'unit'"),
    ("parameters/1", SWITCH | {"label": {"de": "Schalter"}}, "a text by language"),
    ("parameters/2", EVERY_KIND[1].document(), "switch is there twice"),
    ("parameters/3/unit", {"en": "secs"}, "one to 3 characters"),
    ("parameters/3/unit", {"en": ""}, "one to 3 characters"),
    ("parameters/3/maximum", 2**31, "a whole number from -2147483648"),
    ("parameters/3/default", 0.5, "a whole number"),
    ("parameters/4/minimum", 0.05, "a multiple of 0.1"),
    ("parameters/4/default", "1", "a multiple of 0.1"),
    ("parameters/4/maximum", None, "maximum is missing"),
    ("parameters/0/values", [], "one or more values"),
    ("parameters/0/values/0", {"id": "lrtv"}, "name is missing"),
    ("parameters/0/values/0/id", 5, "text is expected"),
]
BROKEN_BESIDES = [
    ("reconstruction/port", 0, "a whole number from 1 to 65535"),
    ("reconstruction/can_use_gpu", False, "1 GPUs are required, so can_use_gpu must be true"),
    ("parameters", [SWITCH], "the first one must be the choice config"),
    ("parameters", [5], "the first one must be the choice config"),
    ("parameters", [], "the first one must be the choice config"),
    ("parameters/0/default", "llr", "one of lrtv is expected"),
    ("parameters/0/default", "", "one of lrtv is expected"),
    ("parameters/0/values/0/id", "", "text is expected"),
    ("parameters/0/values", [{"id": "lrtv", "name": {"en": "a"}}] * 2, "lrtv is there twice"),
    ("parameters/2/id", "switch", "switch is there twice"),
    ("parameters/3/default", 9, "the default 9 must be in the range -3 to 5"),
    ("parameters/4/default", 3.0, "must be in the range"),
    ("parameters/4/default", float("nan"), "a multiple of 0.1"),
    ("parameters/4/maximum", float("inf"), "a multiple of 0.1"),
    ("parameters/4/maximum", 10**400, "a multiple of 0.1"),
]


@pytest.mark.parametrize(("path", "value", "words"), BROKEN_FOR_THE_SCHEMA + BROKEN_BESIDES)
def test_broken_labels_are_refused(path, value, words):
    with pytest.raises(Mri2QmapError) as refused:
        refuse_broken_label(changed(path, value), "the label")
    assert words in str(refused.value)
    assert str(refused.value).startswith("the label breaks the OpenRecon schema; correct it: ")


@pytest.mark.parametrize("document", [None, [], "label", 5, {}])
def test_what_is_no_label_is_refused(document):
    with pytest.raises(Mri2QmapError, match="label"):
        refuse_broken_label(document, "the label")


def test_all_that_is_wrong_is_said():
    document = changed("general/version", "1")
    document["reconstruction"]["port"] = "x"
    assert len(label_problems(document)) == 2


@pytest.mark.parametrize("encoded", ["{}", "e30", "5$", base64.b64encode(b"{").decode()])
def test_what_is_no_encoded_label_is_refused(encoded):
    with pytest.raises(Mri2QmapError, match="JSON in base64 is expected"):
        decoded_label(encoded, "the image")


def test_a_label_cannot_be_made_with_what_breaks_a_rule():
    with pytest.raises(Mri2QmapError, match=r"parameters\[1\] \(a_b\)\.id"):
        label(parameters=(CONFIG, Switch("a_b", "x", "y")))
    with pytest.raises(Mri2QmapError, match="min_count_required_cpu_cores is 0"):
        label(reconstruction=Reconstruction(min_count_required_cpu_cores=0))


needs_schema = pytest.mark.skipif(
    not SCHEMA, reason="MRI2QMAP_OPENRECON_SCHEMA does not name the public schema, a JSON file"
)


@pytest.fixture(scope="module")
def validator():
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(Path(SCHEMA).read_text())
    return jsonschema.validators.validator_for(schema)(schema)


@needs_schema
def test_our_labels_are_valid_by_the_public_schema(validator):
    for made in (label(), FULL):
        assert [error.message for error in validator.iter_errors(made.document())] == []


@needs_schema
@pytest.mark.parametrize(("path", "value"), [case[:2] for case in BROKEN_FOR_THE_SCHEMA])
def test_what_we_call_broken_is_so_by_the_public_schema(validator, path, value):
    document = changed(path, value)
    if path == "parameters/2":  # the same parameter twice is, the same identifier is not
        assert document["parameters"][1] == document["parameters"][2]
    assert not validator.is_valid(document)

"""What a pipeline that is sent to a server promises."""

import pytest

from mri2qmap.cli.remote_replay import promised_maps
from mri2qmap.export.expected_maps import ExpectedMaps
from mri2qmap.export.quantity import MAPS, OPTIONAL, UNCERTAINTY, WEIGHTED, Quantity
from mri2qmap.export.series_identity import Form
from mri2qmap.machine.folders import pipeline_folders
from mri2qmap.pipeline.pipeline_file import pipeline_document

NAMES = sorted(path.stem for folder in pipeline_folders() for path in folder.glob("*.xml"))


def promised(name: str, **changes: str) -> ExpectedMaps:
    overrides = {"parametric_maps": changes} if changes else {}
    return promised_maps(pipeline_document(name, overrides), None, name)


@pytest.mark.parametrize("name", NAMES)
def test_every_pipeline_promises_its_maps_by_document_and_by_name(name):
    expected = promised(name)
    assert set(MAPS) - set(OPTIONAL) <= set(expected.quantities)
    assert not set(OPTIONAL) & set(expected.quantities)
    assert set(WEIGHTED) <= set(expected.quantities)
    assert expected.forms == (Form.FLOAT,)
    assert not expected.any_form
    for called in (name, f"{name}.xml"):
        by_name = promised_maps(None, called, "unused")
        assert by_name == expected.with_hint(by_name.hint)
        assert f"--configuration {called} is taken for" in by_name.hint


def test_standard_deviations_are_promised_where_they_are_asked_for():
    document = pipeline_document("svdmrf", {"combined_matching": {"uncertainty": "true"}})
    expected = promised_maps(document, None, "svdmrf")
    assert set(UNCERTAINTY) <= set(expected.quantities)
    assert Quantity.CONSISTENCY not in expected.quantities


def test_consistency_is_promised_where_it_is_asked_for():
    document = pipeline_document("mri2qmap", {"pnp_admm": {"consistency": "true"}})
    expected = promised_maps(document, None, "mri2qmap")
    assert set(expected.quantities) & set(OPTIONAL) == {Quantity.CONSISTENCY}


def test_the_receive_field_is_promised_where_it_is_a_map():
    for choice, optional in (("mapped", {Quantity.RECEIVE_FIELD}), ("removed", set())):
        document = pipeline_document("svdmrf", {"combined_matching": {"receive_field": choice}})
        expected = promised_maps(document, None, "svdmrf")
        assert set(expected.quantities) & set(OPTIONAL) == optional


def test_settings_say_what_is_promised():
    expected = promised("svdmrf", mrd="both", dicom="none", synthetic_images="false")
    assert set(expected.forms) == {Form.FLOAT, Form.INTEGER}
    assert not set(WEIGHTED) & set(expected.quantities)
    assert expected.classic == expected.parametric == ()
    only_dicom = promised("svdmrf", mrd="none", dicom="parametric", synthetic_images="false")
    assert only_dicom.forms == ()
    assert only_dicom.classic == ()
    assert "a Gadgetron server passes on images only" in only_dicom.hint


@pytest.mark.parametrize("name", ["of_the_site.xml", "../svdmrf", ""])
def test_of_other_configurations_any_form_of_the_three_maps_is_enough(name):
    expected = promised_maps(None, name, "unused")
    assert expected == ExpectedMaps()
    assert expected.quantities == (Quantity.T1, Quantity.T2, Quantity.PROTON_DENSITY)


def test_a_pipeline_of_other_gadgets_promises_the_three_maps():
    document = b"<configuration><version>2</version><stream><gadget/></stream></configuration>"
    assert promised_maps(document, None, "site.xml") == ExpectedMaps()

"""Round trip of maps through MRD images."""

import dataclasses

import ismrmrd
import numpy as np
import pytest
from export.scans import export, oblique_geometry, random_maps

from mri2qmap.errors import Mri2QmapError
from mri2qmap.export.received_maps import received_maps, reconstruction_method
from mri2qmap.mrsignal.synthesis import DEFAULT_SYNTHESIS, SpinEcho
from mri2qmap.pipeline.items import DicomObject, NiftiVolume

GEOMETRY = oblique_geometry()


def sent(echoes=DEFAULT_SYNTHESIS, optional=False, **settings) -> list[ismrmrd.Image]:
    maps = dataclasses.replace(random_maps(GEOMETRY, optional=optional), echoes=echoes)
    items = export(maps, dicom="none", nifti=False, **settings)
    return [ismrmrd.Image.from_bytes(item.to_bytes()) for item in items]


@pytest.mark.parametrize("mrd", ["float", "both"])
def test_maps_survive_the_round_trip(mrd):
    images = sent(mrd=mrd, method="A method", mask_threshold=0)
    found, truth = received_maps(images[::-1]), random_maps(GEOMETRY)
    assert found is not None
    for name in ("t1", "t2", "proton_density", "match_quality", "weighted"):
        ours, expected = getattr(found, name).numpy(), getattr(truth, name).numpy()
        np.testing.assert_allclose(ours, expected, rtol=1e-6)
        assert ours.dtype == expected.dtype
    assert found.geometry.matrix == GEOMETRY.matrix
    np.testing.assert_allclose(found.geometry.affine_lps, GEOMETRY.affine_lps, rtol=1e-6, atol=1e-9)
    assert reconstruction_method(images) == "A method"


def test_optional_maps_survive_the_round_trip():
    found = received_maps(sent(optional=True, mask_threshold=0))
    truth = random_maps(GEOMETRY, optional=True)
    for name in ("t1_std", "t2_std", "consistency", "receive_field_map"):
        np.testing.assert_allclose(getattr(found, name), getattr(truth, name), rtol=1e-6)
        assert getattr(received_maps(sent()), name) is None


def test_files_from_received_maps_equal_those_of_the_maps():
    direct = export(random_maps(GEOMETRY), mrd="none")
    again = export(received_maps(sent()), mrd="none", mask_threshold=0)
    assert len(direct) == len(again)
    for ours, expected in zip(again, direct, strict=True):
        assert type(ours) is type(expected)
        if isinstance(expected, DicomObject):
            assert ours.path == expected.path
            if "PixelData" in expected.dataset:
                assert ours.dataset.PixelData == expected.dataset.PixelData
        else:
            assert isinstance(expected, NiftiVolume)
            np.testing.assert_allclose(
                ours.image.get_fdata(), expected.image.get_fdata(), rtol=1e-6
            )
            np.testing.assert_allclose(ours.image.affine, expected.image.affine, atol=1e-4)
            assert ours.sidecar == expected.sidecar


def test_echoes_survive_the_round_trip():
    echoes = (SpinEcho(0.07, 0.0075), SpinEcho(6.0, 0.14), SpinEcho(5.0, 0.01))
    assert received_maps(sent(echoes)).echoes == echoes


def without(image: ismrmrd.Image, *names: str) -> ismrmrd.Image:
    image.meta = ismrmrd.Meta({k: v for k, v in image.meta.items() if k not in names})
    return image


def test_default_echoes_without_attributes():
    images = [without(image, "RepetitionTime", "EchoTime") for image in sent()]
    assert received_maps(images).echoes == DEFAULT_SYNTHESIS


@pytest.mark.parametrize("time", ["soon", "-3", "nan", "1e9"])
def test_invalid_echo_is_refused(time):
    images = sent()
    images[-1].meta = ismrmrd.Meta({**images[-1].meta, "EchoTime": time})
    with pytest.raises(Mri2QmapError, match="EchoTime"):
        received_maps(images)
    images[-1] = without(images[-1], "EchoTime")
    with pytest.raises(Mri2QmapError, match="EchoTime"):
        received_maps(images)


@pytest.mark.parametrize(
    "images",
    [
        pytest.param(lambda: [], id="none"),
        pytest.param(lambda: sent()[1:], id="one missing"),
        pytest.param(lambda: sent(mrd="uint16"), id="integers"),
        pytest.param(lambda: sent(synthetic_images=False), id="no weighted images"),
        pytest.param(
            lambda: [*sent()[1:], ismrmrd.Image.from_array(np.zeros((2, 3, 4), np.float32))],
            id="a foreign one",
        ),
    ],
)
def test_incomplete_set_gives_none(images):
    assert received_maps(images()) is None

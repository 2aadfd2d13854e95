import ismrmrd
import numpy as np
import pytest
from export.scans import export, oblique_geometry, random_maps

GEOMETRY = oblique_geometry()


MAPS = random_maps(GEOMETRY, optional=True)


def images(maps=MAPS, **settings):
    items = export(maps, dicom="none", nifti=False, **settings)
    assert all(isinstance(item, ismrmrd.Image) for item in items)
    return {i.image_series_index: ismrmrd.Image.from_bytes(i.to_bytes()) for i in items}


@pytest.mark.parametrize(
    ("index", "name", "factor"),
    [
        (121, "t1", 1e3),
        (122, "t2", 1e3),
        (123, "proton_density", 1),
        (124, "match_quality", 1),
        (128, "t1_std", 1e3),
        (129, "t2_std", 1e3),
        (130, "consistency", 1),
    ],
)
def test_float_images(index, name, factor):
    image = images(mrd="float")[index]
    truth = getattr(MAPS, name).numpy() * factor
    np.testing.assert_allclose(image.data[0], truth, rtol=1e-6)
    complex_valued = name == "proton_density"
    assert image.data.dtype == (np.complex64 if complex_valued else np.float32)
    assert image.image_type == (
        ismrmrd.IMTYPE_COMPLEX if complex_valued else ismrmrd.IMTYPE_MAGNITUDE
    )
    assert image.meta["ScaleFactor"] == "1"


@pytest.mark.parametrize(
    ("index", "name", "steps"),
    [
        (101, "t1", 1e3),
        (102, "t2", 1e3),
        (103, "proton_density", None),
        (104, "match_quality", 4e3),
        (108, "t1_std", 1e3),
        (109, "t2_std", 1e4),
        (110, "consistency", 400),
    ],
)
def test_integer_images(index, name, steps):
    image = images(mrd="uint16")[index]
    truth = np.abs(getattr(MAPS, name).numpy())
    scale = float(image.meta["ScaleFactor"])
    unit = 1e-3 if image.meta["Unit"] == "ms" else 1.0
    assert image.data.dtype == np.uint16
    np.testing.assert_allclose(image.data[0] / scale * unit, truth, atol=0.51 / scale * unit)
    if steps is not None:
        assert scale / unit == pytest.approx(steps)
    assert image.meta["RescaleSlope"] == "1"
    assert image.meta["RescaleIntercept"] == "0"


def test_meta_of_a_map():
    meta = images(mrd="uint16")[101].meta
    assert meta["DataRole"] == ["Quantitative", "T1"]
    assert meta["SeriesDescription"] == "T1 map in ms MRI2Qmap"
    assert meta["ImageProcessingHistory"] == ["MRF", "MRI2Qmap"]
    assert meta["ImageType"] == ["DERIVED", "PRIMARY", "T1 MAP"]
    assert (meta["WindowCenter"], meta["WindowWidth"]) == ("1500", "3000")
    assert meta["Unit"] == "ms"
    assert meta["Keep_image_geometry"] == "1"
    assert "not for diagnostic use" in meta["ImageComments"][0]
    assert meta["GADGETRON_DataRole"] == "T1"
    assert meta["GADGETRON_ScaleRatio"] == "1"


def test_meta_of_a_weighted_image():
    meta = images(mrd="float")[125].meta
    assert meta["DataRole"] == ["Image", "T1W"]
    assert (meta["RepetitionTime"], meta["EchoTime"], meta["GADGETRON_TE"]) == ("500", "10", "10")


@pytest.mark.parametrize(
    ("index", "centre", "width"),
    [
        (101, "1500", "3000"),
        (121, "1500", "3000"),
        (122, "100", "200"),
        (104, "3960", "80"),
        (124, "0.99", "0.02"),
        (109, "100", "200"),
        (129, "10", "20"),
        (110, "1000", "2000"),
        (130, "2.5", "5"),
    ],
)
def test_windows(index, centre, width):
    meta = images(mrd="both")[index].meta
    assert (meta["WindowCenter"], meta["WindowWidth"]) == (centre, width)
    if index == 124:  # Gadgetron reads integers
        assert "GADGETRON_WindowWidth" not in meta
    else:
        assert meta["GADGETRON_WindowCenter"] == str(round(float(centre)))
        assert meta["GADGETRON_WindowWidth"] == width


def test_all_images_have_a_window():
    for image in images(mrd="both").values():
        assert float(image.meta["WindowWidth"]) > 0
        if image.data.dtype == np.uint16:
            assert "." not in image.meta["WindowCenter"] + image.meta["WindowWidth"]


def test_forms_have_separate_series():
    assert sorted(images(mrd="both")) == [*range(101, 112), *range(121, 132)]
    plain = sorted(images(random_maps(GEOMETRY), mrd="both"))
    assert plain == [*range(101, 108), *range(121, 128)]

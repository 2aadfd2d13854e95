"""Volumes of a report: the digits that are shown are those of the NIfTI files."""

import base64
import gzip

import nibabel
import numpy as np
import pytest
import torch
from helpers import report_samples

from mri2qmap.export.nifti import nifti_image
from mri2qmap.export.quantity import Quantity
from mri2qmap.report.colours import GREY, LIPARI, NAVIA, colour_table, coloured, gradient
from mri2qmap.report.volumes import embedded, report_volumes


@pytest.fixture(scope="module")
def exported():
    return report_samples.exported(report_samples.head())


@pytest.fixture(scope="module")
def volumes(exported):
    return {volume.name: volume for volume in report_volumes(exported.volumes.values())}


def test_all_maps_are_there_in_the_order_of_their_importance(volumes):
    assert list(volumes) == [
        "T1map", "T2map", "PDmap", "T1std", "T2std", "consistency", "matchquality",
        "T1w", "T2w", "PDw", "receivefield",
    ]  # fmt: skip
    assert (volumes["T1map"].colours, volumes["T2map"].colours) == (LIPARI, NAVIA)
    assert {v.colours for name, v in volumes.items() if name[-3:] != "map"} == {GREY}
    assert [volumes[name].unit for name in ("T1map", "T2map", "T1std")] == ["ms"] * 3


@pytest.mark.parametrize("quantity", list(Quantity))
def test_values_are_those_of_the_nifti_file_in_steps_of_the_last_digit(exported, volumes, quantity):
    found = volumes[str(quantity)]
    file = nibabel.as_closest_canonical(nifti_image(exported.volumes[quantity]))
    factor = exported.volumes[quantity].spec.to_unit
    values = file.get_fdata() * factor
    np.testing.assert_allclose(found.values(), values, atol=0.5001 * found.step)
    np.testing.assert_allclose(found.affine, file.affine, atol=1e-4)
    assert found.step == pytest.approx(10.0**-found.decimals)
    assert found.text(found.values()[10, 12, 9]) == f"{values[10, 12, 9]:.{found.decimals}f}"


def test_the_embedded_file_is_nifti(volumes):
    volume = volumes["T2map"]
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(volume.nifti()))
    assert image.get_data_dtype() == np.uint16
    np.testing.assert_allclose(image.get_fdata(), volume.values(), rtol=1e-6)
    np.testing.assert_allclose(image.affine, volume.affine, atol=1e-4)
    assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
    assert volume.nifti() == volume.nifti()


@pytest.mark.parametrize(("largest", "step"), [(60.0, 1.0), (70.0, 10.0), (0.0, 1.0)])
def test_values_beyond_16_bits_get_coarser_steps(largest, step):
    maps = report_samples.head()
    maps.t1[10, 12, 14] = largest  # seconds
    if not largest:
        maps.t1.zero_()
    t1, *_ = report_volumes(report_samples.exported(maps).volumes.values())
    assert t1.step == step
    assert t1.values().max() == pytest.approx(1e3 * largest, abs=6000)
    assert t1.decimals == 0


@pytest.mark.parametrize("scale", [1e-7, 1e-3, 1.0, 1e5])
def test_arbitrary_units_have_four_digits_at_any_scale(scale):
    maps = report_samples.head()
    maps.proton_density.mul_(scale)
    density = report_volumes(report_samples.exported(maps).volumes.values())[2]
    assert 1000 <= density.steps.max() <= 9999
    assert density.window[1] == pytest.approx(1.2 * scale, rel=0.2)


def test_what_does_not_fit_is_left_out_from_the_least_important_on(volumes):
    every = list(volumes.values())
    sizes = {name: len(text) for name, text in embedded(every).items()}
    assert list(sizes) == list(volumes)
    some = embedded(every, most=sizes["T1map"] + sizes["T2map"] + 1)
    assert list(some) == ["T1map", "T2map"]
    assert base64.b64decode(some["T1map"]) == volumes["T1map"].nifti()
    assert embedded(every, most=10) == {}


@pytest.mark.parametrize("name", [LIPARI, NAVIA, GREY])
def test_tables_of_colours_get_lighter_from_black(name):
    table = colour_table(name)
    assert table.shape == (256, 3)
    assert not table[0].any()
    light = table.astype(float) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(light) > -0.6).all()
    assert light[-1] > 225
    assert gradient(name).count("#") == 33


def test_only_zero_is_black_in_a_map_of_relaxation_times():
    picture = np.array([[0.0, 1e-3, 100.0], [3000.0, 9999.0, 0.0]])
    found = coloured(picture, (0, 3000), LIPARI)
    black = ~found.any(axis=2)
    np.testing.assert_array_equal(black, picture == 0)
    np.testing.assert_array_equal(found[1, 0], found[1, 1])


def test_maps_without_options_have_seven_volumes():
    maps = report_samples.head()
    maps = type(maps)(
        maps.t1, maps.t2, maps.proton_density, maps.match_quality, maps.weighted, maps.geometry
    )
    assert isinstance(maps.t1, torch.Tensor)
    assert len(report_volumes(report_samples.exported(maps).volumes.values())) == 7

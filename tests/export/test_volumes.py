import numpy as np
import pytest
import torch
from export.scans import oblique_geometry, random_maps, zero_maps

from mri2qmap.errors import Mri2QmapError
from mri2qmap.export.quantity import OPTIONAL, QUANTITIES, Quantity
from mri2qmap.export.volumes import export_volumes
from mri2qmap.pipeline.items import ParameterMaps
from mri2qmap.recon.object_mask import object_mask

GEOMETRY = oblique_geometry()
SPHERICAL = np.linalg.norm(np.indices((24, 24, 24)) - 11.5, axis=0)


def maps_with(index, **values) -> ParameterMaps:
    maps = random_maps(GEOMETRY)
    for name, value in values.items():
        getattr(maps, name)[index] = value
    return maps


@pytest.mark.parametrize(
    ("seconds", "stored"),
    [(0.0, 0), (0.0014, 1), (0.0016, 2), (1.2344, 1234), (4.095, 4095), (4.2, 4095), (1e6, 4095)],
)
def test_relaxation_times_are_stored_in_steps_of_a_millisecond(seconds, stored):
    for name, quantity in (("t1", Quantity.T1), ("t2", Quantity.T2)):
        volumes = export_volumes(maps_with((1, 2, 3), **{name: seconds}), 0.0).volumes
        pixels = volumes[quantity].stored()
        assert pixels.dtype == np.uint16
        assert pixels[1, 2, 3] == stored


@pytest.mark.parametrize(("quality", "stored"), [(0.0, 0), (0.9123, 3649), (1.0, 4000)])
def test_match_quality_is_stored_in_steps_of_one_in_4000(quality, stored):
    volumes = export_volumes(maps_with((0, 0, 0), match_quality=quality), 0.0).volumes
    assert volumes[Quantity.MATCH_QUALITY].stored()[0, 0, 0] == stored


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e5])
def test_proton_density_uses_the_full_range_for_any_scale(scale):
    maps = random_maps(GEOMETRY)
    maps.proton_density.mul_(scale)
    volume = export_volumes(maps, 0.0).volumes[Quantity.PROTON_DENSITY]
    stored = volume.stored()
    assert 2900 < stored.max() <= 4095
    expected = np.abs(maps.proton_density.numpy())
    np.testing.assert_allclose(
        stored / volume.steps_per_unit, expected, atol=0.5 / volume.steps_per_unit * 1.001
    )


def test_outlier_saturates_without_changing_the_scale():
    rng = np.random.default_rng(1)
    geometry = oblique_geometry(matrix=(20, 20, 20))
    maps = random_maps(geometry)
    plain = export_volumes(maps, 0.0).volumes[Quantity.PROTON_DENSITY]
    maps.proton_density[tuple(rng.integers(0, 20, 3))] = 1e4
    volume = export_volumes(maps, 0.0).volumes[Quantity.PROTON_DENSITY]
    assert volume.stored().max() == 4095
    assert volume.steps_per_unit == pytest.approx(plain.steps_per_unit, rel=0.01)


def test_background_is_masked_in_relaxation_times_only():
    maps = random_maps(GEOMETRY)
    maps.proton_density[:, :, 0] = 0.01
    volumes = export_volumes(maps, 0.05).volumes
    for quantity in (Quantity.T1, Quantity.T2):
        assert (volumes[quantity].values[:, :, 0] == 0).all()
        assert (volumes[quantity].values[:, :, 1:] > 0).all()
    for quantity in set(volumes) - {Quantity.T1, Quantity.T2}:
        assert (volumes[quantity].values > 0).all()


def test_some_maps_are_optional():
    plain = export_volumes(random_maps(GEOMETRY), 0.05).volumes
    assert set(QUANTITIES) - set(plain) == set(OPTIONAL)
    maps = random_maps(GEOMETRY, optional=True)
    maps.proton_density[:, :, 0] = 0.01
    volumes = export_volumes(maps, 0.05).volumes
    assert list(volumes) == list(QUANTITIES)
    expected = (maps.t1_std, maps.t2_std, maps.consistency, maps.receive_field_map)
    for quantity, tensor in zip(OPTIONAL, expected, strict=True):
        values = volumes[quantity].values
        assert (values[:, :, 0] == 0).all() == (quantity is not Quantity.RECEIVE_FIELD)
        np.testing.assert_array_equal(values[:, :, 1:], tensor[:, :, 1:])


@pytest.mark.parametrize(
    ("consistency", "stored"), [(0.0, 0), (0.8326, 333), (3.0, 1200), (10.0, 4000), (50.0, 4095)]
)
def test_consistency_is_stored_in_steps_of_one_in_400(consistency, stored):
    maps = random_maps(GEOMETRY, optional=True)
    maps.consistency[1, 2, 3] = consistency
    volume = export_volumes(maps, 0.0).volumes[Quantity.CONSISTENCY]
    assert volume.stored()[1, 2, 3] == stored
    assert volume.stored_window == (0, 2000)


@pytest.mark.parametrize("name", ["t2_std", "consistency"])
def test_voxel_with_an_optional_value_that_is_not_finite_is_background(name):
    maps = random_maps(GEOMETRY, optional=True)
    getattr(maps, name)[0, 0, 0] = torch.nan
    exported = export_volumes(maps, 0.0)
    assert exported.not_finite == 1
    assert all(volume.values[0, 0, 0] == 0 for volume in exported.volumes.values())


def test_threshold_zero_keeps_all_voxels():
    maps = random_maps(GEOMETRY)
    maps.proton_density[:, :, 0] = 0
    assert (export_volumes(maps, 0.0).volumes[Quantity.T1].values > 0).all()


def test_default_mask_keeps_all_tissue_under_a_strong_receive_bias():
    """PD of 0.65 to 1 with a receive bias of a factor of 5, and noise of 1 % of the mean."""
    rng = np.random.default_rng(2)
    tissue = SPHERICAL < 9
    density = np.where(SPHERICAL < 7, 0.65, 1.0) * np.linspace(0.4, 2.0, 24)[:, None, None]
    noise = 0.01 * (rng.normal(size=tissue.shape) + 1j * rng.normal(size=tissue.shape))
    mask = object_mask(np.abs(density * tissue + noise), 0.05)
    assert mask[tissue].all()
    assert mask[~tissue].mean() < 0.01


def test_mask_of_an_object_smaller_than_a_hundredth_of_the_volume():
    magnitude = np.zeros((12, 12, 12))
    magnitude[3:5, 4:6, 5:7] = 2.0
    np.testing.assert_array_equal(object_mask(magnitude, 0.05), magnitude > 0)


def test_mask_excludes_single_noise_voxels_but_keeps_edges():
    rng = np.random.default_rng(3)
    tissue = SPHERICAL < 9
    noise = 0.035 * np.abs(rng.normal(size=tissue.shape) + 1j * rng.normal(size=tissue.shape))
    magnitude = np.where(tissue, 1.0, noise)
    mask = object_mask(magnitude, 0.05)
    far = SPHERICAL > 11
    assert (noise[far] > 0.05).mean() > 0.3
    assert mask[far].mean() < 0.02
    assert mask[tissue].all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["t1", "t2", "proton_density", "match_quality", "weighted"])
def test_voxel_that_is_not_finite_becomes_background(name, bad):
    index = (1, 2, 3, 4) if name == "weighted" else (2, 3, 4)
    exported = export_volumes(maps_with(index, **{name: bad}), 0.05)
    assert exported.not_finite == 1
    for volume in exported.volumes.values():
        assert np.isfinite(volume.values).all()
        assert volume.values[2, 3, 4] == 0
        assert np.isfinite(volume.steps_per_unit)
        assert (np.delete(volume.values.ravel(), (2 * 6 + 3) * 8 + 4) > 0).all()
    assert np.isfinite(exported.proton_density).all()


def test_maps_without_a_finite_voxel_are_refused():
    maps = random_maps(GEOMETRY)
    maps.t1.fill_(torch.nan)
    with pytest.raises(Mri2QmapError, match="no voxel of the maps has finite values"):
        export_volumes(maps, 0.05)


def test_zero_maps_have_a_finite_scale_and_window():
    for volume in export_volumes(zero_maps(GEOMETRY), 0.05).volumes.values():
        assert volume.stored().max() == 0
        low, high = volume.stored_window
        assert np.isfinite(volume.steps_per_unit)
        assert high - low >= 1


def test_weighted_images_follow_the_order_of_the_contrasts():
    maps = random_maps(GEOMETRY)
    volumes = export_volumes(maps, 0.05).volumes
    for index, quantity in enumerate((Quantity.T1W, Quantity.T2W, Quantity.PDW)):
        np.testing.assert_array_equal(volumes[quantity].values, maps.weighted[index].numpy())

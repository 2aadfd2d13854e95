import ismrmrd
import numpy as np
import pytest
import torch

from mri2qmap.coil_sensitivity import CoilSensitivitySettings, coil_sensitivity
from mri2qmap.errors import Mri2QmapError
from mri2qmap.simulation.coils import coil_sensitivities
from mri2qmap.stream.acquisition_checks import is_noise_scan
from mri2qmap.stream.items import CoilMaps

SETTINGS = CoilSensitivitySettings(energy_kept=1.0)


def split(items):
    items = list(items)
    maps = [i for i in items if isinstance(i, CoilMaps)]
    return maps, [i for i in items if isinstance(i, ismrmrd.Acquisition)]


def test_maps_come_first_and_every_readout_follows(noisy_scan):
    scan, items, _, _ = noisy_scan
    out = list(coil_sensitivity(iter(items), scan, SETTINGS))
    assert isinstance(out[0], CoilMaps)
    maps, acquisitions = split(out)
    imaging = [a for a in items if not is_noise_scan(a)]
    assert len(maps) == 1
    assert len(acquisitions) == len(imaging)
    for before, after in zip(imaging[::37], acquisitions[::37], strict=True):
        assert after.idx.contrast == before.idx.contrast
        assert after.idx.segment == before.idx.segment
        np.testing.assert_array_equal(after.traj, before.traj)
        assert after.active_channels == len(maps[0].maps)


def test_maps_go_out_after_the_first_group_and_the_rest_is_not_held(noisy_scan):
    scan, items, _, _ = noisy_scan
    taken = []

    def arriving():
        for item in items:
            taken.append(item)
            yield item

    stream = coil_sensitivity(arriving(), scan, SETTINGS)
    assert isinstance(next(stream), CoilMaps)
    imaging = [a for a in taken if not is_noise_scan(a)]
    assert {a.idx.segment for a in imaging[:-1]} == {0}
    assert imaging[-1].idx.segment == 1
    for _ in imaging:  # the held ones
        next(stream)
    before = len(taken)
    next(stream)
    assert len(taken) == before + 1


def test_noise_is_white_and_of_unit_variance_afterwards(make_scan):
    scan, items, simulation, _ = make_scan(noise=0.1, seed=3)
    _, silent, _, _ = make_scan(noise=0.0, seed=3)
    noise = [i for i in items if is_noise_scan(i)]
    _, with_noise = split(coil_sensitivity(iter(items), scan, SETTINGS))
    # The same matrix applied to the noiseless scan: what differs is whitened noise alone.
    loud = np.concatenate([a.data for a in items if not is_noise_scan(a)], axis=1)
    quiet = np.concatenate([a.data for a in silent if not is_noise_scan(a)], axis=1)
    whitened = np.concatenate([a.data for a in with_noise], axis=1)
    matrix = whitened @ np.linalg.pinv(loud)
    residual = matrix @ (loud - quiet)
    covariance = residual @ residual.conj().T / residual.shape[1]
    np.testing.assert_allclose(covariance, np.eye(len(covariance)), atol=0.06)
    assert noise
    assert simulation.noise_std > 0


def test_sensitivities_are_those_of_the_simulation(make_scan):
    scan, items, simulation, _ = make_scan(phase=0.0)
    (maps,), acquisitions = split(coil_sensitivity(iter(items), scan, SETTINGS))
    true_maps = torch.from_numpy(coil_sensitivities(simulation.truth.geometry, 4))
    inside = torch.from_numpy(simulation.truth.proton_density() > 0.9 * 0.75)
    # The channel matrix, from what it did to the data.
    before = np.concatenate([a.data for a in items if not is_noise_scan(a)], axis=1)
    after = np.concatenate([a.data for a in acquisitions], axis=1)
    matrix = torch.from_numpy((after @ np.linalg.pinv(before)).astype(np.complex64))
    combined = torch.einsum("vc,czyx->vzyx", matrix, true_maps)
    unit = combined / torch.linalg.vector_norm(combined, dim=0)
    similarity = (maps.maps.conj() * unit).sum(0).abs()[inside]
    assert float(similarity.min()) > 0.97
    assert float(similarity.mean()) > 0.995
    rss = torch.linalg.vector_norm(maps.maps, dim=0)
    torch.testing.assert_close(rss, torch.ones_like(rss), atol=1e-4, rtol=0)


def test_one_coil_has_the_map_one(make_scan):
    scan, items, _, _ = make_scan(coils=1)
    (maps,), _ = split(coil_sensitivity(iter(items), scan, SETTINGS))
    assert torch.equal(maps.maps, torch.ones(1, *scan.matrix, dtype=torch.complex64))


def test_compression_is_to_the_number_asked_for(noisy_scan):
    scan, items, _, _ = noisy_scan
    settings = CoilSensitivitySettings(virtual_coils=2)
    (maps,), acquisitions = split(coil_sensitivity(iter(items), scan, settings))
    assert len(maps.maps) == 2
    assert {a.active_channels for a in acquisitions} == {2}


def with_samples(acquisition, data):
    head = acquisition.getHead()
    head.active_channels, head.number_of_samples = data.shape
    head.trajectory_dimensions = 0
    return ismrmrd.Acquisition(head, data.astype(np.complex64))


def test_bad_noise_scans_are_refused(noisy_scan):
    scan, items, _, _ = noisy_scan
    imaging = [a for a in items if not is_noise_scan(a)]
    noise = next(a for a in items if is_noise_scan(a))
    dead = noise.data.copy()
    dead[1] = 0
    for data, message in (
        (dead, "dead or doubled"),
        (noise.data[:2], "2 coils"),
        (noise.data[:, :3], "more samples than coils"),
    ):
        with pytest.raises(Mri2QmapError, match=message):
            list(coil_sensitivity(iter([with_samples(noise, data), *imaging]), scan, SETTINGS))


def test_without_prewhitening_noise_scans_are_ignored(noisy_scan):
    scan, items, _, _ = noisy_scan
    settings = CoilSensitivitySettings(prewhiten=False, energy_kept=1.0)
    imaging = [a for a in items if not is_noise_scan(a)]
    _, one = split(coil_sensitivity(iter(items), scan, settings))
    _, two = split(coil_sensitivity(iter(imaging), scan, settings))
    for with_noise_scans, without in zip(one[::50], two[::50], strict=True):
        np.testing.assert_allclose(with_noise_scans.data, without.data, rtol=1e-5, atol=1e-6)


def test_noise_scans_after_the_first_group_are_left_out(noisy_scan):
    scan, items, _, _ = noisy_scan
    late = [*items, next(a for a in items if is_noise_scan(a))]
    _, one = split(coil_sensitivity(iter(items), scan, SETTINGS))
    _, two = split(coil_sensitivity(iter(late), scan, SETTINGS))
    assert len(one) == len(two)
    np.testing.assert_allclose(one[-1].data, two[-1].data, rtol=1e-5, atol=1e-6)


def test_nothing_to_work_on(noisy_scan):
    scan, items, _, _ = noisy_scan
    noise = [a for a in items if is_noise_scan(a)]
    with pytest.raises(Mri2QmapError, match="no imaging acquisition"):
        list(coil_sensitivity(iter(noise), scan, SETTINGS))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"virtual_coils": -1}, "virtual_coils"),
        ({"energy_kept": 0.0}, "energy_kept"),
        ({"energy_kept": 1.1}, "energy_kept"),
        ({"calibration_resolution": 8.0}, "calibration_resolution"),
        ({"neighbourhood": 4}, "neighbourhood"),
    ],
)
def test_refused_settings(change, message):
    with pytest.raises(ValueError, match=message):
        CoilSensitivitySettings(**change)

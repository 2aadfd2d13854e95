import copy
import dataclasses

import ismrmrd
import numpy as np
import pytest
import torch

from mri2qmap import coil_sensitivity as module
from mri2qmap.coil_sensitivity import CoilSensitivitySettings, coil_sensitivity
from mri2qmap.errors import Mri2QmapError
from mri2qmap.pipeline import channel_matrix
from mri2qmap.pipeline.acquisition_kinds import is_noise_scan
from mri2qmap.pipeline.items import CoilMaps
from mri2qmap.pipeline.progress import TerminalReporter
from mri2qmap.pipeline.readouts import LEAST_READOUTS, HeldReadouts, acquisition_bytes
from mri2qmap.simulation.coils import coil_sensitivities

SETTINGS = CoilSensitivitySettings(energy_kept=1.0)
QUICK = CoilSensitivitySettings(calibration_resolution=0.016)


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
    assert [a.idx.segment for a in imaging] == [0] * scan.sequence.n_frames
    for _ in imaging:  # the held ones
        next(stream)
    before = len(taken)
    next(stream)
    assert len(taken) == before + 1


@pytest.fixture(scope="module")
def sorted_result(eight_coils):
    """Maps and acquisitions of the scan as it was acquired."""
    scan, noise, imaging, _ = eight_coils
    (maps,), sent = split(coil_sensitivity(iter([*noise, *imaging]), scan, QUICK))
    return maps, sent


def by_frame(imaging):
    return sorted(imaging, key=lambda a: (a.idx.contrast, a.idx.segment))


def quiet(scan):
    return dataclasses.replace(scan, report=TerminalReporter())


def test_coils_are_calibrated_on_the_same_group_in_any_order(eight_coils, sorted_result):
    scan, noise, imaging, _ = eight_coils
    expected, sent = sorted_result
    assert len(expected.maps) > 2
    frames = scan.sequence.n_frames
    within = np.random.default_rng(0).permutation(frames)
    orders = {
        "by frame": by_frame(imaging),
        "shuffled": [imaging[i] for i in np.random.default_rng(1).permutation(len(imaging))],
        "reversed": imaging[::-1],
        "within groups": [imaging[g * frames + f] for g in range(5) for f in within],
        "noise in between": [*imaging[: frames // 2], *noise, *imaging[frames // 2 :]],
    }
    for order in orders.values():
        before = [] if any(is_noise_scan(a) for a in order) else noise
        (maps,), received = split(coil_sensitivity(iter([*before, *order]), scan, QUICK))
        assert torch.equal(maps.maps, expected.maps)
        assert len(received) == len(sent)
        received = {(a.idx.segment, a.idx.contrast): a.data for a in received}
        for one in sent[::97]:
            np.testing.assert_array_equal(one.data, received[one.idx.segment, one.idx.contrast])


def test_little_memory_gives_as_many_virtual_coils(eight_coils, sorted_result, monkeypatch):
    scan, noise, imaging, _ = eight_coils
    scan = quiet(scan)
    expected, _ = sorted_result
    monkeypatch.setattr(module, "MIB", 2**10)
    for kilobytes in (1, 300):
        taken = []

        def arriving(taken=taken):
            for item in [*noise, *by_frame(imaging)]:
                taken.append(item)
                yield item

        settings = dataclasses.replace(QUICK, calibration_memory=kilobytes)
        maps = next(coil_sensitivity(arriving(), scan, settings))
        held = [a for a in taken if not is_noise_scan(a)]
        size = sum(acquisition_bytes(a) for a in held)
        assert len(held) == LEAST_READOUTS or size < (kilobytes + 5) * 2**10
        assert LEAST_READOUTS <= len(held) < len(imaging) / 2
        assert len(maps.maps) == len(expected.maps)
        assert any(f"complete among {len(held)}" in line for line in scan.report.lines)


def test_noise_scans_without_end_are_not_all_kept(eight_coils, sorted_result, monkeypatch):
    scan, noise, imaging, _ = eight_coils
    scan = quiet(scan)
    enough = sum(acquisition_bytes(a) for a in noise)
    monkeypatch.setattr(module, "NOISE_MEMORY", enough)
    more = [stretched(noise[:1], 100.0)[0] for _ in range(5)]  # would change the covariance
    (maps,), _ = split(coil_sensitivity(iter([*noise, *more, *imaging]), scan, QUICK))
    assert torch.equal(maps.maps, sorted_result[0].maps)
    assert any("ignored the last 5 noise scans" in line for line in scan.report.lines)


def test_the_first_complete_group_is_found_among_many():
    """In one pass: a minute for each of 65 536 groups would be too long."""
    held = HeldReadouts(2, 0, 2**40)
    for group in range(3000):
        for frame in (1, 0) if group != 0 else (1,):
            readout = ismrmrd.Acquisition.from_array(np.zeros((1, 1), np.complex64))
            readout.idx.segment, readout.idx.contrast = group, frame
            held.add(readout)
    assert [a.idx.segment for a in held.complete_group()] == [1, 1]
    assert [a.idx.contrast for a in held.complete_group()] == [0, 1]


def test_a_buffer_ends_with_what_is_planned():
    """However few and long the readouts are."""
    held = HeldReadouts(500, 0, 2**30, planned_bytes=2**20)
    long = ismrmrd.Acquisition.from_array(np.zeros((8, 5000), np.complex64))
    assert [held.add(long) for _ in range(4)] == [False, False, False, True]


def stretched(noise, factor, time=None):
    """Noise scans as they are with a dwell time `factor` times as long."""
    return [
        changed(a, a.data / np.sqrt(factor), sample_time_us=(time or factor * a.sample_time_us))
        for a in noise
    ]


def changed(acquisition, data=None, **values):
    head = acquisition.getHead()
    for name, value in values.items():
        setattr(head, name, value)
    data = acquisition.data if data is None else data.astype(np.complex64)
    return ismrmrd.Acquisition(head, data, acquisition.traj)


def test_noise_counts_by_its_dwell_time(eight_coils, sorted_result):
    scan, noise, imaging, _ = eight_coils
    expected, sent = sorted_result
    half = len(noise) // 2
    cases = {
        "scaled by 4": stretched(noise, 4.0),
        "scaled by 0.25": stretched(noise, 0.25),
        "scaled by 1 or 10": [*noise[:half], *stretched(noise[half:], 10.0)],
    }
    for words, other in cases.items():
        scan = quiet(scan)
        (maps,), received = split(coil_sensitivity(iter([*other, *imaging]), scan, QUICK))
        assert len(maps.maps) == len(expected.maps)
        assert any(words in line for line in scan.report.lines)
        for one, two in zip(sent[::97], received[::97], strict=True):
            np.testing.assert_allclose(one.data, two.data, rtol=1e-3, atol=1e-3)


def test_unknown_dwell_times_are_taken_as_equal(eight_coils, sorted_result):
    scan, noise, imaging, _ = eight_coils
    scan = quiet(scan)
    expected, _ = sorted_result
    unknown = [changed(a, sample_time_us=0.0) for a in noise]
    (maps,), _ = split(coil_sensitivity(iter([*unknown, *imaging]), scan, QUICK))
    assert torch.equal(maps.maps, expected.maps)
    assert any("assumed to be equal" in line for line in scan.report.lines)


def with_spikes(noise, count, height):
    """Noise scans with some samples of one coil that are so many times as large as the noise."""
    spoilt = [changed(a, a.data.copy()) for a in noise]
    size = np.sqrt(np.mean([np.mean(np.abs(a.data[2]) ** 2) for a in noise]))
    for number in range(count):
        samples = spoilt[number % len(spoilt)].data
        samples[2, number // len(spoilt)] = height * size
    return spoilt


@pytest.mark.parametrize(("count", "height"), [(1, 1e3), (1, 1e30), (30, 12.0), (800, 1e3)])
def test_interference_in_noise_scans_is_left_out(eight_coils, sorted_result, count, height):
    scan, noise, imaging, _ = eight_coils
    scan = quiet(scan)
    expected, sent = sorted_result
    items = [*with_spikes(noise, count, height), *imaging]
    (maps,), received = split(coil_sensitivity(iter(items), scan, QUICK))
    assert any(f"left out {count} of " in line for line in scan.report.lines)
    assert len(maps.maps) == len(expected.maps)
    for one, two in zip(sent[::97], received[::97], strict=True):
        np.testing.assert_allclose(one.data, two.data, rtol=0.005, atol=0.005 * abs(one.data).max())


def test_gaussian_noise_scans_are_used_whole(eight_coils, sorted_result, monkeypatch):
    scan, noise, imaging, _ = eight_coils
    scan = quiet(scan)
    expected, sent = sorted_result

    def every_sample(samples):
        return torch.ones(samples.shape[1], dtype=torch.bool)

    monkeypatch.setattr(channel_matrix, "gaussian_samples", every_sample)
    (maps,), received = split(coil_sensitivity(iter([*noise, *imaging]), scan, QUICK))
    assert torch.equal(maps.maps, expected.maps)
    for one, two in zip(sent[::97], received[::97], strict=True):
        np.testing.assert_array_equal(one.data, two.data)
    monkeypatch.undo()
    next(coil_sensitivity(iter([*noise, *imaging]), scan, QUICK))
    assert not any("left out" in line for line in scan.report.lines)
    count = sum(a.number_of_samples for a in noise)
    assert any(f"prewhitened with {count} noise samples" in line for line in scan.report.lines)


def test_noise_scans_full_of_interference_are_refused(eight_coils):
    scan, noise, imaging, _ = eight_coils
    count = sum(a.number_of_samples for a in noise)
    items = [*with_spikes(noise, count // 3, 1e3), *imaging]
    with pytest.raises(Mri2QmapError, match=r"interference.*or set prewhiten to false"):
        list(coil_sensitivity(iter(items), scan, QUICK))
    settings = dataclasses.replace(QUICK, prewhiten=False)
    assert split(coil_sensitivity(iter(items), scan, settings))[0]


@pytest.mark.parametrize(("bandwidth", "used"), [(0.8, 0.8), (79.3, 1.0)])
def test_the_bandwidth_of_the_receiver_scales_the_noise(
    eight_coils, sorted_result, bandwidth, used
):
    scan, noise, imaging, _ = eight_coils
    expected, sent = sorted_result
    header = copy.deepcopy(scan.header)
    header.acquisitionSystemInformation.relativeReceiverNoiseBandwidth = bandwidth
    scan = quiet(dataclasses.replace(scan, header=header))
    (maps,), received = split(coil_sensitivity(iter([*noise, *imaging]), scan, QUICK))
    assert any("relativeReceiverNoiseBandwidth" in line for line in scan.report.lines)
    assert len(maps.maps) == len(expected.maps)
    np.testing.assert_allclose(
        received[0].data, used**0.5 * sent[0].data, rtol=1e-4, atol=1e-5 * abs(sent[0].data).max()
    )


def test_noise_scans_that_all_come_late_are_refused(noisy_scan):
    scan, items, _, _ = noisy_scan
    noise = [a for a in items if is_noise_scan(a)]
    late = [*(a for a in items if not is_noise_scan(a)), *noise]
    with pytest.raises(Mri2QmapError, match="send noise scans before imaging, or set prewhiten"):
        list(coil_sensitivity(iter(late), scan, QUICK))
    settings = dataclasses.replace(QUICK, prewhiten=False)
    scan = quiet(scan)
    assert len(split(coil_sensitivity(iter(late), scan, settings))[0]) == 1
    assert scan.report.lines[-1].startswith(f"coil_sensitivity: ignored {len(noise)} noise scans")


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
        (dead, "defective or duplicated"),
        (noise.data[:2], "2 coils"),
        (noise.data[:, :3], "more samples than coils"),
    ):
        with pytest.raises(Mri2QmapError, match=message):
            list(coil_sensitivity(iter([with_samples(noise, data), *imaging]), scan, SETTINGS))
    mixed = [noise, with_samples(noise, noise.data[:2])]
    with pytest.raises(Mri2QmapError, match="2 or 4 coils"):
        list(coil_sensitivity(iter([*mixed, *imaging]), scan, SETTINGS))
    other = changed(noise)
    other.channel_mask[0] = 0b11110000
    with pytest.raises(Mri2QmapError, match="other coils than the imaging"):
        list(coil_sensitivity(iter([other, *imaging]), scan, SETTINGS))


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
        ({"neighbourhood": 10**9 + 1}, "neighbourhood"),
        ({"virtual_coils": 10**9}, "virtual_coils"),
        ({"calibration_memory": 0}, "calibration_memory"),
        ({"frame_counter": "segment"}, "both segment"),
    ],
)
def test_refused_settings(change, message):
    with pytest.raises(ValueError, match=message):
        CoilSensitivitySettings(**change)

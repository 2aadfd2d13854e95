import dataclasses

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers.phantoms import write_labels

from mri2qmap.anatomy.tissues import BRAIN_TISSUES
from mri2qmap.anatomy.voxel_model import Region
from mri2qmap.cli.main import main
from mri2qmap.errors import Mri2QmapError
from mri2qmap.files.b1_map import read_b1_map
from mri2qmap.mrsignal.dictionary import subspace
from mri2qmap.mrsignal.epg import fisp_signal
from mri2qmap.mrsignal.sequence import default_sequence
from mri2qmap.simulation.simulator import SimulationSettings, object_phase, simulate
from mri2qmap.simulation.transmit_field import tissues_in_field, transmit_field
from mri2qmap.simulation.truth import B1_FILE, read_truth

SEQUENCE = default_sequence(60)


def signals_by_voxel(tissues, fractions, field):
    """Signal (frame, voxel) of each voxel, simulated at its own field."""
    sums = np.zeros((SEQUENCE.n_frames, field.size))
    for tissue, shares in zip(tissues, fractions, strict=True):
        t1, t2 = (torch.full((field.size,), t) for t in (tissue.t1, tissue.t2))
        own = fisp_signal(t1, t2, SEQUENCE, torch.from_numpy(field.ravel())).numpy()
        sums += tissue.proton_density * own.T * shares.ravel()
    return sums


@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_each_voxel_has_the_signal_of_its_own_field(spread):
    rng = np.random.default_rng(0)
    field = rng.uniform(1 - spread, 1 + spread, (3, 4, 5)).astype(np.float32)
    shares = rng.dirichlet(np.ones(len(BRAIN_TISSUES)), field.size).T
    fractions = shares.reshape(-1, *field.shape).astype(np.float32)
    images, signals = tissues_in_field(BRAIN_TISSUES, fractions, field, SEQUENCE)
    found = np.tensordot(signals.T, images, 1).reshape(SEQUENCE.n_frames, -1)
    expected = signals_by_voxel(BRAIN_TISSUES, fractions, field)
    error = np.linalg.norm(found - expected, axis=0) / np.linalg.norm(expected, axis=0)
    assert error.max() < 4e-3


def test_the_field_has_its_range_over_the_object_and_is_smooth():
    z, y, x = (np.indices((24, 28, 32)) - np.array([12, 14, 16])[:, None, None, None]) / 16
    inside = x**2 + y**2 + z**2 < 0.5
    field = transmit_field(inside, 0.2)
    assert field[inside].min() == pytest.approx(0.8, abs=1e-6)
    assert field[inside].max() == pytest.approx(1.2, abs=1e-6)
    assert field.min() >= 0.8 - 1e-6
    assert field.max() <= 1.2 + 1e-6
    assert max(np.abs(np.diff(field, axis=a)).max() for a in range(3)) < 0.05
    edge = inside & (x**2 + y**2 + z**2 > 0.45)
    assert field[12, 14, 16] > 1.15 > 1 > field[edge].mean()


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return SimulationSettings(
        anatomy=str(write_labels(tmp_path_factory.mktemp("anatomy") / "labels.nii.gz")),
        region=Region.BRAIN,
        matrix=(16, 16, 16),
        field_of_view=(0.24, 0.24, 0.24),
        coils=1,
        acceleration=2,
        noise=0.0,
        b1_spread=0.3,
    )


def test_kspace_and_tsmi_are_those_of_the_field(settings):
    found = simulate(settings, SEQUENCE)
    assert found.b1 is not None
    expected = signals_by_voxel(found.truth.tissues, found.truth.fractions, found.b1)
    expected = expected * object_phase(settings.matrix, settings.phase).ravel()
    centre = expected.sum(1) / 64
    error = np.linalg.norm(found.scan.kspace[0, :, 0, 0] - centre) / np.linalg.norm(centre)
    assert error < 2e-3
    tsmi = subspace(SEQUENCE, 5)[0].numpy().T @ expected
    difference = np.linalg.norm(found.tsmi.reshape(5, -1) - tsmi) / np.linalg.norm(tsmi)
    assert difference < 2e-3
    without = simulate(dataclasses.replace(settings, b1_spread=0.0), SEQUENCE)
    assert without.b1 is None
    assert np.linalg.norm(without.tsmi - found.tsmi) > 0.05 * np.linalg.norm(found.tsmi)


@pytest.mark.parametrize("spread", [-0.1, 0.7, float("nan")])
def test_a_spread_out_of_range_is_refused(settings, spread):
    with pytest.raises(Mri2QmapError, match="b1_spread"):
        dataclasses.replace(settings, b1_spread=spread)


def test_the_true_map_can_be_passed_to_replay(tmp_path):
    write_labels(tmp_path / "labels.nii.gz")
    arguments = [
        *("simulate", str(tmp_path / "scan.h5"), "--truth", str(tmp_path / "truth")),
        *("--anatomy", str(tmp_path / "labels.nii.gz"), "--matrix", "16", "12", "14"),
        *("--fov", "0.24", "--coils", "1", "--frames", "12", "--orientation", "coronal"),
        *("--oblique", "10", "-5", "20"),
    ]
    assert main([*arguments, "--b1-spread", "0.2"]) == 0
    truth = read_truth(tmp_path / "truth")
    assert truth.b1 is not None
    assert truth.b1.shape == truth.t1.shape
    assert truth.b1[truth.t1 > 0].max() == pytest.approx(1.2, abs=1e-5)
    np.testing.assert_array_equal(nib.load(tmp_path / "truth" / B1_FILE).affine, truth.affine)
    assert read_b1_map(str(tmp_path / "truth" / B1_FILE)).values.T.shape == truth.b1.shape
    assert main([*arguments, "--overwrite"]) == 0
    assert not (tmp_path / "truth" / B1_FILE).exists()
    assert read_truth(tmp_path / "truth").b1 is None

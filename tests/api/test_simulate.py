"""`mri2qmap.simulate` and `mri2qmap.evaluate`."""

import dataclasses
import json

import numpy as np
import pytest

import mri2qmap
from mri2qmap.cli.main import main
from mri2qmap.files.mrd_file import MrdFile
from mri2qmap.simulation.simulator import NoiseModel, SimulationSettings
from mri2qmap.simulation.truth import Truth, read_truth


def test_acquisitions_in_memory_are_those_of_the_file(simulated, files):
    scan = simulated.scan
    with MrdFile(files / "scan.h5") as file:
        assert scan.header == file.header
        stored = list(file.items())
    assert len(scan.acquisitions) == len(stored)
    for one, other in zip(scan.acquisitions, stored, strict=True):
        assert bytes(one.getHead()) == bytes(other.getHead())
        assert np.array_equal(one.data, other.data)
        assert np.array_equal(one.traj, other.traj)


def test_the_truth_in_memory_is_that_of_the_files(simulated, files):
    stored, own = read_truth(files / "truth"), simulated.truth
    for field in dataclasses.fields(Truth):
        one, other = getattr(own, field.name), getattr(stored, field.name)
        if isinstance(one, np.ndarray):
            assert one.dtype == other.dtype, field.name
            tolerance = 1e-5 if field.name == "affine" else 0
            np.testing.assert_allclose(one, other, rtol=0, atol=tolerance, err_msg=field.name)
    assert own.sequence == stored.sequence
    record = json.loads(json.dumps(own.record))
    assert record == {name: stored.record[name] for name in record}
    assert set(stored.record) - set(record) == {"files", "sha256_without_this_line"}


def test_evaluation_is_the_same_in_memory_and_in_files(simulated, files, maps):
    expected = mri2qmap.evaluate(files / "maps", files / "truth")
    assert mri2qmap.evaluate(maps, simulated) == expected
    assert mri2qmap.evaluate(maps, simulated.truth) == expected
    assert expected["mape_t1"] > 0


def test_the_command_evaluates_the_same(files, capsys, tmp_path):
    arguments = [str(files / "maps"), "--truth", str(files / "truth")]
    assert main(["evaluate", *arguments, "--json", str(tmp_path / "numbers.json")]) == 0
    found = json.loads((tmp_path / "numbers.json").read_text())
    assert found == mri2qmap.evaluate(files / "maps", files / "truth")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"maps": "nowhere"}, "no such folder"),
        ({"maps": 5}, "got int"),
        ({"truth": 5}, "got int"),
        ({"truth": "nowhere"}, "no truth.json"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(maps, simulated, change, words):
    with pytest.raises(mri2qmap.Mri2QmapError, match=words):
        mri2qmap.evaluate(**{"maps": maps, "truth": simulated, **change})


def test_maps_of_another_grid_are_refused(maps, simulated):
    moved = maps.affine + np.array([[0, 0, 0, 1.5]] + 3 * [[0] * 4])
    with pytest.raises(mri2qmap.Mri2QmapError, match=r"1\.5 mm"):
        mri2qmap.evaluate(dataclasses.replace(maps, affine=moved), simulated)
    with pytest.raises(mri2qmap.Mri2QmapError, match="its matrix"):
        mri2qmap.evaluate(
            mri2qmap.Maps(maps.t1[1:], maps.t2[1:], maps.proton_density[1:]), simulated
        )


def test_a_number_is_for_all_axes_and_enumerations_are_text(simulated):
    settings = simulated.settings
    assert settings.field_of_view == (0.2, 0.2, 0.2)
    scan = mri2qmap.simulate(settings, matrix=8, noise_model="tsmi", frames=8, coils=1)
    assert scan.settings.matrix == (8, 8, 8)
    assert scan.settings.noise_model is NoiseModel.TSMI
    assert scan.simulation.scan.kspace.shape[1:3] == (8, 1)
    assert repr(scan).endswith(": 2 groups x 8 frames x 30 samples, 1 coil>")


def test_flip_angles_are_degrees(simulated):
    angles = np.linspace(10, 60, 12)
    scan = mri2qmap.simulate(simulated.settings, matrix=8, frames=12, flip_angles=angles)
    np.testing.assert_allclose(np.rad2deg(scan.truth.sequence.flip_angles), angles)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"matrx": 8}, 'did you mean "matrix"'),
        ({"matrix": (8, 8)}, "2 values"),
        ({"matrix": 8.5}, "not whole"),
        ({"matrix": "large"}, "matrix='large'"),
        ({"coils": True}, "coils=True"),
        ({"coils": 0}, "1 to 128"),
        ({"region": "foot"}, "region='foot': one of head, brain, ball is expected"),
        ({"orientation": "upside"}, "'upside': one of axial, coronal, sagittal is expected"),
        ({"noise_model": 3}, "noise_model=3: one of auto, tsmi, receiver is expected"),
        ({"matrix": 15}, "even numbers from 4 to 1024, 14 or 16 instead of 15"),
        ({"matrix": (16, 9, 7)}, "6 or 8 instead of 7, 8 or 10 instead of 9"),
        ({"matrix": 3}, "even numbers from 4 to 1024$"),
        ({"settings": {"matrix": 16}}, "SimulationSettings are expected, got dict"),
        ({"settings": {}}, "SimulationSettings are expected, got dict"),
        ({"frames": 1}, "frames 1"),
        *(({"frames": n}, "frames .*: a whole number is") for n in ("60", None, 60.5, True)),
        ({"frames": 2, "flip_angles": ["a", "b"]}, "flip_angles: numbers are expected"),
        ({"frames": 2, "flip_angles": [None, None]}, "one finite angle in degrees per frame"),
        ({"frames": 2, "flip_angles": {}}, "flip_angles: numbers are expected"),
        ({"frames": 3, "flip_angles": [1, 2]}, "2 values for 3 frames"),
        ({"anatomy": "nosuch.nii.gz"}, "nosuch"),
    ],
)
def test_impossible_simulations_are_refused(changes, words):
    with pytest.raises(mri2qmap.Mri2QmapError, match=words):
        mri2qmap.simulate(**changes)


def test_the_defaults_are_those_of_the_settings(monkeypatch):
    from mri2qmap.simulation import simulator

    seen = []
    monkeypatch.setattr(simulator, "simulate", lambda *given: seen.append(given))
    mri2qmap.simulate()
    assert seen[0][0] == SimulationSettings()
    assert seen[0][1].n_frames == 500


def test_saving_leaves_both_or_none(simulated, tmp_path):
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth/mine").touch()
    with pytest.raises(mri2qmap.Mri2QmapError, match="exists already"):
        simulated.save(tmp_path / "scan.h5", tmp_path / "truth")
    assert [p.name for p in tmp_path.iterdir()] == ["truth"]
    simulated.save(tmp_path / "scan.h5")
    with pytest.raises(mri2qmap.Mri2QmapError, match="exists already"):
        simulated.save(tmp_path / "scan.h5")
    simulated.save(tmp_path / "scan.h5", overwrite=True)

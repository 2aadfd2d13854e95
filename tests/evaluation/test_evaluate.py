import dataclasses
import json

import numpy as np
import pytest
import torch
from helpers.phantoms import write_labels
from helpers.truths import (
    AFFINE,
    SHAPE,
    entry,
    maps_of,
    save_maps,
    small_dictionary,
    truth_of,
)

from mri2qmap.cli.main import main
from mri2qmap.errors import Mri2QmapError
from mri2qmap.evaluation.evaluate import (
    evaluate,
    nearest_fingerprints,
    read_maps,
    truth_dictionary,
)
from mri2qmap.evaluation.lower_bounds import match_voxels, within_sampled_sphere
from mri2qmap.mrsignal.dictionary import Dictionary, DictionarySettings
from mri2qmap.mrsignal.field_dictionary import load_field_dictionary
from mri2qmap.mrsignal.matching import match
from mri2qmap.simulation.truth import read_truth


@pytest.fixture(scope="module")
def dictionary():
    return small_dictionary()


@pytest.fixture(scope="module")
def truth(dictionary):
    return truth_of(dictionary, entry(dictionary, 0.75, 0.07), entry(dictionary, 1.25, 0.09))


def test_truth_itself_is_perfect(truth, dictionary):
    result = evaluate(maps_of(truth), truth, dictionary)
    for key in ("mape_t1", "mape_t2", "mape_t1_t2"):
        assert result[key] == 0
    assert result["cosine_distance"] == pytest.approx(0, abs=1e-4)
    for key in ("t1w", "t2w", "pdw"):
        assert result[f"psnr_{key}"] is None or result[f"psnr_{key}"] > 100  # infinite: no JSON
        assert result[f"ssim_{key}"] == pytest.approx(100, abs=1e-3)
    assert result["lower_bound_matching_t1_t2"] == pytest.approx(0, abs=1e-3)
    json.dumps(result, allow_nan=False)


def test_known_errors(truth, dictionary):
    t1, t2 = truth.t1.copy(), truth.t2.copy()
    t1[truth.white_matter] *= 1.1
    t2[truth.grey_matter] *= 0.8
    result = evaluate(maps_of(truth, t1=t1, t2=t2), truth, dictionary)
    white, grey = truth.white_matter.sum(), truth.grey_matter.sum()
    assert result["mape_t1"] == pytest.approx(10 * white / (white + grey), rel=1e-4)
    assert result["mape_t2"] == pytest.approx(20 * grey / (white + grey), rel=1e-4)
    assert result["mape_t1_t2"] == pytest.approx(result["mape_t1"] + result["mape_t2"])
    assert result["tissues"]["white_matter"]["mape_t1"] == pytest.approx(10, rel=1e-4)
    assert result["tissues"]["white_matter"]["mape_t2"] == pytest.approx(0, abs=1e-4)
    assert result["tissues"]["grey_matter"]["voxels"] == grey
    assert result["psnr_t1w"] < 40


def test_scale_of_proton_density_does_not_matter(truth, dictionary):
    rng = np.random.default_rng(0)
    t1 = (truth.t1 * rng.uniform(0.9, 1.1, SHAPE)).astype(np.float32)
    first, second = (
        evaluate(
            maps_of(truth, t1=t1, proton_density=np.float32(scale) * truth.proton_density),
            truth,
            dictionary,
        )
        for scale in (1, 250)
    )
    assert second["psnr_pdw"] == pytest.approx(first["psnr_pdw"], rel=1e-4)
    assert second["ssim_t1w"] == pytest.approx(first["ssim_t1w"], rel=1e-4)


def test_empty_maps_have_the_largest_error(truth, dictionary):
    nothing = np.zeros(SHAPE, np.float32)
    result = evaluate(
        maps_of(truth, t1=nothing, t2=nothing, proton_density=nothing), truth, dictionary
    )
    assert result["mape_t1"] == pytest.approx(100)
    assert result["cosine_distance"] == pytest.approx(100)


def test_nearest_fingerprint_is_that_of_the_entry(dictionary):
    chosen = [5, 40, 100]
    t1 = dictionary.lut.t1[chosen].numpy().reshape(1, 1, 3) * np.float32(1.03)
    t2 = dictionary.lut.t2[chosen].numpy().reshape(1, 1, 3)
    t1, t2 = np.append(t1, 0).reshape(1, 1, 4), np.append(t2, 1).reshape(1, 1, 4)
    found = nearest_fingerprints(t1, t2, dictionary)[:, 0, 0]
    np.testing.assert_array_equal(found[:, :3].T, dictionary.mrf_atoms[chosen].numpy())
    np.testing.assert_array_equal(found[:, 3], 0)


def test_sphere_keeps_what_lies_inside():
    z, y, x = np.meshgrid(*[np.arange(16)] * 3, indexing="ij")
    low = np.exp(2j * np.pi * (4 * x + 4 * y + 2 * z) / 16)[None].astype(np.complex64)
    high = np.exp(2j * np.pi * (6 * x + 6 * y) / 16)[None].astype(np.complex64)
    np.testing.assert_allclose(within_sampled_sphere(low + high), low, atol=1e-5)


def test_sphere_bound_of_a_uniform_object_is_zero(dictionary):
    white = entry(dictionary, 0.75, 0.07)
    uniform = truth_of(dictionary, white, white, whole=True)
    tsmi = np.broadcast_to(
        dictionary.mrf_atoms[white].numpy()[:, None, None, None], uniform.tsmi.shape
    ).astype(np.complex64)
    t1, t2 = match_voxels(within_sampled_sphere(tsmi), uniform.brain, dictionary)
    np.testing.assert_allclose(t1, float(dictionary.lut.t1[white]), rtol=1e-6)
    np.testing.assert_allclose(t2, float(dictionary.lut.t2[white]), rtol=1e-6)


def test_edges_cost_more_in_the_sphere(truth, dictionary):
    result = evaluate(maps_of(truth), truth, dictionary)
    assert result["lower_bound_sphere_t1_t2"] > result["lower_bound_matching_t1_t2"] + 0.5


def test_matching_of_a_mask_is_matching_of_the_volume(truth, dictionary):
    mask = truth.white_matter | truth.grey_matter
    t1, _ = match_voxels(truth.tsmi, mask, dictionary)
    whole = match(torch.from_numpy(truth.tsmi), dictionary).t1.numpy()
    np.testing.assert_array_equal(t1[mask], whole[mask])
    assert np.all(t1[~mask] == 0)


def test_lower_bounds_and_fingerprints_are_those_of_the_true_field(
    dictionary, tmp_path, monkeypatch
):
    monkeypatch.setenv("MRI2QMAP_CACHE", str(tmp_path))
    white, grey = entry(dictionary, 0.75, 0.07), entry(dictionary, 1.25, 0.09)
    truth = truth_of(dictionary, white, grey, whole=True)
    b1 = np.where(np.arange(SHAPE[0]) < 6, 0.8, 1.2)[:, None, None] * np.ones(SHAPE)
    truth = dataclasses.replace(truth, b1=b1.astype(np.float32))
    settings = DictionarySettings(step=0.2)
    field = load_field_dictionary(truth.sequence, settings, torch.from_numpy(truth.b1))
    entries = torch.from_numpy(np.where(truth.white_matter, white, grey))
    atoms = field.mrf_atoms[entries + field.level * len(dictionary.lut)]
    truth = dataclasses.replace(
        truth, tsmi=atoms.numpy().transpose(3, 0, 1, 2).astype(np.complex64)
    )
    found = evaluate(maps_of(truth), truth, field)
    assert found["lower_bound_matching_t1_t2"] < 1e-4
    assert found["cosine_distance"] < 1e-4
    blind = evaluate(maps_of(truth), truth, dictionary)
    assert blind["lower_bound_matching_t1_t2"] > 10
    assert blind["cosine_distance"] > 0.1


def test_the_truth_chooses_its_dictionary(truth, tmp_path, monkeypatch):
    monkeypatch.setenv("MRI2QMAP_CACHE", str(tmp_path))
    assert type(truth_dictionary(truth)) is Dictionary
    nominal = dataclasses.replace(truth, b1=np.ones(SHAPE, np.float32))
    assert torch.equal(truth_dictionary(nominal).mrf_atoms, truth_dictionary(truth).mrf_atoms)


def test_no_pure_tissue_is_an_error(dictionary):
    truth = truth_of(dictionary, 3, 4)
    truth.white_matter[:] = truth.grey_matter[:] = False
    with pytest.raises(Mri2QmapError, match="smaller voxels"):
        evaluate(maps_of(truth), truth, dictionary)


def test_maps_are_read_from_the_output_folder(truth, tmp_path):
    maps = read_maps(save_maps(tmp_path / "out", maps_of(truth)), truth)
    np.testing.assert_array_equal(maps.t2, truth.t2)


def other_matrix(folder, truth):
    wrong = maps_of(truth, t1=truth.t1[:, :, 1:])
    return save_maps(folder, wrong)


def moved(folder, truth):
    return save_maps(folder, maps_of(truth), AFFINE + np.array([[0, 0, 0, 1.5]] + 3 * [[0] * 4]))


def missing(folder, truth):
    save_maps(folder, maps_of(truth))
    (folder / "nifti/T2map.nii.gz").unlink()
    return folder


def broken(folder, truth):
    save_maps(folder, maps_of(truth))
    path = folder / "nifti/PDmap.nii.gz"
    path.write_bytes(path.read_bytes()[:60])
    return folder


def not_finite(folder, truth):
    t1 = truth.t1.copy()
    t1[0, 0, 0] = np.nan
    return save_maps(folder, maps_of(truth, t1=t1))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (other_matrix, "its matrix"),
        (moved, "1.5 mm"),
        (missing, "T2map.nii.gz: no such file"),
        (broken, "PDmap.nii.gz: it cannot be read"),
        (not_finite, "not finite"),
    ],
)
def test_maps_that_do_not_fit_are_refused(truth, tmp_path, make, expected):
    with pytest.raises(Mri2QmapError, match=expected):
        read_maps(make(tmp_path / "out", truth), truth)


@pytest.fixture
def simulated(tmp_path, monkeypatch):
    """A simulated scan's truth and, in place of a reconstruction, the true maps."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MRI2QMAP_CACHE", str(tmp_path / "cache"))
    write_labels(tmp_path / "labels.nii.gz")
    command = "simulate scan.h5 --truth truth --anatomy labels.nii.gz --matrix 16 --fov 0.24"
    assert main([*command.split(), "--coils", "2", "--frames", "30"]) == 0
    truth = read_truth(tmp_path / "truth")
    save_maps(tmp_path / "maps", maps_of(truth), truth.affine)
    return tmp_path


def test_command_prints_a_table_and_writes_json(simulated, capsys):
    assert main(["evaluate", "maps", "--truth", "truth", "--json", "numbers.json"]) == 0
    printed = capsys.readouterr().out
    for words in ("lower bound: matching the truth", "lower bound: sampled sphere", "white matter"):
        assert words in printed
    result = json.loads((simulated / "numbers.json").read_text())
    expected = {
        *(f"mape_{k}" for k in ("t1", "t2", "t1_t2")),
        *(f"lower_bound_{f}_{k}" for f in ("matching", "sphere") for k in ("t1", "t2", "t1_t2")),
        *(f"{m}_{c}" for m in ("psnr", "ssim") for c in ("t1w", "t2w", "pdw")),
        "cosine_distance",
        "tissues",
    }
    assert set(result) == expected
    assert result["mape_t1_t2"] == 0
    assert result["lower_bound_matching_t1"] < 5


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere", "--truth", "truth"], "no such folder"),
        (["maps", "--truth", "maps"], "no truth.json"),
        (["truth", "--truth", "broken"], "cannot be read"),
        (["maps", "--truth", "truth", "--json", "no/folder.json"], "cannot be written"),
    ],
)
def test_bad_arguments_are_refused(simulated, arguments, expected, capsys):
    (simulated / "broken").mkdir()
    (simulated / "broken/truth.json").write_text("{")
    assert main(["evaluate", *arguments]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert len(error.strip().splitlines()) == 1


def test_help_has_an_example(capsys):
    assert main(["evaluate", "--help"]) == 0
    assert "mri2qmap evaluate maps --truth truth" in capsys.readouterr().out

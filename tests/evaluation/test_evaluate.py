import dataclasses
import json
import re

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers.phantoms import write_labels
from helpers.truths import (
    AFFINE,
    SEQUENCE,
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
    interpolated_fingerprints,
    read_maps,
    truth_dictionary,
)
from mri2qmap.evaluation.lower_bounds import match_voxels, within_sampled_sphere
from mri2qmap.mrsignal.dictionary import Dictionary, DictionarySettings
from mri2qmap.mrsignal.epg import fisp_signal
from mri2qmap.mrsignal.field_dictionary import load_field_dictionary
from mri2qmap.mrsignal.matching import match
from mri2qmap.simulation.truth import LESIONS_FILE, read_truth


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


def textured_truth(dictionary):
    """White and grey matter whose halves fill the grid, with a texture of 5 % and a lesion."""
    truth = truth_of(
        dictionary, entry(dictionary, 0.75, 0.07), entry(dictionary, 1.25, 0.09), whole=True
    )
    texture = np.random.default_rng(0).standard_normal((2, *SHAPE))
    t1, t2 = (
        (t * (1 + 0.05 * p)).astype(np.float32)
        for t, p in zip((truth.t1, truth.t2), texture, strict=True)
    )
    lesions = np.zeros(SHAPE, np.int16)
    lesions[5:7, 6:8, 3:5] = 4
    t1[lesions > 0] = 1.1
    t2[lesions > 0] = 0.12
    record = {"lesions": [{"label": 4, "name": "plaque", "diameter_mm": 6.0}]}
    return dataclasses.replace(truth, t1=t1, t2=t2, lesions=lesions, record=record)


def test_structure_of_the_truth_itself(dictionary):
    truth = textured_truth(dictionary)
    result = evaluate(maps_of(truth), truth, dictionary)
    for time in ("t1", "t2"):
        texture = result["texture"][time]
        assert texture["deviation_ratio"] == texture["gain"] == pytest.approx(1)
        assert texture["noise"] == pytest.approx(0, abs=1e-6)
        assert texture["spectrum"][0]["power_ratio"] is None  # voxels of 4 mm
        assert texture["spectrum"][2]["wavelength_mm"] == [8, 16]
        assert texture["spectrum"][2]["power_ratio"] == pytest.approx(1)
        assert result["borders"][time] == pytest.approx(1)
        assert result["agreement"][time]["bias"] == result["agreement"][time]["limits"] == 0
        assert result["lesions"][0][time]["contrast_recovered"] == pytest.approx(1)
    white = truth.white_matter & (truth.lesions == 0)
    # A layer less on each side, and the lesion of 2^3 voxels with its 26 neighbours each.
    assert result["texture"]["t1"]["voxels"] == 10 * 12 * 6 - 4**3
    assert white.sum() == 12 * 14 * 8 - 8
    json.dumps(result, allow_nan=False)


def test_flattened_white_matter_is_seen_where_its_mean_is_kept(dictionary):
    truth = textured_truth(dictionary)
    t1 = truth.t1.copy()
    mean = t1[truth.white_matter & (truth.lesions == 0)].mean()
    t1[truth.white_matter] = mean + 0.3 * (t1[truth.white_matter] - mean)
    result = evaluate(maps_of(truth, t1=t1), truth, dictionary)
    assert result["texture"]["t1"]["deviation_ratio"] == pytest.approx(0.3, rel=1e-3)
    assert result["texture"]["t1"]["gain"] == pytest.approx(0.3, rel=1e-3)
    assert result["texture"]["t2"]["gain"] == pytest.approx(1)
    assert result["lesions"][0]["t1"]["contrast_recovered"] == pytest.approx(0.3, rel=1e-3)
    assert result["lesions"][0]["t2"]["contrast_recovered"] == pytest.approx(1)
    assert result["mape_t1"] < 5


def test_border_is_found_beside_csf(dictionary):
    """CSF next to grey matter is a stronger border, which blurs otherwise; it does not count."""
    truth = truth_of(
        dictionary, entry(dictionary, 0.75, 0.07), entry(dictionary, 1.25, 0.09), whole=True
    )
    truth.grey_matter[:, :, 12:] = False
    truth.t1[:, :, 12:] = 4.0
    t1 = truth.t1.copy()
    t1[:, :, 12] = 1.5
    logarithm = np.log(t1)
    logarithm[:, :, 7:9] = np.log([0.75, 1.25]) @ [[0.75, 0.25], [0.25, 0.75]]
    t1 = np.exp(logarithm)
    result = evaluate(maps_of(truth, t1=t1), truth, dictionary)
    white, grey = truth.t1[0, 0, 0], truth.t1[0, 0, 10]
    # Central differences at the two voxels of the border: from 7 to 9 and from 6 to 8.
    found = np.log(grey / t1[0, 0, 7]) + np.log(t1[0, 0, 8] / white)
    assert result["borders"]["t1"] == pytest.approx(found / (2 * np.log(grey / white)), rel=1e-4)


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


@pytest.mark.parametrize("removed", [True, False])
def test_the_reference_has_the_receive_field_where_the_maps_have_it(truth, dictionary, removed):
    field = np.linspace(0.5, 1.5, SHAPE[2], dtype=np.float32) * np.ones(SHAPE, np.float32)
    shaded = dataclasses.replace(truth, receive_field=field)
    density = truth.proton_density if removed else field * truth.proton_density
    right, wrong = (
        evaluate(
            dataclasses.replace(maps_of(truth, proton_density=density), receive_field=told),
            shaded,
            dictionary,
        )["psnr_pdw"]
        for told in (("removed", "kept") if removed else ("kept", "removed"))
    )
    assert right is None or right > 100
    assert wrong < 30


def test_empty_maps_have_the_largest_error(truth, dictionary):
    nothing = np.zeros(SHAPE, np.float32)
    result = evaluate(
        maps_of(truth, t1=nothing, t2=nothing, proton_density=nothing), truth, dictionary
    )
    assert result["mape_t1"] == pytest.approx(100)
    assert result["cosine_distance"] == pytest.approx(100)


def test_fingerprints_of_the_maps_are_interpolated(dictionary):
    t1, t2 = np.array([0.8, 1.3, 2.2], np.float32), np.array([0.07, 0.1, 0.2], np.float32)
    signals = fisp_signal(torch.from_numpy(t1), torch.from_numpy(t2), SEQUENCE)
    expected = (signals @ dictionary.basis).numpy()
    t1, t2 = (
        np.append(times, more).astype(np.float32).reshape(1, 1, 4)
        for times, more in ((t1, 0), (t2, 1))
    )
    found = interpolated_fingerprints(t1, t2, dictionary)[:, 0, 0]
    error = np.linalg.norm(found[:, :3].T - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert error.max() < 0.02
    nearest = [
        int(((dictionary.lut.t1 / a).log() ** 2 + (dictionary.lut.t2 / b).log() ** 2).argmin())
        for a, b in zip(t1.flat[:3], t2.flat[:3], strict=True)
    ]
    rounded = dictionary.mrf_atoms[nearest].numpy() - expected
    assert np.linalg.norm(rounded) > 5 * np.linalg.norm(found[:, :3].T - expected)
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
    names = ("t1", "t2", "proton_density")
    wrong = maps_of(truth, **{name: getattr(truth, name)[:, :, 1:] for name in names})
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
        "texture",
        "borders",
        "agreement",
        "lesions",
    }
    assert set(result) == expected
    assert result["mape_t1_t2"] == 0
    assert result["lower_bound_matching_t1"] < 5
    assert result["lesions"] == []
    assert "sharpness of white / grey borders" in printed
    assert re.search(r"bias \+- limits of agreement \[%\] +0\.0 \+- 0\.0 +0\.0 \+- 0\.0", printed)


def test_numbers_of_an_earlier_version_are_replaced(simulated):
    numbers = simulated / "numbers.json"
    numbers.write_text(json.dumps({"mape_t1_t2": 3.5}, indent=2) + "\n")
    command = ["evaluate", "maps", "--truth", "truth", "--json", "numbers.json"]
    assert main(command) == 0
    numbers.write_text(json.dumps({"mape_t1_t2": 3.5, "mine": 1}, indent=2) + "\n")
    assert main(command) == 2
    assert "mine" in numbers.read_text()


def test_lesions_of_the_truth_are_compared_and_printed(simulated, capsys):
    truth = read_truth(simulated / "truth")
    assert truth.lesions is None
    labels = np.zeros(truth.t1.shape, np.int16)
    place = tuple(np.argwhere(truth.white_matter)[0])
    labels[place] = 1
    nib.save(nib.Nifti1Image(labels.T, truth.affine), simulated / "truth" / LESIONS_FILE)
    record = json.loads((simulated / "truth/truth.json").read_text())
    record["lesions"] = [{"label": 1, "name": "plaque", "diameter_mm": 8.0}]
    (simulated / "truth/truth.json").write_text(json.dumps(record))
    known = read_truth(simulated / "truth")
    np.testing.assert_array_equal(known.lesions, labels)
    assert known.lesions.dtype == np.int16
    assert main(["evaluate", "maps", "--truth", "truth", "--json", "numbers.json"]) == 0
    (lesion,) = json.loads((simulated / "numbers.json").read_text())["lesions"]
    assert lesion["name"] == "plaque"
    assert lesion["t1"]["error"] == 0
    assert lesion["t2"]["mean"] == pytest.approx(float(truth.t2[place]))
    assert "  plaque               8.0       1      0.0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("labels", "record", "expected"),
    [
        (np.zeros((16, 16, 15)), [], "its matrix"),
        (np.full((16, 16, 16), 0.5), [], "no labels"),
        (np.full((16, 16, 16), -1.0), [], "no labels"),
        (np.zeros((16, 16, 16)), [{"name": "plaque"}], "label of a lesion"),
    ],
)
def test_lesions_that_do_not_fit_are_refused(simulated, labels, record, expected):
    path = simulated / "truth/truth.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "lesions": record}))
    nib.save(nib.Nifti1Image(labels.T, np.eye(4)), simulated / "truth" / LESIONS_FILE)
    with pytest.raises(Mri2QmapError, match=expected):
        read_truth(simulated / "truth")


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

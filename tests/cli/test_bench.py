import csv

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers.heads import write_heads
from skimage.io import imread

from mri2qmap.cli.main import main
from mri2qmap.denoiser.checkpoint import save_denoiser
from mri2qmap.denoiser.network import ConditionalResidualUNet, DenoiserConfig


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with label maps and the weights of a network that was never trained."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MRI2QMAP_CACHE", str(tmp_path / "cache"))
    (tmp_path / "labels").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "t1w").mkdir()
    image = np.full((20, 20, 20), np.nan, np.float32)
    nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / "t1w" / "ann_T1w.nii.gz")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "ann_T1w.nii.gz").touch()
    write_heads(tmp_path / "labels", "head_a", "head_b")
    torch.manual_seed(0)
    network = ConditionalResidualUNet(DenoiserConfig(channels=(4, 8), blocks=(1, 1), embedding=8))
    save_denoiser(tmp_path / "net.safetensors", network, {})
    before = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(before)


SMALL = [
    *("bench", "denoiser", "--denoisers", "net.safetensors", "--classical", "gaussian"),
    *("--size", "16", "--patch", "16", "--sigmas", "0.1", "0.05", "-o", "out"),
]
HEADS = ["--labels", "labels", "--subjects", "head_a", "head_b", "--volumes", "2"]
BRAIN = ["--anatomy", "labels/head_a.nii.gz"]
SCAN = [
    *("--reconstruct", "--matrix", "16", "--fov", "0.036", "--frames", "40"),
    *("--iterations", "2", "--cg-iterations", "2", "--acceleration", "1"),
]


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_denoises_and_reconstructs_and_resumes(folder, capsys):
    words = [*SMALL, *HEADS, *BRAIN, *SCAN, "--threads", "1"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    out = folder / "out"
    assert printed == (out / "tables.md").read_text()
    names = {"psnr.csv", "times.csv", "reconstruction.csv", "tables.md", "slices.png", "psnr.png"}
    names |= {"written.json"}
    assert {path.name for path in out.iterdir()} == names
    found = {(r["group"], r["volume"], r["denoiser"], r["sigma"]) for r in rows(out / "psnr.csv")}
    assert found == {
        (group, volume, denoiser, sigma)
        for group, volume in (
            ("head_a, head_b", "0"), ("head_a, head_b", "1"), ("head_a, 2 mm", "0"),
        )
        for denoiser in ("noisy", "gaussian", "net")
        for sigma in ("0.1", "0.05")
    }  # fmt: skip
    reconstructed = [(r["subject"], r["method"]) for r in rows(out / "reconstruction.csv")]
    assert len(reconstructed) == len(set(reconstructed)) == 2 * 9
    assert {"gaussian", "net", "LRTV", "MRF-ADMM (no prior)"} < {
        method for _, method in reconstructed
    }
    assert "## As a prior" in printed
    assert "| net - best classical " in printed
    assert imread(out / "slices.png").std() > 10
    tables = {path: path.read_bytes() for path in out.glob("*.csv")}
    assert main(words) == 0
    assert capsys.readouterr().out == printed
    assert {path: path.read_bytes() for path in out.glob("*.csv")} == tables


def test_without_label_maps(folder, capsys):
    assert main([*SMALL, *BRAIN]) == 0
    printed = capsys.readouterr().out
    assert "### head_a, 2 mm" in printed
    assert "As a prior" not in printed


def test_acquired_images_need_no_label_maps(folder, weighted_folder, capsys):
    one = folder / "one"
    one.mkdir()
    for contrast in ("T1", "T2"):
        name = f"subject1-{contrast}.nii.gz"
        (one / name).symlink_to(weighted_folder / name)
    words = [*SMALL, "--t2w", "one"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "### subject1" in printed
    assert "- subject1: acquired images, resampled to 1 mm" in printed
    assert "noise of its own" in printed
    assert "label maps" not in printed
    assert "| - / 2" in printed  # no T1w
    found = rows(folder / "out" / "psnr.csv")
    assert {r["denoiser"] for r in found} == {"noisy", "gaussian", "net"}
    for row in found:
        assert (row["group"], row["psnr_t1w"], row["psnr_pdw"]) == ("subject1", "", "")
        assert float(row["psnr_t2w"]) > 0
    assert imread(folder / "out" / "slices.png").std() > 10
    table = (folder / "out" / "psnr.csv").read_bytes()
    assert main(words) == 0
    assert capsys.readouterr().out == printed
    assert (folder / "out" / "psnr.csv").read_bytes() == table
    assert main([*words, "--t1w", "one"]) == 0
    last = rows(folder / "out" / "psnr.csv")[-1]
    assert (bool(last["psnr_t1w"]), bool(last["psnr_t2w"]), last["psnr_pdw"]) == (True, True, "")


def test_acquired_images_beside_others_of_the_same_name(folder, weighted_folder, capsys):
    (folder / "one").mkdir()
    (folder / "one" / "head_a_T1w.nii.gz").symlink_to(weighted_folder / "subject1-T1.nii.gz")
    heads = ["--labels", "labels", "--subjects", "head_a", "--volumes", "1"]
    assert main([*SMALL, *heads, "--t1w", "one"]) == 2
    assert "2 sources of images are named head_a; measure them in" in capsys.readouterr().err
    assert not list((folder / "out").iterdir())


def test_classical_denoisers_alone(folder, capsys):
    assert main([*SMALL, *BRAIN, "--denoisers"]) == 0
    assert "best classical" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--denoisers", "unheard-of"], "'unheard-of'"),
        (["--denoisers", "no/such.safetensors"], "no such file"),
        (["--denoisers", "file"], "available:"),
        (["--denoisers", "--classical"], "no denoiser"),
        (["--classical", "median"], "'median'"),
        (["--labels", "empty"], "contains no NIfTI files"),
        (["--labels", "missing"], "missing is not a folder"),
        (["--labels", "labels"], "training_seg_18"),
        (["--anatomy", "missing.nii.gz"], "missing.nii.gz"),
        (["--anatomy"], "expected at least one"),
        (["--sigmas", "0"], "--sigmas 0.0: expected levels above 0"),
        (["--sigmas", "0.1", "nan"], "--sigmas 0.1 nan: expected"),
        (["--sigmas", "0.8"], "net is made for 0.005 to 0.5"),
        (["--sigmas", "0.001"], "--sigmas 0.001"),
        (["--volumes", "0"], "--volumes 0"),
        (["--size", "8"], "--size 8"),
        (["--voxel", "2", "1"], "--voxel 2.0 1.0"),
        (["--voxel", "1", "2", "3"], "--voxel 1.0 2.0 3.0"),
        (["--voxel", "0.001"], "--voxel 0.001"),
        (["--threads", "0"], "--threads 0"),
        (["--device", "toaster"], "'toaster'"),
        (["--reconstruct"], "label maps, --labels"),
        (["--reconstruct", "--t1w", "t1w"], "label maps, --labels"),
        (["--t1w", "missing"], "T1w images: missing is not a folder"),
        (["--t2w", "empty"], "T2w images: empty contains no NIfTI files"),
        (["--pdw", "t1w"], "none of them PDw"),
        (["--t1w", "t1w", "--size", "24"], "subject ann have only 20 x 20 x 20 voxels of 1 mm"),
        (["--t1w", "t1w", "--size", "24"], "give --size 20 or less"),
        (["--t1w", "t1w", "--size", "19"], "values that are not finite"),
        (["--t1w", "cut"], "cannot be read as NIfTI"),
        (["--anatomy", "labels/head_a.nii.gz", "labels/head_a.nii.gz"], "2 sources of images"),
        ([*HEADS, "--reconstruct", "--matrix", "6"], "matrix 6"),
        ([*HEADS, "--reconstruct", "--matrix", "65"], "matrix 65"),
        ([*HEADS, "--reconstruct", "--fov", "110"], "metres"),
        ([*HEADS, "--reconstruct", "--noise", "-1"], "noise"),
        ([*HEADS, "--reconstruct", "--iterations", "0"], "--iterations 0"),
        ([*HEADS, "--reconstruct", "--coupling", "0"], "--coupling 0"),
        ([*HEADS, "--reconstruct", "--sigma", "0.02", "0.2"], "--sigma 0.02 0.2"),
        ([*HEADS, "--reconstruct", "--lrtv-strength", "-1"], "--lrtv-strength -1"),
        (["-o", "file"], "--out file"),
        (["-o", "file/out"], "--out file/out"),
    ],
)
def test_bad_input_is_refused_before_anything_is_done(folder, words, message, capsys):
    before = sorted(folder.iterdir())
    assert main([*SMALL, *BRAIN, *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    left = [path for path in sorted(folder.iterdir()) if path not in before]
    assert all(path.name == "out" and not any(path.iterdir()) for path in left)


def test_nothing_to_denoise(folder, capsys):
    assert main(SMALL) == 2
    error = capsys.readouterr().err
    assert all(option in error for option in ("--labels", "--anatomy", "--t1w", "--t2w", "--pdw"))


def test_folder_of_another_program(folder, capsys):
    (folder / "out").mkdir()
    (folder / "out" / "psnr.csv").write_text("a,b\n1,2\n")
    assert main([*SMALL, *BRAIN]) == 2
    assert "psnr.csv" in capsys.readouterr().err
    assert (folder / "out" / "psnr.csv").read_text() == "a,b\n1,2\n"


def test_help(capsys):
    assert main(["bench", "denoiser", "--help"]) == 0
    text = capsys.readouterr().out
    words = ("--reconstruct", "non-commercial", "bench denoiser --labels", "--verbose")
    for word in (*words, "--pdw DIR", "noise of its own"):
        assert word in text

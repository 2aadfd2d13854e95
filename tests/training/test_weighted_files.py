from __future__ import annotations

from pathlib import Path

import pytest

from mri2qmap.errors import Mri2QmapError
from mri2qmap.training.weighted_files import find_weighted_files


def make(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def found(tmp_path: Path, **folders: str) -> dict[str, dict[str, str]]:
    contrasts = {name: tmp_path / folder for name, folder in folders.items()}
    return {
        subject: {name: str(path.relative_to(tmp_path)) for name, path in files.items()}
        for subject, files in find_weighted_files(contrasts).items()
    }


def test_ixi(tmp_path):
    make(tmp_path, *(f"T1/IXI{n}-Guys-08-T1.nii.gz" for n in ("013", "002")))
    make(tmp_path, "PD/IXI002-Guys-08-PD.nii.gz", "PD/IXI077-HH-1-PD.nii", "PD/notes.txt")
    assert found(tmp_path, T1w="T1", PDw="PD") == {
        "IXI002-Guys-08": {
            "T1w": "T1/IXI002-Guys-08-T1.nii.gz",
            "PDw": "PD/IXI002-Guys-08-PD.nii.gz",
        },
        "IXI013-Guys-08": {"T1w": "T1/IXI013-Guys-08-T1.nii.gz"},
        "IXI077-HH-1": {"PDw": "PD/IXI077-HH-1-PD.nii"},
    }


@pytest.mark.parametrize(
    ("t1", "t2"),
    [
        ("100307/T1w.nii.gz", "100307/T2w.nii.gz"),
        ("100307/T1w/T1w_restore.nii.gz", "100307/T1w/T2w_restore.nii.gz"),
        ("100307/unprocessed/3T/T1w_MPR1/1_3T_T1w_MPR1.nii", "100307/3T/T2w/1_T2w_SPC1.nii"),
        ("100307/T1/image.nii.gz", "100307/T2/image.nii.gz"),
        ("100307_3T_T1w_MPR1.nii.gz", "100307_3T_T2w_SPC1.nii.gz"),
        ("t1_100307_3T.nii.gz", "100307_3T.t2w.nii.gz"),
    ],
)
def test_layouts_that_share_a_folder(tmp_path, t1, t2):
    make(tmp_path / "d", t1, t2, "100307/other.nii.gz", "100307/T1w/.hidden_T1w.nii.gz")
    name = "100307" if "/" in t1 else "100307_3T"
    assert found(tmp_path, T1w="d", T2w="d") == {name: {"T1w": f"d/{t1}", "T2w": f"d/{t2}"}}


def test_flat_and_nested_layouts_agree(tmp_path):
    make(tmp_path, "a/sub-01/anat/sub-01_T1w.nii.gz", "b/sub-01_T2w.nii.gz")
    assert set(found(tmp_path, T1w="a", T2w="b")["sub-01"]) == {"T1w", "T2w"}


def test_files_that_name_no_contrast_are_the_folders_where_none_does(tmp_path):
    make(tmp_path, "mine/b.nii.gz", "mine/a.nii")
    assert list(found(tmp_path, T2w="mine")) == ["a", "b"]
    make(tmp_path, "mine/c_T2w.nii")
    assert list(found(tmp_path, T2w="mine")) == ["c"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (None, r"T1w images: .* is not a folder"),
        ([], r"T1w images: .* contains no NIfTI files \(\.nii\.gz, \.nii\)"),
        (
            ["a_T2w.nii", "b_PD.nii.gz"],
            r"contains 2 NIfTI files, none of them T1w \(a_T2w\.nii, \.\.",
        ),
        (["s/mask.nii", "T1w.nii"], "none of them T1w"),
        (
            ["s/a_T1w.nii", "s/b_T1w.nii"],
            r"a_T1w.nii and .*b_T1w.nii both .* T1w image of subject s",
        ),
        (["s_T1.nii", "s_T1w.nii.gz"], r"both seem to be the T1w image of subject s; use a folder"),
    ],
)
def test_bad_folders(tmp_path, names, message):
    if names is not None:
        make(tmp_path / "d", *names).mkdir(exist_ok=True)
    with pytest.raises(Mri2QmapError, match=message):
        find_weighted_files({"T1w": tmp_path / "d"})

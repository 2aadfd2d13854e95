"""The output folder where something else is in the way, or the disk is not as it should be."""

import errno
import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import ismrmrd
import nibabel
import numpy as np
import pytest
from helpers.disks import contents, small_disk
from helpers.scans import header

from mri2qmap.errors import Mri2QmapError
from mri2qmap.files.output_folder import OutputFolder
from mri2qmap.pipeline.items import NiftiVolume
from mri2qmap.storage.atomic import remove_all_scratch
from mri2qmap.storage.file_place import FilePlace
from mri2qmap.storage.folder_place import FolderPlace
from mri2qmap.storage.place import Place, try_name

__all__ = ["small_disk"]


def write(
    path: Path,
    overwrite: bool = False,
    name: str = "T1map.nii.gz",
    during: Callable[[], object] = lambda: None,
    **record: object,
) -> None:
    volume = nibabel.Nifti1Image(np.arange(8, dtype=np.float32).reshape(2, 2, 2), np.eye(4))
    with OutputFolder(path, header().encode(), overwrite) as folder:
        folder.write(NiftiVolume(volume, name))
        during()
        folder.finish({"total_s": 1.0, **record})


def names(path: Path) -> list[str]:
    return sorted(str(p.relative_to(path)) for p in path.rglob("*") if not p.is_dir())


def put_link(path: Path) -> None:
    volume = path / "nifti/T1map.nii.gz"
    volume.rename(path.parent / "elsewhere.nii.gz")
    volume.symlink_to(path.parent / "elsewhere.nii.gz")


def note_in_record(path: Path) -> None:
    text = (path / "run.json").read_text()
    (path / "run.json").write_text(text.replace('"total_s": 1.0', '"total_s": 1.5'))


def record_without_list(path: Path) -> None:
    (path / "run.json").write_text('{"total_s": 1.0, "written": {"nifti": 1}}\n')


def link_folder(path: Path) -> None:
    (path.parent / "data").mkdir()
    (path / "raw").symlink_to(path.parent / "data")


NOT_OURS = {
    "notes": (lambda p: (p / "notes.txt").write_text("mine"), "notes.txt is not among"),
    "a raw scan": (lambda p: (p / "raw.h5").write_bytes(b"\x89HDF"), "raw.h5 is not among"),
    "a file below": (lambda p: (p / "nifti/mask.nii").write_text(""), "nifti/mask.nii is not"),
    "a hidden file": (lambda p: (p / ".notes").write_text("mine"), ".notes is not among"),
    "a folder": (lambda p: (p / "raw").mkdir(), "raw is not among"),
    "a link to a folder": (link_folder, "raw is not among"),
    "a link in place of a file": (put_link, "nifti/T1map.nii.gz is not among"),
    "an edited file": (
        lambda p: (p / "nifti/T1map.nii.gz").write_text("segmented by hand"),
        "nifti/T1map.nii.gz was changed",
    ),
    "an edited record": (note_in_record, "run.json has no list.*or was changed"),
    "a record of an earlier version": (record_without_list, "earlier version"),
}


@pytest.mark.parametrize("what", NOT_OURS)
def test_what_is_not_of_this_program_is_never_overwritten(tmp_path, what):
    path = tmp_path / "maps"
    write(path)
    change, words = NOT_OURS[what]
    change(path)
    before = contents(tmp_path)
    with pytest.raises(Mri2QmapError, match=words):
        write(path, overwrite=True, during=lambda: pytest.fail("it ran"))
    assert contents(tmp_path) == before


@pytest.mark.parametrize("what", NOT_OURS)
def test_what_comes_during_the_run_is_kept_and_so_is_the_result(tmp_path, what):
    path = tmp_path / "maps"
    write(path)
    change, _ = NOT_OURS[what]
    before: dict[str, object] = {}

    def during() -> None:
        change(path)
        before.update(contents(path))

    with pytest.raises(Mri2QmapError, match=r"cannot be put in place.*it was kept as") as error:
        write(path, overwrite=True, name="T2map.nii.gz", during=during)
    assert contents(path) == before
    kept = Path(str(error.value).rpartition("kept as ")[2])
    assert names(kept) == ["nifti/T2map.nii.gz", "run.json"]
    assert not kept.name.startswith(".")


@pytest.mark.parametrize("overwrite", [False, True])
def test_of_two_runs_into_one_folder_both_results_are_kept(tmp_path, overwrite):
    path = tmp_path / "maps"
    if overwrite:
        write(path)
    with pytest.raises(Mri2QmapError, match=r"during.*it was kept as"):
        write(
            path,
            overwrite,
            "T2map.nii.gz",
            during=lambda: write(path, overwrite, name="PDmap.nii.gz", number=2),
        )
    assert names(path) == ["nifti/PDmap.nii.gz", "run.json"]
    (kept,) = (p for p in tmp_path.iterdir() if p != path)
    assert names(kept) == ["nifti/T2map.nii.gz", "run.json"]


@pytest.mark.parametrize("later", ["written", "finished"])
def test_a_run_whose_hidden_folder_was_removed_fails_and_does_not_make_it_again(tmp_path, later):
    """Another run has given it up: what is left of it must not appear as a whole."""
    part = tmp_path / "parts" / "1"
    part.mkdir(parents=True)
    volume = NiftiVolume(nibabel.Nifti1Image(np.ones((2, 2, 2)), np.eye(4)), "T1map.nii.gz")

    def run() -> None:
        with OutputFolder(tmp_path / "maps", b"", scratch=part) as folder:
            folder.write(volume)
            assert [path.name for path in tmp_path.iterdir()] == ["parts"]
            shutil.rmtree(part)
            if later == "written":
                folder.write(replace(volume, name="T2map.nii.gz"))
            folder.finish({})

    with pytest.raises(Mri2QmapError, match="writing failed"):
        run()
    assert not list((tmp_path / "parts").iterdir())
    assert not (tmp_path / "maps").exists()
    with pytest.raises(Mri2QmapError, match="cannot be written"):
        OutputFolder(tmp_path / "maps", b"", scratch=part)
    assert not part.exists()


def test_an_empty_folder_is_as_good_as_none_and_keeps_its_mode(tmp_path):
    path = tmp_path / "maps"
    path.mkdir()
    path.chmod(0o2750)
    write(path)
    assert names(path) == ["nifti/T1map.nii.gz", "run.json"]
    assert path.stat().st_mode & 0o7777 == 0o2750
    assert [p.name for p in tmp_path.iterdir()] == ["maps"]


def test_the_folder_has_the_mode_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write(tmp_path / "maps")
    finally:
        os.umask(before)
    assert (tmp_path / "maps").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "maps/run.json").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "maps/nifti").stat().st_mode & 0o777 == 0o750


def test_a_mount_point_takes_maps(small_disk):
    path = small_disk("4m")
    (path / "lost+found").mkdir()
    write(path)
    assert names(path) == ["nifti/T1map.nii.gz", "run.json"]
    write(path, overwrite=True, name="T2map.nii.gz")
    assert names(path) == ["nifti/T2map.nii.gz", "run.json"]
    assert {p.name for p in path.iterdir()} == {"lost+found", "nifti", "run.json"}
    before = contents(path)
    with pytest.raises(ZeroDivisionError):
        write(path, overwrite=True, during=lambda: 1 / 0)
    assert contents(path) == before
    (path / "notes").write_text("mine")
    with pytest.raises(Mri2QmapError, match="notes is not among"):
        write(path, overwrite=True)


def test_in_a_mount_point_all_goes_back_when_a_file_cannot_be_moved(small_disk, monkeypatch):
    path = small_disk("4m")
    write(path)
    before, rename = contents(path), Path.rename

    def failing(self, target):
        if self.name == "T2map.nii.gz" and Path(target) == path / "nifti" / self.name:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(Mri2QmapError, match=r"Input/output error.*it was kept as") as error:
        write(path, overwrite=True, name="T2map.nii.gz")
    kept = Path(str(error.value).rpartition("kept as ")[2])
    assert names(kept) == ["nifti/T2map.nii.gz", "run.json"]
    shutil.rmtree(kept)
    assert contents(path) == before


def test_a_mount_of_the_same_file_system_takes_maps(tmp_path, small_disk):
    import subprocess

    disk = small_disk("4m")
    (disk / "volume").mkdir()
    (disk / "out").mkdir()
    bind = ["mount", "--bind", str(disk / "volume"), str(disk / "out")]
    if subprocess.run(bind, capture_output=True, check=False).returncode:
        pytest.skip("no folder can be bound here")
    try:
        write(disk / "out")
        assert names(disk / "volume") == ["nifti/T1map.nii.gz", "run.json"]
        assert {p.name for p in (disk / "out").iterdir()} == {"nifti", "run.json"}
    finally:
        subprocess.run(["umount", "-l", str(disk / "out")], check=True)


@pytest.mark.parametrize("kind", ["mrd", "nifti"])
def test_a_full_disk_gives_one_clear_error_and_leaves_nothing(small_disk, kind, capfd):
    disk = small_disk("1m")
    noise = np.random.default_rng(0).standard_normal((1, 96, 96, 96)).astype(np.float32)
    item = (
        ismrmrd.Image(data=noise)
        if kind == "mrd"
        else NiftiVolume(nibabel.Nifti1Image(noise[0], np.eye(4)), "T1map.nii.gz")
    )
    with (
        pytest.raises(Mri2QmapError, match=r"No space left on device; make room"),
        OutputFolder(disk / "new" / "maps", header().encode()) as folder,
    ):
        folder.write(item)
    assert list(disk.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_a_disk_that_fills_up_with_the_record_leaves_nothing(small_disk):
    disk = small_disk("256k")

    def fill() -> None:
        with (disk / "other").open("wb") as file, pytest.raises(OSError, match="No space"):
            file.write(bytes(10**6))

    with pytest.raises(Mri2QmapError, match="No space left on device"):
        write(disk / "maps", during=fill)
    assert [p.name for p in disk.iterdir()] == ["other"]


def test_too_little_room_is_noticed_before_the_run(tmp_path):
    with pytest.raises(Mri2QmapError, match=r"about 1e\+12 MB will be written and .* are free"):
        OutputFolder(tmp_path / "new" / "maps", b"", room=10**18)
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_the_file_system_does_not_take_is_noticed_before_the_run(tmp_path):
    with pytest.raises(Mri2QmapError, match=r"cannot be written.*name too long"):
        OutputFolder(tmp_path / ("m" * 300), b"")
    path = tmp_path / ("m" * 255)
    write(path)
    assert names(path) == ["nifti/T1map.nii.gz", "run.json"]


@pytest.mark.parametrize("name", [os.fsdecode(b"m\xe4ps"), "mäps", "地図 \U0001f9e0"])
def test_the_record_takes_whatever_a_run_may_say(tmp_path, name):
    path = tmp_path / name
    odd = {"nan": math.nan, "number": np.float32(2), "list": (np.int64(1), Path("x")), 3: {1}}
    write(path, file=str(path), **{"odd": odd})
    record = json.loads((path / "run.json").read_text("utf-8"))
    assert record["file"] == str(path)
    assert record["odd"] == {"nan": None, "number": 2.0, "list": [1, "x"], "3": [1]}
    write(path, overwrite=True)


def test_a_link_to_the_folder_stays_a_link(tmp_path):
    (tmp_path / "link").symlink_to("maps")
    write(tmp_path / "link")
    write(tmp_path / "link", overwrite=True, name="T2map.nii.gz")
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "maps") == ["nifti/T2map.nii.gz", "run.json"]


@pytest.mark.parametrize("name", ["q", "_", ".x", "a.", "_.", "-"])
def test_names_of_one_letter_or_two_are_names(tmp_path, name):
    try_name(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("movable", [True, False], ids=["with a name", "where it was written"])
def test_a_finished_output_survives_when_it_cannot_be_put_in_place(
    tmp_path, monkeypatch, kind, movable
):
    """The caller removes what is left afterwards, which is not the finished output."""
    place: Place = FilePlace(tmp_path / "new/x")
    if kind == "folder":
        place = FolderPlace(tmp_path / "new/x", "record.json")
    result = place.partial if kind == "file" else place.partial / "result"
    result.write_text("result")
    rename = Path.rename

    def failing(self, target):
        if not movable or Path(target) == place.path:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(Mri2QmapError, match="Input/output error") as error:
        place.put_in_place()
    place.remove()
    remove_all_scratch()
    kept = Path(str(error.value).rpartition("kept as ")[2])
    assert (kept if kind == "file" else kept / "result").read_text() == "result"
    assert kept.name.startswith("x.new-") == movable
    assert [p.name for p in (tmp_path / "new").rglob("*") if p.is_file()] == [
        kept.name if kind == "file" else "result"
    ]

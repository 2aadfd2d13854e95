import json
import os
from pathlib import Path

import ismrmrd
import nibabel
import numpy as np
import pydicom
import pytest
from helpers.scans import acquisitions, header, small_dicom

from mri2qmap.errors import Mri2QmapError
from mri2qmap.files.output_folder import OutputFolder
from mri2qmap.pipeline.items import DicomObject, NiftiVolume


def volume() -> nibabel.Nifti1Image:
    return nibabel.Nifti1Image(np.arange(8, dtype=np.float32).reshape(2, 2, 2), np.eye(4))


def image() -> ismrmrd.Image:
    return ismrmrd.Image(data=np.ones((1, 2, 2, 2), np.float32))


def write(path: Path, overwrite: bool = False, name: str = "T1map.nii.gz") -> None:
    with OutputFolder(path, header().encode(), overwrite) as folder:
        folder.write(NiftiVolume(volume(), name))
        folder.finish({"total_s": 1.0})


def names(path: Path) -> list[str]:
    return sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())


def test_folder_appears_at_the_end_only(tmp_path):
    path = tmp_path / "new" / "maps"
    with OutputFolder(path, header().encode()) as folder:
        folder.write(acquisitions()[0])
        folder.write(DicomObject(small_dicom(), "T1map/0001.dcm"))
        folder.write(NiftiVolume(volume(), "T1map.nii.gz"))
        folder.write(image())
        folder.finish({"total_s": 1.0})
        assert not path.exists()
    assert names(tmp_path) == [
        f"new/maps/{n}"
        for n in ("dicom/T1map/0001.dcm", "mrd.h5", "nifti/T1map.nii.gz", "run.json")
    ]
    record = json.loads((path / "run.json").read_text())
    assert record["written"] == {"dicom": 1, "nifti": 1, "mrd": 1}
    assert record["not_written"] == {"Acquisition": 1}
    assert pydicom.dcmread(path / "dicom/T1map/0001.dcm").PatientName == "Nobody"
    back = nibabel.load(path / "nifti/T1map.nii.gz")
    np.testing.assert_array_equal(back.get_fdata(), volume().get_fdata())
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o777 & ~umask


def fail_while_writing(path, overwrite=False):
    with OutputFolder(path, header().encode(), overwrite) as folder:
        folder.write(image())
        folder.write(NiftiVolume(volume(), "T1map.nii.gz"))
        raise ZeroDivisionError


def interrupt(path):
    with OutputFolder(path, header().encode()) as folder:
        folder.write(image())
        raise KeyboardInterrupt


def write_nothing(path):
    with OutputFolder(path, header().encode()) as folder:
        folder.write(acquisitions()[0])
        folder.finish({})


def never_finish(path):
    with OutputFolder(path, header().encode()) as folder:
        folder.write(image())


def write_outside(path):
    with OutputFolder(path, header().encode()) as folder:
        folder.write(NiftiVolume(volume(), "../../elsewhere.nii"))


def write_absolute(path):
    with OutputFolder(path, header().encode()) as folder:
        folder.write(NiftiVolume(volume(), str(path.parent / "elsewhere.nii")))


def write_twice(path):
    with OutputFolder(path, header().encode()) as folder:
        folder.write(NiftiVolume(volume(), "T1map.nii"))
        folder.write(NiftiVolume(volume(), "T1map.nii"))


def fill_the_disk(path):
    class Full:
        def save_as(self, *arguments, **keywords):
            raise OSError(28, "No space left on device")

    with OutputFolder(path, header().encode()) as folder:
        folder.write(DicomObject(Full(), "T1map/0001.dcm"))


@pytest.mark.parametrize(
    ("action", "error", "words"),
    [
        (fail_while_writing, ZeroDivisionError, "^$"),
        (interrupt, KeyboardInterrupt, "^$"),
        (
            write_nothing,
            Mri2QmapError,
            "no maps were written: the last gadget produced 1 Acquisition",
        ),
        (never_finish, None, ""),
        (write_outside, Mri2QmapError, "path outside the output folder"),
        (write_absolute, Mri2QmapError, "path outside the output folder"),
        (write_twice, Mri2QmapError, "same name, nifti/T1map.nii"),
        (fill_the_disk, Mri2QmapError, "No space left on device"),
    ],
)
def test_nothing_remains_after_an_error(tmp_path, action, error, words):
    path = tmp_path / "new" / "maps"
    if error is None:
        action(path)
    else:
        with pytest.raises(error, match=words):
            action(path)
    assert list(tmp_path.iterdir()) == []


def test_existing_folder_is_refused_immediately(tmp_path):
    path = tmp_path / "maps"
    write(path)
    before = names(path)
    with pytest.raises(Mri2QmapError, match=r"exists already.*--overwrite"):
        OutputFolder(path, b"")
    assert names(path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["maps"]


def test_overwriting_replaces_the_whole_folder(tmp_path):
    path = tmp_path / "maps"
    write(path)
    write(path, overwrite=True, name="T2map.nii.gz")
    assert names(path) == ["nifti/T2map.nii.gz", "run.json"]
    assert [p.name for p in tmp_path.iterdir()] == ["maps"]


def test_overwriting_keeps_the_old_folder_when_the_new_run_fails(tmp_path):
    path = tmp_path / "maps"
    write(path)
    with pytest.raises(ZeroDivisionError):
        fail_while_writing(path, overwrite=True)
    assert names(path) == ["nifti/T1map.nii.gz", "run.json"]
    assert [p.name for p in tmp_path.iterdir()] == ["maps"]


def test_old_and_new_folder_are_kept_when_the_new_one_cannot_be_put_in_place(tmp_path, monkeypatch):
    path = tmp_path / "maps"
    write(path)
    rename = Path.rename

    def failing(self, target):
        if ".partial-" in self.name and not self.name.endswith(".old"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(Mri2QmapError, match=r"cannot be put in place.*kept as") as error:
        write(path, overwrite=True, name="T2map.nii.gz")
    assert names(path) == ["nifti/T1map.nii.gz", "run.json"]
    kept = Path(str(error.value).rpartition("kept as ")[2])
    assert names(kept) == ["nifti/T2map.nii.gz", "run.json"]
    assert {p.name for p in tmp_path.iterdir()} == {"maps", kept.name}


def test_overwriting_refuses_files_of_other_programs(tmp_path):
    path = tmp_path / "home"
    path.mkdir()
    (path / "thesis.txt").write_text("years of work")
    with pytest.raises(Mri2QmapError, match=r"no run.json.*not overwritten"):
        OutputFolder(path, b"", overwrite=True)
    assert names(path) == ["thesis.txt"]


def test_empty_folder_may_be_overwritten(tmp_path):
    path = tmp_path / "maps"
    path.mkdir()
    write(path, overwrite=True)
    assert names(path) == ["nifti/T1map.nii.gz", "run.json"]


def test_file_with_the_name_of_the_folder_is_refused(tmp_path):
    path = tmp_path / "maps"
    path.write_text("")
    with pytest.raises(Mri2QmapError, match="not a folder"):
        OutputFolder(path, b"", overwrite=True)
    with pytest.raises(Mri2QmapError, match="cannot be written"):
        OutputFolder(path / "below", b"")
    assert [p.name for p in tmp_path.iterdir()] == ["maps"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_parent_without_write_permission_is_refused(tmp_path):
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(Mri2QmapError, match=r"cannot be written.*Permission denied"):
            OutputFolder(tmp_path / "maps", b"")
    finally:
        tmp_path.chmod(0o755)

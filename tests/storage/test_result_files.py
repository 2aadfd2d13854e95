"""Files of results, tables and weights: whole, and never in place of somebody else's."""

import errno
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from helpers.disks import contents, small_disk

from mri2qmap.cli.evaluate import _earlier_numbers, _json
from mri2qmap.errors import Mri2QmapError
from mri2qmap.storage.atomic import atomic_write
from mri2qmap.storage.hdf5 import Hdf5Target
from mri2qmap.storage.result_files import ResultFiles
from mri2qmap.storage.tensor_files import save_tensors
from mri2qmap.storage.written import add_mark, has_mark
from mri2qmap.studies.result_table import ResultTable
from mri2qmap.training.training import _exclusive, _refuse_unrelated_results

__all__ = ["small_disk"]


def test_results_are_written_again_by_the_next_run(tmp_path):
    for text in ("one", "two"):
        files = ResultFiles(tmp_path / "new", ["table.md", "picture.png"])
        files.write("table.md", text)
        files.write("picture.png", lambda path, text=text: path.write_text(text))
    assert (tmp_path / "new/table.md").read_text() == "two"
    assert {p.name for p in (tmp_path / "new").iterdir()} == {
        "table.md",
        "picture.png",
        "written.json",
    }


@pytest.mark.parametrize("known", [False, True])
def test_what_somebody_wrote_or_changed_is_not_replaced(tmp_path, known):
    if known:
        ResultFiles(tmp_path, ["table.md"]).write("table.md", "ours")
    (tmp_path / "table.md").write_text("my own words")
    before = contents(tmp_path)
    with pytest.raises(Mri2QmapError, match=r"table.md: it was not written by this program"):
        ResultFiles(tmp_path, ["table.md"])
    after = contents(tmp_path)
    assert {name: after[name] for name in before} == before


def test_what_somebody_changed_during_the_run_is_kept_and_so_is_the_result(tmp_path):
    files = ResultFiles(tmp_path, ["table.md"])
    (tmp_path / "table.md").write_text("my own words")
    with pytest.raises(Mri2QmapError, match="changed it meanwhile") as error:
        files.write("table.md", "result")
    assert (tmp_path / "table.md").read_text() == "my own words"
    assert Path(str(error.value).rpartition(" ")[2]).read_text() == "result"


def test_two_runs_add_to_one_table(tmp_path):
    path = tmp_path / "results.csv"
    first, second = (ResultTable(path, ("name",), ("value",)) for _ in range(2))
    odd = os.fsdecode(b"k\xf6pfe")
    first.put({("a",): (1.0,)})
    second.put({(odd,): (2.0,)})
    first.put({("c",): (3.0,)})
    table = ResultTable(path, ("name",), ("value",))
    assert [table.get((name,)) for name in ("a", odd, "c")] == [("1",), ("2",), ("3",)]


def test_a_full_disk_leaves_the_old_file_and_no_other(small_disk):
    disk = small_disk("200k")
    weights = disk / "weights.safetensors"
    save_tensors({"a": torch.zeros(10)}, weights)
    before = contents(disk)
    with pytest.raises(OSError, match="No space left on device") as error:
        save_tensors({"a": torch.zeros(10**6)}, weights)
    assert error.value.errno == errno.ENOSPC
    assert contents(disk) == before
    with pytest.raises(OSError, match="No space"), atomic_write(weights) as part:
        part.write_bytes(bytes(10**6))
    assert contents(disk) == before


@pytest.mark.parametrize("name", ["weights.safetensors", "progress.csv", "progress.png"])
def test_a_training_never_replaces_what_is_not_its_own(tmp_path, name):
    _refuse_unrelated_results(tmp_path)
    (tmp_path / name).write_text("of another training")
    with pytest.raises(Mri2QmapError, match=f"contains {name} but no state.pt"):
        _refuse_unrelated_results(tmp_path)


def test_two_trainings_do_not_share_a_folder(tmp_path):
    with _exclusive(tmp_path):
        with (
            pytest.raises(Mri2QmapError, match="another training uses this folder"),
            _exclusive(tmp_path),
        ):
            pytest.fail("it ran")
    with _exclusive(tmp_path):
        pass


@pytest.mark.parametrize(
    "content",
    [
        "notes",
        '{"scan": "subject 1"}\n',
        _json({"mape_t1_t2": 1.0}).replace("1.0", "1.0  "),
        "[1]\n",
    ],
)
def test_numbers_replace_nothing_but_numbers(tmp_path, content):
    path = tmp_path / "run.json"
    assert _earlier_numbers(path) == {}
    path.write_text(_json({"mape_t1_t2": 1.0}))
    assert _earlier_numbers(path) == {"mape_t1_t2": 1.0}
    path.write_text(content)
    with pytest.raises(Mri2QmapError, match="is not overwritten"):
        _earlier_numbers(path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
def test_hdf5_never_hears_of_a_disk_that_fails(tmp_path, monkeypatch, number):
    """What it wrote is read back after the failure too, as its caches need it."""
    target = Hdf5Target(tmp_path / "file.h5")
    write, room = os.pwrite, 30_000

    def failing(handle, data, offset):
        if offset + len(data) > room:
            raise OSError(number, os.strerror(number))
        return write(handle, data, offset)

    monkeypatch.setattr(os, "pwrite", failing)
    values = np.random.default_rng(0).random((40, 1000))
    with h5py.File(target, "w") as file:
        for i, row in enumerate(values):
            file.create_dataset(f"row{i}", data=row, chunks=(100,))
        for i, row in enumerate(values):
            np.testing.assert_array_equal(file[f"row{i}"][:], row)
    target.close()
    with pytest.raises(OSError, match=os.strerror(number)) as error:
        target.check()
    assert error.value.errno == number
    assert error.value.filename == str(tmp_path / "file.h5")


def test_hdf5_reads_and_changes_what_was_written(tmp_path):
    path = tmp_path / "file.h5"
    target = Hdf5Target(path)
    with h5py.File(target, "w") as file:
        file["x"] = np.arange(1000.0)
        del file["x"]
        file["y"] = "text"
    target.close()
    target.check()
    add_mark(path)
    assert has_mark(path)
    with h5py.File(path, "r") as file:
        assert list(file) == ["y"]
        assert file["y"][()] == b"text"
    assert has_mark(path)
    with h5py.File(path, "r+") as file:
        file["z"] = 1
    assert not has_mark(path)
    with h5py.File(path, "r") as file:
        assert sorted(file) == ["y", "z"]

"""Tensors that are put aside come back as they were."""

import dataclasses
import errno
import gc
import tempfile
import weakref

import pytest
import torch

from mri2qmap.machine import put_aside as module
from mri2qmap.machine.put_aside import put_aside


@pytest.fixture(autouse=True)
def small_tensors_count(monkeypatch):
    monkeypatch.setattr(module, "_LARGE", 1)


@dataclasses.dataclass(frozen=True)
class Frozen:
    values: torch.Tensor


class Holder:
    def __init__(self):
        self.complex = torch.arange(24).reshape(2, 3, 4) * (1 + 2j)
        self.lazy = torch.arange(4).to(torch.complex64).conj()
        self.turned = torch.arange(6.0).reshape(2, 3).T
        self.whole = torch.arange(5)
        self.empty = None
        self.text = "kept"


def test_tensors_are_away_and_come_back():
    holder, frozen = Holder(), Frozen(torch.ones(3))
    before = {name: value for name, value in vars(holder).items() if torch.is_tensor(value)}
    before = {name: value.clone() for name, value in before.items()}
    with put_aside([holder, frozen]):
        assert [vars(holder)[name] for name in before] == [None] * len(before)
        assert holder.text == "kept"
        assert frozen.values is None
    for name, value in before.items():
        found = vars(holder)[name]
        assert torch.equal(found, value)
        assert found.dtype == value.dtype
    assert torch.equal(frozen.values, torch.ones(3))


def test_memory_becomes_free():
    holder = Frozen(torch.ones(10))
    there = weakref.ref(holder.values)
    with put_aside([holder]):
        gc.collect()
        assert there() is None


def test_what_is_needed_stays():
    holder = Holder()
    with put_aside([holder], needed=(holder.complex,)):
        assert holder.complex is not None
        assert holder.whole is None


def test_tensors_come_back_after_an_error():
    holder = Frozen(torch.ones(2))
    with pytest.raises(ZeroDivisionError), put_aside([holder]):
        raise ZeroDivisionError
    assert torch.equal(holder.values, torch.ones(2))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_without_room_they_stay(monkeypatch, number):
    def fails(**options):
        raise OSError(number, "no")

    monkeypatch.setattr(tempfile, "TemporaryFile", fails)
    holder = Frozen(torch.ones(2))
    with put_aside([holder]):
        assert torch.equal(holder.values, torch.ones(2))


def test_files_are_where_the_user_wants_them(monkeypatch, tmp_path):
    used = []
    original = tempfile.TemporaryFile
    monkeypatch.setattr(
        tempfile, "TemporaryFile", lambda dir: used.append(dir) or original(dir=tmp_path)
    )
    monkeypatch.delenv("TMPDIR", raising=False)
    with put_aside([Frozen(torch.ones(2))]):
        pass
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with put_aside([Frozen(torch.ones(2))]):
        pass
    assert used[0] in (module._PERSISTENT, None)
    assert used[1] is None
    assert not list(tmp_path.iterdir())


def test_small_tensors_stay(monkeypatch):
    monkeypatch.setattr(module, "_LARGE", 100)
    holder = Frozen(torch.ones(24))
    with put_aside([holder]):
        assert holder.values is not None

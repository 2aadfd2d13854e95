"""The bound of the dictionaries in the cache, and which of them are removed."""

import logging
import os
import shutil
import threading
import time
from collections import namedtuple
from pathlib import Path

import pytest

from mri2qmap.storage import cache_size
from mri2qmap.storage.atomic import scratch_name
from mri2qmap.storage.cache_size import (
    SIZE_VARIABLE,
    dictionary_file,
    make_room,
    most_bytes,
    note_use,
    used_bytes,
)

SIZE = 1000


@pytest.fixture(autouse=True)
def own_bound(monkeypatch):
    monkeypatch.setenv(SIZE_VARIABLE, f"{3 * SIZE / 1000}kB")
    cache_size._warn_once.cache_clear()


def kept(folder: Path, number: int, age: float = 0.0, size: int = SIZE) -> Path:
    """A dictionary that was used `age` seconds ago."""
    path = folder / dictionary_file(f"{number:024x}")
    path.write_bytes(bytes(size))
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_the_longest_unused_go_first(tmp_path):
    paths = [kept(tmp_path, number, age=100 - number) for number in range(5)]
    note_use(paths[0])
    make_room(tmp_path, paths[4])
    assert [path.exists() for path in paths] == [True, False, False, True, True]
    assert used_bytes(tmp_path) == (3, 3 * SIZE)


def test_nothing_is_removed_up_to_the_bound(tmp_path):
    for number in range(3):
        written = kept(tmp_path, number)
    make_room(tmp_path, written)
    assert used_bytes(tmp_path) == (3, 3 * SIZE)


def test_the_file_just_written_stays_even_if_it_alone_is_too_large(tmp_path):
    old = kept(tmp_path, 0)
    written = kept(tmp_path, 1, age=1e6, size=10 * SIZE)  # the clock was set back
    make_room(tmp_path, written)
    assert written.exists()
    assert not old.exists()


def test_files_of_others_are_neither_counted_nor_removed(tmp_path):
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    target = kept(outside, 1, age=1e6, size=9 * SIZE)
    cache = tmp_path / "cache"
    cache.mkdir()
    foreign = [
        cache / "dictionary-old.safetensors",
        cache / f"{dictionary_file('0' * 24)}.bak",
        cache / dictionary_file("G" * 24),
        cache / "notes.txt",
    ]
    for path in foreign:
        path.write_bytes(bytes(9 * SIZE))
        os.utime(path, (0, 0))
    (cache / dictionary_file("1" * 24)).symlink_to(target)
    (cache / dictionary_file("2" * 24)).mkdir()
    (cache / "numba").mkdir()
    kept(cache / "numba", 3)
    written = kept(cache, 4, size=5 * SIZE)
    before = sorted(cache.rglob("*"))
    make_room(cache, written)
    assert sorted(cache.rglob("*")) == before
    assert target.exists()
    assert used_bytes(cache) == (1, 5 * SIZE)


def test_unfinished_files_of_killed_programs_are_removed(tmp_path):
    old, new = (tmp_path / f"{scratch_name()}.part" for _ in range(2))
    for path, age in ((old, 2 * cache_size._ABANDONED), (new, 0)):
        path.write_bytes(b"x")
        os.utime(path, (time.time() - age,) * 2)
    make_room(tmp_path, kept(tmp_path, 0))
    assert not old.exists()
    assert new.exists()


def test_files_that_disappear_are_no_error(tmp_path, monkeypatch):
    paths = [kept(tmp_path, number, age=100 - number) for number in range(6)]
    listed = cache_size._files(tmp_path)
    paths[2].unlink()  # between listing and looking at it
    found = list(cache_size._dictionaries(tmp_path))
    monkeypatch.setattr(cache_size, "_files", lambda _: listed)
    monkeypatch.setattr(cache_size, "_dictionaries", lambda _: iter(found))
    paths[0].unlink()  # between looking at it and removing it
    make_room(tmp_path, paths[5])
    assert [path.exists() for path in paths] == [False, False, False, True, True, True]
    note_use(paths[0])  # one that is gone


def test_a_folder_that_is_not_there_is_empty(tmp_path):
    assert used_bytes(tmp_path / "absent") == (0, 0)
    make_room(tmp_path / "absent", tmp_path / "absent" / "file")


def test_a_file_that_cannot_be_removed_is_passed_over(tmp_path, monkeypatch):
    paths = [kept(tmp_path, number, age=100 - number) for number in range(5)]
    unlink = Path.unlink

    def refusing(path, missing_ok=False):
        if path == paths[0]:
            raise PermissionError(13, "Permission denied")
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refusing)
    make_room(tmp_path, paths[4])
    assert [path.exists() for path in paths] == [True, False, False, True, True]


def test_many_at_once_keep_to_the_bound(tmp_path):
    failures = []

    def write(worker):
        try:
            for number in range(30):
                path = tmp_path / dictionary_file(f"{100 * worker + number:024x}")
                path.write_bytes(bytes(SIZE))
                make_room(tmp_path, path)
                used_bytes(tmp_path)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    make_room(tmp_path, kept(tmp_path, 10**6))
    assert 1 <= used_bytes(tmp_path)[0] <= 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2GB", 2 * 10**9), ("1.5MiB", 3 * 2**19), ("2", 2**31), ("1kB", 1000), ("123457B", 123457)],
)
def test_the_variable(tmp_path, monkeypatch, text, expected):
    monkeypatch.setenv(SIZE_VARIABLE, text)
    assert most_bytes(tmp_path) == expected


@pytest.mark.parametrize("text", ["much", "-1", "0", "nan", "inf", "1e999", "4 GiB x", "GB"])
def test_a_variable_that_is_no_size_is_warned_about_once(tmp_path, monkeypatch, caplog, text):
    monkeypatch.setenv(SIZE_VARIABLE, text)
    with caplog.at_level(logging.WARNING):
        sizes = {most_bytes(tmp_path) for _ in range(3)}
    monkeypatch.delenv(SIZE_VARIABLE)
    assert sizes == {most_bytes(tmp_path)}
    assert len(caplog.records) == 1
    assert f"{SIZE_VARIABLE}={text}: a positive size such as 2GB" in caplog.text


@pytest.mark.parametrize(
    ("disk", "expected"), [(10**9, 10**8), (10**15, 4 * 2**30), (None, 4 * 2**30)]
)
def test_the_default_is_at_most_a_tenth_of_the_disk(tmp_path, monkeypatch, disk, expected):
    monkeypatch.setenv(SIZE_VARIABLE, "")

    def usage(_):
        if disk is None:
            raise FileNotFoundError
        return namedtuple("Usage", "total used free")(disk, 0, disk)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    assert most_bytes(tmp_path) == expected

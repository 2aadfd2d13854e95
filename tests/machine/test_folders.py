"""Selection of the cache folder, and its use."""

import errno
import logging
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine import compiled_loops, folders
from mri2qmap.machine.compiled_loops import compiled
from mri2qmap.machine.folders import cache_choice, cache_folder, home_folder, spool_folder


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A user without folders except for temporary files."""
    for name in ("MRI2QMAP_CACHE", "XDG_CACHE_HOME", "MRI2QMAP_SPOOL", "XDG_STATE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(folders, "_home_of_account", lambda: "")
    (tmp_path / "temporary").mkdir(mode=0o700)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.chdir(tmp_path)
    folders._choose.cache_clear()
    yield tmp_path
    folders._choose.cache_clear()


def own(place: Path) -> Path:
    return place / "temporary" / f"mri2qmap-{os.getuid()}"


def test_order_of_preference(place, monkeypatch):
    assert cache_folder() == own(place)
    assert own(place).stat().st_mode & 0o777 == 0o700
    (place / "home").mkdir()
    monkeypatch.setenv("HOME", str(place / "home"))
    assert cache_folder() == place / "home" / ".cache" / "mri2qmap"
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "kept"))
    assert cache_folder() == place / "kept" / "mri2qmap"
    monkeypatch.setenv("MRI2QMAP_CACHE", str(place / "chosen"))
    assert cache_folder() == place / "chosen"
    assert cache_choice().refused == ()


def test_a_shipped_cache_is_read_last_and_never_written(place, monkeypatch):
    (place / "shipped").mkdir()
    monkeypatch.setenv("MRI2QMAP_SHIPPED_CACHE", str(place / "shipped"))
    assert cache_choice().readable == (own(place), place / "shipped")
    assert cache_folder() == own(place)
    own(place).rmdir()
    own(place).touch()
    folders._choose.cache_clear()
    assert cache_choice().readable == (place / "shipped",)
    assert cache_folder() is None
    for absent in (str(place / "nowhere"), "shipped", ""):  # "shipped" is a relative path
        monkeypatch.setenv("MRI2QMAP_SHIPPED_CACHE", absent)
        assert cache_choice().readable == ()


@pytest.mark.parametrize("variable", ["MRI2QMAP_CACHE", "XDG_CACHE_HOME", "HOME"])
def test_empty_variable_counts_as_not_set(place, monkeypatch, variable):
    monkeypatch.setenv(variable, "")
    assert cache_folder() == own(place)


def test_relative_values(place, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # ignored, by its specification
    monkeypatch.setenv("HOME", "also/relative")
    assert cache_folder() == own(place)
    monkeypatch.setenv("MRI2QMAP_CACHE", "beside")
    assert cache_folder() == place / "beside"
    assert not (place / "relative").exists()
    assert not (place / "also").exists()


def test_missing_home_is_not_created(place, monkeypatch):
    monkeypatch.setenv("HOME", str(place / "nowhere"))
    assert home_folder() is None
    assert cache_folder() == own(place)
    assert not (place / "nowhere").exists()


@pytest.mark.parametrize("value", ["~", "~/cache", "~nobody-of-that-name/cache"])
def test_tilde_is_a_home_folder_only(place, monkeypatch, value):
    monkeypatch.setenv("MRI2QMAP_CACHE", value)
    assert cache_folder() == own(place)
    assert not list(place.rglob("~*"))
    (place / "home").mkdir()
    monkeypatch.setenv("HOME", str(place / "home"))
    expected = place / "home" / value[2:] if value[:2] != "~n" else place / "home/.cache/mri2qmap"
    assert cache_folder() == expected


def test_read_only_folder_is_still_read(place, monkeypatch):
    (place / "chosen").mkdir()
    monkeypatch.setenv("MRI2QMAP_CACHE", str(place / "chosen"))
    original = folders.unwritable_reason
    monkeypatch.setattr(
        folders,
        "unwritable_reason",
        lambda folder: "Read-only" if folder.name == "chosen" else original(folder),
    )
    choice = cache_choice()
    assert choice.folder == own(place)
    assert choice.readable == (place / "chosen", own(place))
    assert choice.refused[0] == f"{place / 'chosen'}: Read-only"


def link(folder: Path, elsewhere: Path) -> None:
    elsewhere.mkdir(mode=0o700)
    folder.symlink_to(elsewhere)


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        (lambda folder, place: link(folder, place / "planted"), "not a folder of this user"),
        (lambda folder, place: folder.touch(), "not a folder of this user"),
        (lambda folder, place: (folder.mkdir(), folder.chmod(0o777)), "accessible to other users"),
        (lambda folder, place: folder.parent.chmod(0o777), "rename folders of other users"),
    ],
)
def test_insecure_temporary_folder_is_not_used(place, plant, words):
    plant(own(place), place)
    choice = cache_choice()
    assert choice.folder is None
    assert words in choice.refused[-1]
    assert not list(place.glob("planted/*"))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to another user")
def test_folder_of_another_user_is_not_used(place):
    own(place).mkdir(mode=0o700)
    shutil.chown(own(place), 12345)
    assert cache_choice().folder is None


def test_compiled_loops_are_cached(place, monkeypatch):
    monkeypatch.setattr(compiled_loops.numba.config, "CACHE_DIR", "")

    @compiled()
    def twice(x):
        return 2 * x

    assert twice(2) == 4
    assert list((own(place) / "numba").rglob("*.nbc"))
    assert compiled_loops.numba.config.CACHE_DIR == ""


def test_loops_are_compiled_without_a_cache_folder(place, monkeypatch):
    monkeypatch.setattr(compiled_loops.numba.config, "CACHE_DIR", "")
    own(place).touch()

    @compiled()
    def thrice(x):
        return 3 * x

    assert thrice(2) == 6


def test_full_disk_does_not_prevent_compilation(place, monkeypatch, caplog):
    monkeypatch.setattr(compiled_loops.numba.config, "CACHE_DIR", "")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    @compiled()
    def more(x):
        return x + 1

    monkeypatch.setattr(more._cache._wrapped, "_save_overload", full, raising=False)
    monkeypatch.setattr(type(more._cache._wrapped), "save_overload", full)
    with caplog.at_level(logging.WARNING):
        assert more(2) == 3
    assert "cannot be cached: [Errno 28]" in caplog.text


def test_damaged_file_does_not_prevent_compilation(place, monkeypatch, caplog):
    monkeypatch.setattr(compiled_loops.numba.config, "CACHE_DIR", "")

    def square(x):
        return x * x

    assert compiled()(square)(3) == 9
    for path in (own(place) / "numba").rglob("*.nb*"):
        path.write_bytes(b"damaged")
    with caplog.at_level(logging.WARNING):
        assert compiled()(square)(3) == 9
    assert "cannot be read" in caplog.text


def test_order_of_preference_of_the_spool(place, monkeypatch):
    with pytest.raises(Mri2QmapError, match=r"no home folder.*set MRI2QMAP_SPOOL"):
        spool_folder()
    (place / "home").mkdir()
    monkeypatch.setenv("HOME", str(place / "home"))
    assert spool_folder() == place / "home/.local/state/mri2qmap/spool"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert spool_folder() == place / "home/.local/state/mri2qmap/spool"
    monkeypatch.setenv("XDG_STATE_HOME", str(place / "kept"))
    assert spool_folder() == place / "kept/mri2qmap/spool"
    monkeypatch.setenv("MRI2QMAP_SPOOL", "beside")
    assert spool_folder() == place / "beside"
    monkeypatch.setenv("MRI2QMAP_SPOOL", "~nobody-of-that-name/spool")
    with pytest.raises(Mri2QmapError, match=r"MRI2QMAP_SPOOL=.*is unknown"):
        spool_folder()  # another folder would hide what is pending

"""A folder that appears complete or not at all and never replaces foreign files."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from mri2qmap.errors import Mri2QmapError
from mri2qmap.storage.atomic import note_scratch, remove_scratch, scratch_name, sync, why
from mri2qmap.storage.place import Place, check_room, make_scratch_folder, try_name
from mri2qmap.storage.written import own_files, same_entries

logger = logging.getLogger(__name__)

_ROOTS_OWN = frozenset({"lost+found"})
"""Entries of a new file system: a mount point with no others counts as empty."""


class FolderPlace(Place):
    """Final location of a folder.

    What can fail is tried at once: that nothing foreign would be replaced, that the folder can be
    written and moved into place, and that there is room. `partial` is a hidden folder to write to,
    beside the final location or, where that is a mount point, inside it.

    Parameters
    ----------
    path
        The folder to make. Missing parents are made too. An empty folder counts as missing.
    record
        File name of its record, see `mri2qmap.storage.written`, which is written last.
    overwrite
        Replace a folder that holds what its record lists and nothing else.
    what
        Name of the folder in messages.
    inputs
        Names and paths of the inputs: the folder must not contain any.
    room
        Estimated size, in bytes.
    largest
        Estimated size of the largest file, in bytes.
    scratch
        Existing folder to make the hidden folder in, on the same file system; None: that of `path`.

    Attributes
    ----------
    path
        The folder, links resolved.
    partial
        The folder to write to.

    Raises
    ------
    Mri2QmapError
        At once when the folder exists, contains an input, or cannot be made.
    """

    _kind = "folder"

    def __init__(
        self,
        path: str | Path,
        record: str,
        *,
        overwrite: bool = False,
        what: str = "output",
        inputs: Mapping[str, Path] | None = None,
        room: int = 0,
        largest: int = 0,
        scratch: Path | None = None,
    ) -> None:
        super().__init__(path, what, inputs)
        self._record = record
        self._scratch_parent = scratch
        self._replaced = self._check_existing(overwrite)
        self.partial, self._inside = self._make_partial()
        self._scratch = self.partial
        try:
            check_room(f"{what} {path}", self.partial, room, largest)
        except BaseException:
            self.remove()
            raise

    def _check_existing(self, overwrite: bool) -> bytes | None:
        """Refuse what may not be replaced; return the record of what will be replaced."""
        if not os.path.lexists(self.path):
            return None
        if not os.path.isdir(self.path):
            raise Mri2QmapError(
                f"{self._what} {self.path}: it exists and is not a folder; choose another name"
            )
        try:
            empty = _is_empty(self.path)
        except OSError as error:
            raise Mri2QmapError(
                f"{self._what} {self.path}: it cannot be read ({why(error)})"
            ) from error
        if empty:
            return None
        if not overwrite:
            raise Mri2QmapError(
                f"{self._what} {self.path}: it exists already; choose another name, or "
                "overwrite it (--overwrite, or overwrite=True)"
            )
        aside = _ROOTS_OWN if self.path.is_mount() else ()
        inputs = self._inputs.values()
        own_files(self.path, self._record, self._what, aside, list(inputs))
        return (self.path / self._record).read_bytes()

    def _name_to_keep(self, suffix: str) -> Path:
        return self.path / suffix if self._inside else super()._name_to_keep(suffix)

    def _make_partial(self) -> tuple[Path, bool]:
        """Make the hidden folder: beside the final one, or inside if nothing can be moved there."""
        there = os.path.isdir(self.path)
        try:
            return self._folder_in(self._scratch_parent or self.path.parent, there), False
        except OSError as error:
            if not there:
                raise self._unwritable(error) from error
        try:
            return self._folder_in(self.path, there), True
        except OSError as error:
            raise self._unwritable(error) from error

    def _folder_in(self, parent: Path, there: bool) -> Path:
        """Make the hidden folder, and try whether its content can be moved into place."""
        folder, self._mode = make_scratch_folder(parent, parents=self._scratch_parent is None)
        try:
            if there:
                _try_moving(folder, self.path)
            else:
                try_name(self.path)
        except BaseException:
            remove_scratch(folder)
            raise
        return folder

    def _unwritable(self, error: OSError) -> Mri2QmapError:
        where = error.filename if isinstance(error, NotADirectoryError) else self.path.parent
        return Mri2QmapError(
            f"{self._what} {self.path}: it cannot be written ({why(error)}: {where}); choose a "
            "folder that you may write to"
        )

    def _restore_mode(self) -> None:
        """Set the mode of the folder that is replaced, or the one given by the umask."""
        mode = self._mode
        with contextlib.suppress(FileNotFoundError):
            mode = self.path.stat().st_mode & 0o7777
        self.partial.chmod(mode)

    def _move(self) -> None:
        for path in self.partial.rglob("*"):
            if not path.is_symlink():
                sync(path)
        sync(self.partial)
        self._restore_mode()
        if not os.path.exists(self.path):
            self.partial.rename(self.path)
            return
        if self._replaced is None:
            if not _is_empty(self.path, {self.partial.name}):
                raise Mri2QmapError("another program wrote there during the run")
            if not self._inside:
                with contextlib.suppress(OSError):
                    self.partial.rename(self.path)  # replaces an empty folder
                    return
            self._fill({})
            return
        aside = {self.partial.name, *(_ROOTS_OWN if self.path.is_mount() else ())}
        own = own_files(self.path, self._record, self._what, aside, list(self._inputs.values()))
        if (self.path / self._record).read_bytes() != self._replaced:
            raise Mri2QmapError("another run wrote there during this one")
        if self._inside or not self._swap(own):
            self._fill(own)

    def _swap(self, own: Mapping[str, os.stat_result]) -> bool:
        """Exchange the folders; return False if the old one cannot be moved."""
        old = self.partial.with_name(f"{self.partial.name}.old")
        try:
            self.path.rename(old)
        except OSError:
            return False
        try:
            if not same_entries(old, own):
                raise Mri2QmapError("another program wrote there during the exchange")
            self.partial.rename(self.path)
        except (OSError, Mri2QmapError):
            old.rename(self.path)
            raise
        _remove_own(old, own)
        if old.exists():  # another program has added files since
            kept = self.path.with_name(f"{self.path.name}.old-{secrets.token_hex(4)}")
            old.rename(kept)
            logger.warning("%s: it holds files that this program did not write, and was kept", kept)
        return True

    def _fill(self, own: Mapping[str, os.stat_result]) -> None:
        """Move file by file, the record first out and last in; undo all after an error."""
        old = self.partial / f"{scratch_name()}.old"
        new = [str(p.relative_to(self.partial)) for p in self.partial.rglob("*") if p.is_file()]
        new.sort(key=lambda path: (path == self._record, path))
        moves = [(self.path / path, old / path) for path in reversed(list(own))]
        moves += [(self.partial / path, self.path / path) for path in new]
        done: list[tuple[Path, Path]] = []
        try:
            for source, target in moves:
                target.parent.mkdir(parents=True, exist_ok=True)
                if os.path.lexists(target):
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
                source.rename(target)
                done.append((source, target))
        except OSError:
            for source, target in reversed(done):
                source.parent.mkdir(parents=True, exist_ok=True)
                target.rename(source)
            shutil.rmtree(old, ignore_errors=True)
            _remove_empty_folders(self.path, new)
            raise
        _remove_empty_folders(self.path, own)
        shutil.rmtree(self.partial, ignore_errors=True)
        with contextlib.suppress(OSError):
            sync(self.path)


def _is_empty(folder: Path, aside: set[str] | None = None) -> bool:
    names = set(os.listdir(folder)) - (aside or set())
    return not (names - _ROOTS_OWN if folder.is_mount() else names)


def _try_moving(source: Path, target: Path) -> None:
    """Raise an OSError if files cannot be moved from one folder to another."""
    probe, moved = source / "probe", target / scratch_name()
    probe.touch()
    note_scratch(moved)
    try:
        probe.rename(moved)
    finally:
        probe.unlink(missing_ok=True)
        remove_scratch(moved)


def _remove_own(folder: Path, own: Mapping[str, os.stat_result]) -> None:
    for path in own:
        with contextlib.suppress(OSError):
            (folder / path).unlink()
    _remove_empty_folders(folder, own)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _remove_empty_folders(folder: Path, files: Mapping[str, object] | list[str]) -> None:
    """Remove those folders of some files that are empty."""
    folders = {parent for path in files for parent in Path(path).parents[:-1]}
    for path in sorted(folders, key=lambda path: len(path.parts), reverse=True):
        with contextlib.suppress(OSError):
            (folder / path).rmdir()

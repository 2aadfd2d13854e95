"""A folder, or a file, that appears complete or not at all, and costs nobody a file."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from mri2qmap.errors import Mri2QmapError
from mri2qmap.storage.atomic import (
    forget_scratch,
    note_scratch,
    remove_scratch,
    scratch_name,
    sync,
    uninterrupted,
    why,
)
from mri2qmap.storage.inputs import refuse_inputs
from mri2qmap.storage.written import own_files, same_entries

logger = logging.getLogger(__name__)

_ROOTS_OWN = frozenset({"lost+found"})
"""What a new file system has, and an empty folder may."""
_PROBE = b"can this folder be written?\n"


class FolderPlace:
    """Where a folder is to appear.

    What can fail is tried at once: that nothing of anybody's is in the way, that it can be written
    and moved into place, and that there is room. `partial` is a hidden folder to write to, beside
    the place or, where that is a mount point, in it.

    Parameters
    ----------
    path
        The folder to make. Missing parents are made too. An empty folder is as good as none.
    record
        File name of its record, see `mri2qmap.storage.written`, which is written last.
    overwrite
        Replace a folder that holds what its record lists and nothing else.
    what
        Says in messages what the folder is.
    inputs
        What each input is, and where: the folder must not contain any.
    room
        Bytes that will be written, about.
    largest
        Bytes of the largest file, about.

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
    ) -> None:
        self._what, self._record = what, record
        self.path = resolved(path, what)
        self._inputs = dict(inputs or {})
        refuse_inputs(what, self.path, self._inputs)
        self._replaced = self._check_existing(overwrite)
        self.partial, self._inside = self._make_partial()
        try:
            check_room(f"{what} {path}", self.partial, room, largest)
        except BaseException:
            self.remove()
            raise

    def put_in_place(self) -> None:
        """Give the folder its name; a folder that it replaces goes only once that has worked.

        Raises
        ------
        Mri2QmapError
            When that is impossible, or what it would replace is no longer what it was. The
            finished folder is kept then, and the message says where.
        """
        with uninterrupted():
            try:
                _sync_all(self.partial)
                self._restore_mode()
                self._place()
            except (OSError, Mri2QmapError) as error:
                text = why(error) if isinstance(error, OSError) else str(error)
                kept = self._keep()
                raise Mri2QmapError(
                    f"{self._what} {self.path}: the finished folder cannot be put in place "
                    f"({text}); it was kept as {kept}"
                ) from error
            forget_scratch(self.partial)
            self.remove()

    def remove(self) -> None:
        """Remove what is not finished."""
        remove_scratch(self.partial)

    def _check_existing(self, overwrite: bool) -> bytes | None:
        """Refuse what is in the way; return the record of what is to be replaced."""
        if not os.path.lexists(self.path):
            return None
        if not os.path.isdir(self.path):
            raise Mri2QmapError(
                f"{self._what} {self.path}: there is something that is not a folder"
            )
        try:
            empty = _is_empty(self.path)
        except OSError as error:
            raise Mri2QmapError(
                f"{self._what} {self.path}: it cannot be looked into ({why(error)})"
            ) from error
        if empty:
            return None
        if not overwrite:
            raise Mri2QmapError(
                f"{self._what} {self.path}: it exists already; choose another name or add "
                "--overwrite"
            )
        aside = _ROOTS_OWN if self.path.is_mount() else ()
        inputs = self._inputs.values()
        own_files(self.path, self._record, self._what, aside, list(inputs))
        return (self.path / self._record).read_bytes()

    def _make_partial(self) -> tuple[Path, bool]:
        """Make the hidden folder: beside the place, or in it where nothing can be moved there."""
        there = os.path.isdir(self.path)
        try:
            return self._folder_in(self.path.parent, there), False
        except OSError as error:
            if not there:
                raise self._unwritable(error) from error
        try:
            return self._folder_in(self.path, there), True
        except OSError as error:
            raise self._unwritable(error) from error

    def _folder_in(self, parent: Path, there: bool) -> Path:
        """Make the hidden folder, and try whether what is in it can come to its place."""
        folder, self._mode = make_scratch_folder(parent)
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
        """Give the folder the mode that the umask asks for, or that of the one it replaces."""
        mode = self._mode
        with contextlib.suppress(FileNotFoundError):
            mode = self.path.stat().st_mode & 0o7777
        self.partial.chmod(mode)

    def _place(self) -> None:
        if not os.path.exists(self.path):
            self.partial.rename(self.path)
            return
        if self._replaced is None:
            if not _is_empty(self.path, {self.partial.name}):
                raise Mri2QmapError("another program wrote there meanwhile")
            if not self._inside:
                with contextlib.suppress(OSError):
                    self.partial.rename(self.path)  # takes the place of an empty folder
                    return
            self._fill({})
            return
        aside = {self.partial.name, *(_ROOTS_OWN if self.path.is_mount() else ())}
        own = own_files(self.path, self._record, self._what, aside, list(self._inputs.values()))
        if (self.path / self._record).read_bytes() != self._replaced:
            raise Mri2QmapError("another run wrote there meanwhile")
        if self._inside or not self._swap(own):
            self._fill(own)

    def _swap(self, own: Mapping[str, os.stat_result]) -> bool:
        """Exchange the folders; return whether the old one could be moved at all."""
        old = self.partial.with_name(f"{self.partial.name}.old")
        try:
            self.path.rename(old)
        except OSError:
            return False
        try:
            if not same_entries(old, own):
                raise Mri2QmapError("somebody wrote there just now")
            self.partial.rename(self.path)
        except (OSError, Mri2QmapError):
            old.rename(self.path)
            raise
        _remove_own(old, own)
        if old.exists():  # somebody had it open, and has put something there since
            kept = self.path.with_name(f"{self.path.name}.old-{secrets.token_hex(4)}")
            old.rename(kept)
            logger.warning("%s: it holds what is not this program's, and was kept", kept)
        return True

    def _fill(self, own: Mapping[str, os.stat_result]) -> None:
        """Move file by file, the records first out and last in; after an error all goes back."""
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

    def _keep(self) -> Path:
        """Give the finished folder a name that shows, if that is possible."""
        name = f"new-{secrets.token_hex(4)}"
        kept = self.path / name if self._inside else self.path.parent / f"{self.path.name}.{name}"
        try:
            self.partial.rename(kept)
        except OSError:
            kept = self.partial
        forget_scratch(self.partial)
        return kept


def make_scratch_folder(parent: Path) -> tuple[Path, int]:
    """Make a hidden folder that nobody else may look into, and try to write to it.

    Returns
    -------
    folder
        The folder; it is removed at the end of the program at the latest.
    mode
        Permissions that it would have as a usual folder.

    Raises
    ------
    OSError
        When that is impossible; nothing is left then.
    """
    folder = parent / scratch_name()
    note_scratch(folder, [p for p in (parent, *parent.parents) if not os.path.exists(p)])
    try:
        there = next(p for p in (parent, *parent.parents) if os.path.lexists(p))
        if not os.path.isdir(there):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
        parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
        mode = folder.stat().st_mode & 0o7777
        folder.chmod(0o700)
        probe = folder / "probe"
        probe.write_bytes(_PROBE)
        probe.unlink()
    except BaseException:
        remove_scratch(folder)
        raise
    return folder, mode


def resolved(path: str | Path, what: str) -> Path:
    """Return a path, links resolved.

    Raises
    ------
    Mri2QmapError
        If its links lead in a circle, or it is no path.
    """
    try:
        return Path(path).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise Mri2QmapError(f"{what} {path}: it cannot be followed ({error})") from error


def check_room(what: str, folder: Path, room: int, largest: int = 0) -> None:
    """Refuse a folder that has no room for so many bytes.

    Raises
    ------
    Mri2QmapError
        If it has not, or files may not be as large as the largest will be.
    """
    state = os.statvfs(folder)
    blocks = state.f_bfree if os.geteuid() == 0 else state.f_bavail
    free = blocks * state.f_frsize
    if state.f_blocks and free < room:
        raise Mri2QmapError(
            f"{what}: there is no room: about {_megabytes(room)} will be written and "
            f"{_megabytes(free)} are free; make room, or write elsewhere"
        )
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit != resource.RLIM_INFINITY and limit < largest:
        raise Mri2QmapError(
            f"{what}: a file of about {_megabytes(largest)} will be written, and files may have "
            f"{_megabytes(limit)} at most here; raise the limit (ulimit -f)"
        )


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.3g} MB"


def _is_empty(folder: Path, aside: set[str] | None = None) -> bool:
    names = set(os.listdir(folder)) - (aside or set())
    return not (names - _ROOTS_OWN if folder.is_mount() else names)


def try_name(path: Path) -> None:
    """Try whether the file system takes a name, without using it: its length and its letters."""
    like = path.with_name(("-" if path.name.startswith("_") else "_") + path.name[1:])
    with uninterrupted(), contextlib.suppress(FileExistsError):
        like.mkdir()
        like.rmdir()


def _try_moving(source: Path, target: Path) -> None:
    """Try whether files can be moved from one folder to another."""
    probe, moved = source / "probe", target / scratch_name()
    probe.touch()
    note_scratch(moved)
    try:
        probe.rename(moved)
    finally:
        probe.unlink(missing_ok=True)
        remove_scratch(moved)


def _sync_all(folder: Path) -> None:
    for path in folder.rglob("*"):
        if not path.is_symlink():
            sync(path)
    sync(folder)


def _remove_own(folder: Path, own: Mapping[str, os.stat_result]) -> None:
    for path in own:
        with contextlib.suppress(OSError):
            (folder / path).unlink()
    _remove_empty_folders(folder, own)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _remove_empty_folders(folder: Path, files: Mapping[str, object] | list[str]) -> None:
    """Remove the folders of some files, as far as they are empty."""
    folders = {parent for path in files for parent in Path(path).parents[:-1]}
    for path in sorted(folders, key=lambda path: len(path.parts), reverse=True):
        with contextlib.suppress(OSError):
            (folder / path).rmdir()

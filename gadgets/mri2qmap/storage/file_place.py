"""A single file that appears complete or not at all, and costs nobody a file."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from mri2qmap.errors import Mri2QmapError
from mri2qmap.storage.atomic import (
    cannot_write,
    forget_scratch,
    remove_scratch,
    sync,
    uninterrupted,
    why,
)
from mri2qmap.storage.folder_place import check_room, make_scratch_folder, resolved, try_name
from mri2qmap.storage.inputs import refuse_inputs
from mri2qmap.storage.written import has_mark


class FilePlace:
    """Where a file is to appear that carries the mark of `mri2qmap.storage.written.add_mark`.

    Parameters
    ----------
    path
        The file to make. Missing parents are made too.
    overwrite
        Replace a file that is as its mark says.
    inputs
        What each input is, and where: the file must not be any of them.
    room
        Bytes that will be written, about.

    Attributes
    ----------
    path
        The file, links resolved.
    partial
        The file to write, in a hidden folder beside it.

    Raises
    ------
    Mri2QmapError
        At once when the file exists, is an input, or cannot be made.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        overwrite: bool = False,
        inputs: Mapping[str, Path] | None = None,
        room: int = 0,
    ) -> None:
        self.path = resolved(path, "output")
        refuse_inputs("output", self.path, inputs or {})
        self._overwrite = overwrite
        self.check()
        try:
            self._folder, _ = make_scratch_folder(self.path.parent)
        except OSError as error:
            raise cannot_write(f"output {path}", error) from error
        self.partial = self._folder / "file"
        try:
            try_name(self.path)
            check_room(f"output {path}", self._folder, room, room)
        except OSError as error:
            self.remove()
            raise cannot_write(f"output {path}", error) from error
        except BaseException:
            self.remove()
            raise

    def check(self) -> None:
        """Refuse what is in the way.

        Raises
        ------
        Mri2QmapError
            If it may not be replaced.
        """
        name = f"output {self.path}"
        try:
            mode = self.path.lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise cannot_write(name, error) from error
        if stat.S_ISDIR(mode):
            raise Mri2QmapError(f"{name}: it is a folder; the name of a file to write is expected")
        if not stat.S_ISREG(mode):
            raise Mri2QmapError(f"{name}: it is not a regular file; choose another name")
        if not self._overwrite:
            raise Mri2QmapError(
                f"{name}: it exists already; choose another name or add --overwrite"
            )
        if not has_mark(self.path):
            raise Mri2QmapError(
                f"{name}: it was not written by this program, or was changed since, and is not "
                "overwritten; choose another name, or remove it yourself"
            )

    def put_in_place(self) -> None:
        """Give the file its name.

        Raises
        ------
        Mri2QmapError
            When that is impossible, or what it would replace is no longer what it was. The
            finished file is kept then, and the message says where.
        """
        with uninterrupted():
            try:
                sync(self.partial)
                self.check()
                os.replace(self.partial, self.path)
            except (OSError, Mri2QmapError) as error:
                text = why(error) if isinstance(error, OSError) else str(error)
                raise Mri2QmapError(
                    f"output {self.path}: the finished file cannot be put in place ({text}); it "
                    f"was kept as {self._keep()}"
                ) from error
            forget_scratch(self._folder)
            self.remove()

    def remove(self) -> None:
        """Remove what is not finished."""
        remove_scratch(self._folder)

    def _keep(self) -> Path:
        kept = self.path.with_name(f"{self.path.name}.new-{secrets.token_hex(4)}")
        try:
            self.partial.rename(kept)
        except OSError:
            kept = self.partial
            forget_scratch(self._folder)
        return kept

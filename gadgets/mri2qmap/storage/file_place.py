"""A single file that appears complete or not at all and never replaces a foreign file."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from mri2qmap.errors import Mri2QmapError
from mri2qmap.storage.atomic import cannot_write, sync
from mri2qmap.storage.place import Place, check_room, make_scratch_folder, try_name
from mri2qmap.storage.written import has_mark


class FilePlace(Place):
    """Final location of a file that carries the mark of `mri2qmap.storage.written.add_mark`.

    Parameters
    ----------
    path
        The file to make. Missing parents are made too.
    overwrite
        Replace a file whose content agrees with its mark.
    inputs
        Names and paths of the inputs: the file must not be any of them.
    room
        Estimated size, in bytes.

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

    _kind = "file"

    def __init__(
        self,
        path: str | Path,
        *,
        overwrite: bool = False,
        inputs: Mapping[str, Path] | None = None,
        room: int = 0,
    ) -> None:
        super().__init__(path, "output", inputs)
        self._overwrite = overwrite
        self.check()
        try:
            self._scratch, _ = make_scratch_folder(self.path.parent)
        except OSError as error:
            raise cannot_write(f"output {path}", error) from error
        self.partial = self._scratch / "file"
        try:
            try_name(self.path)
            check_room(f"output {path}", self._scratch, room, room)
        except OSError as error:
            self.remove()
            raise cannot_write(f"output {path}", error) from error
        except BaseException:
            self.remove()
            raise

    def check(self) -> None:
        """Refuse a file that exists, unless it may be replaced.

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
                f"{name}: it exists already; choose another name, or overwrite it (--overwrite, or "
                "overwrite=True)"
            )
        if not has_mark(self.path):
            raise Mri2QmapError(
                f"{name}: it was not written by this program, or was changed since, and is not "
                "overwritten; choose another name, or remove it yourself"
            )

    def _move(self) -> None:
        sync(self.partial)
        self.check()
        os.replace(self.partial, self.path)

"""The output folder, written atomically: it is complete or does not exist."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import ismrmrd

from mri2qmap.errors import Mri2QmapError
from mri2qmap.files.mrd_file import MrdImageWriter
from mri2qmap.pipeline.items import DicomObject, Item, NiftiVolume
from mri2qmap.storage.atomic import why
from mri2qmap.storage.folder_place import FolderPlace
from mri2qmap.storage.written import FILES, listed, record_bytes

RUN_RECORD = "run.json"


class OutputFolder:
    """Writes finished objects to a hidden folder that is renamed at the end.

    Used as a context manager. If the context ends without an error and after `finish`, the folder
    gets its final name; otherwise it is deleted.

    Parameters
    ----------
    path
        Path of the new folder. Missing parents are created, too.
    header
        XML header of the scan, written with the MRD images.
    overwrite
        Replace an existing folder, provided that it contains only unchanged files of this program.
    inputs
        Inputs of the run, by description; the folder must not contain any of them.
    room, largest
        Estimated size of all files and of the largest file [bytes].
    scratch
        Where the hidden folder is; None: beside the new folder.

    Attributes
    ----------
    written
        Number of objects written, by type.
    left_over
        Number of other items that left the last gadget, by type.

    Raises
    ------
    Mri2QmapError
        If the folder exists or cannot be created; see `FolderPlace`.
    """

    def __init__(
        self,
        path: str | Path,
        header: bytes,
        overwrite: bool = False,
        *,
        inputs: Mapping[str, Path] | None = None,
        room: int = 0,
        largest: int = 0,
        scratch: Path | None = None,
    ) -> None:
        self.written: Counter[str] = Counter()
        self.left_over: Counter[str] = Counter()
        self._finished = False
        self._header = header
        self._images: MrdImageWriter | None = None
        self._place = FolderPlace(
            path,
            RUN_RECORD,
            overwrite=overwrite,
            inputs=inputs,
            room=room,
            largest=largest,
            scratch=scratch,
        )
        self.path = self._place.path
        self._partial = self._place.partial

    def __enter__(self) -> OutputFolder:
        """Return the folder."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Rename the finished folder, or delete it."""
        kept = False
        try:
            if kind is None and self._finished:
                kept = True
                self._place.put_in_place()
        finally:
            if not kept:
                try:
                    self._close_images()
                except OSError:  # the file is deleted next
                    pass
                finally:
                    self._place.remove()

    @property
    def is_there(self) -> bool:
        """Whether nobody has removed the unfinished folder."""
        return self._partial.is_dir()

    def write(self, item: Item) -> None:
        """Write an item that left the last gadget; only count it if it is not a finished object.

        Raises
        ------
        Mri2QmapError
            If it cannot be written, for example because the disk is full.
        """
        try:
            if isinstance(item, DicomObject):
                item.dataset.save_as(self._new_file("dicom", item.path), enforce_file_format=True)
                self.written["dicom"] += 1
            elif isinstance(item, NiftiVolume):
                import nibabel

                nibabel.save(item.image, self._new_file("nifti", item.name))
                if item.sidecar:
                    content = f"{json.dumps(item.sidecar, indent=2)}\n"
                    sidecar = self._new_file("nifti", item.sidecar_name)
                    sidecar.write_text(content, encoding="utf-8")
                self.written["nifti"] += 1
            elif isinstance(item, ismrmrd.Image):
                if self._images is None:
                    self._images = MrdImageWriter(self._partial / "mrd.h5", self._header)
                self._images.write(item)
                self.written["mrd"] += 1
            else:
                self.left_over[type(item).__name__] += 1
        except OSError as error:
            raise self._failed(error) from error

    def add_files(self, files: Mapping[str, bytes]) -> None:
        """Write files that are about the maps; they do not count as written maps.

        Parameters
        ----------
        files
            Content of each file, by its name in the folder.

        Raises
        ------
        Mri2QmapError
            If one cannot be written; none of them stays then.
        """
        paths = {self._partial / name: content for name, content in files.items()}
        try:
            for path, content in paths.items():
                path.write_bytes(content)
        except OSError as error:
            for path in paths:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
            raise self._failed(error) from error

    def finish(self, record: Mapping[str, Any]) -> None:
        """Write the record of the run, with the number of files and the digest of each.

        Without this call, the folder is deleted at the end of the context.

        Parameters
        ----------
        record
            Record of the run.

        Raises
        ------
        Mri2QmapError
            If no maps were written, or the record cannot be written.
        """
        if not self.written:
            arrived = ", ".join(f"{n} {kind}" for kind, n in self.left_over.items()) or "nothing"
            raise Mri2QmapError(
                f"no maps were written: the last gadget produced {arrived}; the pipeline must end "
                "with parametric_maps, and an output must be enabled there"
            )
        try:
            self._close_images()
            content = record_bytes(
                {
                    **record,
                    "written": dict(self.written),
                    "not_written": dict(self.left_over),
                    FILES: listed(self._partial),
                }
            )
            (self._partial / RUN_RECORD).write_bytes(content)
        except OSError as error:
            raise self._failed(error) from error
        self._finished = True

    def _close_images(self) -> None:
        images, self._images = self._images, None
        if images is not None:
            images.close()

    def _failed(self, error: OSError) -> Mri2QmapError:
        return Mri2QmapError(f"output {self.path}: writing failed ({why(error)})")

    def _new_file(self, folder: str, name: str) -> Path:
        """Return the path of a new file in `folder`; create its parent folders.

        The hidden folder itself is not created again: if it is gone, the run must not go on.
        """
        base = self._partial / folder
        path = Path(os.path.normpath(base / name))
        if base not in path.parents:
            raise Mri2QmapError(f"{name!r} is a path outside the output folder")
        for parent in reversed(path.parents):
            if self._partial in parent.parents:
                parent.mkdir(exist_ok=True)
        if path.exists():
            raise Mri2QmapError(f"two outputs have the same name, {folder}/{name}")
        return path

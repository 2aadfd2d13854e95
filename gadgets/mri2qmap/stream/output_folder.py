"""The output folder: it appears complete, or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any

import ismrmrd
import nibabel

from mri2qmap.errors import Mri2QmapError
from mri2qmap.stream.items import DicomObject, Item, NiftiVolume
from mri2qmap.stream.mrd_file import MrdImageWriter

RUN_RECORD = "run.json"


class OutputFolder:
    """Writes finished objects to a hidden folder that takes its final name at the very end.

    Used as a context manager: leaving it without an error, after `finish`, puts the folder in
    place; leaving it otherwise removes whatever was written.

    Parameters
    ----------
    path
        The folder to make. Missing parents are made too.
    overwrite
        Replace an existing folder, if it was written by this program or is empty.
    header
        XML header of the scan, kept with the MRD images.

    Raises
    ------
    Mri2QmapError
        At once when the folder exists, or when it cannot be made.
    """

    def __init__(self, path: str | Path, header: bytes, overwrite: bool = False) -> None:
        self.path = Path(path).resolve()
        self.written: Counter[str] = Counter()
        self.left_over: Counter[str] = Counter()
        self._finished = False
        self._header = header
        self._images: MrdImageWriter | None = None
        self._check_existing(overwrite)
        self._made_parents = [p for p in self.path.parents if not p.exists()]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._partial = Path(
                tempfile.mkdtemp(prefix=f".{self.path.name}.partial-", dir=self.path.parent)
            )
        except OSError as error:
            self._remove_parents()
            raise Mri2QmapError(
                f"output {path}: it cannot be written ({error.strerror}: {self.path.parent}); "
                "choose a folder that you may write to"
            ) from error

    def __enter__(self) -> OutputFolder:
        """Return the folder, ready to be written to."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Put the folder in place, or remove what was written."""
        try:
            if self._images is not None:
                self._images.close()
            if kind is None and self._finished:
                self._put_in_place()
        finally:
            if self._partial.exists():
                shutil.rmtree(self._partial, ignore_errors=True)
                self._remove_parents()

    def write(self, item: Item) -> None:
        """Write one item that left the last gadget; what is no finished object is counted.

        Raises
        ------
        Mri2QmapError
            When it cannot be written, for example because the disk is full.
        """
        try:
            if isinstance(item, DicomObject):
                item.dataset.save_as(self._new_file("dicom", item.path), enforce_file_format=True)
                self.written["dicom"] += 1
            elif isinstance(item, NiftiVolume):
                nibabel.save(item.image, self._new_file("nifti", item.name))
                self.written["nifti"] += 1
            elif isinstance(item, ismrmrd.Image):
                if self._images is None:
                    self._images = MrdImageWriter(self._partial / "mrd.h5", self._header)
                self._images.write(item)
                self.written["mrd"] += 1
            else:
                self.left_over[type(item).__name__] += 1
        except OSError as error:
            raise Mri2QmapError(
                f"output {self.path}: writing failed ({error.strerror or error})"
            ) from error

    def finish(self, record: dict[str, Any]) -> None:
        """Write the record of the run; without this the folder is not put in place.

        Raises
        ------
        Mri2QmapError
            When no maps were written.
        """
        if not self.written:
            arrived = ", ".join(f"{n} {kind}" for kind, n in self.left_over.items()) or "nothing"
            raise Mri2QmapError(
                f"no maps were written: {arrived} came out of the last gadget; the pipeline "
                "must end with parametric_maps, and something must be switched on there"
            )
        record = {
            **record,
            "written": dict(self.written),
            "not_written": dict(self.left_over),
        }
        text = json.dumps(record, indent=2, allow_nan=False, ensure_ascii=False)
        try:
            (self._partial / RUN_RECORD).write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise Mri2QmapError(
                f"output {self.path}: writing failed ({error.strerror or error})"
            ) from error
        self._finished = True

    def _new_file(self, folder: str, name: str) -> Path:
        """Return the path of a new file below `folder`, whose own folders exist."""
        base = self._partial / folder
        path = Path(os.path.normpath(base / name))
        if base not in path.parents:
            raise Mri2QmapError(f"{name!r} leads out of the output folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            raise Mri2QmapError(f"two outputs have the same name, {folder}/{name}")
        return path

    def _check_existing(self, overwrite: bool) -> None:
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise Mri2QmapError(f"output {self.path}: there is something that is not a folder")
        if not overwrite:
            raise Mri2QmapError(
                f"output {self.path}: it exists already; choose another name or add --overwrite"
            )
        if any(self.path.iterdir()) and not (self.path / RUN_RECORD).is_file():
            raise Mri2QmapError(
                f"output {self.path}: it holds no {RUN_RECORD}, so it was not written by this "
                "program and is not overwritten; choose another name"
            )

    def _put_in_place(self) -> None:
        """Give the folder its name; a folder it replaces goes only once that has worked."""
        umask = os.umask(0)
        os.umask(umask)
        self._partial.chmod(0o777 & ~umask)
        try:
            if self.path.exists():
                old = self._partial.with_name(f"{self._partial.name}.old")
                self.path.rename(old)
                try:
                    self._partial.rename(self.path)
                except OSError:
                    old.rename(self.path)
                    raise
                shutil.rmtree(old, ignore_errors=True)
            else:
                self._partial.rename(self.path)
        except OSError as error:
            raise Mri2QmapError(
                f"output {self.path}: the finished folder cannot be put in place ({error.strerror})"
            ) from error

    def _remove_parents(self) -> None:
        for parent in self._made_parents:
            try:
                parent.rmdir()
            except OSError:  # not made yet, or someone else uses it by now
                continue

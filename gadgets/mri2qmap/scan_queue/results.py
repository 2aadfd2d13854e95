"""Messages with the maps of a scan that has been reconstructed into a folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import h5py
import ismrmrd

from mri2qmap.errors import Mri2QmapError
from mri2qmap.files.output_folder import RUN_RECORD
from mri2qmap.hosts.protocol import DicomFile
from mri2qmap.storage.written import read_record

IMAGES = "mrd.h5"
DICOM = "dicom"


def images(folder: Path) -> Iterator[ismrmrd.Image]:
    """Yield the MRD images of an output folder, in the order of their series.

    Raises
    ------
    Mri2QmapError
        If they cannot be read.
    """
    path = folder / IMAGES
    if not path.exists():
        return
    try:
        with h5py.File(path, "r") as file:
            groups = [name for name in file["dataset"] if name.startswith("image_")]
        with ismrmrd.Dataset(str(path), mode="r") as dataset:
            for group in sorted(groups, key=lambda name: int(name.removeprefix("image_"))):
                for number in range(dataset.number_of_images(group)):
                    yield dataset.read_image(group, number)
    except (OSError, KeyError, ValueError) as error:
        raise _unreadable(path, error) from error


def dicom_files(folder: Path) -> Iterator[DicomFile]:
    """Yield the DICOM files of an output folder.

    Raises
    ------
    Mri2QmapError
        If one cannot be read.
    """
    base = folder / DICOM
    for path in sorted(base.rglob("*.dcm")):
        try:
            content = path.read_bytes()
        except OSError as error:
            raise _unreadable(path, error) from error
        yield DicomFile(content, path.relative_to(base).as_posix())


def record_text(folder: Path) -> str:
    """Return the record of the run as JSON, in the form in which a server sends it.

    Raises
    ------
    Mri2QmapError
        If it cannot be read, or was changed since it was written.
    """
    record = read_record(folder, RUN_RECORD)
    if record is None:
        raise Mri2QmapError(
            f"{folder / RUN_RECORD}: it is missing, or was changed since it was written"
        )
    return json.dumps(record, allow_nan=False)


def _unreadable(path: Path, error: Exception) -> Mri2QmapError:
    return Mri2QmapError(f"{path}: it cannot be read ({error})")

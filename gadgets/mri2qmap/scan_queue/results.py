"""Messages with the maps of a scan that has been reconstructed into a folder."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import h5py

from mri2qmap.errors import Mri2QmapError
from mri2qmap.files.output_folder import RUN_RECORD
from mri2qmap.hosts.protocol import U32, U64, MessageId, Part, StoredMessage
from mri2qmap.storage.written import read_record

IMAGES = "mrd.h5"
DICOM = "dicom"
_DATASET = "dataset"
_AT_ONCE = 2**20
"""Bytes of a file that are in memory at a time."""


def images(folder: Path) -> Iterator[StoredMessage]:
    """Yield the MRD images of an output folder, in the order of their series.

    Pixels are read while they are sent, so that many clients that read slowly need little memory.

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
            groups = [name for name in file[_DATASET] if name.startswith("image_")]
            places = [
                (group, number)
                for group in sorted(groups, key=lambda name: int(name.removeprefix("image_")))
                for number in range(len(file[_DATASET][group]["header"]))
            ]
    except (OSError, KeyError, ValueError) as error:
        raise _unreadable(path, error) from error
    for place in places:
        yield StoredMessage(MessageId.IMAGE, partial(_image, path, *place))


def dicom_files(folder: Path) -> Iterator[StoredMessage]:
    """Yield the DICOM files of an output folder; see `images`."""
    base = folder / DICOM
    for path in sorted(base.rglob("*.dcm")):
        name = path.relative_to(base).as_posix()
        yield StoredMessage(MessageId.DICOM, partial(_dicom_file, path, name))


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


def _image(path: Path, group: str, number: int) -> Iterator[Part]:
    """Read the content of an image message, see `MessageId`."""
    try:
        with h5py.File(path, "r") as file:
            image = file[_DATASET][group]
            attributes = image["attributes"][number]
            header = image["header"][number]
            header["attribute_string_len"] = len(attributes)
            yield header.tobytes() + U64.pack(len(attributes)) + attributes
            pixels = image["data"]
            _, channels, planes, *plane = pixels.shape
            together = max(1, _AT_ONCE // max(1, pixels.dtype.itemsize * math.prod(plane)))
            for channel in range(channels):
                for first in range(0, planes, together):
                    yield pixels[number, channel, first : first + together].tobytes()
    except (OSError, KeyError, ValueError) as error:
        raise _unreadable(path, error) from error


def _dicom_file(path: Path, name: str) -> Iterator[Part]:
    """Read the content of a DICOM message, see `MessageId`."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            yield U32.pack(size)
            while size:
                part = file.read(min(size, _AT_ONCE))
                if not part:
                    raise OSError(f"it ends {size} bytes early")
                yield part
                size -= len(part)
    except OSError as error:
        raise _unreadable(path, error) from error
    encoded = name.encode()
    yield U64.pack(len(encoded)) + encoded + U64.pack(0)


def _unreadable(path: Path, error: Exception) -> Mri2QmapError:
    reason = getattr(error, "strerror", None) or "damaged, or of another form"
    return Mri2QmapError(f"{path.name} of the scan cannot be read: {reason}")

"""Scans in ISMRMRD stream files, the output of current converters.

The file contains the messages that a client sends: configurations and texts, the header,
acquisitions and waveforms in the order of the scan, and a final CLOSE message.
"""

from __future__ import annotations

import ctypes
import math
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

import ismrmrd
from ismrmrd.image import get_dtype_from_data_type

from mri2qmap.errors import Mri2QmapError
from mri2qmap.files.closing import ClosesFile
from mri2qmap.hosts.protocol import Header, Message, MessageId, ProtocolError, read_message
from mri2qmap.pipeline.items import Item
from mri2qmap.pipeline.xml_document import as_utf8

_CONFIG_FILE_BYTES = 1024
_ARRAY = 1030
"""Identifier of an array message, which occurs in files only."""

_U16, _U32, _U64 = struct.Struct("<H"), struct.Struct("<I"), struct.Struct("<Q")
_BEGINNINGS = (
    MessageId.CONFIG_FILE,
    MessageId.CONFIG_DOCUMENT,
    MessageId.HEADER,
    MessageId.TEXT,
    MessageId.ACQUISITION,
)


def is_mrd_stream(beginning: bytes) -> bool:
    """Return whether a file with these first bytes is an ISMRMRD stream, complete or not."""
    return len(beginning) >= 2 and _U16.unpack_from(beginning)[0] in _BEGINNINGS


class MrdStreamFile(ClosesFile):
    """A scan in an ISMRMRD stream file, open for reading.

    The lengths of all messages are checked on opening, so that a truncated file is refused before
    the reconstruction.

    Parameters
    ----------
    path
        Path of the file.

    Attributes
    ----------
    header
        XML header, in an encoding without zero bytes.
    name
        Path of the file, for messages.
    n_acquisitions, n_waveforms
        Number of acquisitions and waveforms.
    left_out
        Number of ignored messages of other types, by type.

    Raises
    ------
    Mri2QmapError
        If the file is not an ISMRMRD stream, is truncated, or contains no scan or several scans.
    """

    _file: BufferedReader

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.name = str(path)
        self.left_out: Counter[str] = Counter()
        self._data: list[int] = []
        self._waveforms = 0
        try:
            self._file = self.path.open("rb")
        except OSError as error:
            raise Mri2QmapError(f"{path}: it cannot be read ({error.strerror})") from error
        try:
            self._size = self.path.stat().st_size
            self.header = self._survey()
        except BaseException:
            self._file.close()
            raise
        self.n_acquisitions = len(self._data) - self._waveforms
        self.n_waveforms = self._waveforms

    def items(self) -> Iterator[Item]:
        """Yield acquisitions and waveforms in the order of the file.

        Raises
        ------
        Mri2QmapError
            If a message cannot be read.
        """
        for place in self._data:
            message = self._message(place)
            if isinstance(message, ismrmrd.Acquisition | ismrmrd.Waveform):
                yield message

    def read(self, n_bytes: int) -> bytearray:
        """Return the next `n_bytes` bytes of the file, see `mri2qmap.hosts.protocol.Source`.

        Raises
        ------
        Mri2QmapError
            If the file ends before.
        """
        self._need(n_bytes)
        content = bytearray(n_bytes)
        try:
            taken = self._file.readinto(content)
        except OSError as error:
            raise Mri2QmapError(f"{self.path}: it cannot be read ({error.strerror})") from error
        if taken != n_bytes:
            raise Mri2QmapError(f"{self.path}: the file was truncated while it was read")
        return content

    def _survey(self) -> bytes:
        """Scan the lengths of all messages; return the header."""
        headers: list[int] = []
        identifier, place = 0, 0
        while identifier != MessageId.CLOSE:
            self._file.seek(place)
            (identifier,) = _U16.unpack(self.read(2))
            length = _LENGTHS.get(identifier)
            if length is None:
                raise Mri2QmapError(
                    f"{self.path}: unknown message identifier {identifier} at byte {place}: the "
                    "file is damaged or not an ISMRMRD stream"
                )
            rest = length(self.read)
            self._need(rest)
            if identifier == MessageId.HEADER:
                headers.append(place)
            elif identifier in (MessageId.ACQUISITION, MessageId.WAVEFORM):
                self._data.append(place)
                self._waveforms += identifier == MessageId.WAVEFORM
            elif identifier != MessageId.CLOSE:
                self.left_out["ARRAY" if identifier == _ARRAY else MessageId(identifier).name] += 1
            place = self._file.tell() + rest
        if place != self._size:
            raise Mri2QmapError(
                f"{self.path}: {self._size - place} bytes follow the CLOSE message; one scan per "
                "file is expected: split the file"
            )
        if len(headers) != 1:
            raise Mri2QmapError(
                f"{self.path}: the stream has {len(headers) or 'no'} ISMRMRD "
                f"header{'s' * (len(headers) > 1)}; one scan with its header is expected"
            )
        header = self._message(headers[0])
        try:
            return as_utf8(header.document) if isinstance(header, Header) else b""
        except ValueError as error:
            raise Mri2QmapError(f"{self.path}: the XML header cannot be read ({error})") from error

    def _need(self, n_bytes: int) -> None:
        """Refuse a file with less than `n_bytes` remaining bytes."""
        if self._file.tell() + n_bytes > self._size:
            raise Mri2QmapError(
                f"{self.path}: the stream is truncated: it ends after {len(self._data)} "
                "acquisitions and waveforms without a CLOSE message; copy or convert it again"
            )

    def _message(self, place: int) -> Message:
        self._file.seek(place)
        try:
            return read_message(self)
        except ProtocolError as error:
            raise Mri2QmapError(f"{self.path}: at byte {place}: {error}") from error


Take = Callable[[int], bytearray]
"""Returns the next bytes of a message."""


def _text(take: Take) -> int:
    return int(_U32.unpack(take(4))[0])


def _head(take: Take, kind: Any) -> Any:
    return kind.from_buffer_copy(take(ctypes.sizeof(kind)))


def _acquisition(take: Take) -> int:
    head = _head(take, ismrmrd.AcquisitionHeader)
    samples = int(head.number_of_samples)
    return samples * (8 * int(head.active_channels) + 4 * int(head.trajectory_dimensions))


def _waveform(take: Take) -> int:
    head = _head(take, ismrmrd.WaveformHeader)
    return 4 * int(head.channels) * int(head.number_of_samples)


def _image(take: Take) -> int:
    head = _head(take, ismrmrd.ImageHeader)
    meta = int(_U64.unpack(take(8))[0])
    voxels = math.prod(int(n) for n in head.matrix_size) * int(head.channels)
    return meta + voxels * _item_size(head.data_type)


def _array(take: Take) -> int:
    data_type, _, dimensions = struct.unpack("<HHH", take(6))
    sizes: tuple[int, ...] = struct.unpack(f"<{dimensions}Q", take(8 * dimensions))
    return math.prod(sizes) * _item_size(data_type)


def _item_size(data_type: int) -> int:
    try:
        return int(get_dtype_from_data_type(data_type).itemsize)
    except (KeyError, ValueError, TypeError) as error:
        raise Mri2QmapError(
            f"the ISMRMRD stream contains an image or array of the unknown data type {data_type}"
        ) from error


_LENGTHS: dict[int, Callable[[Take], int]] = {
    MessageId.CONFIG_FILE: lambda take: _CONFIG_FILE_BYTES,
    MessageId.CONFIG_DOCUMENT: _text,
    MessageId.HEADER: _text,
    MessageId.CLOSE: lambda take: 0,
    MessageId.TEXT: _text,
    MessageId.ACQUISITION: _acquisition,
    MessageId.IMAGE: _image,
    MessageId.WAVEFORM: _waveform,
    _ARRAY: _array,
}
"""Functions that read the length of a message, by identifier.

They consume the bytes that determine it and return the number of bytes that follow."""

"""Message protocol of Gadgetron, its clients and its external nodes.

A message consists of its identifier, a little-endian u16, and the content described in `MessageId`.
Announced lengths are not trusted: messages longer than `Limits` are refused, and memory is
allocated only as bytes arrive.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol, TypeAlias

import ismrmrd
import numpy as np
from ismrmrd.image import get_dtype_from_data_type

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts.message_limits import DEFAULT_LIMITS, Limits
from mri2qmap.pipeline.header_document import parse_meta
from mri2qmap.pipeline.reading_turns import reading_turn
from mri2qmap.pipeline.xml_document import without_terminator

Part: TypeAlias = bytes | bytearray | memoryview

U16, U32, U64 = struct.Struct("<H"), struct.Struct("<I"), struct.Struct("<Q")
FILE_NAME_BYTES = 1024


class MessageId(IntEnum):
    """Message identifiers and the content that follows them."""

    CONFIG_FILE = 1
    """char[1024]: name of a configuration."""
    CONFIG_DOCUMENT = 2
    """u32 length, XML."""
    HEADER = 3
    """u32 length, the ISMRMRD header."""
    CLOSE = 4
    """No content: end of the stream."""
    TEXT = 5
    """u32 length, human-readable text; clients receive errors in this form, too."""
    QUERY = 6
    """u64 reserved, u64 number, u64 length, text."""
    RESPONSE = 7
    """u64 number, u64 length, text."""
    FAILURE = 8
    """u64 length, text: error of an external node, sent to the server."""
    ACQUISITION = 1008
    """Header of 340 bytes, f32 trajectory, c64 data."""
    DICOM = 1018
    """u32 length, DICOM; u64 length, file name; u64 length, meta XML."""
    IMAGE = 1022
    """Header of 198 bytes, u64 length, meta XML, pixels."""
    WAVEFORM = 1026
    """Header of 40 bytes, u32 data."""
    RELAYED_TEXT = 2005
    """u32 length, text: relayed to the client by a TextReader of the server on this slot."""
    RECORD = 2006
    """u32 length, JSON: record of a run, sent by `mri2qmap serve` on request."""


class ProtocolError(Mri2QmapError):
    """A message cannot be read; the rest of the stream is unreadable, too."""


class ConnectionEndedError(ConnectionError):
    """The peer closed the connection between two messages."""


@dataclass(frozen=True)
class ConfigFile:
    """Name of a configuration."""

    name: str


@dataclass(frozen=True)
class ConfigDocument:
    """A configuration, XML."""

    document: bytes


@dataclass
class Header:
    """An ISMRMRD header, XML; `terminated` if a NUL follows it, as sent by some clients."""

    document: bytes
    terminated: bool = False

    def take(self) -> bytes:
        """Return the document, and keep it no longer: it may be large."""
        document, self.document = self.document, b""
        return document


@dataclass(frozen=True)
class Close:
    """End of the stream."""


@dataclass(frozen=True)
class _TextMessage:
    """A message that contains only text."""

    text: str


class Text(_TextMessage):
    """Human-readable text."""


class RelayedText(_TextMessage):
    """Human-readable text from an external node, which the server relays as `Text`."""


@dataclass(frozen=True)
class Query:
    """A query to the server."""

    number: int
    text: str


@dataclass(frozen=True)
class Response:
    """The response to the query with the same number."""

    number: int
    text: str


class Failure(_TextMessage):
    """Error of an external node."""


@dataclass(frozen=True)
class DicomFile:
    """A DICOM file, its file name and its metadata."""

    content: bytes
    name: str
    meta: str = ""


class Record(_TextMessage):
    """Record of a run as JSON."""


@dataclass(frozen=True)
class StoredMessage:
    """A message on a disk that is only sent: of its content, a small part is in memory at a time.

    Attributes
    ----------
    identifier
        Its kind.
    parts
        Reads the bytes after the identifier, in order.
    """

    identifier: MessageId
    parts: Callable[[], Iterator[Part]]


Message: TypeAlias = (
    ConfigFile
    | ConfigDocument
    | Header
    | Close
    | Text
    | RelayedText
    | Query
    | Response
    | Failure
    | DicomFile
    | Record
    | ismrmrd.Acquisition
    | ismrmrd.Image
    | ismrmrd.Waveform
)


class Source(Protocol):
    """Source of bytes."""

    def read(self, n_bytes: int) -> Part:
        """Return exactly `n_bytes` bytes.

        Raises
        ------
        ConnectionError
            If the source ends earlier; `ConnectionEndedError` if it ends before the first byte.
        """


def read_message(source: Source, limits: Limits = DEFAULT_LIMITS) -> Message:
    """Read the next message.

    Raises
    ------
    ProtocolError
        If the identifier is unknown, or the message is too long or invalid.
    ConnectionEndedError, ConnectionError
        If the peer disconnects before or within the message.
    """
    return read_content(read_identifier(source), source, limits)


def read_identifier(source: Source) -> int:
    """Read the identifier of the next message; see `read_message`."""
    (identifier,) = U16.unpack(source.read(2))
    if identifier not in _READERS:
        raise ProtocolError(
            f"a message with the unknown identifier {identifier} arrived; check the port: the "
            "peer may be no MRI2Qmap or Gadgetron"
        )
    return int(identifier)


def read_content(identifier: int, source: Source, limits: Limits) -> Message:
    """Read the content of a message after its identifier; see `read_message`."""
    try:
        return _READERS[identifier](source, limits)
    except ConnectionEndedError as error:
        raise ConnectionError(f"the connection ended within a message: {error}") from error
    except ProtocolError:
        raise
    except (ValueError, LookupError, TypeError, OverflowError) as error:
        raise ProtocolError(
            f"a message of type {MessageId(identifier).name} cannot be read: {error}"
        ) from error


def _meta_bytes(meta: Mapping[str, str | list[str]]) -> int:
    values = ([value] if isinstance(value, str) else value for value in meta.values())
    return sum(map(sys.getsizeof, (*meta, *itertools.chain.from_iterable(values))))


def message_bytes(message: Message) -> int:
    """Return the approximate memory size of a message [bytes]."""
    if isinstance(message, ismrmrd.Acquisition):
        return int(message.data.nbytes + message.traj.nbytes) + 1024
    if isinstance(message, ismrmrd.Image):
        return int(message.data.nbytes) + 1024 + _meta_bytes(message.meta)
    if isinstance(message, ismrmrd.Waveform):
        return int(message.data.nbytes) + 1024
    return 256 + sum(sys.getsizeof(value) for value in vars(message).values())


def _length(source: Source, size: struct.Struct, limit: int, what: str) -> int:
    (length,) = size.unpack(source.read(size.size))
    if length > limit:
        raise ProtocolError(f"a {what} of {length} bytes is announced; the limit is {limit}")
    return int(length)


def _blob(source: Source, size: struct.Struct, limit: int, what: str) -> bytes:
    length = _length(source, size, limit, what)
    return bytes(source.read(length)) if length else b""


def _read_text(source: Source, size: struct.Struct, limit: int, what: str) -> str:
    """Read a text, with or without a terminating NUL; bytes that are not UTF-8 are replaced."""
    return _blob(source, size, limit, what).rstrip(b"\0").decode("utf-8", "replace")


def _read_config_file(source: Source, limits: Limits) -> Message:
    name = bytes(source.read(FILE_NAME_BYTES)).partition(b"\0")[0]
    return ConfigFile(name.decode("utf-8", "replace"))


def _read_config(source: Source, limits: Limits) -> Message:
    return ConfigDocument(
        without_terminator(_blob(source, U32, limits.configuration, "configuration"))
    )


def _read_header(source: Source, limits: Limits) -> Message:
    document = _blob(source, U32, limits.header, "header")
    text = without_terminator(document)
    return Header(text, len(text) < len(document))


def _read_query(source: Source, limits: Limits) -> Message:
    _, number = struct.unpack("<QQ", source.read(16))
    return Query(number, _read_text(source, U64, limits.text, "query"))


def _read_response(source: Source, limits: Limits) -> Message:
    (number,) = U64.unpack(source.read(8))
    return Response(number, _read_text(source, U64, limits.text, "response"))


def _read_dicom(source: Source, limits: Limits) -> Message:
    content = _blob(source, U32, limits.message, "DICOM file")
    name = _read_text(source, U64, limits.text, "file name")
    return DicomFile(content, name, _read_text(source, U64, limits.meta, "metadata"))


def _text_reader(kind: type[Any], size: struct.Struct) -> Callable[[Source, Limits], Message]:
    return lambda source, limits: kind(_read_text(source, size, limits.text, "text"))


def _checked(size: int, limits: Limits, what: str) -> None:
    if size > limits.message:
        raise ProtocolError(f"{what} of {size} bytes is announced; the limit is {limits.message}")


def read_head(source: Source, kind: Any) -> Any:
    """Read the fixed part of an acquisition, a waveform or an image."""
    return kind.from_buffer_copy(source.read(ctypes.sizeof(kind)))


def _read_acquisition(source: Source, limits: Limits) -> Message:
    head = read_head(source, ismrmrd.AcquisitionHeader)
    if hasattr(source, "acquisition"):
        source.acquisition = head  # before the data, which may have to wait for memory
    samples, coils = head.number_of_samples, head.active_channels
    dimensions = head.trajectory_dimensions
    _checked(samples * (8 * coils + 4 * dimensions), limits, "an acquisition")
    trajectory = np.frombuffer(_some(source, 4 * samples * dimensions), np.float32)
    data = np.frombuffer(_some(source, 8 * samples * coils), np.complex64)
    return ismrmrd.Acquisition(
        head, data.reshape(coils, samples), trajectory.reshape(samples, dimensions)
    )


def _read_waveform(source: Source, limits: Limits) -> Message:
    head = read_head(source, ismrmrd.WaveformHeader)
    shape = head.channels, head.number_of_samples
    _checked(4 * shape[0] * shape[1], limits, "a waveform")
    data = np.frombuffer(_some(source, 4 * shape[0] * shape[1]), np.uint32)
    return ismrmrd.Waveform(head, data.reshape(shape))


def _read_image(source: Source, limits: Limits) -> Message:
    head = read_head(source, ismrmrd.ImageHeader)
    document = _blob(source, U64, limits.meta, "meta document")
    try:
        with reading_turn(document):
            meta = parse_meta(without_terminator(document))
    except Mri2QmapError as error:
        raise ProtocolError(f"the metadata of an image cannot be read ({error})") from error
    dtype = get_dtype_from_data_type(head.data_type)
    shape = (head.channels, *(int(n) for n in reversed(head.matrix_size)))
    size = math.prod(shape) * dtype.itemsize
    _checked(size, limits, "an image")
    pixels = np.frombuffer(_some(source, size), dtype).reshape(shape)
    return ismrmrd.Image(head=head, data=pixels, meta=meta)


def _some(source: Source, size: int) -> Part:
    return source.read(size) if size else bytearray()


_READERS: dict[int, Callable[[Source, Limits], Message]] = {
    MessageId.CONFIG_FILE: _read_config_file,
    MessageId.CONFIG_DOCUMENT: _read_config,
    MessageId.HEADER: _read_header,
    MessageId.CLOSE: lambda source, limits: Close(),
    MessageId.TEXT: _text_reader(Text, U32),
    MessageId.QUERY: _read_query,
    MessageId.RESPONSE: _read_response,
    MessageId.FAILURE: _text_reader(Failure, U64),
    MessageId.ACQUISITION: _read_acquisition,
    MessageId.DICOM: _read_dicom,
    MessageId.IMAGE: _read_image,
    MessageId.WAVEFORM: _read_waveform,
    MessageId.RELAYED_TEXT: _text_reader(RelayedText, U32),
    MessageId.RECORD: _text_reader(Record, U32),
}

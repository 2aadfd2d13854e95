"""The bytes of messages; `mri2qmap.hosts.protocol` reads them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

import ismrmrd
import numpy as np
from numpy.typing import NDArray

from mri2qmap.hosts.protocol import (
    FILE_NAME_BYTES,
    U16,
    U32,
    U64,
    Close,
    ConfigDocument,
    ConfigFile,
    DicomFile,
    Failure,
    Header,
    Message,
    MessageId,
    Part,
    Query,
    Record,
    RelayedText,
    Response,
    StoredMessage,
    Text,
)


def encode_message(message: Message) -> list[Part]:
    """Return the bytes of a message as consecutive parts.

    Raises
    ------
    TypeError
        If the object is not a message.
    ValueError
        If a file name is too long.
    """
    try:
        identifier, writer = _WRITERS[type(message)]
    except KeyError:
        raise TypeError(f"{type(message).__name__} is not a message") from None
    return [U16.pack(identifier), *writer(message)]


def stored_parts(message: StoredMessage) -> Iterator[Part]:
    """Read the bytes of a message on a disk as consecutive parts, see `encode_message`."""
    yield U16.pack(message.identifier)
    yield from message.parts()


def _counted(size: struct.Struct, content: str | bytes) -> list[Part]:
    content = content.encode() if isinstance(content, str) else content
    return [size.pack(len(content)), content]


def _write_config_file(message: ConfigFile) -> list[Part]:
    name = message.name.encode()
    if len(name) >= FILE_NAME_BYTES:
        raise ValueError(f"the name {message.name[:40]!r}... is longer than the protocol allows")
    return [name.ljust(FILE_NAME_BYTES, b"\0")]


def _write_acquisition(item: ismrmrd.Acquisition) -> list[Part]:
    """Return an acquisition without a copy of its samples, which may be large."""
    return [bytes(item.getHead()), _viewed(item.traj), _viewed(item.data)]


def _viewed(array: NDArray[Any]) -> Part:
    """Return the bytes of an array in their order in C; views of nothing cannot be cast."""
    return np.ascontiguousarray(array).data.cast("B") if array.size else b""


def _serialised(item: ismrmrd.Image | ismrmrd.Waveform) -> list[Part]:
    parts: list[Part] = []
    item.serialize_into(lambda part: parts.append(part if isinstance(part, bytes) else bytes(part)))
    return parts


_WRITERS: dict[type[Any], tuple[MessageId, Callable[[Any], list[Part]]]] = {
    ConfigFile: (MessageId.CONFIG_FILE, _write_config_file),
    ConfigDocument: (MessageId.CONFIG_DOCUMENT, lambda m: _counted(U32, m.document)),
    Header: (MessageId.HEADER, lambda m: _counted(U32, m.document + b"\0" * m.terminated)),
    Close: (MessageId.CLOSE, lambda m: []),
    Text: (MessageId.TEXT, lambda m: _counted(U32, m.text)),
    RelayedText: (MessageId.RELAYED_TEXT, lambda m: _counted(U32, m.text)),
    Query: (MessageId.QUERY, lambda m: [struct.pack("<QQ", 0, m.number), *_counted(U64, m.text)]),
    Response: (MessageId.RESPONSE, lambda m: [U64.pack(m.number), *_counted(U64, m.text)]),
    Failure: (MessageId.FAILURE, lambda m: _counted(U64, m.text)),
    DicomFile: (
        MessageId.DICOM,
        lambda m: [*_counted(U32, m.content), *_counted(U64, m.name), *_counted(U64, m.meta)],
    ),
    Record: (MessageId.RECORD, lambda m: _counted(U32, m.text)),
    ismrmrd.Acquisition: (MessageId.ACQUISITION, _write_acquisition),
    ismrmrd.Image: (MessageId.IMAGE, _serialised),
    ismrmrd.Waveform: (MessageId.WAVEFORM, _serialised),
}

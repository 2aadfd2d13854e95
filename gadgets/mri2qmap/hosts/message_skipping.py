"""Messages that are not wanted are skipped without being decoded, which would take long."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import ismrmrd
from ismrmrd.constants import DATATYPE_CXDOUBLE
from ismrmrd.image import get_dtype_from_data_type

from mri2qmap.hosts.message_limits import Limits
from mri2qmap.hosts.protocol import (
    ConnectionEndedError,
    MessageId,
    ProtocolError,
    Source,
    read_head,
)

ALL_BUT_CLOSE = frozenset(MessageId) - {MessageId.CLOSE}
IMAGES = frozenset({MessageId.IMAGE})
_CHUNK = 2**16
"""Memory for content that is skipped [bytes]."""


@dataclass(frozen=True)
class Skipped:
    """Stands for a message that was skipped."""

    identifier: int


def skip_content(identifier: int, source: Source, limits: Limits) -> Skipped:
    """Read the content of a message after its identifier in small parts, and keep none of it.

    Raises
    ------
    ProtocolError, ConnectionError
        See `mri2qmap.hosts.protocol.read_content`.
    """
    try:
        for size, limit in _PARTS[MessageId(identifier)](source, limits):
            if size > limit:
                raise ProtocolError(f"{size} bytes are announced; the limit is {limit}")
            for done in range(0, size, _CHUNK):
                source.read(min(_CHUNK, size - done))
    except ConnectionEndedError as error:
        raise ConnectionError(f"the connection ended within a message: {error}") from error
    return Skipped(identifier)


Sizes: TypeAlias = Iterator[tuple[int, int]]
"""Sizes of the parts of a message, and the limit of each [bytes]."""


def _number(source: Source, form: str) -> int:
    (value,) = struct.unpack(form, source.read(struct.calcsize(form)))
    return int(value)


def _counted(*forms: str) -> Callable[[Source, Limits], Sizes]:
    """Parts that begin with their length."""

    def parts(source: Source, limits: Limits) -> Sizes:
        for form in forms:
            yield _number(source, form), limits.message

    return parts


def _fixed(size: int, form: str | None = None) -> Callable[[Source, Limits], Sizes]:
    """Bytes of a fixed number, and a part that begins with its length."""

    def parts(source: Source, limits: Limits) -> Sizes:
        yield size, size
        if form is not None:
            yield _number(source, form), limits.message

    return parts


def _acquisition(source: Source, limits: Limits) -> Sizes:
    head = read_head(source, ismrmrd.AcquisitionHeader)
    sample = 8 * head.active_channels + 4 * head.trajectory_dimensions
    yield head.number_of_samples * sample, limits.message


def _waveform(source: Source, limits: Limits) -> Sizes:
    head = read_head(source, ismrmrd.WaveformHeader)
    yield 4 * head.channels * head.number_of_samples, limits.message


def _image(source: Source, limits: Limits) -> Sizes:
    head = read_head(source, ismrmrd.ImageHeader)
    yield _number(source, "<Q"), limits.meta
    if not 1 <= head.data_type <= DATATYPE_CXDOUBLE:
        raise ProtocolError(f"an image has the unknown data type {head.data_type}")
    pixel = get_dtype_from_data_type(head.data_type).itemsize
    yield head.channels * math.prod(int(n) for n in head.matrix_size) * pixel, limits.message


_PARTS: dict[MessageId, Callable[[Source, Limits], Sizes]] = {
    MessageId.CONFIG_FILE: _fixed(1024),
    MessageId.CONFIG_DOCUMENT: _counted("<I"),
    MessageId.HEADER: _counted("<I"),
    MessageId.TEXT: _counted("<I"),
    MessageId.QUERY: _fixed(16, "<Q"),
    MessageId.RESPONSE: _fixed(8, "<Q"),
    MessageId.FAILURE: _counted("<Q"),
    MessageId.ACQUISITION: _acquisition,
    MessageId.DICOM: _counted("<I", "<Q", "<Q"),
    MessageId.IMAGE: _image,
    MessageId.WAVEFORM: _waveform,
    MessageId.RELAYED_TEXT: _counted("<I"),
    MessageId.RECORD: _counted("<I"),
}

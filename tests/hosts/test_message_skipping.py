"""Skipping takes exactly the bytes of a message, whatever it is."""

import ismrmrd
import numpy as np
import pytest
from helpers.scans import readout
from hosts.test_protocol import SIMPLE, Bytes, image

from mri2qmap.hosts.message_encoding import encode_message
from mri2qmap.hosts.message_limits import DEFAULT_LIMITS, Limits
from mri2qmap.hosts.message_skipping import ALL_BUT_CLOSE, Skipped, skip_content
from mri2qmap.hosts.protocol import Close, MessageId, ProtocolError, read_identifier

MESSAGES = [
    *(message for message, _ in SIMPLE if message != Close()),
    readout(1, 2),
    ismrmrd.Acquisition.from_array(np.zeros((0, 5), np.complex64)),
    image({"ImageComment": "a < b"}),
    ismrmrd.Waveform.from_array(np.arange(6, dtype=np.uint32).reshape(2, 3)),
    ismrmrd.Waveform.from_array(np.zeros((3, 50_000), np.uint32)),
]


def content(message) -> bytes:
    return b"".join(bytes(part) for part in encode_message(message))


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_the_next_message_follows(message):
    source = Bytes(content(message) + b"rest")
    identifier = read_identifier(source)
    assert skip_content(identifier, source, DEFAULT_LIMITS) == Skipped(identifier)
    assert bytes(source.read(4)) == b"rest"
    assert source.largest <= 2**16


def test_every_kind_of_message_is_known():
    assert {read_identifier(Bytes(content(message))) for message in MESSAGES} == ALL_BUT_CLOSE
    assert set(MessageId) - ALL_BUT_CLOSE == {MessageId.CLOSE}


@pytest.mark.parametrize("message", [readout(1, 2), image(), MESSAGES[-1]])
def test_limits_hold_for_what_is_skipped(message):
    source = Bytes(content(message))
    with pytest.raises(ProtocolError, match="bytes are announced"):
        skip_content(read_identifier(source), source, Limits(message=1))


def test_what_ends_too_early_is_told():
    source = Bytes(content(image())[:-1])
    with pytest.raises(ConnectionError, match="too few"):
        skip_content(read_identifier(source), source, DEFAULT_LIMITS)

"""Digest of the raw data of a scan, by which a scan that is sent again is recognised."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import ismrmrd

from mri2qmap.hosts.message_encoding import encode_message
from mri2qmap.hosts.protocol import Part
from mri2qmap.pipeline.items import Item


class ScanDigest:
    """SHA-256 digest of a header and the acquisitions and waveforms after it.

    Parameters
    ----------
    header
        ISMRMRD header as sent.
    """

    def __init__(self, header: bytes) -> None:
        self._hash = hashlib.sha256(len(header).to_bytes(8, "little"))
        self._hash.update(header)

    def add(self, item: Item) -> list[Part]:
        """Add the next acquisition or waveform; return its message, as consecutive parts."""
        parts = encode_message(item)
        for part in parts:
            self._hash.update(part)
        return parts

    def hexdigest(self) -> str:
        """Return the digest of what was added."""
        return self._hash.hexdigest()


def scan_digest(header: bytes, items: Iterable[Item]) -> str:
    """Return the digest of a whole scan: its acquisitions and waveforms, without other items."""
    digest = ScanDigest(header)
    for item in items:
        if isinstance(item, ismrmrd.Acquisition | ismrmrd.Waveform):
            digest.add(item)
    return digest.hexdigest()


def queue_identifier(scan_digest: str, pipeline: bytes) -> str:
    """Return the name of a scan in a queue: the same for the same raw data and pipeline.

    Parameters
    ----------
    scan_digest
        See `ScanDigest`.
    pipeline
        Document of the pipeline.
    """
    key = f"{scan_digest}{hashlib.sha256(pipeline).hexdigest()}"
    return hashlib.sha256(key.encode()).hexdigest()[:12]

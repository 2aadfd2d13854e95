"""What a server asks of a queue of scans that are reconstructed later."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from mri2qmap.hosts.client_options import ClientOptions
from mri2qmap.hosts.protocol import Message, StoredMessage
from mri2qmap.pipeline.items import Item
from mri2qmap.pipeline.pipeline_file import Pipeline
from mri2qmap.pipeline.scan_header import ScanInfo


class ScanQueue(Protocol):
    """A queue of scans; see `mri2qmap.scan_queue`."""

    def receive(
        self,
        header: bytes,
        pipeline: tuple[Pipeline, bytes],
        scan: ScanInfo,
        items: Iterable[Item],
        memory: int,
        peer: str,
    ) -> str:
        """Receive a scan, and return its identifier when it is safe on the disk.

        Parameters
        ----------
        header
            ISMRMRD header as sent.
        pipeline
            The pipeline, and its document.
        scan
            The header in the standard convention, parsed.
        items
            Acquisitions and waveforms as sent.
        memory
            Planned memory of the reconstruction [bytes].
        peer
            Address of the client.

        Raises
        ------
        Mri2QmapError
            If the scan cannot be taken; nothing of it stays then.
        """

    def find(self, header: bytes, scan_digest: str, pipeline: str, identifier: str) -> str:
        """Return the identifier of a scan that was received.

        Parameters
        ----------
        header
            ISMRMRD header as sent.
        scan_digest
            Digest of the raw data; empty if they are unknown.
        pipeline, identifier
            Name of its pipeline, and its identifier; empty: any.

        Raises
        ------
        Mri2QmapError
            If there is none, or more than one with different data.
        """

    def where(self, identifier: str) -> str:
        """Say where a scan stands."""

    def answer(self, identifier: str, wishes: ClientOptions) -> Iterator[Message | StoredMessage]:
        """Yield the maps of a scan, or where it stands.

        Raises
        ------
        Mri2QmapError
            If its reconstruction has failed, or there are no maps yet and no placeholders are
            wanted.
        """

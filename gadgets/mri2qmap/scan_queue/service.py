"""The queue of a server: receives scans, and answers with maps or with where a scan stands."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import torch

from mri2qmap.errors import Mri2QmapError
from mri2qmap.files.scan_files import open_scan
from mri2qmap.hosts.client_options import ClientOptions
from mri2qmap.hosts.error_text import client_text, format_error
from mri2qmap.hosts.protocol import Message, Record, StoredMessage, Text
from mri2qmap.pipeline.findings import Findings
from mri2qmap.pipeline.header_document import parse_header
from mri2qmap.pipeline.items import Item
from mri2qmap.pipeline.pipeline_file import Pipeline, read_pipeline
from mri2qmap.pipeline.reading_turns import reading_turn
from mri2qmap.pipeline.scan_header import ScanInfo
from mri2qmap.pipeline.scan_log import scan_identity
from mri2qmap.scan_queue.placeholders import placeholder_dicom, placeholder_images
from mri2qmap.scan_queue.queue_folder import QueueFolder
from mri2qmap.scan_queue.queued_scan import PIPELINE, SCAN, QueuedScan, State
from mri2qmap.scan_queue.results import dicom_files, images, record_text
from mri2qmap.validation.examination import examine

logger = logging.getLogger(__name__)


class ScanQueueService:
    """See `mri2qmap.hosts.scan_queue.ScanQueue`.

    Parameters
    ----------
    queue
        The scans.
    """

    def __init__(self, queue: QueueFolder) -> None:
        self._queue = queue

    def receive(
        self,
        header: bytes,
        pipeline: tuple[Pipeline, bytes],
        scan: ScanInfo,
        items: Iterable[Item],
        memory: int,
        peer: str,
    ) -> str:
        """See `ScanQueue.receive`."""
        chosen, document = pipeline
        reception = self._queue.receive(
            header,
            (chosen.name, document),
            scan=_identity(header),
            matrix=scan.matrix,
            frames=scan.sequence.n_frames,
            memory=memory,
            peer=peer,
        )
        with reception as received:
            for item in items:
                received.add(item)
                del item  # not to be held while the next one is on its way
            found = received.finish(partial(_check, pipeline=chosen, device=scan.device))
        logger.info(
            "%s is in the queue: pipeline %s, %d acquisitions and waveforms, place %d",
            *(found.identifier, chosen.name, found.record.acquisitions, self._queue.place(found)),
        )
        return found.identifier

    def find(self, header: bytes, scan_digest: str, pipeline: str, identifier: str) -> str:
        """See `ScanQueue.find`."""
        return self._queue.find(
            scan_digest=scan_digest,
            scan=_identity(header),
            pipeline=pipeline,
            identifier=identifier,
        ).identifier

    def where(self, identifier: str) -> str:
        """See `ScanQueue.where`."""
        return self._where(self._queue.find(identifier=identifier))

    def answer(self, identifier: str, wishes: ClientOptions) -> Iterator[Message | StoredMessage]:
        """See `ScanQueue.answer`."""
        scan = self._queue.find(identifier=identifier)
        with self._queue.reading(scan):
            record = scan.record
            if record.state is State.FAILED:
                raise Mri2QmapError(
                    f"the reconstruction of {identifier} has failed: {record.reason}"
                )
            where = self._where(scan)
            if record.state is not State.DONE and not wishes.placeholders:
                error = Mri2QmapError(f"there are no maps of {identifier} yet: {where}; ask later")
                yield Text(f"{format_error(error)}\n")  # who asks often is no failure in the log
                return
            yield Text(client_text(f"{identifier}: {where}"))
            if record.state is State.DONE:
                yield from images(scan.maps)
                if wishes.dicom:
                    yield from dicom_files(scan.maps)
                if wishes.record:
                    yield Record(record_text(scan.maps))
                return
            with open_scan(scan.folder / SCAN) as file:
                document = file.header
            with reading_turn(document):
                header = parse_header(document)
                settings = read_pipeline(scan.folder / PIPELINE).nodes[-1].settings
            yield from placeholder_images(header, settings, identifier, where)
            if wishes.dicom:
                yield placeholder_dicom(header, settings, identifier, where)

    def _where(self, scan: QueuedScan) -> str:
        """Say where a scan stands."""
        if scan.record.state is State.DONE:
            return "the maps are there"
        if scan.record.state is State.RUNNING:
            step = scan.progress()
            if step is None:
                return "its reconstruction has begun"
            name, done, total = step
            return f"its reconstruction is under way: {name}" + (
                f", {done} of {total} steps" if total else ""
            )
        where = f"it waits in the queue, place {self._queue.place(scan)}"
        failure = self._queue.disk_failure
        return where + (f"; nothing is reconstructed at present: {failure}" if failure else "")


def _identity(header: bytes) -> str:
    """Return the name of a scan by its header as sent."""
    with reading_turn(header):
        try:
            return scan_identity(header, parse_header(header))
        except Mri2QmapError:  # a scan profile may add what is missing
            return scan_identity(header)


def _check(path: Path, *, pipeline: Pipeline, device: torch.device) -> None:
    """Refuse a scan that `mri2qmap validate` finds unfit."""
    findings = Findings()
    with open_scan(path) as scan:
        profile = pipeline.scan_profile
        examine(scan.header, scan.items(), profile, pipeline, device, None, findings)
    findings.refuse("mri2qmap validate lists all those of a file")

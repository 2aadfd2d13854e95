"""The stand-alone server: the client protocol of a Gadgetron server for the MRI2Qmap pipelines."""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

import ismrmrd
import pydicom

import mri2qmap
from mri2qmap.errors import Mri2QmapError, clear_frames
from mri2qmap.hosts.client_options import ClientOptions, parse_client_options
from mri2qmap.hosts.connecting import peer_address
from mri2qmap.hosts.error_text import client_text, format_error, log_error, without_paths
from mri2qmap.hosts.half_open import MOST_QUERIES, TOO_MANY_QUERIES
from mri2qmap.hosts.in_process import InProcessHost
from mri2qmap.hosts.inbox import Inbox
from mri2qmap.hosts.message_skipping import IMAGES
from mri2qmap.hosts.message_socket import MessageSocket
from mri2qmap.hosts.openrecon_session import (
    debug_text,
    error_text,
    is_host,
    may_send_parameters,
    refuse_late_parameters,
    with_parameters,
)
from mri2qmap.hosts.peer_reporter import PeerReporter
from mri2qmap.hosts.protocol import (
    Close,
    DicomFile,
    Header,
    Message,
    ProtocolError,
    Query,
    Record,
    Response,
    StoredMessage,
    Text,
)
from mri2qmap.hosts.run_record import run_record
from mri2qmap.hosts.scan_digest import ScanDigest
from mri2qmap.hosts.scan_queue import ScanQueue
from mri2qmap.hosts.service_record import ScanEntry, ServiceRecord
from mri2qmap.hosts.session_opening import Opening, Order, read_opening
from mri2qmap.machine.devices import AUTO, device_name, select_device
from mri2qmap.machine.file_access import INSTALLED_FILES, FileAccess
from mri2qmap.machine.networks import network_of
from mri2qmap.machine.words import counted
from mri2qmap.pipeline.acquisition_checks import checked_acquisitions
from mri2qmap.pipeline.acquisition_policy import pipeline_policy
from mri2qmap.pipeline.items import DicomObject, Item
from mri2qmap.pipeline.memory_budget import MemoryBudget, gib, requested_by
from mri2qmap.pipeline.memory_plan import fitted_to_memory, planned_bytes, with_channels
from mri2qmap.pipeline.pipeline_file import (
    Pipeline,
)
from mri2qmap.pipeline.scan_header import ScanInfo, parse_scan_header
from mri2qmap.pipeline.scan_log import TimedLines, scan_identity
from mri2qmap.pipeline.standard_scan import ScanConversion, standard_scan

logger = logging.getLogger(__name__)
T = TypeVar("T")

_MOST_TEXTS = 1000
"""Maximum number of texts and queries within a scan."""


class ClientReporter(PeerReporter):
    """Sends log lines and the start of each stage to the client, and keeps the lines."""

    def __init__(self, peer: MessageSocket, make_text: Callable[[str], Text] = Text) -> None:
        super().__init__(peer, make_text, logger)
        self.lines = TimedLines()

    def emit(self, line: str) -> None:
        """See `Reporter.emit`."""
        self.lines.append(without_paths(line))  # the client may get them with the record
        super().emit(line)


class ScanServer:
    """Reconstructs the scans of clients.

    Parameters
    ----------
    budget
        Memory budget of all sessions together.
    device
        See `select_device`.
    files
        Files that a pipeline from a client may name.

    Attributes
    ----------
    record
        Log lines and metrics of the scans.
    queue
        Scans that are reconstructed later; None: all are reconstructed at once.
    """

    def __init__(
        self, budget: MemoryBudget, device: str = "auto", files: FileAccess = INSTALLED_FILES
    ) -> None:
        self.record = ServiceRecord("scan")
        self.queue: ScanQueue | None = None
        self._budget = budget
        self._device = device
        self._files = files

    def serve(self, peer: MessageSocket) -> None:
        """Serve one client.

        Raises
        ------
        Exception
            Any error, after it has been sent to the client if the client is still connected.
        """
        address = peer_address(peer)
        requester = requested_by(network_of(address))  # for its place in the queue for memory
        session = self.record.session(address)
        with peer.cancellation.active(), requester, session as entry:
            scan = _Session(peer, self._budget, self._device, self._files, entry, self.queue)
            try:
                scan.run()
            except Exception as problem:
                clear_frames(problem)
                error = peer.cancellation.error or problem
                if not peer.lost and isinstance(error, Exception):
                    scan.send_error(error)
                if error is problem:
                    raise
                raise error from problem
            finally:
                scan.end()


def answer(query: Query) -> Response:
    """Return the response to a query of a client."""
    known = {"gadgetron::info": f"MRI2Qmap {mri2qmap.__version__}"}
    return Response(query.number, known.get(query.text, "Unknown query"))


class _Session:
    """One scan of one client."""

    def __init__(
        self,
        peer: MessageSocket,
        budget: MemoryBudget,
        device: str,
        files: FileAccess,
        entry: ScanEntry,
        queue: ScanQueue | None = None,
    ) -> None:
        self._peer = peer
        self._queue = queue
        self._entry = entry
        self._budget = budget
        self._device = device
        self._files = files
        self._inbox: Inbox | None = None
        self._options = ClientOptions()
        self._closed = False
        self._is_host = self._takes_parameters = False
        self._scan_identity = ""
        self._start = time.perf_counter()

    def run(self) -> None:
        """Run the session, up to but not including the final CLOSE."""
        opening = read_opening(self._next, self._files)
        if opening is None:
            return
        header = self._next()
        if not isinstance(header, Header):
            raise Mri2QmapError(
                "the ISMRMRD header is expected after the configuration, but a message of type "
                f"{type(header).__name__} arrived"
            )
        self._options = ClientOptions(dicom=not header.terminated)
        self._inbox = Inbox(self._peer, half_close=True, skip=IMAGES)
        opening, chosen_by_host = self._with_parameters(opening, header.terminated)
        reporter = ClientReporter(self._peer, debug_text if self._is_host else Text)
        reporter.entry = self._entry
        if chosen_by_host:
            reporter.log(chosen_by_host)
        sent, pipeline = header.take(), opening.pipeline
        queue = None if opening.order is Order.NOW else self._queue_there()
        if queue is not None and pipeline is None:
            self._peer.received.opened()
            self._hold_little(self._inbox)
            self._retrieve(queue, opening.name, sent, self._items(self._inbox, reporter))
            return
        assert pipeline is not None, "only a retrieval needs none"
        document, conversion = standard_scan(sent, pipeline.scan_profile)
        self._inbox.encoding_space = conversion.encoding_space
        scan = parse_scan_header(document, select_device(self._device), reporter)
        self._entry.describe(pipeline.name, scan)
        self._scan_identity = scan_identity(document, scan.header)
        del document
        if queue is None:
            del sent
        self._peer.received.opened()
        least = with_channels(scan, scan.receive_channels or 1)  # refuse only what cannot fit
        fitted = fitted_to_memory(least, pipeline.nodes, self._budget.total)
        # a client that sends only a header holds no memory
        scan = with_channels(scan, self._inbox.wait_for_channels())
        if self._inbox.ended_empty:  # needs no memory, and takes none from others
            for _ in self._items(self._inbox, reporter):
                pass
            raise Mri2QmapError("the scan has no imaging acquisitions: it ended without any")
        if planned_bytes(scan, pipeline.nodes) != planned_bytes(fitted, pipeline.nodes):
            fitted = fitted_to_memory(scan, pipeline.nodes, self._budget.total)
        scan = replace(scan, spare_memory=fitted.spare_memory)
        size = planned_bytes(scan, pipeline.nodes)
        if queue is not None:
            self._hold_little(self._inbox)
            items = self._items(self._inbox, reporter)
            peer, chosen = peer_address(self._peer), (pipeline, opening.document)
            self._acknowledge(queue, queue.receive(sent, chosen, scan, items, size, peer))
            return
        self._entry.size = size

        def tell_place(number: int) -> None:
            if self._peer.activity is not None:
                self._peer.activity.waits_for_memory = True
            self._entry.queued(number)
            line = f"waiting for {gib(size)} of memory, place {number} in the queue"
            logger.info("%s", line)
            said = client_text(line)  # others wait behind this client
            self._peer.try_send(debug_text(said) if self._is_host else Text(said))

        with self._budget.share(size, "this scan", tell_place):
            self._peer.received.admit()
            if self._peer.activity is not None:
                self._peer.activity.memory_came()
            description = (
                f"pipeline {pipeline.name}, {scan.sequence.n_frames} frames, matrix "
                f"{' x '.join(map(str, scan.matrix))} (z, y, x), estimated memory "
                f"{gib(size)}, device {device_name(scan.device)}"
            )
            with self._entry.begin(description):
                reporter.log(description)
                self._reconstruct(pipeline, scan, conversion, reporter, self._inbox)

    def send_error(self, error: Exception) -> None:
        """Send an error to the client; then read its remaining input, so that it can receive it."""
        if not isinstance(error, ConnectionError):  # the listener reports lost clients
            log_error(logger, error)
        said = f"{format_error(error)}\n"
        self._peer.send(error_text(said) if self._is_host else Text(said))
        if not self._closed and not isinstance(error, ProtocolError):
            self._inbox = self._inbox or Inbox(self._peer, half_close=True)
            cancelled = self._peer.cancellation.error is not None
            self._inbox.discard(0.0 if cancelled else self._peer.deadlines.error)

    def end(self) -> None:
        """Free the memory of received messages."""
        if self._inbox is not None:
            self._inbox.close()

    def _next(self) -> Message:
        """Return the next message; respond to queries before it."""
        for _ in range(MOST_QUERIES):
            message = self._peer.receive_opening()
            if not isinstance(message, Query):
                self._closed = isinstance(message, Close)
                return message
            self._peer.send(answer(message))
        raise Mri2QmapError(f"{TOO_MANY_QUERIES}: a pipeline and a header are expected")

    def _with_parameters(self, opening: Opening, terminated: bool) -> tuple[Opening, str]:
        """Read the parameters that an OpenRecon host sends after the header.

        Returns what the client wants, and the parameters in words; empty if it is no such host.
        """
        self._is_host = is_host(opening, None)
        self._takes_parameters = may_send_parameters(opening, terminated)
        if not self._takes_parameters:
            return opening, ""
        assert self._inbox is not None
        text = self._inbox.take_text(self._peer.handshake_left)
        self._is_host = is_host(opening, text)
        if self._is_host or text is not None:
            self._options = parse_client_options(text or "")
        return with_parameters(opening, text) if self._is_host else (opening, "")

    def _queue_there(self) -> ScanQueue:
        if self._queue is None:
            raise Mri2QmapError(
                "this server has no queue for scans that are reconstructed later; start it with "
                "mri2qmap serve --queue FOLDER"
            )
        return self._queue

    def _hold_little(self, inbox: Inbox) -> None:
        """Receive messages of any length, one at a time: none is kept in memory."""
        self._peer.received.admit()
        inbox.hold_little()

    def _acknowledge(self, queue: ScanQueue, identifier: str) -> None:
        """Send the receipt for a scan in the queue."""
        if self._options.placeholders:
            self._answer(queue, identifier)
        else:
            self._peer.send(Text(client_text(f"{identifier} is in the queue")))
            where = queue.where(identifier)
            self._peer.send(Record(json.dumps({"queued": identifier, "where": where})))

    def _retrieve(
        self, queue: ScanQueue, pipeline: str, header: bytes, items: Iterator[Item]
    ) -> None:
        """Send the maps of a scan that was put into the queue, or where it stands."""
        digest, count = ScanDigest(header), 0
        for count, item in enumerate(items, start=1):  # noqa: B007
            digest.add(item)
        sent = digest.hexdigest() if count else ""
        self._answer(queue, queue.find(header, sent, pipeline, self._options.identifier))

    def _answer(self, queue: ScanQueue, identifier: str) -> None:
        for message in queue.answer(identifier, self._options):
            if self._is_host and isinstance(message, Text):
                message = debug_text(message.text)
            self._peer.send(message)
            self._entry.sent += isinstance(message, ismrmrd.Image | DicomFile | StoredMessage)

    def _reconstruct(
        self,
        pipeline: Pipeline,
        scan: ScanInfo,
        conversion: ScanConversion,
        reporter: ClientReporter,
        inbox: Inbox,
    ) -> None:
        self._entry.host = host = InProcessHost(
            pipeline, scan, self._start, recover=True, cpu_allowed=self._device == AUTO
        )
        items = conversion.items(self._items(inbox, reporter), scan)
        items = checked_acquisitions(items, scan, pipeline_policy(pipeline))
        try:
            for item in host.run(items):
                if isinstance(item, ismrmrd.Image):
                    self._peer.send(item)
                    self._entry.sent += 1
                elif isinstance(item, DicomObject) and self._options.dicom:
                    self._peer.send(_dicom_file(item))
                    self._entry.sent += 1
        finally:
            self._entry.stage_seconds = host.gadget_seconds
        if not self._entry.sent:
            raise Mri2QmapError(
                "the last gadget produced no maps; the pipeline must end with parametric_maps, and "
                "MRD images or DICOM must be enabled there"
            )
        if inbox.last_acquisition is not None:
            host.set_last_acquisition(inbox.last_acquisition)
        if self._options.record or self._entry.judge is not None:
            record = run_record(host, reporter.lines.stamped())
            self._entry.judge_run(record)
            if self._options.record:
                record = {"scan_identity": self._scan_identity, **record}
                self._peer.send(Record(json.dumps(record, allow_nan=False)))

    def _items(self, inbox: Inbox, reporter: ClientReporter) -> Iterator[Item]:
        """Yield acquisitions and waveforms; process texts and queries between them.

        The inbox leaves images out: gadgets would pass them on, and they would come back as
        results.
        """
        texts = 0
        for message in inbox:
            if isinstance(message, ismrmrd.Acquisition | ismrmrd.Waveform):
                yield message
                del message  # not to be held while the next one is on its way
            elif isinstance(message, Text | Query):
                texts += 1
                if texts > _MOST_TEXTS:
                    raise Mri2QmapError(
                        f"more than {_MOST_TEXTS} texts arrived within the scan; one with options "
                        "is expected at most"
                    )
                if isinstance(message, Text):
                    if self._takes_parameters:
                        refuse_late_parameters(message.text)
                    self._options = parse_client_options(message.text)
                else:
                    self._peer.send(answer(message))
            else:
                raise Mri2QmapError(
                    f"a message of type {type(message).__name__} arrived within the scan; "
                    "acquisitions, waveforms and the end of the scan are expected. Use one "
                    "connection for each scan"
                )
        if inbox.skipped:
            images = counted(inbox.skipped, "image")
            reporter.log(f"ignored {images} of the client: maps are made from acquisitions")


def _dicom_file(item: DicomObject) -> DicomFile:
    content = io.BytesIO()
    pydicom.dcmwrite(content, item.dataset, enforce_file_format=True)
    return DicomFile(content.getvalue(), item.path)

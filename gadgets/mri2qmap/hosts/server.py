"""The stand-alone server: what a Gadgetron server is to its clients, for our pipelines."""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import ismrmrd
import pydicom

import mri2qmap
from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts.error_text import client_text, format_error, log_error
from mri2qmap.hosts.in_process import InProcessHost
from mri2qmap.hosts.message_socket import HANDSHAKE_TIMEOUT, Inbox, MessageSocket
from mri2qmap.hosts.protocol import (
    Close,
    ConfigDocument,
    ConfigFile,
    DicomFile,
    Header,
    Message,
    ProtocolError,
    Query,
    Record,
    Response,
    Text,
)
from mri2qmap.hosts.run_record import run_record
from mri2qmap.machine.devices import device_name, select_device
from mri2qmap.pipeline.acquisition_checks import checked_acquisitions
from mri2qmap.pipeline.acquisition_policy import pipeline_policy
from mri2qmap.pipeline.items import DicomObject, Item
from mri2qmap.pipeline.memory_plan import MemoryBudget, planned_bytes
from mri2qmap.pipeline.pipeline_file import (
    Pipeline,
    kept_pipeline_path,
    parse_pipeline,
    read_pipeline,
)
from mri2qmap.pipeline.progress import Reporter, stage_line
from mri2qmap.pipeline.scan_header import ScanInfo, parse_scan_header
from mri2qmap.pipeline.scan_log import TimedLines, scan_identity
from mri2qmap.pipeline.settings import parse_settings

logger = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class ClientOptions:
    """What a client says of itself in a text after the header, ``{"mri2qmap": {...}}``.

    Attributes
    ----------
    dicom
        Whether DICOM files are sent. Clients of Gadgetron take them. Those like that of
        python-ismrmrd-server break off at them: they end the header with a NUL, and send texts of
        another kind here.
    record
        Whether a record of the run is sent at the end.
    """

    dicom: bool = True
    record: bool = False


class ClientReporter(Reporter):
    """Sends log lines, and the beginning of whatever takes long, to the client."""

    def __init__(self, peer: MessageSocket) -> None:
        self._peer = peer
        self.lines = TimedLines()

    def progress(
        self, iterable: Iterable[T], description: str, total: int | None = None
    ) -> Iterator[T]:
        """See `Reporter.progress`; ends the work with a ConnectionError when the client is gone."""
        stage = stage_line(iterable, description, total)
        logger.info("%s", stage)
        self._say(stage)
        for number, element in enumerate(iterable, start=1):
            if self._peer.hung_up.is_set():
                # It may still listen; if it does not, a word of this kind soon fails.
                self._say(f"{description}, step {number}")
            yield element

    def emit(self, line: str) -> None:
        """See `Reporter.emit`."""
        logger.info("%s", line)
        self.lines.append(line)
        self._say(line)

    def _say(self, line: str) -> None:
        self._peer.send(Text(client_text(line)))


class ScanServer:
    """Reconstructs the scans of clients.

    Parameters
    ----------
    budget
        Memory for all sessions together.
    device
        See `select_device`.
    """

    def __init__(self, budget: MemoryBudget, device: str = "auto") -> None:
        self._budget = budget
        self._device = device

    def serve(self, peer: MessageSocket) -> None:
        """Serve one client.

        Raises
        ------
        Exception
            What went wrong, after the client has been told, if it is still there.
        """
        session = _Session(peer, self._budget, self._device)
        try:
            session.run()
        except ConnectionError:
            raise  # nobody is left to be told
        except Exception as error:
            session.tell(error)
            raise


class _Session:
    """One scan of one client."""

    def __init__(self, peer: MessageSocket, budget: MemoryBudget, device: str) -> None:
        self._peer = peer
        self._budget = budget
        self._device = device
        self._inbox: Inbox | None = None
        self._options = ClientOptions()
        self._closed = False
        self._scan_identity = ""
        self._start = time.perf_counter()

    def run(self) -> None:
        """Go through the conversation from its beginning to before our CLOSE."""
        pipeline = self._pipeline()
        if pipeline is None:
            return
        header = self._next()
        if not isinstance(header, Header):
            raise Mri2QmapError(
                f"after the configuration the ISMRMRD header is expected, a message "
                f"{type(header).__name__} arrived"
            )
        self._options = ClientOptions(dicom=not header.terminated)
        reporter = ClientReporter(self._peer)
        scan = parse_scan_header(header.document, select_device(self._device), reporter)
        self._scan_identity = scan_identity(header.document, scan.header)
        size = planned_bytes(scan, pipeline.nodes)
        with self._budget.share(size, "this scan"):
            reporter.log(
                f"pipeline {pipeline.name}, {scan.sequence.n_frames} frames, matrix "
                f"{' x '.join(map(str, scan.matrix))} (z, y, x), about {size / 2**30:.1f} GiB, on "
                f"{device_name(scan.device)}"
            )
            self._reconstruct(pipeline, scan, reporter)

    def tell(self, error: Exception) -> None:
        """Tell the client what went wrong, once it has sent everything and can listen."""
        log_error(logger, error)
        self._peer.send(Text(f"{format_error(error)}\n"))
        if not self._closed and not isinstance(error, ProtocolError):
            (self._inbox or Inbox(self._peer)).discard(HANDSHAKE_TIMEOUT)

    def _pipeline(self) -> Pipeline | None:
        message = self._next()
        if isinstance(message, Close):
            return None
        if isinstance(message, ConfigFile):
            return read_pipeline(kept_pipeline_path(message.name))
        if isinstance(message, ConfigDocument):
            return parse_pipeline(message.document, "sent by the client", "configuration")
        raise Mri2QmapError(
            "the name of a pipeline or its XML is expected first, a message "
            f"{type(message).__name__} arrived"
        )

    def _next(self) -> Message:
        """Return the next message, answering queries on the way."""
        while isinstance(message := self._peer.receive(HANDSHAKE_TIMEOUT), Query):
            self._answer(message)
        self._closed = isinstance(message, Close)
        return message

    def _answer(self, query: Query) -> None:
        known = {"gadgetron::info": f"MRI2Qmap {mri2qmap.__version__}"}
        self._peer.send(Response(query.number, known.get(query.text, "Unknown query")))

    def _reconstruct(self, pipeline: Pipeline, scan: ScanInfo, reporter: ClientReporter) -> None:
        self._inbox = Inbox(self._peer)
        host = InProcessHost(pipeline, scan, self._start)
        written = 0
        items = checked_acquisitions(self._items(self._inbox), scan, pipeline_policy(pipeline))
        for item in host.run(items):
            if isinstance(item, ismrmrd.Image):
                self._peer.send(item)
                written += 1
            elif isinstance(item, DicomObject) and self._options.dicom:
                self._peer.send(_dicom_file(item))
                written += 1
        if not written:
            raise Mri2QmapError(
                "no maps came out of the last gadget; the pipeline must end with parametric_maps, "
                "and images or DICOM must be switched on there"
            )
        if self._inbox.last_acquisition is not None:
            host.set_last_acquisition(self._inbox.last_acquisition)
        if self._options.record:
            record = {
                "scan_identity": self._scan_identity,
                **run_record(host, reporter.lines.stamped()),
            }
            self._peer.send(Record(json.dumps(record, allow_nan=False)))

    def _items(self, inbox: Inbox) -> Iterator[Item]:
        """What the client sends as data; what else it says is heeded on the way."""
        for message in inbox:
            if isinstance(message, ismrmrd.Acquisition | ismrmrd.Waveform | ismrmrd.Image):
                yield message
            elif isinstance(message, Text):
                self._options = _options(message.text)
            elif isinstance(message, Query):
                self._answer(message)
            else:
                raise Mri2QmapError(
                    f"within the scan a message {type(message).__name__} arrived; acquisitions, "
                    "waveforms and the end of the scan are expected. One connection is for one scan"
                )


def _options(text: str) -> ClientOptions:
    """Read what a client says of itself."""
    try:
        said = json.loads(text)
    except ValueError:
        said = None
    own = said.get("mri2qmap") if isinstance(said, dict) else None
    if not isinstance(own, dict):
        return ClientOptions(dicom=False)
    values = {str(name): str(value) for name, value in own.items()}
    return parse_settings(ClientOptions, values, "wishes", "the client's text")


def _dicom_file(item: DicomObject) -> DicomFile:
    content = io.BytesIO()
    pydicom.dcmwrite(content, item.dataset, enforce_file_format=True)
    return DicomFile(content.getvalue(), item.path)

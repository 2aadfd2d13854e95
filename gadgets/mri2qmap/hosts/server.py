"""The stand-alone server: the client protocol of a Gadgetron server for the MRI2Qmap pipelines."""

from __future__ import annotations

import contextlib
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
from mri2qmap.hosts.error_text import client_text, format_error, log_error, without_paths
from mri2qmap.hosts.in_process import InProcessHost
from mri2qmap.hosts.message_socket import HANDSHAKE_TIMEOUT, Inbox, MessageSocket
from mri2qmap.hosts.protocol import (
    Close,
    ConfigDocument,
    ConfigFile,
    CutOffError,
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
from mri2qmap.machine.file_access import INSTALLED_FILES, FileAccess
from mri2qmap.pipeline.acquisition_checks import checked_acquisitions
from mri2qmap.pipeline.acquisition_policy import pipeline_policy
from mri2qmap.pipeline.items import DicomObject, Item
from mri2qmap.pipeline.memory_plan import MemoryBudget, fitted_to_memory, planned_bytes
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
    """Options that a client sends as a text after the header, ``{"mri2qmap": {...}}``.

    Attributes
    ----------
    dicom
        Whether the client receives DICOM files. Gadgetron clients support them. Clients such as
        that of python-ismrmrd-server fail on them; they terminate the header with a NUL or send a
        text in another format.
    record
        Whether the client receives the record of the run.
    """

    dicom: bool = True
    record: bool = False


class ClientReporter(Reporter):
    """Sends log lines and the start of each stage to the client."""

    def __init__(self, peer: MessageSocket) -> None:
        self._peer = peer
        self.lines = TimedLines()

    def progress(
        self, iterable: Iterable[T], description: str, total: int | None = None
    ) -> Iterator[T]:
        """See `Reporter.progress`.

        Raises
        ------
        ConnectionError
            If the client has disconnected.
        """
        stage = stage_line(iterable, description, total)
        logger.info("%s", stage)
        self._send(stage)
        for number, element in enumerate(iterable, start=1):
            if self._peer.hung_up.is_set():
                # The client may have closed only its sending half; if it is gone, this send fails.
                self._send(f"{description}, step {number}")
            yield element

    def emit(self, line: str) -> None:
        """See `Reporter.emit`."""
        logger.info("%s", line)
        self.lines.append(without_paths(line))  # the client may get them with the record
        self._send(line)

    def _send(self, line: str) -> None:
        self._peer.send(Text(client_text(line)))


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
    """

    def __init__(
        self, budget: MemoryBudget, device: str = "auto", files: FileAccess = INSTALLED_FILES
    ) -> None:
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
        session = _Session(peer, self._budget, self._device, self._files)
        try:
            session.run()
        except CutOffError as error:  # the client may have closed its sending half only
            with contextlib.suppress(ConnectionError):
                peer.send(Text(f"{format_error(error)}\n"))
            raise
        except ConnectionError:
            raise  # the client is gone: there is no recipient for the error
        except Exception as error:
            session.send_error(error)
            raise


class _Session:
    """One scan of one client."""

    def __init__(
        self, peer: MessageSocket, budget: MemoryBudget, device: str, files: FileAccess
    ) -> None:
        self._peer = peer
        self._budget = budget
        self._device = device
        self._files = files
        self._inbox: Inbox | None = None
        self._options = ClientOptions()
        self._closed = False
        self._scan_identity = ""
        self._start = time.perf_counter()

    def run(self) -> None:
        """Run the session, up to but not including the final CLOSE."""
        pipeline = self._pipeline()
        if pipeline is None:
            return
        header = self._next()
        if not isinstance(header, Header):
            raise Mri2QmapError(
                "the ISMRMRD header is expected after the configuration, but a message of type "
                f"{type(header).__name__} arrived"
            )
        self._options = ClientOptions(dicom=not header.terminated)
        reporter = ClientReporter(self._peer)
        scan = parse_scan_header(header.document, select_device(self._device), reporter)
        self._scan_identity = scan_identity(header.document, scan.header)
        scan = fitted_to_memory(scan, pipeline.nodes, self._budget.total)
        size = planned_bytes(scan, pipeline.nodes)
        with self._budget.share(size, "this scan"):
            reporter.log(
                f"pipeline {pipeline.name}, {scan.sequence.n_frames} frames, matrix "
                f"{' x '.join(map(str, scan.matrix))} (z, y, x), estimated memory "
                f"{size / 2**30:.1f} GiB, device {device_name(scan.device)}"
            )
            self._reconstruct(pipeline, scan, reporter)

    def send_error(self, error: Exception) -> None:
        """Send an error to the client; then read its remaining input, so that it can receive it."""
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
            name, place = "sent by the client", "configuration"
            return parse_pipeline(message.document, name, place, files=self._files)
        raise Mri2QmapError(
            "the first message must be the name or the XML of a pipeline, but a message of type "
            f"{type(message).__name__} arrived"
        )

    def _next(self) -> Message:
        """Return the next message; respond to queries before it."""
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
                "the last gadget produced no maps; the pipeline must end with parametric_maps, and "
                "MRD images or DICOM must be enabled there"
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
        """Yield acquisitions, waveforms and images; process texts and queries between them."""
        for message in inbox:
            if isinstance(message, ismrmrd.Acquisition | ismrmrd.Waveform | ismrmrd.Image):
                yield message
            elif isinstance(message, Text):
                self._options = _options(message.text)
            elif isinstance(message, Query):
                self._answer(message)
            else:
                raise Mri2QmapError(
                    f"a message of type {type(message).__name__} arrived within the scan; "
                    "acquisitions, waveforms and the end of the scan are expected. Use one "
                    "connection for each scan"
                )


def _options(text: str) -> ClientOptions:
    """Parse the options text of a client; any other text disables DICOM."""
    try:
        content = json.loads(text)
    except ValueError:
        content = None
    own = content.get("mri2qmap") if isinstance(content, dict) else None
    if not isinstance(own, dict):
        return ClientOptions(dicom=False)
    values = {str(name): str(value) for name, value in own.items()}
    return parse_settings(ClientOptions, values, "client options", "the client's text")


def _dicom_file(item: DicomObject) -> DicomFile:
    content = io.BytesIO()
    pydicom.dcmwrite(content, item.dataset, enforce_file_format=True)
    return DicomFile(content.getvalue(), item.path)

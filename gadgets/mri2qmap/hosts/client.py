"""The client: sends a scan to a server and receives the maps."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import ismrmrd
import pydicom
from pydicom.errors import InvalidDicomError

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts.error_text import reported_error
from mri2qmap.hosts.message_socket import MessageSocket
from mri2qmap.hosts.protocol import (
    Close,
    ConfigDocument,
    ConfigFile,
    DicomFile,
    Failure,
    Header,
    Message,
    Record,
    RelayedText,
    Response,
    Text,
)
from mri2qmap.hosts.session_opening import QUEUE, RETRIEVE, Order
from mri2qmap.pipeline.items import DicomObject, Item
from mri2qmap.pipeline.progress import Reporter
from mri2qmap.pipeline.scan_log import TimedLines

OWN_OPTIONS = json.dumps({"mri2qmap": {"dicom": True, "record": True}})
"""Client options for `mri2qmap serve`, sent as text; a Gadgetron server writes them to its log."""


class RemoteReconstruction:
    """Reconstruction of one scan by a server: `mri2qmap serve` or Gadgetron.

    Parameters
    ----------
    peer
        Connection to the server; closed at the end.
    configuration
        Name of a configuration on the server, or a configuration document.
    header
        ISMRMRD header of the scan.
    report
        Receives the texts of the server; silent if None.
    order
        Whether the maps of this scan are wanted, or the scan is put into the queue of the server,
        or its maps are fetched from there.
    identifier
        For a retrieval: identifier of the scan in the queue, see `queue_identifier`.

    Attributes
    ----------
    record
        Record of the run, if the server sent one.
    texts
        Texts from the server.
    last_acquisition
        Time at which the last acquisition was sent [s from the start of `run`]; None if none was.
    first_map, last_map
        Times at which the first and the last map arrived [s from the start of `run`]; None if no
        map arrived.
    """

    def __init__(
        self,
        peer: MessageSocket,
        configuration: ConfigFile | ConfigDocument,
        header: bytes,
        report: Reporter | None = None,
        order: Order = Order.NOW,
        identifier: str = "",
    ) -> None:
        self.record: dict[str, Any] | None = None
        self.texts = TimedLines()
        self.last_acquisition: float | None = None
        self.first_map: float | None = None
        self.last_map: float | None = None
        self._peer = peer
        self._opening = _opening(order, configuration, Header(header), identifier)
        self._expects_maps = order is not Order.LATER
        self._report = report or Reporter()
        self._start = 0.0
        self._failure: str | None = None
        self._source_error: BaseException | None = None
        self._sent_all = False
        self._maps = 0

    def run(self, items: Iterable[Item]) -> Iterator[Item]:
        """Send `items` and yield the images and DICOM objects that the server returns.

        Errors of the source of the items are raised unchanged.

        Raises
        ------
        Mri2QmapError
            If the server reports an error, disconnects without a CLOSE message, sends an unreadable
            message, is silent for too long (``answer`` of its deadlines), or closes the
            connection before it has received the whole scan and returned a map.
        """
        self._start = time.perf_counter()
        sender = threading.Thread(target=self._send, args=(items,), name="sender", daemon=True)
        sender.start()
        try:
            with self._report.collapse_repeats():
                yield from self._receive()
        finally:
            self._peer.abort()
            sender.join()
            self._peer.drop()

    def _send(self, items: Iterable[Item]) -> None:
        try:
            for message in self._opening:
                self._peer.send(message)
            for item in items:
                if isinstance(item, ismrmrd.Acquisition | ismrmrd.Waveform | ismrmrd.Image):
                    self._peer.send(item)
                if isinstance(item, ismrmrd.Acquisition):
                    self.last_acquisition = time.perf_counter() - self._start
            self._sent_all = True
            self._peer.send(Close())
        except ConnectionError:
            return  # reported by the receiving thread, which has the server's last messages
        except BaseException as error:
            self._source_error = error
            self._peer.abort()

    def _receive(self) -> Iterator[Item]:
        try:
            # A Gadgetron server closes the connection only when all of its nodes have ended, which
            # can take as long as the reconstruction.
            while self._failure is None and not isinstance(
                message := self._peer.receive(look=self._check_answer), Close
            ):
                yield from self._process(message)
        except ConnectionError as error:
            if self._source_error is not None:
                raise self._source_error from None
            if self._failure is None:
                # Servers send errors last, so the images are valid only if CLOSE arrived.
                came = f"; {self._maps} images and files were received" if self._maps else ""
                raise Mri2QmapError(
                    f"the server disconnected before the end of the reconstruction ({error}){came}"
                    f"{self._last_texts()}"
                ) from error
        if self._failure is not None:
            raise Mri2QmapError(f"the server reports: {self._failure}")
        if self._source_error is not None:
            raise self._source_error
        if not self._sent_all:
            raise Mri2QmapError(
                "the server closed the connection before it had received the whole scan, so its "
                f"images cannot be complete maps{self._last_texts()}"
            )
        if self._expects_maps and self.first_map is None:
            raise Mri2QmapError(
                f"the server closed the connection without sending a map{self._last_texts()}"
            )

    def _check_answer(self) -> None:
        """Raise an error if the server has had the turn for too long and sent nothing."""
        longest = self._peer.deadlines.answer
        its_turn = self._sent_all or self._peer.blocked
        if its_turn and time.monotonic() - self._peer.progress > longest:
            does = "sends nothing" if self._sent_all else "neither reads nor sends anything"
            raise Mri2QmapError(
                f"the server {does} for {longest:g} s{self._last_texts()}: see its log, or wait "
                "longer with --timeout"
            )

    def _process(self, message: Message) -> Iterator[Item]:
        """Yield the image or DICOM object of a message; store texts, errors and the record."""
        if isinstance(message, Text | RelayedText | Failure):
            text = message.text.strip()
            self.texts.append(text)
            error = text if isinstance(message, Failure) else reported_error(text)
            if error is not None:
                self._failure = self._failure or error
            else:
                for line in text.splitlines():
                    self._report.log(f"server: {line}")
        elif isinstance(message, Record):
            self.record = _record(message.text)
        elif isinstance(message, ismrmrd.Image):
            self._note_map()
            yield message
        elif isinstance(message, DicomFile):
            self._note_map()
            yield DicomObject(_dataset(message), message.name)
        elif not isinstance(message, Response | ismrmrd.Waveform | ismrmrd.Acquisition):
            raise Mri2QmapError(
                f"the server sent an unexpected message of type {type(message).__name__}"
            )

    def _note_map(self) -> None:
        now = time.perf_counter() - self._start
        self.first_map = now if self.first_map is None else self.first_map
        self.last_map = now
        self._maps += 1

    def _last_texts(self) -> str:
        return f"; its last messages: {' | '.join(self.texts[-3:])}" if self.texts else ""


def _opening(
    order: Order, configuration: ConfigFile | ConfigDocument, header: Header, identifier: str
) -> list[Message]:
    """Return the messages before the acquisitions."""
    if order is Order.NOW:
        return [configuration, header, Text(OWN_OPTIONS)]
    own = {"dicom": True, "record": True, "placeholders": False, "identifier": identifier}
    options = Text(json.dumps({"mri2qmap": own}))
    if order is Order.LATER:
        return [ConfigFile(QUEUE), configuration, header, options]
    return [ConfigFile(RETRIEVE), header, options]


def paced(items: Iterable[Item], tick: float) -> Iterator[Item]:
    """Yield items at the rate of the scan, given by the time stamps of the acquisitions.

    Parameters
    ----------
    items
        Items of a scan. Other items are yielded directly after the acquisition before them.
    tick
        Unit of the time stamps [s]: 2.5 ms on most scanners.

    Raises
    ------
    Mri2QmapError
        If time stamps are missing or decrease.
    """
    start = time.perf_counter()
    first: int | None = None
    last = 0
    for number, item in enumerate(items):
        if isinstance(item, ismrmrd.Acquisition):
            stamp = int(item.acquisition_time_stamp)
            if first is None:
                first = last = stamp
            if stamp < last:
                raise Mri2QmapError(
                    f"acquisition {number}: its time stamp is {stamp}, but that of the previous "
                    f"acquisition is {last}; --realtime needs increasing time stamps"
                )
            last = stamp
            delay = start + tick * (stamp - first) - time.perf_counter()
            if delay > 0:
                time.sleep(delay)
        yield item
    if first == last:
        raise Mri2QmapError(
            "all acquisitions have the same time stamp, so the timing of the scan is unknown; "
            "replay it without --realtime"
        )


def _record(text: str) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Mri2QmapError(f"the server sent a record that cannot be read ({error})") from error
    if not isinstance(record, dict):
        raise Mri2QmapError("the server sent a record that is not a JSON object")
    return record


def _dataset(message: DicomFile) -> pydicom.Dataset:
    try:
        return pydicom.dcmread(io.BytesIO(message.content))
    except (InvalidDicomError, OSError, ValueError) as error:
        raise Mri2QmapError(f"the server sent DICOM that cannot be read ({error})") from error

"""The client: sends a scan to a server and takes the maps."""

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
from mri2qmap.pipeline.items import DicomObject, Item
from mri2qmap.pipeline.progress import Reporter
from mri2qmap.pipeline.scan_log import TimedLines

OWN_OPTIONS = json.dumps({"mri2qmap": {"dicom": True, "record": True}})
"""What our client says of itself to our server; a Gadgetron server writes it to its log."""


class RemoteReconstruction:
    """One scan, reconstructed by a server: `mri2qmap serve` or Gadgetron.

    Parameters
    ----------
    peer
        The server. It is closed at the end.
    configuration
        Name of a configuration that the server has, or a document.
    header
        ISMRMRD header of the scan.
    report
        Takes what the server says.

    Attributes
    ----------
    record
        What the server recorded of the run, if it did.
    texts
        What the server said.
    last_acquisition, first_map, last_map
        When it was sent, and when they came [s from the start of `run`]; None: not at all.
    """

    def __init__(
        self,
        peer: MessageSocket,
        configuration: ConfigFile | ConfigDocument,
        header: bytes,
        report: Reporter | None = None,
    ) -> None:
        self.record: dict[str, Any] | None = None
        self.texts = TimedLines()
        self.last_acquisition: float | None = None
        self.first_map: float | None = None
        self.last_map: float | None = None
        self._peer = peer
        self._opening: list[Message] = [configuration, Header(header), Text(OWN_OPTIONS)]
        self._report = report or Reporter()
        self._start = 0.0
        self._failure: str | None = None
        self._source_error: BaseException | None = None
        self._sent_all = False
        self._maps = 0

    def run(self, items: Iterable[Item]) -> Iterator[Item]:
        """Send `items` and yield what comes back: images and DICOM objects.

        Raises
        ------
        Mri2QmapError
            When the server reports an error, goes away without a word of the end, says what cannot
            be read, or ends without having sent a map or taken the whole scan. What the source of
            the items raises comes through as it is.
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
            return  # the receiver sees it, too, and knows more
        except BaseException as error:
            self._source_error = error
            self._peer.abort()

    def _receive(self) -> Iterator[Item]:
        try:
            while not isinstance(message := self._peer.receive(), Close):
                yield from self._take(message)
        except ConnectionError as error:
            if self._source_error is not None:
                raise self._source_error from None
            if self._failure is None:
                # Servers tell of errors last, so what has come counts only with that word.
                came = f"; {self._maps} images and files had come" if self._maps else ""
                raise Mri2QmapError(
                    f"the server went away before it had finished ({error}){came}"
                    f"{self._last_words()}"
                ) from error
        if self._failure is not None:
            raise Mri2QmapError(f"the server reports: {self._failure}")
        if self._source_error is not None:
            raise self._source_error
        if not self._sent_all:
            raise Mri2QmapError(
                "the server ended before it had taken the whole scan, so what it sent cannot be "
                f"maps of all of it{self._last_words()}"
            )
        if self.first_map is None:
            raise Mri2QmapError(f"the server ended without sending a map{self._last_words()}")

    def _take(self, message: Message) -> Iterator[Item]:
        """Yield what a message holds of the result, and keep what it says."""
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
            raise Mri2QmapError(f"the server sent a message {type(message).__name__}")

    def _note_map(self) -> None:
        now = time.perf_counter() - self._start
        self.first_map = now if self.first_map is None else self.first_map
        self.last_map = now
        self._maps += 1

    def _last_words(self) -> str:
        return f"; it had said: {' | '.join(self.texts[-3:])}" if self.texts else ""


def paced(items: Iterable[Item], tick: float) -> Iterator[Item]:
    """Yield items when a scanner would have sent them, by the time stamps of acquisitions.

    Parameters
    ----------
    items
        Of a scan; what is no acquisition comes with the one before it.
    tick
        Unit of the time stamps [s]: 2.5 ms on most scanners.

    Raises
    ------
    Mri2QmapError
        When time stamps are missing or run backwards.
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
                    f"acquisition {number}: its time stamp is {stamp}, that of the one before it "
                    f"{last}; --realtime needs rising time stamps"
                )
            last = stamp
            delay = start + tick * (stamp - first) - time.perf_counter()
            if delay > 0:
                time.sleep(delay)
        yield item
    if first == last:
        raise Mri2QmapError(
            "all acquisitions have the same time stamp, so the pace of the scan is not known; "
            "replay it without --realtime"
        )


def _record(text: str) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Mri2QmapError(f"the server sent a record that cannot be read ({error})") from error
    if not isinstance(record, dict):
        raise Mri2QmapError("the server sent a record that is no JSON object")
    return record


def _dataset(message: DicomFile) -> pydicom.Dataset:
    try:
        return pydicom.dcmread(io.BytesIO(message.content))
    except (InvalidDicomError, OSError, ValueError) as error:
        raise Mri2QmapError(f"the server sent DICOM that cannot be read ({error})") from error

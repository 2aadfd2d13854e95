"""A scan that is received into a queue: its raw data go to the disk while they arrive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from mri2qmap.hosts.message_encoding import encode_message
from mri2qmap.hosts.protocol import Close, Header, Part
from mri2qmap.hosts.scan_digest import ScanDigest
from mri2qmap.pipeline.items import Item
from mri2qmap.scan_queue.disk_room import DiskRoom
from mri2qmap.scan_queue.queued_scan import PIPELINE, SCAN, QueuedScan, Record
from mri2qmap.storage.atomic import cannot_write, sync


class Reception:
    """Writes the raw data of a scan to the disk while they arrive.

    Parameters
    ----------
    folder
        Folder of the scan, in that of the queue.
    room
        Room on the disk.
    add
        Puts the folder into the queue, with its record and pipeline.
    header, pipeline
        ISMRMRD header as sent, and document of the pipeline.
    record
        What is known so far.
    """

    def __init__(
        self,
        folder: Path,
        room: DiskRoom,
        add: Callable[[Path, Record, bytes], QueuedScan],
        header: bytes,
        pipeline: bytes,
        record: Record,
    ) -> None:
        self._room = room
        self._add = add
        self._folder = folder
        self._record = record
        self._digest = ScanDigest(header)
        self._count = 0
        room.look_again()
        self._pipeline = pipeline
        with self._writing():
            folder.mkdir(mode=0o700)
            (folder / PIPELINE).write_bytes(pipeline)
            self._file = (folder / SCAN).open("wb")
            try:
                self._write(encode_message(Header(header)))
            except BaseException:
                self._file.close()
                raise

    def __enter__(self) -> Reception:
        """Return the reception."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the file."""
        with suppress(OSError):
            self._file.close()

    def add(self, item: Item) -> None:
        """Write the next acquisition or waveform.

        Raises
        ------
        Mri2QmapError
            If the disk is nearly full, or fails.
        """
        with self._writing():
            self._write(self._digest.add(item))
        self._count += 1

    def finish(self, check: Callable[[Path], None] | None = None) -> QueuedScan:
        """Put the scan into the queue; when this returns, it is on the disk.

        Parameters
        ----------
        check
            Called with the file of the scan before it is put into the queue; what it raises
            refuses the scan.

        Raises
        ------
        Mri2QmapError
            If it cannot be written.
        """
        with self._writing():
            self._write(encode_message(Close()))
            self._file.close()
            sync(self._folder / SCAN)
            sync(self._folder / PIPELINE)
        if check is not None:
            check(self._folder / SCAN)
        digest = self._digest.hexdigest()
        record = replace(self._record, scan_digest=digest, acquisitions=self._count)
        with self._writing():
            return self._add(self._folder, record, self._pipeline)

    def _write(self, parts: list[Part]) -> None:
        with self._room.take(sum(map(len, parts))):
            for part in parts:
                self._file.write(part)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Say what could not be written, for errors of the disk; others are those of the peer."""
        try:
            yield
        except OSError as error:
            raise cannot_write(f"the queue {self._folder.parent}", error) from error

"""Items of a stream that can be read again, although the stream itself cannot."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterable, Iterator
from typing import IO

import ismrmrd

from mri2qmap.hosts.message_encoding import encode_message
from mri2qmap.hosts.protocol import read_message
from mri2qmap.machine.folders import cache_folder
from mri2qmap.pipeline.items import Item, Provenance

logger = logging.getLogger(__name__)


class ItemSpool:
    """Items of a scan, of which acquisitions and waveforms are kept in a file without a name.

    Each iteration yields all items from the first one. The file is in the folder of the cache, or
    in that for temporary files. It is gone when the spool is closed, or when the process ends.

    Not thread-safe, and one iteration must end before the next one begins.

    Parameters
    ----------
    items
        The stream.

    Attributes
    ----------
    whole
        Whether all items that were read are kept. They are not if one is of another kind, or if the
        file could not be written.
    """

    def __init__(self, items: Iterable[Item]) -> None:
        self.whole = True
        self._items = iter(items)
        self._file: IO[bytes] | None = None
        self._count = 0
        self._provenance: dict[int, Provenance] = {}  # by their place

    def __iter__(self) -> Iterator[Item]:
        """Yield all items: those that were read before, and then the rest of the stream."""
        yield from self._again()
        for item in self._items:
            if self.whole:
                self._keep(item)
            yield item

    def close(self) -> None:
        """Delete the file. What was read before is not yielded again."""
        self.whole, self._count = False, 0
        if self._file is not None:
            with contextlib.suppress(OSError):  # what is in its buffer is of no use either
                self._file.close()
            self._file = None

    def read(self, n_bytes: int) -> bytes:
        """Return the next bytes of the file, see `mri2qmap.hosts.protocol.Source`."""
        assert self._file is not None
        content = self._file.read(n_bytes)
        if len(content) != n_bytes:
            raise ConnectionError("the file of the items has been cut")
        return content

    def _again(self) -> Iterator[Item]:
        if self._file is not None:
            self._file.seek(0)
        for place in range(self._count):
            if place in self._provenance:
                yield self._provenance[place]
                continue
            message = read_message(self)
            assert isinstance(message, ismrmrd.Acquisition | ismrmrd.Waveform)
            yield message

    def _keep(self, item: Item) -> None:
        if isinstance(item, Provenance):
            self._provenance[self._count] = item
            self._count += 1
            return
        if not isinstance(item, ismrmrd.Acquisition | ismrmrd.Waveform):
            self.close()
            return
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=cache_folder())
            for part in encode_message(item):
                self._file.write(part)
        except OSError as error:
            logger.warning("the scan is not kept for a second attempt: %s", error.strerror)
            self.close()
        else:
            self._count += 1

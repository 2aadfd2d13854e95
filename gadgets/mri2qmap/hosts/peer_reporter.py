"""Progress and log lines of a reconstruction for the peer of a connection."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from mri2qmap.hosts.error_text import client_text
from mri2qmap.hosts.live_scans import LiveEntry
from mri2qmap.hosts.message_socket import MessageSocket
from mri2qmap.hosts.protocol import RelayedText, Text
from mri2qmap.machine.cancellation import raise_if_cancelled
from mri2qmap.pipeline.progress import Reporter, number_of_steps, stage_line

T = TypeVar("T")


class PeerReporter(Reporter):
    """Writes log lines and the start of each stage to a log and, as messages, to a peer.

    Parameters
    ----------
    peer
        Receives the messages.
    kind
        Makes a message of a text; None: there are none.
    logger
        The log.

    Attributes
    ----------
    entry
        Is told the steps; None: nobody is.
    """

    entry: LiveEntry | None = None

    def __init__(
        self,
        peer: MessageSocket,
        kind: Callable[[str], Text | RelayedText] | None,
        logger: logging.Logger,
    ) -> None:
        self._peer = peer
        self._kind = kind
        self._logger = logger
        self._stage = "preparation"
        self._start = time.monotonic()
        if kind is not None:
            peer.heartbeat = lambda: kind(self._still_at_work())

    def progress(
        self, iterable: Iterable[T], description: str, total: int | None = None
    ) -> Iterator[T]:
        """See `Reporter.progress`.

        Raises
        ------
        ConnectionError
            If the peer has disconnected.
        BaseException
            The error of a `Cancellation` that is active.
        """
        self._stage = description
        self._tell(stage_line(iterable, description, total))
        if self.entry is not None:
            total = number_of_steps(iterable, total)
            iterable = self.entry.steps(iterable, description, total)
        for element in iterable:
            raise_if_cancelled()
            yield element

    def emit(self, line: str) -> None:
        """See `Reporter.emit`."""
        self._tell(line)

    def _tell(self, line: str) -> None:
        self._logger.info("%s", line)
        if self._kind is not None:
            self._peer.send(self._kind(client_text(line)))

    def _still_at_work(self) -> str:
        """Return the text that tells the client that the reconstruction goes on."""
        seconds = time.monotonic() - self._start
        return client_text(f"{seconds:.0f} s, still at work: {self._stage}")

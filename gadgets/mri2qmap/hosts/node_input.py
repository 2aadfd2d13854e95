"""The input of a node of a Gadgetron server."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from mri2qmap.hosts.inbox import Inbox
from mri2qmap.hosts.protocol import Message
from mri2qmap.machine.cancellation import raise_if_cancelled

TAKES_RAW_ACQUISITIONS = ("coil_sensitivity",)
"""Gadgets whose input acquisitions are checked; later gadgets receive checked ones."""


class NodeInput:
    """The messages from the server. The first one can be looked at before it is taken.

    Attributes
    ----------
    inbox
        The messages that have arrived.
    """

    def __init__(self, inbox: Inbox) -> None:
        self.inbox = inbox
        self._messages = iter(inbox)
        self._looked_at: list[Message] = []

    @property
    def first(self) -> Message | None:
        """The next message, which remains; waits for it. None at the end of the stream."""
        if not self._looked_at:
            self._looked_at.extend(itertools.islice(self._messages, 1))
        return self._looked_at[0] if self._looked_at else None

    def __iter__(self) -> Iterator[Message]:
        """Yield the messages as they arrive; see `Inbox`.

        Raises
        ------
        BaseException
            The error of `raise_if_cancelled`, also at the end of the stream: it may have ended
            because the computation is cancelled.
        """
        while True:
            more = self.first is not None
            raise_if_cancelled()
            if not more:
                return
            yield self._looked_at.pop()

"""Documents of peers are read one at a time, with pauses, so that scans go on beside them.

Reading is work in Python. Many peers who send headers and pipelines, however short, would otherwise
delay each small step of a reconstruction.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mri2qmap.machine.fair_turns import FairTurns
from mri2qmap.machine.giving_way import gives_way, giving_way
from mri2qmap.machine.networks import network_of
from mri2qmap.pipeline.scan_log import peer_host

_ELEMENT = 1e-5
"""Time that an element takes [s]."""
_BYTE = 2e-8
"""Time that a byte takes [s]."""
_SHORT = 0.1
"""Reading that takes at most so long does not wait for longer one [s]."""
_short_turns, _long_turns = FairTurns(), FairTurns()


@contextmanager
def reading_turn(*documents: bytes) -> Iterator[None]:
    """Wait until no such document of another peer is read, and let others go first meanwhile.

    A long document and a short one may be read at the same time.

    Does nothing for documents of this machine, and within a turn.

    Parameters
    ----------
    documents
        What is read, as received.

    Raises
    ------
    BaseException
        The error with which the computation of this thread is cancelled; see `raise_if_cancelled`.
    """
    host = peer_host()
    if not host or gives_way():
        yield
        return
    size = sum(len(document) for document in documents)
    elements = sum(document.count(b"<") for document in documents) / 2
    seconds = _ELEMENT * elements + _BYTE * size
    turns = _short_turns if seconds <= _SHORT else _long_turns
    with turns.turn(network_of(host), seconds), giving_way():
        yield

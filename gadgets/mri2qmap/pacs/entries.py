"""What the spool holds, and what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from mri2qmap.pacs.dicom_files import Identity


class State(StrEnum):
    """State of an object at a destination."""

    PENDING = "pending"
    """It is to be sent."""
    STORED = "stored"
    """The peer took it; storage commitment was asked for, and the spool still has it."""
    SENT = "sent"
    """The peer has it."""
    REFUSED = "refused"
    """The peer does not take it."""


@dataclass(frozen=True)
class Entry:
    """An object that is to be sent to a destination.

    Attributes
    ----------
    identity
        Its UIDs.
    sha256
        Digest of its file.
    path
        The file in the spool.
    state
        Its state.
    """

    identity: Identity
    sha256: str
    path: Path
    state: State = State.PENDING


@dataclass(frozen=True)
class Outcome:
    """What became of one object in one attempt.

    Attributes
    ----------
    entry
        The object.
    state
        Its state now: PENDING if it is worth another attempt.
    reason
        Why it was refused or is still pending; a warning of the peer if it was sent.
    """

    entry: Entry
    state: State
    reason: str = ""


@dataclass(frozen=True)
class Recorded:
    """How many objects of a batch were recorded, by what was known of them.

    Attributes
    ----------
    new
        Not known before, or refused before: they are pending now.
    waiting
        Pending already.
    sent
        Sent before, and not sent again.
    """

    new: int = 0
    waiting: int = 0
    sent: int = 0


@dataclass(frozen=True)
class Held:
    """Objects of one SOP class in one state for one reason.

    Attributes
    ----------
    state, sop_class, reason
        What they share.
    count
        How many there are.
    """

    state: State
    sop_class: str
    reason: str
    count: int


class PeerError(Exception):
    """The destination cannot be reached or breaks off; says nothing against the objects.

    Parameters
    ----------
    reason
        What happened.
    permanent
        Whether another attempt would end in the same way, as with a wrong AE title.
    """

    def __init__(self, reason: str, permanent: bool = False) -> None:
        super().__init__(reason)
        self.permanent = permanent


def class_name(sop_class: str) -> str:
    """Return the name of a SOP class."""
    from pydicom.uid import UID

    return str(UID(sop_class).name)

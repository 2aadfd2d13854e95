"""Sending what is pending in the spool, with retries."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from mri2qmap.machine.cancellation import raise_if_cancelled
from mri2qmap.machine.quiet_logs import quiet_loggers
from mri2qmap.machine.value_checks import (
    refuse_unless_counts,
    refuse_unless_not_negative,
    refuse_unless_positive,
)
from mri2qmap.pacs.destination import Connection, Destination, DicomNode
from mri2qmap.pacs.entries import Entry, Outcome, PeerError, State
from mri2qmap.pacs.spool import Spool
from mri2qmap.storage.written import digest

_LONGEST_WAIT = 60.0  # s
_MOST_ATTEMPTS = 1000
_CHATTY = ("pynetdicom", "dicomweb_client", "retrying")
"""Packages whose log lines may hold patient data."""


@dataclass(frozen=True)
class PushOptions:
    """How patiently objects are sent.

    Attributes
    ----------
    timeout
        How long the peer may take for the connection and for each answer [s].
    attempts
        Attempts without any progress before the rest is left pending.
    wait
        Time before the second attempt [s]; it doubles with each further one, up to a minute.
    commitment
        How long to wait for the report of storage commitment [s]; 0: it is not asked for.
    """

    timeout: float = 30.0
    attempts: int = 4
    wait: float = 1.0
    commitment: float = 10.0

    def __post_init__(self) -> None:
        refuse_unless_positive(self, "timeout")
        refuse_unless_counts(self, "attempts", most=_MOST_ATTEMPTS)
        refuse_unless_not_negative(self, "wait", "commitment")


@dataclass
class PushResult:
    """What came of sending to one destination.

    Attributes
    ----------
    destination
        Its text.
    sent
        Number of objects that the peer took, by SOP class.
    refused
        Number of objects that the peer does not take, by SOP class and reason.
    pending
        Number of objects that are still to be sent.
    problem
        Why objects are still pending.
    notes
        What else is to be told: warnings of the peer, storage commitment.
    """

    destination: str
    sent: Counter[str] = field(default_factory=Counter)
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)
    pending: int = 0
    problem: str = ""
    notes: list[str] = field(default_factory=list)


class Sender(Protocol):
    """Sends objects to one destination."""

    notes: list[str]

    def send(self, entries: Sequence[Entry]) -> Generator[Outcome]:
        """Send objects and yield what became of each; raise PeerError if the peer fails."""


def sender_for(destination: Destination, connection: Connection, options: PushOptions) -> Sender:
    """Return what sends to a destination.

    Raises
    ------
    Mri2QmapError
        If the package that it needs is not installed.
    """
    if isinstance(destination, DicomNode):
        from mri2qmap.pacs.store_scu import StoreScu

        return StoreScu(destination, connection, options.timeout, options.commitment)
    from mri2qmap.pacs.stow import StowClient

    return StowClient(destination, connection, options.timeout)


def push_pending(
    spool: Spool,
    destination: Destination,
    options: PushOptions,
    tell: Callable[[str], object] = lambda line: None,
) -> PushResult:
    """Send all that is pending for a destination, also what others record meanwhile.

    Each object is marked in the spool when the peer has answered for it. Another process that
    sends to the destination is waited for.

    Parameters
    ----------
    spool
        The spool; it also knows how the connection is made.
    destination
        Where to.
    options
        Timeouts and attempts.
    tell
        Called with a line before each wait.

    Raises
    ------
    Mri2QmapError
        If the spool fails, or a package or a file of the connection is missing.
    BaseException
        The error of a `Cancellation` that is active, after the object that is on its way.
    """
    name = str(destination)
    connection = spool.connection(name).for_destination(destination)
    sender = sender_for(destination, connection, options)
    result = PushResult(name)
    try:
        with spool.sending(name, options.timeout * options.attempts), quiet_loggers(_CHATTY):
            _send_all(spool, sender, options, result, tell)
    except PeerError as error:
        result.problem = str(error)
    result.pending = len(spool.entries(name, State.PENDING, State.STORED))
    result.problem = result.problem if result.pending else ""
    spool.set_problem(name, result.problem)
    return result


def _send_all(
    spool: Spool,
    sender: Sender,
    options: PushOptions,
    result: PushResult,
    tell: Callable[[str], object],
) -> None:
    """Send until nothing is pending, or the attempts are used up."""
    name, failures = result.destination, 0
    warned: Counter[str] = Counter()
    while entries := _intact(spool, result):
        raise_if_cancelled()
        progress, error = _attempt(spool, sender, entries, result, warned)
        if error is None:
            continue
        result.problem = str(error)
        failures = 0 if progress else failures + 1
        if error.permanent or failures >= options.attempts:
            break
        pause = min(options.wait * 2 ** max(failures - 1, 0), _LONGEST_WAIT)
        tell(f"{name}: {error}; next attempt in {pause:g} s")
        time.sleep(pause)
    result.notes += [f"{count} with a warning: {words}" for words, count in warned.items()]
    result.notes += sender.notes


def _attempt(
    spool: Spool,
    sender: Sender,
    entries: Sequence[Entry],
    result: PushResult,
    warned: Counter[str],
) -> tuple[bool, PeerError | None]:
    """Send objects once; return whether any is settled, and why one is still pending."""
    progress, problem = False, None
    with contextlib.closing(sender.send(entries)) as outcomes:
        try:
            for outcome in outcomes:
                entry, state = outcome.entry, outcome.state
                spool.mark(result.destination, entry, state, outcome.reason)
                raise_if_cancelled()
                if state is State.PENDING:
                    problem = PeerError(outcome.reason)
                    continue
                # not STORED: of a peer that does not commit, there would be progress without end
                progress = progress or state in (State.SENT, State.REFUSED)
                sop_class = entry.identity.sop_class
                if state is State.REFUSED:
                    result.refused[sop_class, outcome.reason] += 1
                elif state is State.SENT:
                    result.sent[sop_class] += 1
                    if outcome.reason:
                        warned[outcome.reason] += 1
        except PeerError as error:
            problem = error
    return progress, problem


def _intact(spool: Spool, result: PushResult) -> list[Entry]:
    """Return what is pending and as it was recorded; refuse the rest."""
    name, found = result.destination, []
    for entry in spool.entries(name, State.PENDING, State.STORED):
        try:
            changed = digest(entry.path) != entry.sha256
        except OSError:
            changed = True
        if changed:
            reason = "its copy in the spool was changed or removed; push the folder again"
            spool.mark(name, entry, State.REFUSED, reason)
            result.refused[entry.identity.sop_class, reason] += 1
        else:
            found.append(entry)
    return found

"""C-STORE of the objects of the spool to a DICOM node."""

from __future__ import annotations

import contextlib
import socket
import ssl
import warnings
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING

from mri2qmap.machine.optional_packages import load_optional
from mri2qmap.pacs.bounded_dicom import PeerBounds
from mri2qmap.pacs.destination import Connection, DicomNode
from mri2qmap.pacs.entries import Entry, Outcome, PeerError, State
from mri2qmap.pacs.status_codes import state_after
from mri2qmap.pacs.storage_commitment import COMMITMENT, Commitment
from mri2qmap.pacs.tls import client_context

if TYPE_CHECKING:
    from pynetdicom.association import Association
    from pynetdicom.presentation import PresentationContext

_MOST_CONTEXTS = 128
"""Presentation contexts of an association (PS3.8)."""
_NOT_ACCEPTED = {
    1: "the peer rejects it",
    2: "the peer gives no reason",
    3: "the peer does not support this SOP class",
    4: "the peer does not support this transfer syntax",
}
_PERMANENT = 1
_SLOWEST = 125_000
"""Rate of the slowest network that is not given up [bytes/s]."""


class StoreScu:
    """Sends objects to a DICOM node, each on a presentation context of its SOP class.

    The bytes of the data sets are sent as they are in the files.

    Parameters
    ----------
    node, connection
        The peer, and how to reach it.
    timeout
        How long the peer may take for the connection and for each whole answer [s].
    commitment
        How long to wait for the report of storage commitment [s]; 0: it is not asked for.

    Attributes
    ----------
    notes
        What is to be reported besides the outcomes.
    """

    def __init__(
        self, node: DicomNode, connection: Connection, timeout: float, commitment: float
    ) -> None:
        load_optional("pynetdicom", "sending by C-STORE")
        # it leaves sockets to the garbage collector, and the package ismrmrd lets all warnings pass
        warnings.filterwarnings("ignore", "unclosed", ResourceWarning, module="pynetdicom")
        self._node = node
        self._connection = connection
        self._timeout = timeout
        self._commitment = commitment
        self.notes: list[str] = []

    def send(self, entries: Sequence[Entry]) -> Generator[Outcome]:
        """Send objects, and yield what became of each.

        Raises
        ------
        PeerError
            If the peer cannot be reached, rejects the association, breaks it off, or is silent.
        """
        self.notes.clear()
        contexts = sorted({(e.identity.sop_class, e.identity.syntax) for e in entries})
        room = _MOST_CONTEXTS - 1  # one for storage commitment
        for first in range(0, len(contexts), room):
            chosen = contexts[first : first + room]
            mine = [e for e in entries if (e.identity.sop_class, e.identity.syntax) in chosen]
            yield from self._send(mine, chosen)

    def _send(
        self, entries: Sequence[Entry], contexts: Sequence[tuple[str, str]]
    ) -> Iterator[Outcome]:
        from pynetdicom.presentation import build_context

        proposed = [build_context(sop_class, syntax) for sop_class, syntax in contexts]
        commitment = None
        if self._commitment:
            commitment = Commitment(self._connection, self._timeout, self._commitment)
            proposed.append(build_context(COMMITMENT))
        with contextlib.ExitStack() as stack:
            if commitment is not None:
                stack.enter_context(commitment)
            bounds = PeerBounds(self._timeout)
            association = stack.enter_context(self._association(proposed, commitment, bounds))
            offered = any(c.abstract_syntax == COMMITMENT for c in association.accepted_contexts)
            after = State.STORED if commitment is not None and offered else State.SENT
            stored = []
            for entry in entries:
                known = entry.state is State.STORED  # by a push that was ended before its report
                outcome = (
                    Outcome(entry, after)
                    if known
                    else self._store(association, bounds, entry, after)
                )
                if outcome.state is State.STORED:
                    stored.append(entry)
                yield outcome
            if commitment is None:
                return
            if not offered:
                self.notes.append("storage commitment: the peer does not offer it")
            elif stored:
                bounds.allow(2 * self._timeout + self._commitment)
                yield from commitment.ask(association, stored)
                self.notes.append(commitment.note)

    def _store(
        self, association: Association, bounds: PeerBounds, entry: Entry, after: State
    ) -> Outcome:
        """Send one object."""
        wanted = (entry.identity.sop_class, entry.identity.syntax)
        accepted = {
            (c.abstract_syntax, c.transfer_syntax[0]) for c in association.accepted_contexts
        }
        if wanted not in accepted:
            return Outcome(entry, State.REFUSED, _why_not_accepted(association, wanted))
        if not association.is_established:
            raise PeerError(bounds.problem or "the peer broke the association off")
        try:
            size = entry.path.stat().st_size
            # the library counts from before the object is sent
            association.dimse_timeout = self._timeout + size / _SLOWEST
            bounds.allow(association.dimse_timeout)
            response = association.send_c_store(entry.path)
        except RuntimeError as error:  # ended since
            raise PeerError(bounds.problem or "the peer broke the association off") from error
        except (OSError, ValueError, AttributeError) as error:
            return Outcome(entry, State.REFUSED, f"the file cannot be sent ({error})")
        if "Status" not in response:
            words = "the peer broke the association off, or gave no answer within"
            raise PeerError(bounds.problem or f"{words} {self._timeout:g} s")
        state, reason = state_after(int(response.Status))
        return Outcome(entry, after if state is State.SENT else state, reason)

    @contextlib.contextmanager
    def _association(
        self,
        contexts: list[PresentationContext],
        commitment: Commitment | None,
        bounds: PeerBounds,
    ) -> Iterator[Association]:
        """Yield an association; release it, or abort it after an error.

        The library aborts an association on which the peer accepts no context; it is yielded, too.
        """
        from pynetdicom import AE, _config

        # the setting of the library for sending the bytes of a file instead of a decoded data set
        _config.STORE_SEND_CHUNKED_DATASET = True
        entity = AE(self._connection.calling_ae)
        entity.acse_timeout = entity.dimse_timeout = self._timeout
        entity.network_timeout = entity.connection_timeout = self._timeout
        node, tls = self._node, None
        if self._connection.encrypted:
            tls = client_context(self._connection), node.host
        handlers = [*bounds.handlers, *([] if commitment is None else commitment.handlers)]
        try:
            try:
                association = entity.associate(
                    node.host,
                    node.port,
                    contexts,
                    ae_title=node.title,
                    tls_args=tls,
                    evt_handlers=handlers,
                )
            except OSError as error:  # a name without an address; the library tells the others
                raise _no_connection(error) from error
            if bounds.problem:
                raise PeerError(bounds.problem)
            if not association.is_established and not association.rejected_contexts:
                raise self._not_established(association)
            released = False
            try:
                yield association
                if association.is_established:
                    bounds.allow(self._timeout)
                    association.release()
                released = True
            finally:
                if not released and association.is_established:
                    association.abort()
        finally:
            bounds.close()

    def _not_established(self, association: Association) -> PeerError:
        """Return why there is no association."""
        answer = association.acceptor.primitive
        if association.is_rejected and answer is not None:
            advice = ""
            if (answer.result_source, answer.diagnostic) == (1, 7):
                advice = f"; the peer does not know the AE title {self._node.title} as its own"
            elif (answer.result_source, answer.diagnostic) == (1, 3):
                advice = (
                    f"; the peer does not accept the calling AE title "
                    f"{self._connection.calling_ae}: enter it there, or give --calling-ae"
                )
            return PeerError(
                f"the peer rejected the association: {answer.reason_str}{advice}",
                permanent=answer.result == _PERMANENT,
            )
        return self._unreachable()

    def _unreachable(self) -> PeerError:
        """Connect once more without DICOM, to learn why it failed."""
        node = self._node
        try:
            with socket.create_connection((node.host, node.port), self._timeout) as plain:
                if self._connection.encrypted:
                    context = client_context(self._connection)
                    context.wrap_socket(plain, server_hostname=node.host).close()
        except ssl.SSLCertVerificationError as error:
            return PeerError(
                f"the certificate of the peer is not trusted ({error.verify_message})", True
            )
        except ssl.SSLError as error:
            return PeerError(f"TLS failed ({error.reason or error})")
        except OSError as error:
            return _no_connection(error)
        return PeerError(
            f"the peer took the connection and answered no association within {self._timeout:g} s, "
            "or closed it; is it a DICOM node, and is TLS expected there?"
        )


def _no_connection(error: OSError) -> PeerError:
    return PeerError(f"no connection ({error.strerror or error})")


def _why_not_accepted(association: Association, wanted: tuple[str, str]) -> str:
    """Return why the peer does not take a SOP class in a transfer syntax."""
    for context in association.rejected_contexts:
        if (context.abstract_syntax, context.transfer_syntax[0]) == wanted:
            reason = _NOT_ACCEPTED.get(context.result or 0, "the peer gives no reason")
            return f"no presentation context: {reason}"
    return "no presentation context: the peer did not answer for this SOP class"

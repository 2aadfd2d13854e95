"""Storage commitment (push model, PS3.4 annex J): the peer confirms that it keeps the objects."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mri2qmap.pacs.bounded_dicom import PeerBounds
from mri2qmap.pacs.destination import Connection, listening_address
from mri2qmap.pacs.entries import Entry, Outcome, PeerError, State
from mri2qmap.pacs.status_codes import state_after, stated
from mri2qmap.pacs.tls import server_context

if TYPE_CHECKING:
    from pydicom import Dataset
    from pynetdicom.association import Association
    from pynetdicom.events import Event

COMMITMENT = "1.2.840.10008.1.20.1"
"""Storage Commitment Push Model SOP Class."""
_WELL_KNOWN = "1.2.840.10008.1.20.1.1"
_REQUEST = 1  # action type
_SUCCESS = 0x0000
_NO_SUCH_ARGUMENT = 0x0114


class Commitment:
    """Asks a peer for its commitment and takes its report; a context manager.

    Parameters
    ----------
    connection
        May name a port on which the report is awaited besides the association of the request.
    timeout
        See `StoreScu`.
    patience
        How long to wait for the report [s].

    Attributes
    ----------
    note
        What came of it, in words.
    """

    def __init__(self, connection: Connection, timeout: float, patience: float) -> None:
        self.note = ""
        self._connection = connection
        self._timeout = timeout
        self._patience = patience
        self._transaction = ""
        self._report: Dataset | None = None
        self._arrived = threading.Event()
        self._server: Any = None
        self._callers: list[PeerBounds] = []

    @property
    def handlers(self) -> list[Any]:
        """Event handlers for an association or a server."""
        from pynetdicom import evt

        return [(evt.EVT_N_EVENT_REPORT, self._take)]

    def __enter__(self) -> Commitment:
        """Listen for the report, if the connection names a port.

        Raises
        ------
        PeerError
            If that is impossible.
        """
        if self._connection.listen:
            from pynetdicom import AE, evt

            entity = AE(self._connection.calling_ae)
            entity.acse_timeout = entity.dimse_timeout = self._timeout
            entity.network_timeout = self._timeout
            entity.add_supported_context(COMMITMENT, scu_role=True, scp_role=True)
            context: Any = None
            if self._connection.encrypted:
                context = _LateHandshakes(server_context(self._connection))
            address = listening_address(self._connection.listen)
            try:
                self._server = entity.start_server(
                    address,
                    block=False,
                    ssl_context=context,
                    evt_handlers=[*self.handlers, (evt.EVT_CONN_OPEN, self._bound)],
                )
            except OSError as error:
                raise PeerError(
                    f"--listen {self._connection.listen}: {error.strerror or error}", permanent=True
                ) from error
        return self

    def __exit__(self, *error: object) -> None:
        """Listen no more, and end the connections of those who called."""
        if self._server is not None:
            self._server.shutdown()
        for caller in self._callers:
            caller.close()

    def _bound(self, event: Event) -> None:
        """Bound the connection of one who calls with a report, or with anything else."""
        caller = PeerBounds(self._timeout)
        caller.attach(event)
        caller.allow(self._timeout + self._patience)
        self._callers.append(caller)

    def ask(self, association: Association, entries: Sequence[Entry]) -> Iterator[Outcome]:
        """Ask for commitment, and yield what became of each object.

        Objects for which no report comes are sent: the peer has taken them. Those that the peer
        does not keep are pending again.

        Parameters
        ----------
        association
            An association on which the peer has accepted `COMMITMENT`.
        entries
            Objects that the peer has taken.
        """
        from pydicom.uid import generate_uid

        self._transaction = str(generate_uid())
        association.dimse_timeout = self._timeout
        with contextlib.suppress(RuntimeError, ValueError):
            response, _ = association.send_n_action(
                self._request(entries), _REQUEST, COMMITMENT, _WELL_KNOWN
            )
            status = response.get("Status")
            if status == _SUCCESS:
                self._arrived.wait(self._patience)
                yield from self._outcomes(entries)
                return
            self.note = "storage commitment: the peer offers it, but gave no answer"
            if status is not None:
                self.note = f"storage commitment: the peer declined (status {status:04X}H)"
        if not self.note:
            self.note = "storage commitment: the peer broke the association off"
        yield from (Outcome(entry, State.SENT) for entry in entries)

    def _request(self, entries: Sequence[Entry]) -> Dataset:
        from pydicom import Dataset

        request = Dataset()
        request.TransactionUID = self._transaction
        request.ReferencedSOPSequence = []
        for entry in entries:
            item = Dataset()
            item.ReferencedSOPClassUID = entry.identity.sop_class
            item.ReferencedSOPInstanceUID = entry.identity.sop_instance
            request.ReferencedSOPSequence.append(item)
        return request

    def _take(self, event: Event) -> tuple[int, None]:
        """Take a report of the peer."""
        report = event.event_information
        if report.get("TransactionUID") != self._transaction or not self._transaction:
            return _NO_SUCH_ARGUMENT, None  # of an earlier push
        self._report = report
        self._arrived.set()
        return _SUCCESS, None

    def _outcomes(self, entries: Sequence[Entry]) -> Iterator[Outcome]:
        if self._report is None:
            self.note = f"storage commitment: asked for, no report within {self._patience:g} s"
            if not self._connection.listen:
                self.note += "; peers that report on a connection of their own need --listen PORT"
            yield from (Outcome(entry, State.SENT) for entry in entries)
            return
        kept, failed = stated(self._report)
        count = 0
        for entry in entries:
            uid = entry.identity.sop_instance
            if uid in kept and uid not in failed:
                count += 1
                yield Outcome(entry, State.SENT)
            else:
                _, reason = state_after(failed.get(uid, 0x0112))
                yield Outcome(entry, State.PENDING, f"the peer does not commit to it: {reason}")
        self.note = f"storage commitment: the peer keeps {count} of {len(entries)}"


class _LateHandshakes:
    """TLS whose handshake is made by the thread of a connection, not by the one that listens."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context

    def wrap_socket(self, connection: socket.socket, server_side: bool) -> ssl.SSLSocket:
        return self._context.wrap_socket(
            connection, server_side=server_side, do_handshake_on_connect=False
        )

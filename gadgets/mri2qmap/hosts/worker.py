"""The worker: a persistent process that runs the ``<connect>`` nodes of all sessions."""

from __future__ import annotations

import hashlib
import logging

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts.activity import Activities
from mri2qmap.hosts.connecting import peer_address
from mri2qmap.hosts.error_text import format_error, log_error
from mri2qmap.hosts.external_node import run_node, send_error
from mri2qmap.hosts.inbox import Inbox
from mri2qmap.hosts.item_store import ItemStore
from mri2qmap.hosts.message_socket import MessageSocket
from mri2qmap.hosts.protocol import Close, ConfigDocument, Header
from mri2qmap.hosts.service_record import ScanEntry, ServiceRecord
from mri2qmap.hosts.worker_node import WorkerNode
from mri2qmap.hosts.worker_sessions import WorkerSessions
from mri2qmap.machine.file_access import INSTALLED_FILES, FileAccess
from mri2qmap.machine.networks import network_of
from mri2qmap.pipeline.memory_budget import MemoryBudget, requested_by

logger = logging.getLogger(__name__)


class Worker:
    """Runs nodes of Gadgetron servers.

    What identifies the session of a node, and what memory it gets, is in
    `mri2qmap.hosts.worker_sessions`.

    Parameters
    ----------
    budget
        Memory budget of all sessions together.
    device
        See `select_device`.
    files
        Files that the configuration of a node may name: the server may have it from a client.

    Attributes
    ----------
    sessions
        The sessions of the nodes that run, and of stored items.
    record
        Log lines and metrics of the nodes.
    """

    def __init__(
        self, budget: MemoryBudget, device: str = "auto", files: FileAccess = INSTALLED_FILES
    ) -> None:
        self.sessions = WorkerSessions(budget)
        self.record = ServiceRecord("node")
        self._device = device
        self._files = files
        self._activities = Activities()

    @property
    def item_store(self) -> ItemStore:
        """Items that are passed between nodes by reference."""
        return self.sessions.items

    def serve(self, peer: MessageSocket) -> None:
        """Run the node that a server requests on this connection.

        Raises
        ------
        Exception
            Any error, after it has been sent to the server if the server is still connected.
        """
        address = peer_address(peer)
        requester = requested_by(network_of(address))  # for its place in the queue for memory
        session = self.record.session(address)
        with peer.cancellation.active(), requester, session as entry:
            self._serve(peer, entry)

    def _serve(self, peer: MessageSocket, entry: ScanEntry) -> None:
        first = peer.receive_opening()
        if isinstance(first, Close):
            return
        second = peer.receive_opening()
        if not isinstance(first, ConfigDocument) or not isinstance(second, Header):
            error = Mri2QmapError(
                "the first messages to a node are its <configuration> and the scan header, "
                f"but {type(first).__name__} and {type(second).__name__} arrived. Clients "
                "must connect to mri2qmap serve or to a Gadgetron server, not to the worker"
            )
            log_error(logger, error)
            inbox = Inbox(peer)
            try:
                send_error(inbox, format_error(error))
            finally:
                inbox.close()
            raise error
        digest = hashlib.sha256(second.document).hexdigest()
        place = WorkerNode(self.sessions, digest, entry)
        with self._activities.of(digest) as peer.activity:  # until its session is known
            inbox = Inbox(peer)
            run_node(None, first.document, second, inbox, place, self._device, self._files)

    def close(self) -> None:
        """Delete all stored items."""
        self.sessions.close()

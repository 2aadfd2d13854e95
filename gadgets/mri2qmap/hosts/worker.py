"""The worker: a persistent process that runs the ``<connect>`` nodes of all sessions."""

from __future__ import annotations

import hashlib
import logging

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts.error_text import format_error, log_error
from mri2qmap.hosts.external_node import run_node, send_error
from mri2qmap.hosts.item_store import ItemStore
from mri2qmap.hosts.message_socket import HANDSHAKE_TIMEOUT, Inbox, MessageSocket
from mri2qmap.hosts.protocol import Close, ConfigDocument, Header
from mri2qmap.hosts.worker_node import WorkerNode
from mri2qmap.hosts.worker_sessions import WorkerSessions
from mri2qmap.pipeline.memory_plan import MemoryBudget

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

    Attributes
    ----------
    sessions
        The sessions of the nodes that run, and of stored items.
    """

    def __init__(self, budget: MemoryBudget, device: str = "auto") -> None:
        self.sessions = WorkerSessions(budget)
        self._device = device

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
        first = peer.receive(HANDSHAKE_TIMEOUT)
        if isinstance(first, Close):
            return
        second = peer.receive(HANDSHAKE_TIMEOUT)
        if not isinstance(first, ConfigDocument) or not isinstance(second, Header):
            error = Mri2QmapError(
                "the first messages to a node are its <configuration> and the scan header, "
                f"but {type(first).__name__} and {type(second).__name__} arrived. Clients "
                "must connect to mri2qmap serve or to a Gadgetron server, not to the worker"
            )
            log_error(logger, error)
            send_error(peer, Inbox(peer), format_error(error))
            raise error
        place = WorkerNode(self.sessions, hashlib.sha256(second.document).hexdigest())
        run_node(None, first.document, second.document, peer, place, self._device)

    def close(self) -> None:
        """Delete all stored items."""
        self.sessions.close()

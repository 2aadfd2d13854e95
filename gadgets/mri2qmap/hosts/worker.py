"""The worker: a persistent process that runs the ``<connect>`` nodes of all sessions."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts.activity import Activities
from mri2qmap.hosts.error_text import format_error, log_error
from mri2qmap.hosts.external_node import Transport, node_properties, run_node, send_error
from mri2qmap.hosts.inbox import Inbox
from mri2qmap.hosts.item_store import ItemStore
from mri2qmap.hosts.message_socket import MessageSocket
from mri2qmap.hosts.protocol import Close, ConfigDocument, Header
from mri2qmap.machine.devices import select_device
from mri2qmap.pipeline.memory_budget import MemoryBudget
from mri2qmap.pipeline.memory_plan import planned_bytes
from mri2qmap.pipeline.pipeline_file import GADGETS, GadgetNode, load_gadget
from mri2qmap.pipeline.scan_header import ScanInfo, parse_scan_header
from mri2qmap.pipeline.scan_log import add_log_context
from mri2qmap.pipeline.settings import parse_settings, unknown_name

logger = logging.getLogger(__name__)


@dataclass
class _Admission:
    """Memory reserved for a session while it has nodes."""

    nodes: int = 0
    granted: int = 0
    known: dict[str, GadgetNode] = field(default_factory=dict)
    held: ExitStack = field(default_factory=ExitStack)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Worker:
    """Runs nodes of Gadgetron servers.

    The nodes of one scan are identified by the scan header, which is the same for all of them. Two
    simultaneous scans with identical headers share one memory reservation, but no data.

    Parameters
    ----------
    budget
        Memory budget of all sessions together.
    device
        See `select_device`.

    Attributes
    ----------
    item_store
        Items that are passed between nodes by reference.
    """

    def __init__(self, budget: MemoryBudget, device: str = "auto") -> None:
        self.item_store = ItemStore()
        self._budget = budget
        self._device = device
        self._activities = Activities()
        self._admissions: dict[str, _Admission] = {}
        self._lock = threading.Lock()

    def serve(self, peer: MessageSocket) -> None:
        """Run the node that a server requests on this connection.

        Raises
        ------
        Exception
            Any error, after it has been sent to the server if the server is still connected.
        """
        first = peer.receive_opening()
        if isinstance(first, Close):
            return
        second = peer.receive_opening()
        gadget = None
        with ExitStack() as held:
            if isinstance(second, Header):
                session = hashlib.sha256(second.document).hexdigest()
                peer.activity = held.enter_context(self._activities.of(session))
            inbox = Inbox(peer)
            held.callback(inbox.close)
            held.enter_context(peer.cancellation.active())
            try:
                if not isinstance(first, ConfigDocument) or not isinstance(second, Header):
                    raise Mri2QmapError(
                        "the first messages to a node are its <configuration> and the scan header, "
                        f"but {type(first).__name__} and {type(second).__name__} arrived. Clients "
                        "must connect to mri2qmap serve or to a Gadgetron server, not to the worker"
                    )
                node = _node(first.document)
                gadget = node.name
                scan = parse_scan_header(second.document, select_device(self._device))
                add_log_context(gadget)
                inbox.wait_for_data()  # a scan of which only headers came holds no memory
                held.enter_context(self._admitted(session, scan, node))
                peer.received.admit()
            except Mri2QmapError as error:
                log_error(logger, error)
                send_error(inbox, format_error(error, gadget))
                raise
            held.enter_context(self.item_store.node(session))
            transport = Transport(
                put=lambda item: self.item_store.put(session, item),
                pop=lambda number: self.item_store.pop(session, number),
            )
            run_node(gadget, first.document, second.document, inbox, transport, self._device)

    @contextmanager
    def _admitted(self, session: str, scan: ScanInfo, node: GadgetNode) -> Iterator[None]:
        """Reserve the memory of a session while one of its nodes runs.

        The first node waits for the reservation, later nodes wait for the first. A node knows only
        its own settings, so the reservation may grow with each further node.
        """
        with self._lock:
            admission = self._admissions.setdefault(session, _Admission())
            admission.nodes += 1
        try:
            with admission.lock:
                admission.known[node.name] = node
                size = planned_bytes(scan, admission.known.values())
                if size > admission.granted:
                    more, held = size - admission.granted, admission.granted > 0
                    share = self._budget.share(more, "this scan", first=held)
                    admission.held.enter_context(share)
                    admission.granted = size
            yield
        finally:
            with self._lock:
                admission.nodes -= 1
                if admission.nodes == 0:
                    del self._admissions[session]
                    admission.held.close()


def _node(configuration: bytes) -> GadgetNode:
    """Return the gadget of a node and its settings."""
    options, properties = node_properties(configuration, "of the worker")
    if options.gadget not in GADGETS:
        raise Mri2QmapError(
            '<configuration>: <property name="gadget" value="..."/> must name the gadget of a '
            f"<connect> node; {unknown_name('gadget', options.gadget, list(GADGETS))}"
        )
    function, settings_class = load_gadget(options.gadget)
    settings = parse_settings(settings_class, properties, options.gadget)
    return GadgetNode(options.gadget, function, settings)

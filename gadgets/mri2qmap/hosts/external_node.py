"""The gadgets as external nodes of a Gadgetron server.

For ``<execute name="mri2qmap.hosts.external_node" target="coil_sensitivity" type="python"/>``, the
server runs ``python3 -m gadgetron PORT mri2qmap.hosts.external_node coil_sensitivity``, which calls
the function ``coil_sensitivity`` of this module with a connection. ``<connect>`` nodes run in
`mri2qmap worker`. Both call `run_node`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts.error_text import client_text, format_error, log_error
from mri2qmap.hosts.in_process import InProcessHost
from mri2qmap.hosts.inbox import Inbox
from mri2qmap.hosts.message_socket import MessageSocket
from mri2qmap.hosts.protocol import Failure, RelayedText
from mri2qmap.hosts.stage_timing import NodeTiming
from mri2qmap.hosts.wire import FILES, Decoder, Message, encode, encode_reference
from mri2qmap.machine.cancellation import raise_if_cancelled
from mri2qmap.machine.devices import select_device
from mri2qmap.pipeline.acquisition_checks import checked_acquisitions
from mri2qmap.pipeline.acquisition_policy import pipeline_policy
from mri2qmap.pipeline.items import Item
from mri2qmap.pipeline.node_options import NodeOptions, split_properties
from mri2qmap.pipeline.pipeline_file import GadgetNode, Pipeline, load_gadget, parse_properties
from mri2qmap.pipeline.progress import Reporter, stage_line
from mri2qmap.pipeline.scan_header import ScanInfo, parse_scan_header
from mri2qmap.pipeline.scan_log import add_log_context, configure_logging, warnings_in_log
from mri2qmap.pipeline.settings import parse_settings
from mri2qmap.pipeline.xml_document import parse_xml

logger = logging.getLogger(__name__)
T = TypeVar("T")

ERROR_DELAY = 0.25
"""Delay from the end of the input to the error message [s]; the server may lose earlier ones."""
TAKES_RAW_ACQUISITIONS = ("coil_sensitivity",)
"""Gadgets whose input acquisitions are checked; later gadgets receive checked ones."""


@dataclass(frozen=True)
class Transport:
    """Passes items between the nodes of a session through the memory of the worker.

    Attributes
    ----------
    put
        Stores an item for the next node and returns its reference.
    pop
        Removes and returns the item of a reference.
    """

    put: Callable[[Item], str]
    pop: Callable[[str], Item]


class NodeReporter(Reporter):
    """Writes log lines to the log of the node and, if the pipeline enables it, to the client.

    Parameters
    ----------
    peer
        The server.
    to_client
        Whether log lines are also sent to the client.
    """

    def __init__(self, peer: MessageSocket, to_client: bool) -> None:
        self._peer = peer
        self._to_client = to_client
        self._stage = "preparation"
        self._start = time.monotonic()

    def progress(
        self, iterable: Iterable[T], description: str, total: int | None = None
    ) -> Iterator[T]:
        """See `Reporter.progress`.

        Raises
        ------
        BaseException
            The error of a `Cancellation` that is active.
        """
        self._stage = description
        self.emit(stage_line(iterable, description, total))
        for element in iterable:
            raise_if_cancelled()
            yield element

    def heartbeat(self) -> RelayedText:
        """Return a text that tells the client that the reconstruction goes on."""
        seconds = time.monotonic() - self._start
        return RelayedText(client_text(f"{seconds:.0f} s, still at work: {self._stage}"))

    def emit(self, line: str) -> None:
        """See `Reporter.emit`."""
        logger.info("%s", line)
        if self._to_client:
            self._peer.send(RelayedText(client_text(line)))


def node_properties(configuration: bytes, gadget: str) -> tuple[NodeOptions, dict[str, str]]:
    """Parse the ``<configuration>`` of a node into host options and gadget properties.

    Raises
    ------
    Mri2QmapError
        If the XML or an option is invalid.
    """
    place = "<configuration>"
    return split_properties(parse_properties(parse_xml(configuration, place), place), gadget)


def run_node(
    gadget: str,
    configuration: bytes,
    header: bytes,
    inbox: Inbox,
    transport: Transport | None = None,
    device: str = "auto",
) -> None:
    """Run a gadget on the items from the server and send its output back.

    Parameters
    ----------
    gadget
        Name of the gadget.
    configuration, header
        The first two messages of the server: the node's ``<configuration>`` and the scan header.
    inbox
        Messages of the server after the header. Its connection is not closed. It cancels the
        computation when the server closes the connection, as a Gadgetron server does when its
        client disconnects or when it terminates.
    transport
        Storage of items that are sent as references; None: items are sent by value.
    device
        See `select_device`.

    Raises
    ------
    Exception
        Any error, after it has been sent to the server.
    """
    cancellation = inbox.peer.cancellation
    with cancellation.active():
        try:
            _run(gadget, configuration, header, inbox, transport, device)
        except Exception as problem:
            error = cancellation.error or problem
            if not isinstance(error, ConnectionError):  # else the server is gone
                log_error(logger, error)
                send_error(inbox, format_error(error, gadget))
            if error is problem:
                raise
            raise error from problem
        finally:
            inbox.close()


def send_error(inbox: Inbox, text: str) -> None:
    """Send an error to the server, once the server has sent all of its input.

    If the scan is cancelled, because it is silent or because this process stops, the end of the
    input is not waited for.

    Raises
    ------
    ConnectionError
        If the server has disconnected.
    """
    inbox.discard(None if inbox.peer.cancellation.error is None else 0.0)
    time.sleep(ERROR_DELAY)
    inbox.peer.send(Failure(text))


def _run(
    gadget: str,
    configuration: bytes,
    header: bytes,
    inbox: Inbox,
    transport: Transport | None,
    device: str,
) -> None:
    peer = inbox.peer
    options, properties = node_properties(configuration, gadget)
    if options.silence is not None:
        peer.deadlines = replace(peer.deadlines, silence=options.silence)
    function, settings_class = load_gadget(gadget)
    node = GadgetNode(gadget, function, parse_settings(settings_class, properties, gadget))
    by_reference = options.transport == "reference"
    if by_reference and transport is None:
        raise Mri2QmapError('transport="reference" is supported in nodes of mri2qmap worker only')
    reporter = NodeReporter(peer, options.report == "text")
    if options.report == "text":
        peer.heartbeat = reporter.heartbeat
    scan = parse_scan_header(header, select_device(device), reporter)
    add_log_context(gadget)
    items = _items(inbox, scan, transport)
    pipeline = Pipeline(gadget, (node,))
    if gadget in TAKES_RAW_ACQUISITIONS:
        items = checked_acquisitions(items, scan, pipeline_policy(pipeline))
    host = InProcessHost(pipeline, scan, inbox.start)
    for item in host.run(items):
        if isinstance(item, FILES):
            continue  # a Gadgetron server relays only images
        if transport is not None and by_reference:
            messages = encode_reference(item, transport.put)
        else:
            messages = encode(item)
        for message in messages:
            peer.send(message)
    reporter.log(str(_timing(host, inbox)))


def _timing(host: InProcessHost, inbox: Inbox) -> NodeTiming:
    """Return item counts and timing of the gadget that `host` ran."""
    if inbox.last_acquisition is not None:
        host.set_last_acquisition(inbox.last_acquisition)
    gadget = host.timings[1]
    return NodeTiming(
        name=gadget.name,
        items_in=gadget.items_in,
        items_out=gadget.items_out,
        ready_s=host.ready,
        first_item_s=gadget.first_item,
        last_item_s=gadget.last_item,
        last_acquisition_s=host.last_acquisition,
        total_s=host.total,
        busy_s=gadget.busy,
    )


def _items(inbox: Inbox, scan: ScanInfo, transport: Transport | None) -> Iterator[Item]:
    decoder = Decoder(scan.device, transport.pop if transport else None)
    for message in inbox:
        if not isinstance(message, Message):
            raise Mri2QmapError(
                f"the server sent a message of type {type(message).__name__}; acquisitions, "
                "waveforms and images are expected"
            )
        item = decoder.decode(message)
        if item is not None:
            yield item
    decoder.finish()


def external_node(gadget: str) -> Callable[[Any], None]:
    """Return the function that a Gadgetron server calls to run `gadget`."""

    def node(connection: Any) -> None:
        configure_logging()
        # The socket wrapper of the gadgetron package loops forever once its peer disconnects.
        peer = MessageSocket(connection.socket.socket)
        connection.socket = peer
        raw = connection.raw_bytes
        if gadget not in TAKES_RAW_ACQUISITIONS:
            peer.activity = None  # it waits for other nodes as long as they compute
        with warnings_in_log():
            run_node(gadget, raw.config, raw.header, Inbox(peer))

    node.__name__ = node.__qualname__ = gadget
    node.__doc__ = f"Run the gadget `{gadget}` on a `gadgetron.external.Connection`."
    return node


coil_sensitivity = external_node("coil_sensitivity")
subspace_compression = external_node("subspace_compression")
toeplitz_cg = external_node("toeplitz_cg")
pnp_admm = external_node("pnp_admm")
combined_matching = external_node("combined_matching")
parametric_maps = external_node("parametric_maps")

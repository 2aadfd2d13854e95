"""The gadgets as external nodes of a Gadgetron server.

A server that reads ``<execute name="mri2qmap.hosts.external_node" target="coil_sensitivity"
type="python"/>`` runs ``python3 -m gadgetron PORT mri2qmap.hosts.external_node coil_sensitivity``,
which calls the function of that name below with a connection. `mri2qmap worker` runs the nodes
that are ``<connect>`` elements. Both end up in `run_node`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts.error_text import client_line, failure_text, log_failure
from mri2qmap.hosts.in_process import InProcessHost
from mri2qmap.hosts.message_socket import Inbox, MessageSocket
from mri2qmap.hosts.protocol import Failure, RelayedText
from mri2qmap.hosts.stage_timing import NodeAccount
from mri2qmap.hosts.wire import FILES, Decoder, Message, encode, encode_reference
from mri2qmap.machine.devices import select_device
from mri2qmap.machine.process_setup import take_process
from mri2qmap.pipeline.acquisition_checks import checked_acquisitions
from mri2qmap.pipeline.acquisition_policy import policy_of
from mri2qmap.pipeline.items import Item
from mri2qmap.pipeline.node_options import NodeOptions, split_properties
from mri2qmap.pipeline.pipeline_file import GadgetNode, Pipeline, load_gadget, parse_properties
from mri2qmap.pipeline.progress import Reporter, stage_line
from mri2qmap.pipeline.scan_header import ScanInfo, received_scan
from mri2qmap.pipeline.scan_log import configure_logging, log_about, warnings_in_log
from mri2qmap.pipeline.settings import parse_settings
from mri2qmap.pipeline.xml_document import parse_xml

logger = logging.getLogger(__name__)
T = TypeVar("T")

ERROR_DELAY = 0.25
"""Seconds between the end of the input and the error message; sooner, the server may lose it."""
TAKES_RAW_ACQUISITIONS = ("coil_sensitivity",)
"""What it sends on has been checked, and counted as its settings say."""


@dataclass(frozen=True)
class HandOver:
    """Keeps items for the next node of the session, and takes those of the one before."""

    keep: Callable[[Item], str]
    take: Callable[[str], Item]


class NodeReporter(Reporter):
    """Sends log lines to the log of the node, and to the client where the pipeline allows it.

    Parameters
    ----------
    peer
        The server.
    to_client
        Whether it relays texts.
    """

    def __init__(self, peer: MessageSocket, to_client: bool) -> None:
        self._peer = peer
        self._to_client = to_client

    def progress(
        self, iterable: Iterable[T], description: str, total: int | None = None
    ) -> Iterator[T]:
        """See `Reporter.progress`; ends the work with a ConnectionError when nobody waits for it.

        A Gadgetron server hangs up when its client goes away, or itself.
        """
        self.take(stage_line(iterable, description, total))
        for element in iterable:
            if self._peer.hung_up.is_set():
                raise ConnectionError("the server has gone away; nobody waits for the result")
            yield element

    def take(self, line: str) -> None:
        """See `Reporter.take`."""
        logger.info("%s", line)
        if self._to_client:
            self._peer.send(RelayedText(client_line(line)))


def node_properties(configuration: bytes, gadget: str) -> tuple[NodeOptions, dict[str, str]]:
    """Read the ``<configuration>`` of a node: options of the host, properties of the gadget.

    Raises
    ------
    Mri2QmapError
        For what is no such element, and for wrong options.
    """
    place = "<configuration>"
    return split_properties(parse_properties(parse_xml(configuration, place), place), gadget)


def run_node(
    gadget: str,
    configuration: bytes,
    header: bytes,
    peer: MessageSocket,
    hand_over: HandOver | None = None,
    device: str = "auto",
) -> None:
    """Pass what a server sends through a gadget, and send back what comes out.

    Parameters
    ----------
    gadget
        Its name.
    configuration, header
        The first two messages of the server: the node's ``<configuration>`` and the scan's header.
    peer
        The server, from here on. It is left open.
    hand_over
        Where items are kept that cross the server as references; without it, all cross whole.
    device
        See `select_device`.

    Raises
    ------
    Exception
        What went wrong, after the server has been told.
    """
    start = time.perf_counter()
    inbox = Inbox(peer)
    try:
        _run(gadget, configuration, header, peer, inbox, hand_over, device, start)
    except ConnectionError:
        raise  # nobody is left to be told
    except Exception as error:
        log_failure(logger, error)
        tell_server(peer, inbox, failure_text(error, gadget))
        raise


def tell_server(peer: MessageSocket, inbox: Inbox, text: str) -> None:
    """Tell the server of a failure: it takes an error only after it has sent everything.

    Raises
    ------
    ConnectionError
        When it has gone away.
    """
    inbox.discard()
    time.sleep(ERROR_DELAY)
    peer.send(Failure(text))


def _run(
    gadget: str,
    configuration: bytes,
    header: bytes,
    peer: MessageSocket,
    inbox: Inbox,
    hand_over: HandOver | None,
    device: str,
    start: float,
) -> None:
    options, properties = node_properties(configuration, gadget)
    function, settings_class = load_gadget(gadget)
    node = GadgetNode(gadget, function, parse_settings(settings_class, properties, gadget))
    by_reference = options.transport == "reference"
    if by_reference and hand_over is None:
        raise Mri2QmapError('transport="reference" is for nodes of mri2qmap worker only')
    reporter = NodeReporter(peer, options.report == "text")
    scan = received_scan(header, select_device(device), reporter)
    log_about(gadget)
    items = _items(inbox, scan, hand_over)
    pipeline = Pipeline(gadget, (node,))
    if gadget in TAKES_RAW_ACQUISITIONS:
        items = checked_acquisitions(items, scan, policy_of(pipeline))
    host = InProcessHost(pipeline, scan, start)
    for item in host.run(items):
        if isinstance(item, FILES):
            continue  # a server passes on images only
        if hand_over is not None and by_reference:
            messages = encode_reference(item, hand_over.keep)
        else:
            messages = encode(item)
        for message in messages:
            peer.send(message)
    reporter.log(str(_account(host, inbox)))


def _account(host: InProcessHost, inbox: Inbox) -> NodeAccount:
    """Say what the gadget did and when."""
    if inbox.last_acquisition is not None:
        host.note_arrival(inbox.last_acquisition)
    gadget = host.accounts[1]
    return NodeAccount(
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


def _items(inbox: Inbox, scan: ScanInfo, hand_over: HandOver | None) -> Iterator[Item]:
    decoder = Decoder(scan.device, hand_over.take if hand_over else None)
    for message in inbox:
        if not isinstance(message, Message):
            raise Mri2QmapError(
                f"the server sent a message {type(message).__name__}; acquisitions, waveforms and "
                "images are expected"
            )
        item = decoder.decode(message)
        if item is not None:
            yield item
    decoder.finish()


def external_node(gadget: str) -> Callable[[Any], None]:
    """Return the function by which a Gadgetron server runs `gadget`."""

    def node(connection: Any) -> None:
        take_process()
        configure_logging()
        # The wrapper that comes with the Gadgetron package spins when its peer goes away.
        peer = MessageSocket(connection.socket.socket)
        connection.socket = peer
        raw = connection.raw_bytes
        with warnings_in_log():
            run_node(gadget, raw.config, raw.header, peer)

    node.__name__ = node.__qualname__ = gadget
    node.__doc__ = f"Run the gadget `{gadget}` on a `gadgetron.external.Connection`."
    return node


coil_sensitivity = external_node("coil_sensitivity")
subspace_compression = external_node("subspace_compression")
toeplitz_cg = external_node("toeplitz_cg")
pnp_admm = external_node("pnp_admm")
combined_matching = external_node("combined_matching")
parametric_maps = external_node("parametric_maps")

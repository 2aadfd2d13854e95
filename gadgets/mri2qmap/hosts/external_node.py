"""The gadgets as external nodes of a Gadgetron server.

For ``<execute name="mri2qmap.hosts.external_node" target="coil_sensitivity" type="python"/>``, the
server runs ``python3 -m gadgetron PORT mri2qmap.hosts.external_node coil_sensitivity``, which calls
the function ``coil_sensitivity`` of this module with a connection. ``<connect>`` nodes run in
`mri2qmap worker`. Both call `run_node`.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts.error_text import client_text, format_error, log_error
from mri2qmap.hosts.in_process import InProcessHost
from mri2qmap.hosts.message_socket import Inbox, MessageSocket
from mri2qmap.hosts.protocol import Failure, RelayedText
from mri2qmap.hosts.stage_timing import NodeTiming
from mri2qmap.hosts.wire import (
    FILES,
    Decoder,
    Message,
    encode,
    encode_reference,
    encode_session,
)
from mri2qmap.machine.cancellation import Cancellation, raise_if_cancelled
from mri2qmap.machine.devices import select_device
from mri2qmap.pipeline.acquisition_checks import checked_acquisitions
from mri2qmap.pipeline.acquisition_policy import pipeline_policy
from mri2qmap.pipeline.items import Item
from mri2qmap.pipeline.node_options import NodeOptions, split_properties
from mri2qmap.pipeline.pipeline_file import (
    GADGETS,
    GadgetNode,
    Pipeline,
    load_gadget,
    parse_properties,
)
from mri2qmap.pipeline.progress import Reporter, stage_line
from mri2qmap.pipeline.scan_header import ScanInfo, parse_scan_header
from mri2qmap.pipeline.scan_log import add_log_context, configure_logging, warnings_in_log
from mri2qmap.pipeline.settings import parse_settings, unknown_name
from mri2qmap.pipeline.xml_document import parse_xml

if TYPE_CHECKING:
    import torch

    from mri2qmap.hosts.worker_sessions import WorkerNode

logger = logging.getLogger(__name__)
T = TypeVar("T")

ERROR_DELAY = 0.25
"""Delay from the end of the input to the error message [s]; the server may lose earlier ones."""
TAKES_RAW_ACQUISITIONS = ("coil_sensitivity",)
"""Gadgets whose input acquisitions are checked; later gadgets receive checked ones."""


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

    def progress(
        self, iterable: Iterable[T], description: str, total: int | None = None
    ) -> Iterator[T]:
        """See `Reporter.progress`.

        Raises
        ------
        BaseException
            The error of `raise_if_cancelled`, see `run_node`.
        """
        self.emit(stage_line(iterable, description, total))
        for element in iterable:
            raise_if_cancelled()
            yield element

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
    gadget: str | None,
    configuration: bytes,
    header: bytes,
    peer: MessageSocket,
    place: WorkerNode | None = None,
    device: str = "auto",
) -> None:
    """Run a gadget on the items from the server and send its output back.

    The computation is cancelled when the server closes the connection: a Gadgetron server does so
    when its client disconnects or when it terminates. In a worker, it is also cancelled when
    another node of the session fails.

    Parameters
    ----------
    gadget
        Name of the gadget; None: the configuration names it, as that of a ``<connect>`` node does.
    configuration, header
        The first two messages of the server: the node's ``<configuration>`` and the scan header.
    peer
        Connection to the server, positioned after the header. It is not closed.
    place
        Place of the node in a session of the worker; None in a process of the server.
    device
        See `select_device`.

    Raises
    ------
    Exception
        Any error, after it has been sent to the server.
    """
    start = time.perf_counter()
    inbox = Inbox(peer)
    run = _NodeRun(gadget, configuration, header, peer, inbox, place)
    threading.Thread(target=run.end_with_server, name="hang-up", daemon=True).start()
    try:
        with run.cancellation.active():
            run.run(select_device(device), start)
    except Exception as error:
        run.end(error)
    finally:
        if place is not None:
            place.leave()


def send_error(peer: MessageSocket, inbox: Inbox, text: str) -> None:
    """Send an error to the server, once the server has sent all of its input.

    A Gadgetron server (4.7.2) that receives an error closes its half of the node in the thread that
    receives. While another of its threads sends to the node, that is a race in which the error, or
    the server, can be lost. So the error is sent only when the server has nothing more to send,
    which takes as long as the nodes before this one run, and after a short delay, in which the
    sending thread gets from its last message to its end. The client waits for neither of them if
    the node has a reader for texts, see `_NodeRun.end`.

    Raises
    ------
    ConnectionError
        If the server has disconnected.
    """
    inbox.discard()
    time.sleep(ERROR_DELAY)
    peer.send(Failure(text))


class _NodeRun:
    """One run of a gadget for a server."""

    def __init__(
        self,
        gadget: str | None,
        configuration: bytes,
        header: bytes,
        peer: MessageSocket,
        inbox: Inbox,
        place: WorkerNode | None,
    ) -> None:
        self.cancellation = Cancellation() if place is None else place.cancellation
        self._gadget = gadget
        self._configuration = configuration
        self._header = header
        self._peer = peer
        self._inbox = inbox
        self._messages = iter(inbox)
        self._place = place
        self._first: Any = None
        self._joined = False

    def run(self, device: torch.device, start: float) -> None:
        """Run the gadget.

        Parameters
        ----------
        device
            Device of the computations.
        start
            Time from which all times are counted (`time.perf_counter`).
        """
        options, properties = node_properties(self._configuration, self._gadget or "of the worker")
        if self._gadget is None:
            self._gadget = _named_gadget(options)
        by_reference = options.transport == "reference"
        if by_reference and self._place is None:
            raise Mri2QmapError(
                'transport="reference" is supported in nodes of mri2qmap worker only'
            )
        function, settings_class = load_gadget(self._gadget)
        settings = parse_settings(settings_class, properties, self._gadget)
        node = GadgetNode(self._gadget, function, settings)
        reporter = NodeReporter(self._peer, options.report == "text")
        scan = parse_scan_header(self._header, device, reporter)
        add_log_context(self._gadget)
        if self._place is not None:
            scan = self._admitted(self._place, node, scan, by_reference)
        pipeline = Pipeline(self._gadget, (node,))
        items = self._items(scan)
        if self._gadget in TAKES_RAW_ACQUISITIONS:
            items = checked_acquisitions(items, scan, pipeline_policy(pipeline))
        host = InProcessHost(pipeline, scan, start)
        for item in host.run(items):
            if isinstance(item, FILES):
                continue  # a Gadgetron server relays only images
            if self._place is None:
                messages = encode(item)
            elif by_reference:
                messages = encode_reference(item, self._place.put)
            else:
                messages = encode(item, session=self._place.session)
            for message in messages:
                self._peer.send(message)
        reporter.log(str(_timing(host, self._inbox)))

    def end_with_server(self) -> None:
        """Wait until the server has disconnected, and cancel the run if it has not ended."""
        self._peer.hung_up.wait()
        error = ConnectionError("the server has disconnected")
        self.cancellation.cancel(error)
        if self._place is not None:
            self._place.fail(error)

    def end(self, error: Exception) -> None:
        """Free what the run holds, tell the server about its error, and raise the error.

        A server passes a `Failure` on to its client only when all nodes have ended. So the client
        also gets the error as text at once, if the node has a reader for texts.
        """
        cancelled = self.cancellation.error
        if isinstance(cancelled, Exception) and _caused_by(error, cancelled):
            error = cancelled  # without what the gadget made of it
        if isinstance(error, ConnectionError):
            self._leave(error)
            raise error  # the server is gone: there is no recipient for the error
        log_error(logger, error)
        text = format_error(error, self._gadget)
        with contextlib.suppress(ConnectionError):
            if cancelled is None and self._reports_to_client():
                self._peer.send(RelayedText(f"{text}\n"))
        self._leave(error)
        send_error(self._peer, self._inbox, text)
        raise error

    def _leave(self, error: Exception) -> None:
        """Let go of the memory of the run, and let its session fail."""
        _clear_frames(error)
        if self._place is None:
            return
        if not self._joined and self._first is None and not self._is_first_node():
            with contextlib.suppress(Exception):  # it is the second error, if it is one at all
                self._first = next(self._messages, None)
        self._place.fail(error, self._first)
        self._place.leave()

    def _is_first_node(self) -> bool:
        return self._gadget in TAKES_RAW_ACQUISITIONS

    def _reports_to_client(self) -> bool:
        """Return whether the node has a reader for texts, even if other settings are wrong."""
        try:
            place = "<configuration>"
            properties = parse_properties(parse_xml(self._configuration, place), place)
        except Mri2QmapError:
            return False
        return properties.get("report") == "text"

    def _admitted(
        self, place: WorkerNode, node: GadgetNode, scan: ScanInfo, by_reference: bool
    ) -> ScanInfo:
        """Join a session of the worker, and wait until it has its memory."""
        if not self._is_first_node():
            self._first = next(self._messages, None)
            if self._first is None:
                raise Mri2QmapError(
                    "no item arrived: the nodes before this one have failed, or there are none"
                )
        place.join(node, self._first, last=not by_reference)
        self._joined = True
        if by_reference:
            self._peer.send(encode_session(place.session))
        return place.admitted(scan)

    def _items(self, scan: ScanInfo) -> Iterator[Item]:
        take = None if self._place is None else self._place.pop
        decoder = Decoder(scan.device, take)
        first = [] if self._first is None else [self._first]
        self._first = None
        for message in itertools.chain(first, self._messages):
            raise_if_cancelled()
            if not isinstance(message, Message):
                raise Mri2QmapError(
                    f"the server sent a message of type {type(message).__name__}; acquisitions, "
                    "waveforms and images are expected"
                )
            item = decoder.decode(message)
            if item is not None:
                yield item
        decoder.finish()


def _named_gadget(options: NodeOptions) -> str:
    """Return the gadget of a ``<connect>`` node."""
    if options.gadget not in GADGETS:
        raise Mri2QmapError(
            '<configuration>: <property name="gadget" value="..."/> must name the gadget of a '
            f"<connect> node; {unknown_name('gadget', options.gadget, list(GADGETS))}"
        )
    return options.gadget


def _caused_by(error: BaseException | None, cause: BaseException) -> bool:
    while error is not None and error is not cause:
        error = error.__cause__ or error.__context__
    return error is not None


def _clear_frames(error: BaseException | None) -> None:
    """Delete the local variables of the functions that an error has ended: they hold arrays."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


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


def external_node(gadget: str) -> Callable[[Any], None]:
    """Return the function that a Gadgetron server calls to run `gadget`."""

    def node(connection: Any) -> None:
        configure_logging()
        # The socket wrapper of the gadgetron package loops forever once its peer disconnects.
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

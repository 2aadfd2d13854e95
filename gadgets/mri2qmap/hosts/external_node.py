"""The gadgets as external nodes of a Gadgetron server.

For ``<execute name="mri2qmap.hosts.external_node" target="coil_sensitivity" type="python"/>``, the
server runs ``python3 -m gadgetron PORT mri2qmap.hosts.external_node coil_sensitivity``, which calls
the function ``coil_sensitivity`` of this module with a connection. ``<connect>`` nodes run in
`mri2qmap worker`. Both call `run_node`.

This module imports none of the libraries that compute, so that a process can report a wrong
configuration before it has loaded them. The settings of a gadget are known only afterwards.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from mri2qmap.errors import Mri2QmapError, clear_frames, with_causes
from mri2qmap.hosts.error_text import format_error, log_error
from mri2qmap.hosts.inbox import Inbox
from mri2qmap.hosts.message_socket import MessageSocket
from mri2qmap.hosts.node_input import TAKES_RAW_ACQUISITIONS, NodeInput
from mri2qmap.hosts.protocol import Failure, Header, RelayedText
from mri2qmap.machine.file_access import INSTALLED_FILES, FileAccess, site_files
from mri2qmap.pipeline.node_options import NodeOptions, parse_properties, split_properties
from mri2qmap.pipeline.reading_turns import reading_turn
from mri2qmap.pipeline.scan_log import (
    configure_logging,
    warnings_in_log,
)
from mri2qmap.pipeline.xml_document import parse_xml

if TYPE_CHECKING:
    from mri2qmap.hosts.worker_node import WorkerNode

logger = logging.getLogger(__name__)

ERROR_DELAY = 0.25
"""Delay from the end of the input to the error message [s]; the server may lose earlier ones."""


def node_properties(configuration: bytes, gadget: str) -> tuple[NodeOptions, dict[str, str]]:
    """Parse the ``<configuration>`` of a node into host options and gadget properties.

    Raises
    ------
    Mri2QmapError
        If the XML or an option is invalid.
    """
    place = "<configuration>"
    with reading_turn(configuration):
        return split_properties(parse_properties(parse_xml(configuration, place), place), gadget)


def run_node(
    gadget: str | None,
    configuration: bytes,
    header: Header,
    inbox: Inbox,
    place: WorkerNode | None = None,
    device: str = "auto",
    files: FileAccess = INSTALLED_FILES,
) -> None:
    """Run a gadget on the items from the server and send its output back.

    The inbox cancels the computation when the server closes the connection, as a Gadgetron server
    does when its client disconnects or when it terminates. In a worker, it is also cancelled when
    another node of the session fails.

    Parameters
    ----------
    gadget
        Name of the gadget; None: the configuration names it, as that of a ``<connect>`` node does.
    configuration, header
        The first two messages of the server: the node's ``<configuration>`` and the scan header,
        whose document is taken.
    inbox
        Messages of the server after the header. Its connection is not closed.
    place
        Place of the node in a session of the worker; None in a process of the server.
    device
        See `select_device`.
    files
        Files that the configuration may name: the server may have it from a client.

    Raises
    ------
    Exception
        Any error, after it has been sent to the server.
    """
    run = _NodeRun(gadget, configuration, header, inbox, place)
    try:
        with run.active():
            run.run(device, files)
    except Exception as error:
        run.end(error)
    finally:
        if place is not None:
            place.leave()
        inbox.close()


def send_error(inbox: Inbox, text: str) -> None:
    """Send an error to the server, once the server has sent all of its input.

    If the scan is cancelled, because it is silent or because this process stops, the end of the
    input is not waited for.

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
    inbox.discard(None if inbox.peer.cancellation.error is None else 0.0)
    time.sleep(ERROR_DELAY)
    inbox.peer.send(Failure(text))


class _NodeRun:
    """One run of a gadget for a server."""

    def __init__(
        self,
        gadget: str | None,
        configuration: bytes,
        header: Header,
        inbox: Inbox,
        place: WorkerNode | None,
    ) -> None:
        self._cancellations = [inbox.peer.cancellation]
        if place is not None:
            self._cancellations.append(place.cancellation)
        self._gadget = gadget
        self._configuration = configuration
        self._header = header
        self._input = NodeInput(inbox)
        self._place = place

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Let the end of the connection and of the session cancel the computation."""
        with contextlib.ExitStack() as stack:
            for cancellation in self._cancellations:
                stack.enter_context(cancellation.active())
            yield

    def run(self, device: str, files: FileAccess) -> None:
        """Run the gadget; see `run_node` for the parameters."""
        options, properties = node_properties(self._configuration, self._gadget or "of the worker")
        if options.transport == "reference" and self._place is None:
            raise Mri2QmapError(
                'transport="reference" is supported in nodes of mri2qmap worker only'
            )
        # Importing PyTorch takes seconds, and on a busy machine, on which a server starts six
        # processes at once, a minute: all that needs no gadget has been checked by now.
        from mri2qmap.hosts.gadget_run import GadgetRun, named_gadget

        if self._gadget is None:
            self._gadget = named_gadget(options)
        run = GadgetRun(self._gadget, properties, options, self._input, files, self._configuration)
        run.run(self._header, self._place, device)

    def end(self, error: Exception) -> None:
        """Free what the run holds, tell the server about its error, and raise the error.

        A server passes a `Failure` on to its client only when all nodes have ended. So the client
        also gets the error as text at once, if the node has a reader for texts.
        """
        reasons = (cancellation.error for cancellation in self._cancellations)
        cancelled = next((reason for reason in reasons if reason is not None), None)
        causes = list(with_causes(error, implicit=True))
        if isinstance(cancelled, Exception) and cancelled in causes:
            error = cancelled  # without what the gadget made of it
        if isinstance(error, ConnectionError):
            self._leave(error)
            raise error  # the server is gone: there is no recipient for the error
        log_error(logger, error)
        text = format_error(error, self._gadget)
        with contextlib.suppress(ConnectionError):
            if cancelled is None and self._reports_to_client():
                self._input.inbox.peer.send(RelayedText(f"{text}\n"))
        self._leave(error)
        send_error(self._input.inbox, text)
        raise error

    def _leave(self, error: Exception) -> None:
        """Let go of the memory of the run, and let its session fail."""
        clear_frames(error)
        if self._place is None:
            return
        if not self._place.has_session and self._gadget not in TAKES_RAW_ACQUISITIONS:
            with contextlib.suppress(Exception):  # it is the second error, if it is one at all
                self._place.find(self._input.first)
        self._place.fail(error)
        self._place.leave()

    def _reports_to_client(self) -> bool:
        """Return whether the node has a reader for texts, even if other settings are wrong."""
        try:
            place = "<configuration>"
            with reading_turn(self._configuration):
                properties = parse_properties(parse_xml(self._configuration, place), place)
        except Mri2QmapError:
            return False
        return properties.get("report") == "text"


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
            header = Header(raw.header)
            run_node(gadget, raw.config, header, Inbox(peer), files=site_files())

    node.__name__ = node.__qualname__ = gadget
    node.__doc__ = f"Run the gadget `{gadget}` on a `gadgetron.external.Connection`."
    return node


coil_sensitivity = external_node("coil_sensitivity")
subspace_compression = external_node("subspace_compression")
toeplitz_cg = external_node("toeplitz_cg")
pnp_admm = external_node("pnp_admm")
combined_matching = external_node("combined_matching")
parametric_maps = external_node("parametric_maps")

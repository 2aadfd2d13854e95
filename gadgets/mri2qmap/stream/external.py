"""The gadgets as external nodes of a Gadgetron server.

A server that reads ``<execute name="mri2qmap.stream.external" target="coil_sensitivity"
type="python"/>`` runs ``python3 -m gadgetron PORT mri2qmap.stream.external coil_sensitivity``,
which calls the function of that name below with a connection.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

from gadgetron.external import constants

from mri2qmap.errors import Mri2QmapError
from mri2qmap.stream.acquisition_checks import checked_acquisitions
from mri2qmap.stream.devices import select_device
from mri2qmap.stream.items import Item
from mri2qmap.stream.pipeline import load_gadget, parse_properties
from mri2qmap.stream.report import Reporter
from mri2qmap.stream.scan_info import ScanInfo
from mri2qmap.stream.settings import parse_settings
from mri2qmap.stream.wire import FILES, Decoder, encode
from mri2qmap.stream.xml_document import parse_xml

logger = logging.getLogger(__name__)

ERROR_DELAY = 0.25
"""Seconds between the end of the input and the error message; sooner, the server may lose it."""
TAKES_RAW_ACQUISITIONS = ("coil_sensitivity", "subspace_compression")

Connection = Any


class LoggingReporter(Reporter):
    """Sends log lines to the log of the server."""

    def log(self, text: str) -> None:
        """See `Reporter.log`."""
        logger.info(text)


class _Channel:
    """The socket of a connection, reading until the end instead of for ever.

    The wrapper that comes with the Gadgetron package spins when its peer goes away.
    """

    def __init__(self, wrapped: Any) -> None:
        self._socket: socket.socket = wrapped.socket

    def read(self, n_bytes: int) -> bytearray:
        """Read exactly `n_bytes`; ConnectionError when the peer goes away before."""
        content = bytearray(n_bytes)
        view, done = memoryview(content), 0
        while done < n_bytes:
            received = self._socket.recv_into(view[done:])
            if received == 0:
                raise ConnectionError("the server closed the connection within a message")
            done += received
        return content

    def write(self, content: Any) -> None:
        """Write all of `content`."""
        self._socket.sendall(content)

    def close(self) -> None:
        """Say that no more comes, if there is someone to be told, and close."""
        with contextlib.suppress(ConnectionError):
            self.write(constants.GadgetMessageIdentifier.pack(constants.GADGET_MESSAGE_CLOSE))
        self._socket.close()


def external_node(gadget: str) -> Callable[[Connection], None]:
    """Return the function by which a Gadgetron server runs `gadget`."""

    def node(connection: Connection) -> None:
        connection.socket = _Channel(connection.socket)
        messages = _messages(connection)
        try:
            _serve(gadget, connection, messages)
        except ConnectionError:
            raise  # nobody is left to be told
        except Exception as error:
            text = _error_text(gadget, error)
            logger.error(text)
            _drain(messages)  # the server takes an error only after it has sent everything
            time.sleep(ERROR_DELAY)
            content = text.encode()
            connection.socket.write(
                constants.GadgetMessageIdentifier.pack(constants.GADGET_MESSAGE_ERROR)
                + constants.uint64.pack(len(content))
                + content
            )
            raise

    node.__name__ = node.__qualname__ = gadget
    node.__doc__ = f"Run the gadget `{gadget}` on a `gadgetron.external.Connection`."
    return node


def _serve(gadget: str, connection: Connection, messages: Iterator[Any]) -> None:
    """Read settings and header, then pass every item through the gadget."""
    function, settings_class = load_gadget(gadget)
    place = "<configuration>"
    configuration = parse_xml(connection.raw_bytes.config, place)
    settings = parse_settings(settings_class, parse_properties(configuration, place), gadget)
    scan = ScanInfo.from_header(
        connection.raw_bytes.header, select_device("auto"), LoggingReporter()
    )
    items = _items(messages, scan)
    if gadget in TAKES_RAW_ACQUISITIONS:
        items = checked_acquisitions(items, scan)
    for item in function(items, scan, settings):
        if isinstance(item, FILES):
            logger.info("%s is left out: a server passes on images only", type(item).__name__)
            continue
        for message in encode(item):
            connection.send(message)


def _items(messages: Iterator[Any], scan: ScanInfo) -> Iterator[Item]:
    decoder = Decoder(scan.device)
    for message in messages:
        item = decoder.decode(message)
        if item is not None:
            yield item
    decoder.finish()


def _messages(connection: Connection) -> Iterator[Any]:
    """Yield what the server sends until it closes.

    Raises
    ------
    Mri2QmapError
        For a message that cannot be read; the stream cannot be followed beyond it.
    """
    while True:
        identifier = constants.GadgetMessageIdentifier.unpack(connection.socket.read(2))[0]
        if identifier == constants.GADGET_MESSAGE_CLOSE:
            return
        if identifier not in connection.readers:
            raise Mri2QmapError(f"the server sent a message of unknown kind, id {identifier}")
        yield connection.readers[identifier](connection.socket)


def _drain(messages: Iterator[Any]) -> None:
    try:
        for _ in messages:
            pass
    except Mri2QmapError as error:
        logger.error("while the rest of the input was passed over: %s", error)


def _error_text(gadget: str, error: Exception) -> str:
    kind = "" if isinstance(error, Mri2QmapError) else f"{type(error).__name__}: "
    return f"MRI2Qmap gadget {gadget}: {kind}{error}"


coil_sensitivity = external_node("coil_sensitivity")
subspace_compression = external_node("subspace_compression")
toeplitz_cg = external_node("toeplitz_cg")
pnp_admm = external_node("pnp_admm")
combined_matching = external_node("combined_matching")
parametric_maps = external_node("parametric_maps")

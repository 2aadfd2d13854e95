"""Connection of a client to a server that may still start up, and addresses of peers."""

from __future__ import annotations

import contextlib
import socket
import time

from mri2qmap.hosts.deadlines import DEFAULT_DEADLINES, Deadlines
from mri2qmap.hosts.message_socket import MessageSocket


def connect(address: str, port: int, deadlines: Deadlines = DEFAULT_DEADLINES) -> MessageSocket:
    """Connect to a server; retry while it starts up.

    Parameters
    ----------
    address, port
        Address and port of the server.
    deadlines
        Deadlines of the connection.

    Raises
    ------
    ConnectionError
        If no server accepts the connection within `connect` of the deadlines.
    """
    end = time.monotonic() + deadlines.connect
    while True:
        left = max(0.1, end - time.monotonic())
        try:
            connection = socket.create_connection((address, port), min(left, 5.0))
            connection.settimeout(None)
            return MessageSocket(connection, deadlines=deadlines)
        except OSError as error:
            if time.monotonic() >= end:
                raise ConnectionError(
                    f"{address}:{port}: no server is listening ({error.strerror or error})"
                ) from error
            time.sleep(0.2)


def peer_address(peer: MessageSocket) -> str:
    """Return the address of a peer without its port; empty if it is unknown."""
    with contextlib.suppress(OSError):
        name = peer._socket.getpeername()
        return str(name[0]) if isinstance(name, tuple) else ""
    return ""

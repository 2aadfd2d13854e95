"""What the system knows of the peer of a connection, without reading."""

from __future__ import annotations

import select
import socket

_HALF_CLOSED = getattr(select, "POLLRDHUP", 0)


def is_gone(connection: socket.socket) -> bool:
    """Whether a connection has been reset, or closed in both directions."""
    return bool(_events(connection, 0))


def sends_nothing_more(connection: socket.socket) -> bool:
    """Whether the peer has closed its sending half, and all of its data have been received."""
    if _HALF_CLOSED and not _events(connection, _HALF_CLOSED):
        return False
    try:
        return not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _events(connection: socket.socket, events: int) -> int:
    poll = select.poll()
    poll.register(connection, events)
    found = poll.poll(0)
    return found[0][1] if found else 0

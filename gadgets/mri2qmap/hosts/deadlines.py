"""Deadlines of connections: how long a server, a node or a client waits for its peer."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import socket
from dataclasses import dataclass

from mri2qmap.errors import Mri2QmapError


@dataclass(frozen=True)
class Deadlines:
    """Times after which a peer is given up, and intervals at which it is looked for [s].

    Attributes
    ----------
    connect
        Until a server accepts a connection.
    handshake
        From the connection to the end of the header, however slowly the bytes trickle.
    place
        From the end of the header until one of the limited number of connections is free.
    silence
        Without a message of use within a scan, while the computation waits. Must be longer than
        any pause of a sequence. Messages count, not bytes; of long messages each MiB.
    contended
        For which a scan may wait for its data while other scans wait for the memory that it holds,
        or connections for a place: the sum of all pauses, see `Activity.waited`. Also for which a
        peer that reads nothing may be waited for then.
    computing
        For which a scan may be computed after the end of its data while others wait for the memory
        or the place that it holds.
    write
        For which a peer that sends nothing may be waited for, over all messages. What it reads adds
        time, 1 s for each 64 KiB.
    answer
        For a client: without a byte from a server that has everything, or that reads nothing.
    error
        For which the remaining input is read after an error has been sent, so that the peer can
        receive it.
    linger
        For which a closing connection waits until the peer has read the last messages.
    grace
        From the first SIGTERM until the running scans are cancelled.
    heartbeat
        Between texts to the client while a computation says nothing else.
    probe
        Between texts to a client that has closed its sending half; they find out whether it still
        reads.
    keepalive_idle, keepalive_interval, keepalive_count
        TCP keepalive: idle time before the first probe, time between probes (whole seconds), and
        number of lost probes after which a peer has vanished.

    Raises
    ------
    Mri2QmapError
        If a time is not a positive number; `grace` may be 0.
    """

    connect: float = 10.0
    handshake: float = 30.0
    place: float = 20.0
    silence: float = 300.0
    contended: float = 10.0
    computing: float = 3600.0
    write: float = 60.0
    answer: float = 300.0
    error: float = 10.0
    linger: float = 2.0
    grace: float = 600.0
    heartbeat: float = 15.0
    probe: float = 2.0
    keepalive_idle: int = 10
    keepalive_interval: int = 5
    keepalive_count: int = 4

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not (value > 0 or (name == "grace" and value == 0)) or math.isnan(value):
                least = "0 s or more" if name == "grace" else "a positive number of seconds"
                raise Mri2QmapError(f"{name} {value:g}: {least} is expected")


DEFAULT_DEADLINES = Deadlines()


def find_vanished_peers(
    connection: socket.socket, deadlines: Deadlines, unread: float | None = None
) -> None:
    """Let the system break a connection whose peer has vanished without closing it.

    Options that the platform or the kind of socket does not have are left out.

    Parameters
    ----------
    connection
        Connected socket.
    deadlines
        Settings of TCP keepalive.
    unread
        Time for which sent data may stay without acknowledgement, or the peer without room for it
        [s]; None: as the system decides.
    """
    options = [
        ("TCP_NODELAY", 1),
        ("TCP_KEEPIDLE", deadlines.keepalive_idle),
        ("TCP_KEEPALIVE", deadlines.keepalive_idle),  # the same option on macOS
        ("TCP_KEEPINTVL", deadlines.keepalive_interval),
        ("TCP_KEEPCNT", deadlines.keepalive_count),
    ]
    if unread is not None and math.isfinite(unread):
        options.append(("TCP_USER_TIMEOUT", max(1, round(1000 * unread))))
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in options:
        if (option := getattr(socket, name, None)) is not None:
            with contextlib.suppress(OSError):  # a socket pair has no such option
                connection.setsockopt(socket.IPPROTO_TCP, option, value)

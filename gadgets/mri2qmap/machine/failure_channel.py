"""How the processes of a group learn that one of them has failed, and why.

A collective of PyTorch ends with an error when another process is gone, but does not know the
reason; a process that computes notices nothing. Therefore each process has a TCP connection to the
main one, which a thread watches. A failed process sends a line of text, which the main process
passes on to the others. The end of a connection without one means that the process was killed.
The failure of another process cancels the computation of this one.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.cancellation import Cancellation

_MOST_BYTES = 2**16
"""Longest message [bytes]."""
_MOST_CHARACTERS = 4000
"""Longest text of an error; in JSON, a character takes up to 12 bytes."""
_GREETING_SECONDS = 5.0
"""Time that a new connection has to say whose it is."""
_FAILED, _NOTED, _DONE = "failed", "noted", "done"
_WITHOUT_MESSAGE = "it ended without a message: it was killed (lack of memory?) or crashed"


@dataclass(frozen=True)
class Failure:
    """Rank of the process that failed first, and its error."""

    rank: int
    text: str

    def as_error(self) -> Mri2QmapError:
        """Return the error that the other processes raise."""
        return Mri2QmapError(f"process {self.rank}: {self.text}")


class FailureChannel:
    """The connections of one process: of the main one to all others, or of another to the main one.

    A thread watches them.

    Parameters
    ----------
    connections
        Connected sockets by the rank of the process at the other end.
    rank
        Rank of this process; the main one has rank 0.

    Attributes
    ----------
    cancellation
        Cancelled with the error of the first other process that fails.
    """

    def __init__(self, connections: Mapping[int, socket.socket], rank: int) -> None:
        self._connections = dict(connections)
        self._rank = rank
        self._changed = threading.Condition()
        self._sending = threading.Lock()
        self._failure: Failure | None = None
        self._done = self._noted = self._closed = False
        self.cancellation = Cancellation()
        threading.Thread(target=self._watch, name="failure channel", daemon=True).start()

    @property
    def failure(self) -> Failure | None:
        """The first failure of another process, if there is one."""
        with self._changed:
            return self._failure

    def wait_for_failure(self, seconds: float) -> Failure | None:
        """Wait for the failure behind a broken collective; None if none is known in time."""
        with self._changed:
            self._changed.wait_for(lambda: self._failure is not None, timeout=seconds)
            return self._failure

    def send_failure(self, text: str) -> None:
        """Tell the other processes that this one has failed."""
        message = {"kind": _FAILED, "rank": self._rank, "text": text[:_MOST_CHARACTERS]}
        for other in self._connections:
            self._send(other, message)

    def finish(self) -> None:
        """End without an error: the main process says so, the others wait for that or a failure."""
        if self._rank == 0:
            with self._changed:
                self._done = True
            for other in self._connections:
                self._send(other, {"kind": _DONE})
            return
        with self._changed:
            self._changed.wait_for(lambda: self._done or self._failure is not None)

    def wait_until_reported(self, seconds: float) -> bool:
        """Wait until the main process has ended, which then has reported the failure.

        A launcher ends all processes as soon as one has failed: without this, the main process
        could be ended before it has written anything. After a signal, this returns at once.

        Returns
        -------
            Whether the main process knows of the failure and has not been killed.
        """
        end = time.monotonic() + seconds
        with contextlib.suppress(BaseException), self._changed:
            self._changed.wait_for(lambda: self._closed, timeout=end - time.monotonic())
        failure = self._failure
        return self._noted or (failure is not None and failure != Failure(0, _WITHOUT_MESSAGE))

    def close(self) -> None:
        """Close the connections."""
        for connection in self._connections.values():
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _watch(self) -> None:
        """Receive messages until all connections have ended."""
        with contextlib.suppress(OSError, ValueError), selectors.DefaultSelector() as selector:
            for rank, connection in self._connections.items():
                selector.register(connection, selectors.EVENT_READ, (rank, bytearray()))
            while selector.get_map():
                for key, _ in selector.select():
                    rank, buffer = key.data
                    data = _received(self._connections[rank])
                    buffer += data
                    if not data or len(buffer) > _MOST_BYTES:
                        selector.unregister(key.fileobj)
                        self._ended(rank)
                        continue
                    *lines, rest = bytes(buffer).split(b"\n")
                    buffer[:] = rest
                    for line in lines:
                        self._take(json.loads(line))

    def _take(self, message: dict[str, object]) -> None:
        """Act on a message."""
        if message["kind"] == _FAILED:
            self._note(Failure(int(str(message["rank"])), str(message["text"])))
            return
        with self._changed:
            self._done |= message["kind"] == _DONE
            self._noted |= message["kind"] == _NOTED
            self._changed.notify_all()

    def _ended(self, rank: int) -> None:
        """Note that a process has closed its connection."""
        if not self._done:
            self._note(Failure(rank, _WITHOUT_MESSAGE))
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _note(self, failure: Failure) -> None:
        """Note the first failure and cancel the computation; the main process passes it on."""
        if self._rank == 0:
            for other in self._connections:
                first = self._failure or failure
                known = {"kind": _FAILED, "rank": first.rank, "text": first.text}
                self._send(other, {"kind": _NOTED} if other == failure.rank else known)
        with self._changed:
            if self._failure is not None or self._done or self._noted:
                return
            self._failure = failure
            self._changed.notify_all()
        self.cancellation.cancel(failure.as_error())

    def _send(self, rank: int, message: dict[str, object]) -> None:
        """Send a message; a process that is gone already does not get it."""
        with contextlib.suppress(OSError), self._sending:
            self._connections[rank].sendall(json.dumps(message).encode() + b"\n")


def listening_socket(address: str) -> socket.socket:
    """Return a socket of the main process that listens on a free port.

    Parameters
    ----------
    address
        Address of the main process as the other ones know it. If this is a loopback address, no
        other machine can connect.
    """
    if address == "localhost" or address.startswith("127."):
        return socket.create_server((address, 0))
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))


def accept_others(server: socket.socket, token: int, count: int, timeout: float) -> FailureChannel:
    """Return the channel of the main process when all others have connected.

    Parameters
    ----------
    server
        Socket of `listening_socket`, which is closed.
    token
        Secret number that the others have got; connections without it are dropped.
    count
        Number of the other processes.
    timeout
        Longest time to wait [s].

    Raises
    ------
    TimeoutError
        If a process does not connect in time.
    """
    connections: dict[int, socket.socket] = {}
    end = time.monotonic() + timeout
    with server:
        while len(connections) < count:
            server.settimeout(max(end - time.monotonic(), 1e-3))
            connection, _ = server.accept()
            connection.settimeout(_GREETING_SECONDS)
            rank = _greeting(connection, token)
            if rank is None or rank in connections or not 0 < rank <= count:
                connection.close()
                continue
            connections[rank] = _prepared(connection)
    return FailureChannel(connections, 0)


def connect_to_main(
    address: str, port: int, token: int, rank: int, timeout: float
) -> FailureChannel:
    """Return the channel of another process than the main one.

    Parameters
    ----------
    address, port
        Where the main process listens.
    token
        Its secret number.
    rank
        Rank of this process.
    timeout
        Longest time to wait [s].

    Raises
    ------
    OSError
        If the connection fails.
    """
    connection = socket.create_connection((address, port), timeout=timeout)
    connection.sendall(f"{token} {rank}\n".encode())
    return FailureChannel({0: _prepared(connection)}, rank)


def new_token() -> int:
    """Return a secret number of 62 bits."""
    return secrets.randbits(62)


def _greeting(connection: socket.socket, token: int) -> int | None:
    """Return the rank that a new connection names; None if it does not know the token."""
    data = b""
    try:
        while not data.endswith(b"\n") and len(data) < 64:
            byte = connection.recv(1)
            if not byte:
                return None
            data += byte
        given, rank = (int(word) for word in data.split())
    except (OSError, ValueError):
        return None
    return rank if given == token else None


def _prepared(connection: socket.socket) -> socket.socket:
    """Let the system notice machines that have gone, and wait without a limit."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.settimeout(None)
    return connection


def _received(connection: socket.socket) -> bytes:
    """Return what has arrived; nothing if the connection has ended."""
    try:
        return connection.recv(4096)
    except OSError:
        return b""

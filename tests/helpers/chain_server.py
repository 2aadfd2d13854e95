"""A stand-in for a Gadgetron server: passes a client's stream through the ``<connect>`` nodes of a
pipeline, as the real one does, with messages copied byte by byte and understood here alone.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from xml.etree import ElementTree

import ismrmrd
from helpers.live import CLOSE, DEADLINE, counted, dial
from helpers.server_side import message as item_bytes

from mri2qmap.hosts.listener import Listener

TEXT, CLOSE_ID, ERROR, RELAYED = 5, 4, 8, 2005
FOLLOWS = {1008: "acquisition", 1022: "image", 1026: "waveform"}


class Chain:
    """One session of the stand-in: what the nodes say, and what leaves the last of them.

    If it `may_break`, connections that the worker breaks off are no error of the test. The numbers
    of nodes that end without CLOSE are in `lost`.
    """

    def __init__(
        self, listener: Listener, document: bytes, xml: str, may_break: bool = False
    ) -> None:
        self.texts: list[str] = []
        self.errors: list[str] = []
        self.lost: list[int] = []
        self.items: list = []
        self.crossing_bytes = 0
        self._broken = may_break
        configurations = [
            ElementTree.tostring(external.find("configuration"))
            for external in ElementTree.fromstring(document).iter("external")
        ]
        self.nodes: list[socket.socket] = []
        for configuration in configurations:
            node = dial(listener)
            node.sendall(counted(2, configuration) + counted(3, xml.encode()))
            self.nodes.append(node)
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._pump, args=(number,), daemon=True)
            for number in range(len(self.nodes))
        ]
        for thread in self._threads:
            thread.start()

    def send(self, items: list, close: bool = True) -> None:
        for item in items:
            self.nodes[0].sendall(item_bytes(item))
        if close:
            self.nodes[0].sendall(CLOSE)

    def finish(self) -> None:
        for thread in self._threads:
            thread.join(DEADLINE)
            assert not thread.is_alive(), "a node does not end"
        self.hang_up()

    def hang_up(self) -> None:
        for node in self.nodes:
            node.close()

    def break_off(self, nodes: list[socket.socket] | None = None) -> None:
        """Break the connections to some nodes, or to all, as when client or node are killed."""
        self._broken = True
        for node in self.nodes if nodes is None else nodes:
            node.shutdown(socket.SHUT_RDWR)

    def _pump(self, number: int) -> None:
        following = self.nodes[number + 1] if number + 1 < len(self.nodes) else None
        try:
            self._carry(number, following)
        except OSError:
            self.lost.append(number)
            if not self._broken:
                raise
        finally:
            if following is not None:
                with contextlib.suppress(OSError):  # it is broken itself
                    following.sendall(CLOSE)

    def _carry(self, number: int, following: socket.socket | None) -> None:
        """Carry what a node says to the next, or to the client."""
        with self.nodes[number].makefile("rb") as stream:
            while identifier := stream.read(2):
                (kind,) = struct.unpack("<H", identifier)
                if kind == CLOSE_ID:
                    return
                if kind in (ERROR, RELAYED):
                    size = struct.Struct("<Q" if kind == ERROR else "<I")
                    (length,) = size.unpack(stream.read(size.size))
                    text = stream.read(length).decode()
                    (self.errors if kind == ERROR else self.texts).append(text)
                    continue
                item = getattr(ismrmrd, FOLLOWS[kind].capitalize()).deserialize_from(stream.read)
                content = item_bytes(item)
                with self._lock:
                    self.crossing_bytes += len(content)
                    if following is None:
                        self.items.append(item)
                if following is not None:
                    following.sendall(content)
        self.lost.append(number)

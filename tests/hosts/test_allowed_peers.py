import socket
import urllib.error
import urllib.request

import pytest
from helpers.live import dial, listening, scan_server
from helpers.waiting import DEADLINE
from prometheus_client import CollectorRegistry

from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts.allowed_peers import ALL_PEERS, AllowedPeers
from mri2qmap.hosts.status_server import StatusServer


@pytest.mark.parametrize(
    ("texts", "host", "allowed"),
    [
        ([], "203.0.113.9", True),
        ([], "", True),
        (["10.1.2.3"], "10.1.2.3", True),
        (["10.1.2.3"], "10.1.2.4", False),
        (["10.1.0.0/16"], "10.1.255.255", True),
        (["10.1.0.0/16"], "10.2.0.0", False),
        (["10.1.0.0/16", " 192.0.2.0/24 "], "192.0.2.7", True),
        (["10.1.0.0/16"], "::ffff:10.1.2.3", True),
        (["10.1.0.0/16"], "::ffff:10.2.2.3", False),
        (["::ffff:10.1.0.0/112"], "10.1.2.3", True),
        (["::ffff:10.1.0.0/112"], "::ffff:10.1.2.3", True),
        (["::ffff:10.1.0.0/112"], "10.2.2.3", False),
        (["::ffff:10.1.2.3"], "10.1.2.3", True),
        (["10.1.0.0/16"], "127.0.0.1", True),
        (["10.1.0.0/16"], "::1", True),
        (["10.1.0.0/16"], "fd00::1", False),
        (["fd00::/8"], "fd12::7", True),
        (["fe80::/10"], "fe80::1%eth0", True),
        (["10.1.0.0/16"], "", False),
        (["10.1.0.0/16"], "scanner", False),
    ],
)
def test_networks(texts, host, allowed):
    assert AllowedPeers.parse(texts).allows(host) == allowed


@pytest.mark.parametrize("text", ["", "scanner", "10.1.2", "10.1.2.3/16", "10.1.0.0/33", "*"])
def test_wrong_networks(text):
    with pytest.raises(Mri2QmapError, match=r"--allow-address .*an address or a network"):
        AllowedPeers.parse([text])


class Nobody(AllowedPeers):
    def allows(self, host):
        return False


def test_other_connections_are_closed_at_once():
    with (
        listening(lambda peer: None, peers=Nobody()) as listener,
        socket.create_connection(("127.0.0.1", listener.port), DEADLINE) as connection,
    ):
        assert connection.recv(1) == b""
    assert ALL_PEERS.allows("127.0.0.1")


def test_this_machine_may_always_connect():
    with scan_server() as listener:
        listener._reception._peers = AllowedPeers.parse(["203.0.113.1"])
        with dial(listener, "127.0.0.2") as connection:
            connection.sendall(b"\x04\x00")
            assert connection.recv(2) == b"\x04\x00"


def test_monitors_are_limited_too():
    with StatusServer("127.0.0.1", 0, CollectorRegistry(), str) as server:
        url = f"http://127.0.0.1:{server.port}/health"
        with urllib.request.urlopen(url, timeout=DEADLINE) as answer:
            assert answer.status == 200
        server.peers = Nobody()
        with pytest.raises((urllib.error.URLError, ConnectionError)):
            urllib.request.urlopen(url, timeout=DEADLINE)

"""A client and a server that behave, beside hostile peers; with the gadgets of `fake_gadgets`."""

from __future__ import annotations

import socket

import ismrmrd
import pytest
from helpers.chains import scan_through, total, two_nodes
from helpers.live import CLOSE, DEADLINE, data, opening, receive_all
from helpers.scans import expected_sum, external, header, pipeline_xml
from helpers.server_side import configuration

from mri2qmap.hosts.listener import Listener

PIPELINE = pipeline_xml(
    external("coil_sensitivity", factor=2), external("parametric_maps")
).encode()
FIRST = opening(PIPELINE)
"""What a client sends first."""
NODE = opening(configuration(gadget="coil_sensitivity"), header(fov="24 24 24"))
"""What a server sends to a node first."""
FOR_ONE = 2**30
"""Memory for one scan."""


def check_scan(listener: Listener, host: str = "127.0.0.1") -> None:
    with socket.create_connection(("127.0.0.1", listener.port), DEADLINE, (host, 0)) as connection:
        connection.sendall(FIRST + data() + CLOSE)
        (image,) = (m for m in receive_all(connection) if isinstance(m, ismrmrd.Image))
    assert image.data[0, 0, 0, 0] == pytest.approx(expected_sum(2), rel=1e-5)


def check_nodes(listener: Listener) -> None:
    assert total(scan_through(listener, two_nodes())) == pytest.approx(expected_sum(2), rel=1e-5)

"""Pipelines of ``<connect>`` nodes for the stand-in of a Gadgetron server, and their results."""

from __future__ import annotations

from helpers.chain_server import Chain
from helpers.scans import acquisitions, header

from mri2qmap.hosts.listener import Listener


def connect_node(gadget: str, **properties: object) -> str:
    inner = "".join(
        f'<property name="{name}" value="{value}"/>'
        for name, value in {"gadget": gadget, **properties}.items()
    )
    return f"<external><configuration>{inner}</configuration></external>"


def pipeline(*nodes: str) -> bytes:
    return f"<configuration><stream>{''.join(nodes)}</stream></configuration>".encode()


def two_nodes(factor: int = 2, **options: object) -> bytes:
    gain = connect_node("coil_sensitivity", factor=factor, **options)
    return pipeline(gain, connect_node("parametric_maps", dicom="false"))


def scan_through(listener: Listener, document: bytes, xml: str | None = None) -> Chain:
    chain = Chain(listener, document, xml or header())
    chain.send(acquisitions())
    chain.finish()
    return chain


def total(chain: Chain) -> float:
    assert chain.errors == []
    (image,) = chain.items
    return float(image.data[0, 0, 0, 0])

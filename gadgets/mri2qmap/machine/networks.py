"""Whose address it is: what one peer can choose freely counts as one."""

from __future__ import annotations

import ipaddress


def network_of(host: str) -> str:
    """Return the network that stands for a peer where peers take turns or have limits.

    An IPv4 address stands for itself, an IPv6 address for its network of 64 bits, in which a
    machine chooses addresses freely. Any other text is returned as it is.
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    if address.is_loopback:
        return str(address)
    return str(ipaddress.ip_network((address, 64), strict=False))

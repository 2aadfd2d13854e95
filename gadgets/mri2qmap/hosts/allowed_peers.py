"""The addresses whose connections a server takes."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from mri2qmap.errors import Mri2QmapError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class AllowedPeers:
    """Networks from which connections are taken; none: all. This machine itself always may.

    Attributes
    ----------
    networks
        The networks.
    """

    networks: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, texts: Iterable[str]) -> AllowedPeers:
        """Read addresses and networks such as ``10.1.2.3``, ``10.1.0.0/16`` or ``fd00::/8``.

        Raises
        ------
        Mri2QmapError
            If a text is neither.
        """
        found = []
        for text in texts:
            try:
                found.append(_without_mapping(ipaddress.ip_network(text.strip())))
            except ValueError as error:
                raise Mri2QmapError(
                    f"--allow-address {text}: an address or a network such as 10.1.0.0/16 is "
                    f"expected ({error})"
                ) from error
        return cls(tuple(found))

    def allows(self, host: str) -> bool:
        """Return whether connections of an address are taken; an unknown one only if all are."""
        if not self.networks:
            return True
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return False
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        address = mapped or address
        return address.is_loopback or any(address in network for network in self.networks)


def _without_mapping(network: Network) -> Network:
    """Return the IPv4 network for an IPv6 one of IPv4-mapped addresses, as peers are compared."""
    first = network.network_address
    mapped = first.ipv4_mapped if isinstance(first, ipaddress.IPv6Address) else None
    if mapped is None or network.prefixlen < 96:
        return network
    return ipaddress.IPv4Network((mapped, network.prefixlen - 96))


ALL_PEERS = AllowedPeers()
"""For servers that only this machine can reach."""

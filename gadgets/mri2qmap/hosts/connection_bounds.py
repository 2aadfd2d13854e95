"""How many connections a server has at the same time, at every stage."""

from __future__ import annotations

import math
import os
import resource
from dataclasses import dataclass
from typing import Self

MOST_HALF_OPEN = 256
"""Maximum number of half-open connections; the oldest one makes room for a new one."""
MOST_WAITING = 128
"""Maximum number of those that wait to be served; see `mri2qmap.hosts.waiting_line`."""
MOST_CONNECTIONS = 64
"""Maximum number of connections that are served at the same time."""
MOST_LEAVING = 128
"""Maximum number of those that have lost their place or wait until the peer has read the end."""
MOST_OF_ONE_ADDRESS = 48
"""Of those served, those of one address: eight scans of a Gadgetron server with six nodes."""
_FILES = 16
"""Minimum number of descriptors that are left for files and other sockets."""


@dataclass(frozen=True)
class ConnectionBounds:
    """Maximum numbers of connections.

    Attributes
    ----------
    half_open, waiting, places, leaving, of_one_address
        See `MOST_HALF_OPEN`, `MOST_WAITING`, `MOST_CONNECTIONS`, `MOST_LEAVING` and
        `MOST_OF_ONE_ADDRESS`.
    """

    half_open: int
    waiting: int
    places: int
    leaving: int
    of_one_address: int

    @classmethod
    def fitting(cls, descriptors: float) -> Self:
        """Return the bounds for so many free descriptors, of which a quarter is for files.

        Each kind has a part of them, so that none can take those of another one. Where there are
        enough for all kinds, the maximum numbers apply.
        """
        free = min(descriptors - _FILES, 3 / 4 * descriptors)

        def part(most: int, share: float) -> int:
            return most if free * share >= most else max(1, int(free * share))

        places = part(MOST_CONNECTIONS, 1 / 4)
        return cls(
            half_open=part(MOST_HALF_OPEN, 3 / 8),
            waiting=part(MOST_WAITING, 3 / 16),
            places=places,
            leaving=part(MOST_LEAVING, 3 / 16),
            of_one_address=min(MOST_OF_ONE_ADDRESS, math.ceil(3 / 4 * places)),
        )


def free_descriptors() -> float:
    """Return how many files and sockets this process may still open; infinite without a limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return float("inf")
    try:
        used = len(os.listdir("/dev/fd"))
    except OSError:  # there is no such folder, or no descriptor is left to read it
        used = 0
    return max(0, soft - used)

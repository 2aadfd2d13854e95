"""Messages to the service manager that started this process, see sd_notify(3) of systemd."""

from __future__ import annotations

import contextlib
import os
import socket
import time

_SOCKET = "NOTIFY_SOCKET"
_WATCHDOG = "WATCHDOG_USEC"
_WATCHDOG_PID = "WATCHDOG_PID"

READY = "READY=1"
STOPPING = "STOPPING=1"
ALIVE = "WATCHDOG=1"


class ServiceManager:
    """Tells the service manager how the service is; does nothing where there is none.

    Attributes
    ----------
    interval
        Time in which the manager wants to hear that the service is alive [s]; None: it does not.
    """

    def __init__(self) -> None:
        self.interval = _watchdog_interval()
        self._told = 0.0

    def tell(self, state: str) -> None:
        """Send a state; a manager that cannot be reached is ignored."""
        path = os.environ.get(_SOCKET, "")
        if not path.startswith(("/", "@")):
            return
        address = f"\0{path[1:]}" if path.startswith("@") else path  # an abstract socket
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
        ):
            sender.sendto(state.encode(), address)

    def alive(self) -> None:
        """Tell that the service is alive, if the manager wants to hear it and it is time."""
        now = time.monotonic()
        if self.interval is not None and now - self._told >= self.interval / 3:
            self._told = now
            self.tell(ALIVE)


def _watchdog_interval() -> float | None:
    try:
        interval = int(os.environ.get(_WATCHDOG, "")) * 1e-6
        pid = int(os.environ.get(_WATCHDOG_PID, os.getpid()))
    except ValueError:
        return None
    return interval if interval > 0 and pid == os.getpid() else None

"""What `mri2qmap serve` and `mri2qmap worker` share: options, budget, life until a signal."""

from __future__ import annotations

import argparse
import logging
import signal
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mri2qmap.stream.memory_plan import MemoryBudget
    from mri2qmap.stream.message_socket import MessageSocket

logger = logging.getLogger(__name__)

SHARE = 0.8
"""Of the memory that is free at the start, what reconstructions may take unless told otherwise."""


def add_options(parser: argparse.ArgumentParser, port: int) -> None:
    """Add the options of a server to its parser."""
    parser.add_argument(
        "--address",
        default="127.0.0.1",
        help="address to listen on (default: %(default)s, this machine only; whoever can connect "
        "can use the server, there is no password)",
    )
    parser.add_argument("--port", type=int, default=port, help="port (default: %(default)s)")
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)"
    )
    parser.add_argument(
        "--memory",
        type=float,
        metavar="GIB",
        help=f"for all reconstructions together (default: {SHARE:.0%} of what is free)",
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=20.0,
        metavar="S",
        help="how long a scan waits for memory before it is refused (default: %(default)s s)",
    )


def memory_budget(args: argparse.Namespace) -> MemoryBudget:
    """Return the budget that the options ask for."""
    from mri2qmap.errors import Mri2QmapError
    from mri2qmap.stream.devices import select_device
    from mri2qmap.stream.memory_plan import MemoryBudget, available_bytes

    if args.memory is not None and not args.memory > 0:
        raise Mri2QmapError(f"--memory {args.memory}: a positive number of GiB is expected")
    if not args.patience >= 0:
        raise Mri2QmapError(f"--patience {args.patience}: 0 s or more is expected")
    free = available_bytes(select_device(args.device))
    total = SHARE * free if args.memory is None else args.memory * 2**30
    return MemoryBudget(int(total), args.patience)


def listen_until_told(
    args: argparse.Namespace, name: str, serve: Callable[[MessageSocket], None]
) -> int:
    """Listen until SIGTERM or Ctrl-C, then finish what runs; a second signal breaks it off."""
    from mri2qmap.stream.listener import Listener

    listener = Listener(args.address, args.port, serve)
    told = threading.Event()
    again = threading.Event()

    def stop(number: int, frame: object) -> None:
        (again if told.is_set() else told).set()

    previous = {s: signal.signal(s, stop) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        listener.start()
        print(f"{name}: listening on {args.address}:{listener.port}", flush=True)
        told.wait()
        listener.stop()
        if len(listener):
            print(f"{name}: finishing {len(listener)} connections", flush=True)
        while not listener.wait(timeout=0.2) and not again.is_set():
            pass
        if again.is_set():
            listener.abort()
            listener.wait(timeout=5.0)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    print(f"{name}: stopped", flush=True)
    return 0

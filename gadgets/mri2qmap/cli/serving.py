"""What `mri2qmap serve` and `mri2qmap worker` share: budget, status, life until a signal."""

from __future__ import annotations

import argparse
import contextlib
import logging
import math
import os
import signal
import threading
import time
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING

from mri2qmap.cli.console import say
from mri2qmap.cli.dashboard_option import dashboard
from mri2qmap.cli.service_options import SHARE
from mri2qmap.machine.words import counted, parsed_size
from mri2qmap.storage.atomic import ENDING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mri2qmap.hosts.allowed_peers import AllowedPeers
    from mri2qmap.hosts.deadlines import Deadlines
    from mri2qmap.hosts.listener import Listener
    from mri2qmap.hosts.service_record import ServiceRecord
    from mri2qmap.machine.file_access import FileAccess
    from mri2qmap.machine.service_manager import ServiceManager
    from mri2qmap.pipeline.memory_budget import MemoryBudget

logger = logging.getLogger(__name__)

POLL = 0.1
"""Seconds between two looks at whether a signal has come: one can slip by a longer wait."""
BEFORE_DATA = 10.0
"""Time without data after which a scan is cancelled at once when the server is to stop [s]."""
LAST_ANSWER = 20.0
"""Time in which a push that is ended may get the answer to the object on its way [s]."""
LAST_WORDS = 2.0
"""Time in which cancelled scans may tell their clients [s]."""
DEAF = 90.0
"""Time without an answer of the listener after which the service ends [s]."""
NOT_LISTENING = 70
"""Exit code then, EX_SOFTWARE of sysexits.h. A container engine does not start a container again
that is unhealthy, only one that has ended."""


def allowed_peers(args: argparse.Namespace) -> AllowedPeers:
    """Return the addresses whose connections are taken; warn if these are all of a network."""
    from mri2qmap.hosts.allowed_peers import AllowedPeers
    from mri2qmap.pacs.destination import is_loopback

    peers = AllowedPeers.parse(args.allow_address)
    if not peers.networks and not is_loopback(args.address):
        logger.warning(
            "whoever can connect to %s can use this server: limit it with --allow-address, or by "
            "a firewall",
            args.address,
        )
    return peers


def allowed_names(args: argparse.Namespace) -> FileAccess:
    """Return the files and destinations that the options and the environment allow clients."""
    from mri2qmap.errors import Mri2QmapError
    from mri2qmap.machine.file_access import site_files
    from mri2qmap.pacs.destination import parse_destination

    for text in args.allow_push:
        try:
            parse_destination(text)
        except Mri2QmapError as error:
            raise Mri2QmapError(f"--allow-push: {error}") from error
    return site_files(args.allow_folder, args.allow_push)


def deadlines(args: argparse.Namespace) -> Deadlines:
    """Return the deadlines that the options ask for; warn if one of them has no effect."""
    from mri2qmap.errors import Mri2QmapError
    from mri2qmap.hosts.deadlines import Deadlines

    try:
        found = Deadlines(
            silence=args.silence,
            contended=args.contended,
            computing=args.longest,
            grace=args.grace,
        )
    except Mri2QmapError as error:
        raise Mri2QmapError(f"--{error}") from error
    for waits, who, gives in (
        (args.patience, "a scan waits for memory (--patience)", "its memory"),
        (found.place, "a connection waits for a place", "its place"),
    ):
        if waits <= found.contended:
            logger.warning(
                "--contended %g is not shorter than the %g s for which %s: who waits is refused "
                "before a scan that pauses gives up %s",
                *(found.contended, waits, who, gives),
            )
    return found


def memory_budget(args: argparse.Namespace) -> MemoryBudget:
    """Return the budget that the options ask for."""
    import torch

    from mri2qmap.errors import Mri2QmapError
    from mri2qmap.machine.devices import select_device
    from mri2qmap.pipeline.memory_budget import MemoryBudget
    from mri2qmap.pipeline.memory_plan import available_bytes

    memory = memory_of(args.memory)
    if not args.patience >= 0:
        raise Mri2QmapError(f"--patience {args.patience}: 0 s or more is expected")
    device = select_device(args.device)
    total = SHARE * available_bytes(device) if memory is None else memory
    host = None
    if device.type != "cpu":
        host = int(SHARE * available_bytes(torch.device("cpu")))
    return MemoryBudget(int(total), args.patience, host)


def memory_of(text: str | None) -> int | None:
    """Bytes of the option --memory, see `parsed_size`; None if it is absent."""
    from mri2qmap.pipeline.memory_plan import checked_memory

    if text is None:
        return None
    count = parsed_size(text)
    wrong = f"--memory {text}: a positive size such as 16GB or 16GiB is expected"
    return checked_memory(int(count) if math.isfinite(count) else count, wrong)


@contextlib.contextmanager
def status_servers(
    args: argparse.Namespace,
    name: str,
    record: ServiceRecord,
    listener: Listener,
    budget: MemoryBudget,
    goes_on: Callable[[], bool] = lambda: True,
) -> Iterator[None]:
    """Answer requests about the state of the service, as the options ask for.

    Parameters
    ----------
    args
        Options.
    name
        Name of the service.
    record, listener, budget
        Its parts.
    goes_on
        Returns whether what the service does besides, such as its queue, goes on.
    """
    from mri2qmap.errors import Mri2QmapError
    from mri2qmap.hosts.status_server import StatusServer

    def why_not_ready() -> str:
        if listener.stopped:
            return "the server is stopping"
        if budget.waiting:
            return f"{counted(budget.waiting, 'scan')} in the queue for memory"
        return ""

    record.observe(
        {
            "connections": ("Connections that are being served", lambda: len(listener)),
            "queue": ("Reconstructions that wait for memory", lambda: budget.waiting),
            "memory_budget_bytes": ("Memory for all reconstructions", lambda: budget.total),
            "memory_reserved_bytes": ("Memory of those that run", lambda: budget.reserved),
            "memory_received_bytes": ("Received messages in memory", lambda: budget.received),
        }
    )
    with contextlib.ExitStack() as stack:
        try:
            if args.status_port is not None:
                address, port = args.status_address, args.status_port
                server = StatusServer(
                    *(address, port, record.registry, why_not_ready),
                    lambda: listener.responds and goes_on(),
                )
                server.peers = listener.peers
                stack.enter_context(server)
                say(f"status: http://{address}:{server.port}/health, /ready and /metrics")
            if args.dashboard is not None:
                view = dashboard(args, name, record.live, listener, budget, why_not_ready)
                view.peers = listener.peers
                stack.enter_context(view)
        except Mri2QmapError:
            listener.stop()
            raise
        yield


def listen_until_told(
    args: argparse.Namespace, name: str, listener: Listener, status: AbstractContextManager[object]
) -> int:
    """Listen until a signal such as SIGTERM; then let the running scans go on for some time.

    Parameters
    ----------
    args
        Options; ``grace`` is the time from the signal until the running scans are cancelled [s]. A
        second signal cancels them at once, the first one those that have sent no data for a while.
    name
        Name of the server, for messages.
    listener
        To be started; its connections are served.
    status
        See `status_servers`.
    """
    from mri2qmap.errors import Mri2QmapError
    from mri2qmap.machine.process_setup import share_freed_memory, share_interpreter
    from mri2qmap.machine.service_manager import READY, STOPPING, ServiceManager
    from mri2qmap.machine.words import counted
    from mri2qmap.pacs.inline import end_pushes, pushes
    from mri2qmap.pacs.resending import Resending
    from mri2qmap.pipeline.log_handler import dropping_log
    from mri2qmap.pipeline.scan_log import warnings_in_log

    manager = ServiceManager()
    signals: list[int] = []  # an Event could be locked by what the handler interrupts

    def note(number: int, frame: object) -> None:
        signals.append(number)

    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN  # as under nohup
    heard = [number for number in ENDING if not (ignored and number == signal.SIGHUP)]
    previous = {number: signal.signal(number, note) for number in heard}
    try:
        share_freed_memory()
        share_interpreter()
        with ExitStack() as stack:
            for context in (dropping_log(), warnings_in_log(), status):
                stack.enter_context(context)
            listener.start()
            say(f"{name}: listening on {args.address}:{listener.port}")
            manager.tell(READY)
            with Resending():
                code = _watch(listener, manager, signals)
            manager.tell(STOPPING)
            if code:
                longest = args.grace + LAST_WORDS + LAST_ANSWER
                stack.enter_context(_at_most(longest))
            listener.stop()
            if len(listener):
                say(f"{name}: finishing {len(listener)} connections")
            end = time.monotonic() + args.grace
            stopped = Mri2QmapError("the server was stopped before the scan was done")
            while not listener.wait(POLL) and len(signals) < 2 and time.monotonic() < end:
                listener.cancel(stopped, idle=BEFORE_DATA)
                manager.alive()
            if len(listener):
                listener.cancel(stopped)
                listener.wait(timeout=LAST_WORDS)
                listener.abort()
                listener.wait(timeout=5.0)
            if pushes():
                say(f"{name}: sending the maps of {counted(pushes(), 'scan')}")
            while pushes() and len(signals) < 2 and time.monotonic() < end:
                time.sleep(POLL)
                manager.alive()
            end_pushes("the server was stopped before all was sent")
            last = time.monotonic() + LAST_ANSWER
            while pushes() and len(signals) < 2 and time.monotonic() < last:
                time.sleep(POLL)
            if pushes():  # threads that a peer holds, in the library for DICOM
                logger.warning("a peer does not let a push end: what is not sent is in the spool")
                say(f"{name}: stopped")
                logging.shutdown()
                os._exit(code)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    say(f"{name}: stopped")
    return code


def _watch(listener: Listener, manager: ServiceManager, signals: Sequence[int]) -> int:
    """Wait for a signal, or for a listener that accepts no connections; return the exit code."""
    deaf = 0.0  # looks, not the clock: a process that was suspended for hours is not deaf
    while not signals:
        time.sleep(POLL)
        if listener.responds:
            deaf = 0.0
            manager.alive()
        elif (deaf := deaf + POLL) > DEAF:
            logger.error("no connections are accepted any more; the service ends")
            return NOT_LISTENING
    return 0


@contextlib.contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """End the process if what follows takes longer: a listener that is stuck may hold a lock."""
    timer = threading.Timer(seconds, os._exit, (NOT_LISTENING,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()

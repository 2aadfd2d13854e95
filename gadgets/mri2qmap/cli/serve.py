"""`mri2qmap serve`: a small server for sites without Gadgetron."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mri2qmap.cli.service_options import add_options
from mri2qmap.cli.serving import (
    allowed_names,
    allowed_peers,
    deadlines,
    listen_until_told,
    memory_budget,
    status_servers,
)

if TYPE_CHECKING:
    from mri2qmap.hosts.server import ScanServer
    from mri2qmap.pipeline.memory_budget import MemoryBudget
    from mri2qmap.scan_queue.runner import QueueRunner

DEFAULTS = {"port": 9002, "queue": None, "queue_length": None, "retention": None}
QUEUE_LENGTH = 100
RETENTION = 7.0
MOST_DAYS = 36500
"""Longest retention [days]."""

_DESCRIPTION = """\
Reconstruct scans that clients send over the Gadgetron protocol (MRD stream), without Gadgetron.

A client names one of the pipelines of this project, or sends a pipeline of its own that has this
project's gadgets only. It gets images, DICOM, lines of progress, and errors as text. SIGTERM lets
what runs finish within --grace, a second one breaks it off.
"""

_EXAMPLES = """\
examples:
  mri2qmap serve
  mri2qmap replay scan.h5 --server localhost:9002 -o maps/
  gadgetron_ismrmrd_client -p 9002 -f scan.h5 -c mri2qmap.xml -o maps.h5
"""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "serve",
        help="reconstruct scans that clients send",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser, "serve", DEFAULTS)
    queue = parser.add_argument_group("scans that are reconstructed later")
    queue.add_argument(
        "--queue",
        type=Path,
        metavar="FOLDER",
        help="keep scans that clients send with the configuration queue_NAME in this folder, "
        "reconstruct them with pipeline NAME one after another, also after a restart, and give the "
        "maps to clients with the configuration retrieve (default: no queue)",
    )
    queue.add_argument(
        "--queue-length",
        type=int,
        metavar="N",
        help=f"maximum number of scans that wait (default: {QUEUE_LENGTH})",
    )
    queue.add_argument(
        "--retention",
        type=float,
        metavar="DAYS",
        help="how long raw data and maps in the queue are kept after a reconstruction (default: "
        f"{RETENTION:g} days)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    from mri2qmap.hosts.listener import Listener
    from mri2qmap.hosts.server import ScanServer, answer

    budget = memory_budget(args)
    server = ScanServer(budget, args.device, allowed_names(args))
    with _queue(args, server, budget) as runner:
        listener = Listener(
            args.address,
            args.port,
            server.serve,
            deadlines(args),
            budget,
            answer=answer,
            peers=allowed_peers(args),
        )
        goes_on = (lambda: True) if runner is None else (lambda: runner.responds)
        status = status_servers(args, "mri2qmap serve", server.record, listener, budget, goes_on)
        return listen_until_told(args, "mri2qmap serve", listener, status)


def _queue(
    args: argparse.Namespace, server: ScanServer, budget: MemoryBudget
) -> AbstractContextManager[QueueRunner | None]:
    """Give the server the queue that the options ask for; reconstruct what is in it."""
    from mri2qmap.errors import Mri2QmapError

    if args.queue is None:
        if args.queue_length is not None or args.retention is not None:
            raise Mri2QmapError("--queue-length and --retention need --queue FOLDER")
        return nullcontext()
    length = QUEUE_LENGTH if args.queue_length is None else args.queue_length
    days = RETENTION if args.retention is None else args.retention
    if length < 1:
        raise Mri2QmapError(f"--queue-length {length}: 1 or more is expected")
    if not 0 < days <= MOST_DAYS:
        raise Mri2QmapError(
            f"--retention {days:g}: more than 0 and at most {MOST_DAYS} days are expected"
        )
    from mri2qmap.scan_queue.queue_folder import QueueFolder
    from mri2qmap.scan_queue.runner import QueueRunner, RunnerOptions
    from mri2qmap.scan_queue.service import ScanQueueService

    queue = QueueFolder(Path(args.queue), length, timedelta(days=days))
    server.queue = ScanQueueService(queue)
    options = RunnerOptions(args.device, args.threads)
    return QueueRunner(queue, budget, server.record, options)

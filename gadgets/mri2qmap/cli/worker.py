"""`mri2qmap worker`: the gadgets, warm, for a Gadgetron server's <connect> nodes."""

from __future__ import annotations

import argparse
from typing import Any

from mri2qmap.cli.service_options import add_options
from mri2qmap.cli.serving import (
    allowed_names,
    allowed_peers,
    deadlines,
    listen_until_told,
    memory_budget,
    status_servers,
)

_DESCRIPTION = """\
Run the <connect> nodes of a Gadgetron server's pipelines (pipelines/mri2qmap_connect.xml).

One process serves all nodes of all sessions: dictionary, network and GPU are loaded once, and
large items pass from node to node in memory. SIGTERM lets what runs finish within --grace, a
second one breaks it off.
"""

_EXAMPLES = """\
examples:
  mri2qmap worker --memory 16
  mri2qmap replay scan.h5 --server GADGETRON:9002 --pipeline mri2qmap_connect -o maps/
"""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "worker",
        help="run the gadgets for a Gadgetron server, warm",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser, "worker", {"port": 18000})


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    from mri2qmap.hosts.listener import Listener
    from mri2qmap.hosts.protocol import Failure
    from mri2qmap.hosts.worker import Worker

    budget = memory_budget(args)
    worker = Worker(budget, args.device, allowed_names(args))
    listener = Listener(
        args.address,
        args.port,
        worker.serve,
        deadlines(args),
        budget,
        failure=Failure,
        peers=allowed_peers(args),
    )
    try:
        stored = "Items between the nodes of all scans", lambda: worker.item_store.n_bytes
        worker.record.observe({"stored_bytes": stored})
        status = status_servers(args, "mri2qmap worker", worker.record, listener, budget)
        return listen_until_told(args, "mri2qmap worker", listener, status)
    finally:
        worker.close()

"""`mri2qmap serve`: a small server for sites without Gadgetron."""

from __future__ import annotations

import argparse
from typing import Any

from mri2qmap.cli.serving import (
    add_options,
    allowed_names,
    deadlines,
    listen_until_told,
    memory_budget,
    status_servers,
)

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
    add_options(parser, port=9002)


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    from mri2qmap.hosts.listener import Listener
    from mri2qmap.hosts.server import ScanServer, answer

    budget = memory_budget(args)
    server = ScanServer(budget, args.device, allowed_names(args))
    listener = Listener(
        args.address, args.port, server.serve, deadlines(args), budget, answer=answer
    )
    status = status_servers(args, "mri2qmap serve", server.record, listener, budget)
    return listen_until_told(args, "mri2qmap serve", listener, status)

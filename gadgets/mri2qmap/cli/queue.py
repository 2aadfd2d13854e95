"""`mri2qmap queue`: a scan is given to a server, which reconstructs it later."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mri2qmap.cli.console import say
from mri2qmap.cli.replay import DEFAULT_PIPELINE, add_scan_options, add_set_option, parse_overrides

_DESCRIPTION = """\
Send a scan to the queue of a server (mri2qmap serve --queue FOLDER). The command ends when the scan
is safe there. The server reconstructs it when it has time, also after a restart.

A scan that is in the queue already is not reconstructed twice; one that has failed is tried again.
"""

_EXAMPLES = """\
examples:
  mri2qmap queue scan.h5 --server localhost:9002
  mri2qmap replay scan.h5 --server localhost:9002 --retrieve -o maps/     (later)
"""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "queue",
        help="give a scan to a server, for later",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scan", metavar="SCAN", type=Path, help="raw data, ISMRMRD")
    add_scan_options(parser)
    parser.add_argument("--server", metavar="HOST:PORT", required=True, help="the server")
    parser.add_argument(
        "-p",
        "--pipeline",
        metavar="XML",
        default=DEFAULT_PIPELINE,
        help="pipeline file, or the name of one in pipelines/ (default: %(default)s); it is sent",
    )
    add_set_option(parser)
    parser.add_argument(
        "--timeout",
        type=float,
        metavar="S",
        help="give up when the server is silent for so long (default: 300 s)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    from mri2qmap.cli.remote_replay import connected
    from mri2qmap.errors import Mri2QmapError
    from mri2qmap.files.scan_files import chosen_group, open_scan
    from mri2qmap.hosts.client import RemoteReconstruction
    from mri2qmap.hosts.protocol import ConfigDocument
    from mri2qmap.hosts.session_opening import Order
    from mri2qmap.pipeline.pipeline_file import pipeline_document
    from mri2qmap.pipeline.scan_header import ScanInfo
    from mri2qmap.pipeline.scan_section import taken_profile
    from mri2qmap.pipeline.standard_scan import standard_scan

    document = pipeline_document(args.pipeline, parse_overrides(args.overrides))
    profile, kept = taken_profile(document, args.scan_profile, str(args.pipeline))
    with open_scan(args.scan, chosen_group(args.group, profile, args.scan)) as file:
        header, conversion = standard_scan(file.header, profile)
        scan = ScanInfo.from_header(header, report=args.report)
        peer = connected(args.server, args.timeout)
        chosen = ConfigDocument(kept or document)
        remote = RemoteReconstruction(peer, chosen, header, args.report, Order.LATER)
        items = args.report.progress(
            conversion.items(file.items(), scan),
            "acquisitions",
            total=file.n_acquisitions + file.n_waveforms,
        )
        for _ in remote.run(items):
            raise Mri2QmapError(
                f"--server {args.server}: it sent an image instead of a receipt; update it"
            )
    queued = (remote.record or {}).get("queued")
    if not isinstance(queued, str):
        raise Mri2QmapError(
            f"--server {args.server}: no receipt came; the server may be of an earlier version"
        )
    where = (remote.record or {}).get("where", "it waits")
    say(
        f"{args.scan}: {queued} is in the queue of {args.server}: {where}; fetch the maps with the "
        "options --server and --retrieve of mri2qmap replay, and the same pipeline"
    )
    return 0

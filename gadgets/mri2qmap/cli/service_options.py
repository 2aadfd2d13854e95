"""Options of `mri2qmap serve` and `mri2qmap worker`: command line, file of the site, defaults."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mri2qmap.cli.dashboard_option import add_dashboard_option
from mri2qmap.cli.site_file import Service, Site, load_site
from mri2qmap.cli.thread_option import add_thread_option
from mri2qmap.hosts.deadlines import DEFAULT_DEADLINES

SHARE = 0.8
"""Of the memory that is free at the start, what reconstructions may take unless told otherwise."""
DEFAULTS: Mapping[str, Any] = {
    "address": "127.0.0.1",
    "device": "auto",
    "threads": None,
    "memory": None,
    "allow_address": [],
    "allow_folder": [],
    "allow_push": [],
    "patience": 20.0,
    "silence": DEFAULT_DEADLINES.silence,
    "contended": DEFAULT_DEADLINES.contended,
    "longest": DEFAULT_DEADLINES.computing,
    "grace": DEFAULT_DEADLINES.grace,
    "log_format": "text",
    "status_port": None,
    "status_address": "127.0.0.1",
    "dashboard": None,
}
"""Options of both servers, where neither the command line nor the file of the site gives them."""


def add_options(
    parser: argparse.ArgumentParser, service: Service, defaults: Mapping[str, Any]
) -> None:
    """Add the options of a server to its parser.

    Parameters
    ----------
    parser
        The parser. Of what it parses, `complete` makes the options.
    service
        Name of the command, and of its section in the file of a site.
    defaults
        Those of the command itself, besides `DEFAULTS`.
    """
    parser.argument_default = argparse.SUPPRESS  # what is not given may be in the file of the site
    parser.set_defaults(complete=partial(complete, service=service, defaults=defaults))
    parser.add_argument(
        "--site",
        type=Path,
        metavar="FILE",
        help="take options that are not given here from this file (site.toml) of the site",
    )
    parser.add_argument(
        "--address",
        help=f"address to listen on (default: {DEFAULTS['address']}, this machine only; whoever "
        "can connect can use the server, there is no password)",
    )
    parser.add_argument("--port", type=int, help=f"port (default: {defaults['port']})")
    parser.add_argument(
        "--device",
        help="auto (a GPU; the CPU if there is none, and in serve if its memory does not suffice), "
        f"cpu, cuda or cuda:N (default: {DEFAULTS['device']})",
    )
    add_thread_option(parser)
    parser.add_argument(
        "--memory",
        metavar="SIZE",
        help="for all reconstructions together, such as 16GB, 16GiB or 16000000000B; without a "
        f"unit in GiB (default: {SHARE} of what is free)",
    )
    parser.add_argument(
        "--allow-address",
        action="append",
        metavar="NETWORK",
        help="take connections from this address or network only, such as 10.1.2.0/24, and from "
        "this machine; also to --status-port and --dashboard; may be repeated (default: from all "
        "that can connect)",
    )
    parser.add_argument(
        "--allow-folder",
        action="append",
        metavar="FOLDER",
        help="a folder whose files, such as maps of B1 and weights, the pipelines of clients may "
        "name; may be repeated (default: those in MRI2QMAP_ALLOWED_FOLDERS, and the models of the "
        "installation; pipelines that clients only name may name any file)",
    )
    parser.add_argument(
        "--allow-push",
        action="append",
        metavar="DEST",
        help="a destination, AE@host:port or https://..., to which the pipelines of clients may "
        "send their maps (parametric_maps.push); may be repeated (default: those in "
        "MRI2QMAP_ALLOWED_PUSH, separated by commas; pipelines that clients only name may send to "
        "any)",
    )
    parser.add_argument(
        "--patience",
        type=float,
        metavar="S",
        help="how long a scan waits for memory before it is refused (default: "
        f"{DEFAULTS['patience']:g} s)",
    )
    parser.add_argument(
        "--silence",
        type=float,
        metavar="S",
        help="how long a scan may pause before it is given up; longer than any pause of a sequence "
        f"(default: {DEFAULTS['silence']:g} s)",
    )
    parser.add_argument(
        "--contended",
        type=float,
        metavar="S",
        help="how long a scan may pause in total while others wait for its memory or its place; "
        "each acquisition takes 0.1 s off the total; shorter than --patience (default: "
        f"{DEFAULTS['contended']:g} s)",
    )
    parser.add_argument(
        "--longest",
        type=float,
        metavar="S",
        help="how long a scan may be computed while others wait for its memory or its place "
        f"(default: {DEFAULTS['longest']:g} s)",
    )
    parser.add_argument(
        "--grace",
        type=float,
        metavar="S",
        help=f"how long running scans may go on after SIGTERM (default: {DEFAULTS['grace']:g} s)",
    )
    parser.add_argument(
        "--log-format",
        choices=("text", "json"),
        help="one line of text or one JSON object for each line of the log (default: "
        f"{DEFAULTS['log_format']})",
    )
    parser.add_argument(
        "--status-port",
        type=int,
        metavar="PORT",
        help="answer GET /health, /ready and /metrics (Prometheus) on this port (default: none)",
    )
    parser.add_argument(
        "--status-address",
        metavar="ADDRESS",
        help=f"address for --status-port (default: {DEFAULTS['status_address']}, this machine "
        "only)",
    )
    add_dashboard_option(parser)


def complete(args: argparse.Namespace, service: Service, defaults: Mapping[str, Any]) -> None:
    """Add the options that the command line does not give.

    Parameters
    ----------
    args
        What the command line gives; changed in place.
    service, defaults
        See `add_options`.

    Raises
    ------
    Mri2QmapError
        If the file of the site is wrong.
    """
    site = Site()
    if "site" in args:
        site = load_site(args.site)
        os.environ.update(site.environment)
    for name, value in {**DEFAULTS, **defaults, **site.options(service)}.items():
        if name not in args:
            setattr(args, name, value)

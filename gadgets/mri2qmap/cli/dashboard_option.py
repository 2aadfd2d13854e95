"""The option ``--dashboard`` of `mri2qmap serve` and `mri2qmap worker`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mri2qmap.cli.console import say

if TYPE_CHECKING:
    from mri2qmap.hosts.dashboard import Dashboard
    from mri2qmap.hosts.listener import Listener
    from mri2qmap.hosts.live_scans import Judgement, LiveScans
    from mri2qmap.pipeline.memory_budget import MemoryBudget

DEFAULT_ADDRESS = "127.0.0.1"


def add_dashboard_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--dashboard``."""
    parser.add_argument(
        "--dashboard",
        metavar="[ADDRESS:]PORT",
        help="show scans in progress, the queue, the last scans and failures on a page for a "
        f"browser (default: none; without an address on {DEFAULT_ADDRESS}, this machine only; "
        "whoever can connect can look, there is no password)",
    )


def dashboard(
    args: argparse.Namespace,
    name: str,
    live: LiveScans,
    listener: Listener,
    budget: MemoryBudget,
    why_not_ready: Callable[[], str],
) -> Dashboard:
    """Return the page while it is entered.

    Parameters
    ----------
    args
        Options.
    name
        Name of the service.
    live
        Its scans; their runs are judged from now on.
    listener, budget
        Its connections and memory.
    why_not_ready
        Returns the reason why no scan is accepted; empty if there is none.

    Raises
    ------
    Mri2QmapError
        If the option is wrong, or the port cannot be bound.
    """
    import mri2qmap
    from mri2qmap.errors import Mri2QmapError
    from mri2qmap.hosts.dashboard import Dashboard, ServiceState
    from mri2qmap.machine.devices import device_name, select_device
    from mri2qmap.pacs.destination import listening_address

    try:
        address, port = listening_address(args.dashboard, "--dashboard", DEFAULT_ADDRESS, 0)
    except ValueError as error:
        raise Mri2QmapError(str(error)) from error

    def state() -> ServiceState:
        return ServiceState(
            not_ready=why_not_ready(),
            connections=len(listener),
            most_connections=listener.bounds.places,
            memory_total=budget.total,
            memory_reserved=budget.reserved,
            memory_received=budget.received,
        )

    about = {
        "name": name,
        "version": mri2qmap.__version__,
        "address": f"{args.address}:{listener.port}",
        "device": device_name(select_device(args.device)),
        "started": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
    }
    server = Dashboard(address, port, live, state, about)
    live.judge = _judge()
    shown = f"[{address}]" if ":" in address else address
    say(f"dashboard: http://{shown}:{server.port}/")
    return server


def _judge() -> Callable[[Mapping[str, Any]], Judgement]:
    """Return what judges a run by its record, as the report does without the maps."""
    from mri2qmap.hosts.live_scans import Judgement
    from mri2qmap.report.findings import Light, findings, overall
    from mri2qmap.report.run_facts import RunFacts

    def judge(record: Mapping[str, Any]) -> Judgement:
        found = findings(RunFacts(record).facts(match_quality=None))
        serious = sorted((f for f in found if f.light > Light.GREEN), key=lambda f: -f.light)
        return Judgement(overall(found).name.lower(), [finding.text for finding in serious])

    return judge

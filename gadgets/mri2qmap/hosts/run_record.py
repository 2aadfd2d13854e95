"""The content of run.json: the record of a run."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mri2qmap
from mri2qmap.errors import Mri2QmapError
from mri2qmap.hosts.client import RemoteReconstruction
from mri2qmap.hosts.in_process import InProcessHost
from mri2qmap.hosts.stage_timing import NodeTiming, rounded
from mri2qmap.machine.devices import device_name
from mri2qmap.pipeline.memory_plan import planned_bytes
from mri2qmap.pipeline.provenance import file_digest
from mri2qmap.pipeline.scan_record import scan_record
from mri2qmap.pipeline.settings import settings_as_dict

PACKAGES = (
    "torch",
    "numpy",
    "finufft",
    "cufinufft",
    "cupy-cuda12x",
    "cupy-cuda13x",
    "ismrmrd",
    "gadgetron",
    "pydicom",
    "highdicom",
    "nibabel",
    "safetensors",
)


def versions() -> dict[str, str | None]:
    """Return the versions of the software that affects the result; None: not installed."""
    found: dict[str, str | None] = {
        "mri2qmap": mri2qmap.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def run_record(
    host: InProcessHost, log: list[str], export: InProcessHost | None = None
) -> dict[str, Any]:
    """Return the record of a finished run as JSON values.

    Parameters
    ----------
    host
        Host that ran the pipeline.
    log
        Log lines of the gadgets and checks.
    export
        Host of the last gadget, where that gadget ran in a host of its own, on the clock of the
        first.
    """
    scan = host.scan
    hosts = (host,) if export is None else (host, export)
    source, sink = host.timings[0], hosts[-1].timings[-1]
    gadgets = [timing for each in hosts for timing in each.timings[1:-1]]
    nodes = [node for each in hosts for node in each.pipeline.nodes]
    settings = [settings_as_dict(node.settings) for node in nodes]
    iterations = {name: found for each in hosts for name, found in each.iterations.items()}
    measured = {name: found for each in hosts for name, found in each.measured.items()}
    provenance = hosts[-1].provenance
    return {
        "pipeline": host.pipeline.name,
        "device": device_name(scan.device),
        "processes": scan.processes.world_size,
        "versions": versions(),
        "scan": scan_record(scan),
        "scan_profile": host.pipeline.scan_profile.record(),
        "provenance": None if provenance is None else provenance.digest,
        "incomplete": None if provenance is None else provenance.incomplete,
        "seeds": {
            node.name: chosen["seed"]
            for node, chosen in zip(nodes, settings, strict=True)
            if "seed" in chosen
        },
        "memory": {
            "planned_bytes": planned_bytes(scan, host.pipeline.nodes),
            "spared": scan.spare_memory,
            "attempts": host.attempts,
        },
        "ready_s": rounded(host.ready),
        "total_s": rounded(hosts[-1].total),
        "last_acquisition_s": rounded(host.last_acquisition),
        **latencies(host.last_acquisition, gadgets[-1].first_item, gadgets[-1].last_item),
        "source": source.as_dict(),
        "gadgets": [
            {
                "name": timing.name,
                "settings": chosen,
                **timing.as_dict(),
                "measured": measured.get(timing.name, {}),
                "iterations": [s.as_dict() for s in iterations.get(timing.name, [])],
            }
            for timing, chosen in zip(gadgets, settings, strict=True)
        ],
        "output_busy_s": rounded(sink.busy),
        "log": log,
    }


def remote_record(
    remote: RemoteReconstruction, server: str, configuration: str, log: list[str] | None = None
) -> dict[str, Any]:
    """Return the record of a run at a server as JSON values.

    Times are in seconds from the start of the run at the client. ``at_server`` is the record that
    `mri2qmap serve` returned. ``nodes`` holds the `NodeTiming` of each node of a Gadgetron server,
    with times from the start of the node.

    Parameters
    ----------
    remote
        The finished run.
    server, configuration
        Address of the server and name of the pipeline.
    log
        Log lines with time stamps, of the client and the server; by default the texts that the
        server sent.
    """
    return {
        "server": server,
        "configuration": configuration,
        "total_s": rounded(remote.last_map),
        "last_acquisition_s": rounded(remote.last_acquisition),
        **latencies(remote.last_acquisition, remote.first_map, remote.last_map),
        "at_server": remote.record,
        "nodes": [
            timing.as_dict()
            for text in remote.texts
            if (timing := NodeTiming.from_line(text)) is not None
        ],
        "log": log or remote.texts.stamped(),
        "versions": versions(),
    }


def latencies(
    last_acquisition: float | None, first_map: float | None, last_map: float | None
) -> dict[str, float | None]:
    """Return the times from the last acquisition to the first and the last map [s].

    Parameters
    ----------
    last_acquisition, first_map, last_map
        Times on one clock [s]; None if the event did not occur.
    """

    def since(time: float | None) -> float | None:
        if time is None or last_acquisition is None:
            return None
        return rounded(time - last_acquisition)

    return {
        "last_acquisition_to_first_map_s": since(first_map),
        "last_acquisition_to_last_map_s": since(last_map),
    }


def input_record(
    scan_file: str | Path,
    command: list[str],
    group: str | None = None,
    contents: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the command line and the input files of a run as JSON values.

    Parameters
    ----------
    scan_file
        The scan.
    command
        The command line.
    group
        Group of the file that was asked for.
    contents
        See `input_contents`; None: the gadgets run elsewhere.
    """
    path = Path(scan_file)
    state = path.stat()
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "input": {
            "file": str(path),
            "bytes": state.st_size,
            "modified_ns": state.st_mtime_ns,
            "group": group,
            "contents": None if contents is None else dict(contents),
        },
    }


def with_digest(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return an `input_record` with the SHA-256 of the scan file; null if it is no longer there."""
    found = dict(given["input"])
    if found["file"] is None:
        return dict(given)
    path = Path(found["file"])
    digest = None
    with contextlib.suppress(OSError, Mri2QmapError):
        state = path.stat()
        if (state.st_size, state.st_mtime_ns) == (found["bytes"], found["modified_ns"]):
            digest = file_digest(path)
    return {**given, "input": {**found, "sha256": digest}}


def input_contents(files: Mapping[str, Path]) -> dict[str, str]:
    """Return the SHA-256 of each file that the gadgets read, by gadget and property.

    Raises
    ------
    Mri2QmapError
        If one cannot be read.
    """
    return {name: file_digest(path) for name, path in files.items()}

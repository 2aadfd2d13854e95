"""Checks of the file of a site on its machine, for `mri2qmap doctor --site`."""

from __future__ import annotations

import os
import shutil
import socket
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

from mri2qmap.cli.findings import Finding
from mri2qmap.cli.service_options import DEFAULTS
from mri2qmap.cli.site_file import Service, Site, load_site
from mri2qmap.errors import Mri2QmapError

_PATIENCE = 5.0
"""Time in which a destination has to take a connection [s]."""
_PORTS: dict[Service, int] = {"serve": 9002, "worker": 18000}


def site_findings(path: Path) -> list[Finding]:
    """Return what is right and wrong about the file of a site, on this machine, now.

    Raises
    ------
    Mri2QmapError
        If the file cannot be read.
    """
    site = load_site(path)
    os.environ.update(site.environment)
    found = [Finding("site", f"{path}: its keys and values are known")]
    for checks in (_resources, _folders, _clients, _listening, _destinations):
        found += checks(site)
    return found


def _checked(topic: str, check: Callable[[], str]) -> Finding:
    """Return a finding by what a check returns, or raises."""
    try:
        return Finding(f"site: {topic}", check())
    except Mri2QmapError as error:
        return Finding(f"site: {topic}", None, str(error), needed=True)
    except OSError as error:
        return Finding(f"site: {topic}", None, error.strerror or str(error), needed=True)


def _resources(site: Site) -> Iterator[Finding]:
    from mri2qmap.cli.serving import deadlines, memory_of
    from mri2qmap.cli.thread_option import set_threads
    from mri2qmap.machine.devices import device_name, select_device
    from mri2qmap.pipeline.memory_budget import gib, gib_apart
    from mri2qmap.pipeline.memory_plan import available_bytes

    device = site.machine.device or DEFAULTS["device"]
    yield _checked("device", lambda: device_name(select_device(device)))
    if site.machine.threads is not None:

        def threads() -> str:
            set_threads(Namespace(threads=site.machine.threads))
            return str(site.machine.threads)

        yield _checked("threads", threads)
    if site.machine.memory is not None:

        def memory() -> str:
            wanted = memory_of(site.machine.memory) or 0
            free = available_bytes(select_device(device))
            if wanted > free:
                available = gib_apart(wanted, free)[1]
                raise Mri2QmapError(
                    f"memory {site.machine.memory}: {available} are available now; take less, or "
                    "end what uses it"
                )
            return f"{gib(wanted)} of {gib(free)} that are available now"

        yield _checked("memory", memory)
    limits = {entry.name: getattr(site.limits, entry.name) for entry in fields(site.limits)}
    given = {name: value for name, value in limits.items() if value is not None}
    if given:
        args = Namespace(**{**DEFAULTS, **given})
        text = ", ".join(f"{name} {value:g} s" for name, value in given.items())
        yield _checked("limits", lambda: text if deadlines(args) else "")


def _folders(site: Site) -> Iterator[Finding]:
    from mri2qmap.machine.folders import unwritable_reason
    from mri2qmap.scan_queue.disk_room import KEPT_FREE

    own = {"cache": site.machine.cache, "spool": site.machine.spool, "queue": site.serve.queue}
    for topic, folder in own.items():
        if folder is None:
            continue

        def writable(folder: str = folder, topic: str = topic) -> str:
            # patient data are in the spool and in the queue
            reason = unwritable_reason(Path(folder), private=topic != "cache")
            if reason is not None:
                raise Mri2QmapError(f"{folder}: {reason}; choose another folder")
            if topic == "queue" and (free := shutil.disk_usage(folder).free) < KEPT_FREE:
                raise Mri2QmapError(
                    f"{folder}: the disk has {free >> 20} MiB left, of which {KEPT_FREE >> 20} MiB "
                    "are kept for maps, so every scan is refused; free some space"
                )
            return folder

        yield _checked(topic, writable)


def _clients(site: Site) -> Iterator[Finding]:
    from mri2qmap.hosts.allowed_peers import AllowedPeers
    from mri2qmap.machine.file_access import site_files

    if site.allow.addresses:

        def addresses() -> str:
            AllowedPeers.parse(site.allow.addresses)
            return f"{', '.join(site.allow.addresses)} and this machine"

        yield _checked("clients", addresses)
    if site.allow.folders:

        def folders() -> str:
            site_files(site.allow.folders)
            return ", ".join(site.allow.folders)

        yield _checked("folders for clients", folders)


def _listening(site: Site) -> Iterator[Finding]:
    from mri2qmap.cli.dashboard_option import DEFAULT_ADDRESS
    from mri2qmap.hosts.listener import Listener
    from mri2qmap.pacs.destination import is_loopback, listening_address

    for service in ("serve", "worker"):
        own = site.serve if service == "serve" else site.worker
        if all(getattr(own, entry.name) is None for entry in fields(own)):
            continue
        address = own.address or DEFAULTS["address"]
        places = {
            "port": (address, _PORTS[service] if own.port is None else own.port),
            "status_port": (own.status_address or DEFAULTS["status_address"], own.status_port),
        }
        if own.dashboard is not None:
            try:
                places["dashboard"] = listening_address(
                    own.dashboard, "dashboard", DEFAULT_ADDRESS, 0
                )
            except ValueError as error:
                yield Finding(f"site: {service} dashboard", None, str(error), needed=True)
        for name, (where, port) in places.items():
            if port is None:
                continue

            def bound(where: str = where, port: int = port) -> str:
                Listener(where, port, lambda peer: None).stop()
                return f"{where}:{port} is free"

            yield _checked(f"{service} {name}", bound)
        if not (is_loopback(address) or site.allow.addresses):
            yield Finding(
                f"site: {service} clients",
                None,
                f"whoever can connect to {address} can use it: give addresses in [allow], unless a "
                "firewall does that",
            )


def _destinations(site: Site) -> Iterator[Finding]:
    from urllib.parse import urlsplit

    from mri2qmap.pacs.destination import DicomNode, parse_destination

    for text in site.allow.push:

        def reachable(text: str = text) -> str:
            destination = parse_destination(text)
            if isinstance(destination, DicomNode):
                place = destination.host, destination.port
            else:
                port = urlsplit(destination.url).port
                place = destination.host, port or (443 if destination.secure else 80)
            try:
                socket.create_connection(place, _PATIENCE).close()
            except OSError as error:
                raise Mri2QmapError(
                    f"{destination}: it takes no connection ({error.strerror or error}); check "
                    "address, port and firewall"
                ) from error
            return f"{destination} takes connections"

        yield _checked("push", reachable)

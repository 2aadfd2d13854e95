"""The file of a site, ``site.toml``: how its servers run, in one place.

``mri2qmap serve --site site.toml`` and ``mri2qmap worker --site site.toml`` take their options from
it, unless they are given on the command line; ``mri2qmap doctor --site site.toml`` checks it.
"""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.folders import CACHE_VARIABLE, SPOOL_VARIABLE
from mri2qmap.machine.words import parsed_size
from mri2qmap.pipeline.settings import from_values
from mri2qmap.storage.cache_size import SIZE_VARIABLE

_LARGEST_FILE = 2**20
Service = Literal["serve", "worker"]


@dataclass(frozen=True)
class Machine:
    """What reconstructions may use.

    Attributes
    ----------
    device
        auto, cpu, cuda or cuda:N.
    threads
        CPU threads.
    memory
        For all reconstructions together, such as "48GB".
    cache, spool
        Folders of dictionaries and compiled loops, and of what is to be sent to a PACS.
    cache_size
        The most that all dictionaries may take, such as "16GB".
    """

    device: str | None = None
    threads: int | None = None
    memory: str | None = None
    cache: str | None = None
    cache_size: str | None = None
    spool: str | None = None


@dataclass(frozen=True)
class Worker:
    """Where a server listens, and who can look at it.

    Attributes
    ----------
    address, port
        For clients.
    status_address, status_port
        For monitors.
    dashboard
        [ADDRESS:]PORT of the page for a browser.
    """

    address: str | None = None
    port: int | None = None
    status_address: str | None = None
    status_port: int | None = None
    dashboard: str | None = None


@dataclass(frozen=True)
class Serve(Worker):
    """`Worker`, and the queue of scans that are reconstructed later.

    Attributes
    ----------
    queue
        Its folder.
    queue_length
        Maximum number of scans in it.
    retention
        How long scans are kept after their reconstruction [days].
    """

    queue: str | None = None
    queue_length: int | None = None
    retention: float | None = None


@dataclass(frozen=True)
class Limits:
    """Deadlines [s].

    Attributes
    ----------
    patience, silence, contended, longest, grace
        As the options of `mri2qmap serve`.
    """

    patience: float | None = None
    silence: float | None = None
    contended: float | None = None
    longest: float | None = None
    grace: float | None = None


@dataclass(frozen=True)
class Allow:
    """What clients may do.

    Attributes
    ----------
    addresses
        Addresses and networks from which connections are taken; none: all that can connect.
    folders
        Folders whose files their pipelines may name.
    push
        Destinations to which their pipelines may send maps.
    """

    addresses: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    push: tuple[str, ...] = ()


@dataclass(frozen=True)
class Log:
    """The log.

    Attributes
    ----------
    format
        "text" or "json".
    """

    format: Literal["text", "json"] | None = None


@dataclass(frozen=True)
class Site:
    """All sections of the file; what is absent is as without a file."""

    machine: Machine = field(default_factory=Machine)
    serve: Serve = field(default_factory=Serve)
    worker: Worker = field(default_factory=Worker)
    limits: Limits = field(default_factory=Limits)
    allow: Allow = field(default_factory=Allow)
    log: Log = field(default_factory=Log)

    def options(self, service: Service) -> dict[str, Any]:
        """Return the options of a command that the file gives, by the names of its arguments."""
        machine, own = self.machine, self.serve if service == "serve" else self.worker
        given = {
            "device": machine.device,
            "threads": machine.threads,
            "memory": machine.memory,
            **{entry.name: getattr(own, entry.name) for entry in fields(own)},
            **{entry.name: getattr(self.limits, entry.name) for entry in fields(Limits)},
            "allow_address": list(self.allow.addresses) or None,
            "allow_folder": list(self.allow.folders) or None,
            "allow_push": list(self.allow.push) or None,
            "log_format": self.log.format,
        }
        return {name: value for name, value in given.items() if value is not None}

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that the file gives, for the process and those that it starts."""
        given = {
            CACHE_VARIABLE: self.machine.cache,
            SIZE_VARIABLE: self.machine.cache_size,
            SPOOL_VARIABLE: self.machine.spool,
        }
        return {name: value for name, value in given.items() if value is not None}


def load_site(path: Path) -> Site:
    """Read the file of a site.

    Parameters
    ----------
    path
        The file. Relative paths in it are relative to its folder.

    Raises
    ------
    Mri2QmapError
        If it cannot be read, is not TOML, has an unknown key, or a value of the wrong type.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise Mri2QmapError(f"site {path}: it cannot be read ({error.strerror})") from error
    if len(content) > _LARGEST_FILE:
        raise Mri2QmapError(f"site {path}: a file of more than 1 MiB is no site file; name another")
    try:
        values = tomllib.loads(content.decode("utf-8"))
        site = from_values(_with_absolute_paths(values, path.absolute().parent), Site)
        size = site.machine.cache_size
        if size is not None and not 0 < parsed_size(size) < math.inf:
            raise Mri2QmapError(
                f"[machine] cache_size = {size!r}: a positive size such as 2GB or 2GiB is expected"
            )
        return site
    except (Mri2QmapError, ValueError) as error:  # TOML and Unicode errors are ValueErrors
        raise Mri2QmapError(f"site {path}: {error}") from error


_PATHS = {"machine": ("cache", "spool"), "serve": ("queue",), "allow": ("folders",)}


def _with_absolute_paths(values: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """Make the paths in the file absolute; values of a wrong type stay as they are."""
    found = dict(values)
    for section, names in _PATHS.items():
        given = found.get(section)
        if not isinstance(given, dict):
            continue
        found[section] = dict(given)
        for name in names:
            value = given.get(name)
            if isinstance(value, str) and value:
                found[section][name] = os.path.normpath(base / value)
            elif isinstance(value, list):
                found[section][name] = [
                    os.path.normpath(base / one) if isinstance(one, str) and one else one
                    for one in value
                ]
    return found

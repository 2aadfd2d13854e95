"""Provenance of the maps of a scan: the data and the processing by each gadget.

`checked_acquisitions` creates the `Provenance` of a scan; the host of each gadget adds the gadget
to it. The UIDs of the DICOM objects are derived from its digest. A node of a Gadgetron server knows
only its own settings; from the provenance it detects contradictions to those of earlier gadgets.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import ismrmrd
import numpy as np
import torch

import mri2qmap
from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.devices import device_name
from mri2qmap.pipeline.contradictions import refuse_contradictions
from mri2qmap.pipeline.items import Provenance
from mri2qmap.pipeline.settings import settings_as_dict
from mri2qmap.storage.written import digest

NUMERICS = (
    *("torch", "numpy", "scipy", "numba", "finufft"),
    *("cufinufft", "cupy-cuda12x", "cupy-cuda13x"),
)
"""Packages whose versions can change the maps within rounding errors."""


class DataDigest:
    """SHA-256 of the headers, trajectories and samples of acquisitions."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, acquisition: ismrmrd.Acquisition) -> None:
        """Add an acquisition."""
        self._hash.update(bytes(acquisition.getHead()))
        self._hash.update(np.ascontiguousarray(acquisition.traj).data)
        self._hash.update(np.ascontiguousarray(acquisition.data).data)

    def hexdigest(self) -> str:
        """Return the digest as 64 hexadecimal digits."""
        return self._hash.hexdigest()


def with_gadget(
    provenance: Provenance,
    gadget: str,
    settings: Any,
    device: torch.device,
    processes: int = 1,
    spare_memory: bool = False,
) -> Provenance:
    """Add a gadget to the provenance of a scan.

    Parameters
    ----------
    provenance
        Provenance received from the previous gadget or the source.
    gadget
        Name of the gadget.
    settings
        Settings of the gadget. The contents of the files that they name are part of the digest,
        and those in ``WITHOUT_EFFECT`` of their class are not.
    device
        Device of the gadget.
    processes
        Number of processes that compute the gadget together.
    spare_memory
        Whether memory is spared, which changes the maps within rounding errors.

    Raises
    ------
    Mri2QmapError
        If the settings contradict those of an earlier gadget, or a file cannot be read.
    """
    own = settings_as_dict(settings)
    known = {**json.loads(provenance.settings), gadget: own}
    refuse_contradictions(known, "pipeline")
    contents = {name: file_digest(path) for name, path in input_files(settings).items()}
    described = {**own, **contents}
    for name in getattr(settings, "WITHOUT_EFFECT", ()):
        described.pop(name, None)
    parts = [provenance.digest, gadget, described, software(), machine(device, processes)]
    if spare_memory:
        parts.append("memory is spared")
    combined = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return replace(provenance, digest=combined, settings=json.dumps(known))


def input_files(settings: Any) -> dict[str, Path]:
    """Return the files that a gadget reads, by property name.

    Settings with file properties have a method ``input_files()``.

    Raises
    ------
    Mri2QmapError
        If a model does not exist.
    """
    files: dict[str, Path] = settings.input_files() if hasattr(settings, "input_files") else {}
    return files


def software() -> dict[str, str]:
    """Return the versions of this software and of the numerical packages."""
    return {"mri2qmap": mri2qmap.__version__, **numerical_packages()}


def numerical_packages() -> dict[str, str]:
    """Return the versions of the installed `NUMERICS`."""
    versions = {}
    for package in NUMERICS:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def machine(device: torch.device, processes: int = 1) -> list[str]:
    """Return the properties of the machine that can change the maps within rounding errors.

    Parallel sums depend on the number of threads and processes, vector instructions on the
    processor. The ADMM amplifies rounding errors, and some voxels have a second match that is
    nearly as good.
    """
    return [
        device_name(device),
        platform.machine(),
        torch.backends.cpu.get_cpu_capability(),
        f"{torch.get_num_threads()} threads",
        f"{processes} processes",
    ]


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits.

    Raises
    ------
    Mri2QmapError
        If the file cannot be read.
    """
    try:
        return digest(path)
    except OSError as error:
        raise Mri2QmapError(f"{path}: it cannot be read ({error.strerror or error})") from error

"""What determines the maps of a scan: its data, and what each gadget does with them.

`checked_acquisitions` begins the `Provenance` of a scan, and the host of each gadget adds the
gadget to it. The UIDs of the DICOM objects follow from its digest. It also lets the nodes of a
Gadgetron server, each of which knows only its own settings, find out that these contradict those of
an earlier gadget.
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

NUMERICS = ("torch", "numpy", "scipy", "numba", "finufft", "cufinufft")
"""Packages whose versions may change the last digits of the maps."""


class DataDigest:
    """SHA-256 of acquisitions: their headers, trajectories and samples."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, acquisition: ismrmrd.Acquisition) -> None:
        """Add the next acquisition."""
        self._hash.update(bytes(acquisition.getHead()))
        self._hash.update(np.ascontiguousarray(acquisition.traj).data)
        self._hash.update(np.ascontiguousarray(acquisition.data).data)

    def hexdigest(self) -> str:
        """Digest of what has been added, as 64 hexadecimal digits."""
        return self._hash.hexdigest()


def with_gadget(
    provenance: Provenance, gadget: str, settings: Any, device: torch.device
) -> Provenance:
    """Add a gadget to the provenance of a scan.

    Parameters
    ----------
    provenance
        As the gadget before it, or the source, passed it on.
    gadget
        Name of the gadget.
    settings
        Its settings. Of files that they name, the contents count.
    device
        Where it works.

    Raises
    ------
    Mri2QmapError
        When the settings contradict those of an earlier gadget, or a file cannot be read.
    """
    own = settings_as_dict(settings)
    known = {**json.loads(provenance.settings), gadget: own}
    refuse_contradictions(known, "pipeline")
    contents = {name: file_digest(path) for name, path in input_files(settings).items()}
    described = {**own, **contents}
    parts = [provenance.digest, gadget, described, software(), machine(device)]
    combined = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return replace(provenance, digest=combined, settings=json.dumps(known))


def input_files(settings: Any) -> dict[str, Path]:
    """Files that a gadget reads, by the property that names them.

    Settings that name files return them from a method ``input_files()``.

    Raises
    ------
    Mri2QmapError
        If a model is not there.
    """
    return settings.input_files() if hasattr(settings, "input_files") else {}


def software() -> dict[str, str]:
    """Versions of this program and of the packages that compute."""
    versions = {"mri2qmap": mri2qmap.__version__}
    for package in NUMERICS:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def machine(device: torch.device) -> list[str]:
    """What of the machine may change the last digits of the maps.

    Sums that threads share out depend on their number, and instructions on the processor. The ADMM
    and the choice of atoms amplify that: some voxels get another atom.
    """
    return [
        device_name(device),
        platform.machine(),
        torch.backends.cpu.get_cpu_capability(),
        f"{torch.get_num_threads()} threads",
    ]


def file_digest(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits.

    Raises
    ------
    Mri2QmapError
        When it cannot be read.
    """
    try:
        return digest(path)
    except OSError as error:
        raise Mri2QmapError(f"{path}: it cannot be read ({error.strerror or error})") from error

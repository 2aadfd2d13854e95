"""Estimate of the memory of a reconstruction, and admission of scans within a memory budget."""

from __future__ import annotations

import math
import resource
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.container_limits import PROC, memory_left
from mri2qmap.machine.devices import free_gpu_memory
from mri2qmap.machine.process_setup import return_freed_memory
from mri2qmap.pipeline.scan_header import ScanInfo

if TYPE_CHECKING:
    from mri2qmap.pipeline.pipeline_file import GadgetNode

_LIBRARIES = 11 * 2**26
"""Libraries, dictionary, compiled loops and export [bytes]."""
_ITERATING = 2**26
"""Network and transform plans of iterative reconstructions [bytes]."""
_IMAGES_OF_ADMM, _IMAGES_OF_CG = 34, 26
"""Number of sets of subspace images in memory during an iteration of `pnp_admm` or of `toeplitz_cg`
alone, with those inside the gram, and with weighted images and activations of the denoiser."""
_IMAGES_OF_A_COIL = 3
"""Further sets inside the gram when two coils are convolved together."""
_PRECONDITIONER = 1.25
"""Kernels with the circulant and its inverse, which are an eighth of them each."""
_IMAGES_SPARED = 12
"""As `_IMAGES_OF_ADMM`, if memory is spared."""
_NUFFT_SPARED = 300
"""Memory of the transforms of the octants of a kernel, if memory is spared, per voxel [bytes]."""
_NUFFT = 110
"""Memory of a batch of two non-uniform FFTs per voxel of its grid [bytes]."""
_COEFFICIENTS = 5
"""Assumed number of subspace coefficients if it is unknown."""
_COILS = 8
"""Assumed number of virtual coils if it depends on the data."""


def planned_bytes(scan: ScanInfo, nodes: Iterable[GadgetNode] = ()) -> int:
    """Estimate the peak memory of a reconstruction [bytes].

    Parameters
    ----------
    scan
        Scan header.
    nodes
        Known gadgets of the pipeline with their settings. The estimate depends on the number of
        subspace coefficients, the number of virtual coils, and whether the result is the gridded
        TSMI. Defaults are used for unknown gadgets.

    Notes
    -----
    tests/pipeline/test_memory_plan.py contains the measured peaks of whole runs on a CPU.
    """
    settings = {node.name: node.settings for node in nodes}
    compression = settings.get("subspace_compression")
    s = getattr(compression, "coefficients", _COEFFICIENTS)
    gridded = getattr(compression, "output", "") == "gridded" and "pnp_admm" not in settings
    voxels = math.prod(scan.matrix)
    one = s * voxels * 8  # a set of subspace images
    n_coils = _virtual_coils(scan, settings.get("coil_sensitivity"))
    coils = 2 * n_coils * voxels * 8
    if gridded:
        return _LIBRARIES + s * _NUFFT // 2 * voxels + coils
    kernels = s * (s + 1) // 2 * 8 * voxels * 4  # real, on the double grid
    if scan.spare_memory:
        summing = kernels + max(kernels // 2, _NUFFT_SPARED * voxels)
        iterating = (_PRECONDITIONER - 0.5) * kernels + _IMAGES_SPARED * one
        return _LIBRARIES + _ITERATING + int(max(summing, iterating)) + coils // 2
    summing = kernels + _NUFFT * 8 * voxels
    known = bool(settings) and "pnp_admm" not in settings
    images = _IMAGES_OF_CG if known else _IMAGES_OF_ADMM
    images += _IMAGES_OF_A_COIL if n_coils > 1 else 0
    iterating = int(_PRECONDITIONER * kernels) + images * one
    return _LIBRARIES + _ITERATING + max(summing, iterating) + coils


def _virtual_coils(scan: ScanInfo, settings: Any) -> int:
    """Return the number of virtual coils, estimated from header and settings."""
    system = scan.header.acquisitionSystemInformation
    received = getattr(system, "receiverChannels", None) or _COILS
    return min(received, getattr(settings, "virtual_coils", 0) or _COILS)


def fitted_to_memory(scan: ScanInfo, nodes: Iterable[GadgetNode], available: int) -> ScanInfo:
    """Return the scan, with memory spared if it does not fit into the available memory otherwise.

    The planned and the available memory are logged.

    Raises
    ------
    Mri2QmapError
        If the memory is insufficient nevertheless; the message states the required and the
        available memory.
    """
    nodes = list(nodes)
    spare = scan.spare_memory or planned_bytes(scan, nodes) > available
    if scan.processes.world_size > 1:  # all do the same
        spare = bool(scan.processes.sum_(torch.tensor(int(spare), device=scan.device)))
    fitted = replace(scan, spare_memory=spare)
    needed = planned_bytes(fitted, nodes)
    if needed > available:
        z, y, x = scan.matrix
        raise Mri2QmapError(
            f"a scan of {x} x {y} x {z} voxels (x, y, z) needs about {gib(needed)} of memory with "
            f"this pipeline, but only {gib(available)} are available; {_ADVICE}"
        )
    if spare and scan.device.type == "cpu":
        return_freed_memory()
    how = ", at the cost of time" if spare else ""
    scan.report.log(f"memory: {gib(needed)} are planned of {gib(available)} available{how}")
    return fitted


_ADVICE = (
    "use a coarser matrix, fewer coefficients, a machine with more memory, or a higher limit "
    "(--memory, or memory=)"
)


def checked_memory(memory: object, wrong: str = "") -> int:
    """Return the bytes that a reconstruction may use, as a caller gave them.

    Parameters
    ----------
    memory
        Whole number of bytes.
    wrong
        Message on a value that is not one; by default one that names the parameter ``memory``.

    Raises
    ------
    Mri2QmapError
        If it is not a positive whole number below 2^63.
    """
    if (
        isinstance(memory, bool)
        or not isinstance(memory, int | float | np.integer | np.floating)
        or not 0 < memory < 2**63
        or not float(memory).is_integer()
    ):
        raise Mri2QmapError(
            wrong or f"memory {memory!r}: a positive whole number of bytes is expected"
        )
    return int(memory)


def available_bytes(device: torch.device, proc: Path = PROC) -> int:
    """Return the memory that is available on the GPU or in the machine [bytes].

    On a CPU, the limits of the container (`memory_left`) and of the process (``ulimit -v``) apply.
    """
    if device.type == "cuda":
        return free_gpu_memory(device)
    free = [2**63]  # unknown: no limit
    try:
        with (proc / "meminfo").open(encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file)
        free.append(int(fields["MemAvailable"].split()[0]) * 1024)
    except (OSError, KeyError, ValueError):
        pass
    allowed = memory_left(proc)
    if allowed is not None:
        free.append(allowed)
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        free.append(max(0, limit - _address_space(proc)))
    return min(free)


def _address_space(proc: Path) -> int:
    """Return the size of the address space of this process [bytes]; 0 if unknown."""
    try:
        pages = (proc / "self" / "statm").read_text(encoding="ascii").split()[0]
        return int(pages) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return 0


class MemoryBudget:
    """Admits reconstructions while the sum of their memory estimates fits.

    Parameters
    ----------
    total
        Total memory [bytes].
    patience
        Time that a reconstruction waits for others to end [s].
    """

    def __init__(self, total: int, patience: float = 60.0) -> None:
        self.total = total
        self._patience = patience
        self._used = 0
        self._changed = threading.Condition()

    @contextmanager
    def share(self, size: int, name: str) -> Iterator[None]:
        """Reserve `size` bytes while the context is active; wait for them if necessary.

        Raises
        ------
        Mri2QmapError
            If `size` exceeds the total, or the memory is not released within the patience.
        """
        if size > self.total:
            raise Mri2QmapError(
                f"{name} needs about {gib(size)} of memory, but only {gib(self.total)} are "
                f"available; {_ADVICE}"
            )
        start = time.monotonic()
        with self._changed:
            if not self._changed.wait_for(
                lambda: self._used + size <= self.total, timeout=self._patience
            ):
                raise Mri2QmapError(
                    f"{name} needs about {gib(size)} of memory; other reconstructions hold "
                    f"{gib(self._used)} of {gib(self.total)} and did not end within "
                    f"{time.monotonic() - start:.0f} s: try again later"
                )
            self._used += size
        try:
            yield
        finally:
            with self._changed:
                self._used -= size
                self._changed.notify_all()


def gib(size: int) -> str:
    """Return a number of bytes in GiB, for messages."""
    return f"{size / 2**30:.1f} GiB"

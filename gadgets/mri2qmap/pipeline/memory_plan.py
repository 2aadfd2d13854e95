"""How much memory a scan will take, and whether it may begin."""

from __future__ import annotations

import math
import resource
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.container_limits import PROC, memory_left
from mri2qmap.pipeline.scan_header import ScanInfo

if TYPE_CHECKING:
    from mri2qmap.pipeline.pipeline_file import GadgetNode

_FIXED = 9 * 2**26
"""Dictionary, network, plans, compiled loops and what the libraries keep [bytes]."""
_DENOISER = 2**30
"""Activations of the denoiser, which works in parts that fit [bytes]; less for small volumes."""
_IMAGES = 16
"""Sets of subspace images that are alive in an iteration, with its transforms."""
_NUFFT = 160
"""Bytes a voxel of its grid that a batch of two non-uniform transforms takes."""
_COEFFICIENTS = 5
_COILS = 8
"""Taken where the data decide how many virtual coils there are."""


def planned_bytes(scan: ScanInfo, nodes: Iterable[GadgetNode] = ()) -> int:
    """Estimate the peak memory of a reconstruction.

    Parameters
    ----------
    scan
        The scan.
    nodes
        The gadgets of its pipeline, or those of them that are known, with their settings: number
        of subspace coefficients and of virtual coils, whether it ends with the gridded TSMI. What
        is not known is taken from the gadgets' defaults.

    Notes
    -----
    Peaks of whole runs on a CPU are in tests/pipeline/test_memory_plan.py.
    """
    settings = {node.name: node.settings for node in nodes}
    compression = settings.get("subspace_compression")
    s = getattr(compression, "coefficients", _COEFFICIENTS)
    gridded = getattr(compression, "output", "") == "gridded" and "pnp_admm" not in settings
    voxels = math.prod(scan.matrix)
    images = _IMAGES * s * voxels * 8
    coils = 2 * _virtual_coils(scan, settings.get("coil_sensitivity")) * voxels * 8
    if gridded:
        return _FIXED + max(images, s * _NUFFT // 2 * voxels) + coils
    kernels = s * (s + 1) // 2 * 8 * voxels * 4  # real, on the double grid
    summing = kernels + _NUFFT * 8 * voxels
    iterating = 2 * kernels + images + min(_DENOISER, 4096 * voxels)
    return _FIXED + max(summing, iterating) + coils


def _virtual_coils(scan: ScanInfo, settings: Any) -> int:
    """Number of coils that are reconstructed, as far as header and settings tell."""
    system = scan.header.acquisitionSystemInformation
    received = getattr(system, "receiverChannels", None) or _COILS
    return min(received, getattr(settings, "virtual_coils", 0) or _COILS)


def check_memory(scan: ScanInfo, nodes: Iterable[GadgetNode], available: int) -> None:
    """Refuse a reconstruction that is larger than the memory there is.

    Raises
    ------
    Mri2QmapError
        It says how much is needed, how much there is, and what to do.
    """
    needed = planned_bytes(scan, nodes)
    if needed > available:
        z, y, x = scan.matrix
        raise Mri2QmapError(
            f"a scan of {x} x {y} x {z} voxels (x, y, z) needs about {_gib(needed)} of memory with "
            f"this pipeline, and {_gib(available)} are to be had; {_WAY_OUT}"
        )


_WAY_OUT = "choose a coarser matrix, fewer coefficients, or a larger machine (--memory)"


def available_bytes(device: torch.device, proc: Path = PROC) -> int:
    """Return the memory that is free now on the GPU; or in the machine, as far as it is allowed.

    The container's limits count (`memory_left`), and that of the process (``ulimit -v``).
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = [2**63]  # not told: the operating system decides
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
    """What this process has taken of its address space [bytes]; 0 where it is not told."""
    try:
        pages = (proc / "self" / "statm").read_text(encoding="ascii").split()[0]
        return int(pages) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return 0


class MemoryBudget:
    """Lets reconstructions begin while their plans fit together.

    Parameters
    ----------
    total
        Bytes to share.
    patience
        Seconds that one may wait for others to end.
    """

    def __init__(self, total: int, patience: float = 60.0) -> None:
        self.total = total
        self._patience = patience
        self._used = 0
        self._changed = threading.Condition()

    @contextmanager
    def share(self, size: int, name: str) -> Iterator[None]:
        """Hold `size` bytes, waiting for them if need be.

        Raises
        ------
        Mri2QmapError
            When it is more than there is, or others keep it for too long.
        """
        if size > self.total:
            raise Mri2QmapError(
                f"{name} needs about {_gib(size)} of memory, and {_gib(self.total)} are to be "
                f"had; {_WAY_OUT}"
            )
        start = time.monotonic()
        with self._changed:
            if not self._changed.wait_for(
                lambda: self._used + size <= self.total, timeout=self._patience
            ):
                raise Mri2QmapError(
                    f"{name} needs about {_gib(size)} of memory; other reconstructions hold "
                    f"{_gib(self._used)} of {_gib(self.total)} and did not end within "
                    f"{time.monotonic() - start:.0f} s: try again later"
                )
            self._used += size
        try:
            yield
        finally:
            with self._changed:
                self._used -= size
                self._changed.notify_all()


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"

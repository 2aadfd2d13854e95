"""How much memory a scan will take, and whether it may begin."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mri2qmap.errors import Mri2QmapError
from mri2qmap.stream.scan_info import ScanInfo

_FIXED = 2**29
"""Dictionary, network, plans and what the libraries keep [bytes]."""
_DENOISER = 2**30
"""Activations of the denoiser, which works in parts that fit [bytes]; less for small volumes."""
_IMAGES = 16
"""Sets of subspace images that are alive in an iteration, with its transforms."""
_COEFFICIENTS = 5
_COILS = 8


def planned_bytes(scan: ScanInfo, coefficients: int = _COEFFICIENTS) -> int:
    """Estimate the peak memory of a reconstruction.

    Parameters
    ----------
    scan
        The scan; its number of coils, unless the header says it, is taken as 8 after compression.
    coefficients
        Number s of subspace coefficients.

    Notes
    -----
    Peaks of whole runs on a CPU: 1.1 of 1.9 GiB at 64^3 with one coil, 2.2 of 2.9 at 96^3 with
    eight, 4.6 of 4.9 at 128^3 with one.
    """
    voxels = math.prod(scan.matrix)
    pairs = coefficients * (coefficients + 1) // 2
    kernels = 2 * pairs * 8 * voxels * 4  # real, on the double grid, and those being added
    images = _IMAGES * coefficients * voxels * 8
    coils = 2 * _COILS * voxels * 8
    return _FIXED + min(_DENOISER, 4096 * voxels) + kernels + images + coils


def available_bytes(device: torch.device) -> int:
    """Return the memory that is free now, on the GPU or in the machine."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 2**63  # not told: the operating system decides


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
                f"{name} needs about {_gib(size)} of memory, and {_gib(self.total)} are to be had; "
                "choose a coarser matrix, fewer coefficients, or a larger machine (--memory)"
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

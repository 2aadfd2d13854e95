"""Estimate of the memory of a reconstruction, and the memory that is available."""

from __future__ import annotations

import math
import resource
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.container_limits import PROC, memory_left
from mri2qmap.machine.devices import free_gpu_memory
from mri2qmap.machine.process_setup import return_freed_memory
from mri2qmap.operators.cuda_convolution import CONVOLVED_BYTES
from mri2qmap.pipeline.memory_budget import ADVICE, gib
from mri2qmap.pipeline.scan_header import ScanInfo
from mri2qmap.pipeline.simulation_cost import simulation_bytes

if TYPE_CHECKING:
    from mri2qmap.pipeline.pipeline_file import GadgetNode

_COEFFICIENTS = 5
"""Assumed number of subspace coefficients if it is unknown."""
_COILS = 8
"""Assumed number of virtual coils if it depends on the data."""
_CIRCULANTS = 0.25
"""Size of the circulant and its inverse, relative to the kernels in single precision."""
_SIMULATION = 2**26
"""Memory of the simulation of a dictionary that the memory of a small scan contains [bytes]."""
_NUFFT = 110
"""Memory of a batch of two non-uniform FFTs per voxel of its grid [bytes]."""
_NUFFT_OF_OCTANTS = 300
"""Memory of the transforms of a kernel by octants, per voxel [bytes]."""


@dataclass(frozen=True)
class _Device:
    """Memory on a kind of device.

    Attributes
    ----------
    least
        Of a small scan [bytes]: libraries, dictionary, compiled loops and export.
    fixed
        Of a large scan, besides what grows with it [bytes]: on a GPU, scores of the matching and
        networks.
    admm, cg, spared
        Sets of subspace images during an iteration of `pnp_admm`, of `toeplitz_cg` alone, and if
        memory is spared. Those inside the gram, weighted images, and activations of the denoiser
        are among them.
    coil
        Further sets when several coils are convolved together.
    maps
        Copies of the coil maps; one if memory is spared.
    """

    least: int
    fixed: int
    admm: float
    cg: float
    spared: float
    coil: float
    maps: int


_CPU = _Device(12 * 2**26, 10 * 2**26, admm=24.5, cg=21, spared=12, coil=4.5, maps=2)
_GPU = _Device(0, 9 * 2**26, admm=17, cg=17, spared=12, coil=0, maps=1)


def planned_bytes(scan: ScanInfo, nodes: Iterable[GadgetNode] = ()) -> int:
    """Estimate the peak memory of a reconstruction, of the CPU or of the GPU that it uses [bytes].

    Parameters
    ----------
    scan
        Scan header, with the device and whether memory is spared.
    nodes
        Known gadgets of the pipeline with their settings. The estimate depends on the number of
        subspace coefficients, the number of virtual coils, the size of the dictionary, and whether
        the result is the gridded TSMI. Defaults are used for unknown gadgets.

    Notes
    -----
    tests/pipeline/test_memory_plan.py contains the measured peaks of whole runs.
    """
    nodes = list(nodes)
    simulation = max(0, simulation_bytes(scan, nodes) - _SIMULATION)
    return simulation + _image_bytes(scan, nodes)


def _image_bytes(scan: ScanInfo, nodes: Iterable[GadgetNode]) -> int:
    """Estimate the peak memory without a large dictionary [bytes]."""
    settings = {node.name: node.settings for node in nodes}
    device = _GPU if scan.device.type == "cuda" else _CPU
    compression = settings.get("subspace_compression")
    s = getattr(compression, "coefficients", _COEFFICIENTS)
    gridded = getattr(compression, "output", "") == "gridded" and "pnp_admm" not in settings
    voxels = math.prod(scan.matrix)
    one = s * voxels * 8  # a set of subspace images
    n_coils = _virtual_coils(scan, settings.get("coil_sensitivity"))
    maps = n_coils * voxels * 8 * (1 if scan.spare_memory else device.maps)
    if gridded:
        return max(device.least - 2**26, device.fixed) + s * _NUFFT // 2 * voxels + maps
    kernels = s * (s + 1) // 2 * 8 * voxels * 4  # real, on the double grid
    by_octants = scan.spare_memory or scan.device.type == "cuda"
    transforms = (_NUFFT_OF_OCTANTS if by_octants else 8 * _NUFFT) * voxels
    if scan.spare_memory:
        transforms = max(transforms, kernels // 2)  # or rounding to half precision
        stored, images = 0.5 * kernels, device.spared
    else:
        known = bool(settings) and "pnp_admm" not in settings
        stored, images = float(kernels), device.cg if known else device.admm
        images += device.coil if n_coils > 1 else 0
    iterating = stored + _CIRCULANTS * kernels + images * one
    if scan.device.type == "cuda" and n_coils > 1 and not scan.spare_memory:
        iterating += 3 * min(n_coils * one, CONVOLVED_BYTES)
    return max(device.least, device.fixed + int(max(kernels + transforms, iterating)) + maps)


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
            f"this pipeline, but only {gib(available)} are available; {ADVICE}"
        )
    if spare and scan.device.type == "cpu":
        return_freed_memory()
    how = ", at the cost of time" if spare else ""
    scan.report.log(f"memory: {gib(needed)} are planned of {gib(available)} available{how}")
    return fitted


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

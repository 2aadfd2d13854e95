"""Estimate of the memory of a reconstruction, and the memory that is available."""

from __future__ import annotations

import itertools
import math
import resource
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ismrmrd
import numpy as np
import torch

from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.container_limits import PROC, memory_left
from mri2qmap.machine.devices import free_gpu_memory
from mri2qmap.machine.process_setup import return_freed_memory
from mri2qmap.operators.cuda_convolution import CONVOLVED_BYTES
from mri2qmap.pipeline.acquisition_kinds import is_imaging, is_noise_scan
from mri2qmap.pipeline.acquisition_policy import AcquisitionPolicy
from mri2qmap.pipeline.buffer_sizes import (
    batch_size,
    gridded_samples,
    held_bytes,
    most_readouts,
)
from mri2qmap.pipeline.findings import scan_error
from mri2qmap.pipeline.items import Item
from mri2qmap.pipeline.memory_budget import ADVICE, gib, gib_apart
from mri2qmap.pipeline.readouts import CALIBRATION_MEMORY, sample_bytes
from mri2qmap.pipeline.scan_header import ScanInfo
from mri2qmap.pipeline.scan_limits import SCAN_LIMITS
from mri2qmap.pipeline.simulation_cost import simulation_bytes
from mri2qmap.recon.coil_compression import MOST_DETERMINED_COILS
from mri2qmap.recon.coil_maps import (
    CALIBRATION_RESOLUTION,
    calibration_bytes,
    calibration_shape,
)

if TYPE_CHECKING:
    from mri2qmap.pipeline.pipeline_file import GadgetNode

_COEFFICIENTS = 5
"""Assumed number of subspace coefficients if it is unknown."""
_COILS = 16
"""Assumed number of receive channels if it is unknown."""
_CIRCULANTS = 0.25
"""Size of the circulant and its inverse, relative to the kernels in single precision."""
_SIMULATION = 2**26
"""Memory of the simulation of a dictionary that the memory of a small scan contains [bytes]."""
_READOUT = 512
"""Memory of what is known of each readout that has arrived [bytes]."""
_CALIBRATION_SAMPLE = 16
"""Memory of the transforms of a calibration, per position in k-space [bytes]."""
_GRIDDED_SAMPLE = 64
"""Memory of the gridded output besides the samples, per position in k-space [bytes]."""
_POSITION = 32
"""Memory of a position in k-space and its frame during the transforms of kernels [bytes]."""
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
    fixed, fixed_cg
        Of a large scan, besides what grows with it [bytes], also of `toeplitz_cg` alone without a
        network: on a GPU, scores of the matching and networks.
    admm, cg, spared
        Sets of subspace images during an iteration of `pnp_admm`, of `toeplitz_cg` alone without a
        network, and if memory is spared. Those inside the gram, weighted images, and activations of
        the denoiser are among them.
    coil
        Further sets when several coils are convolved together.
    maps
        Copies of the coil maps; one if memory is spared.
    """

    least: int
    fixed: int
    fixed_cg: int
    admm: float
    cg: float
    spared: float
    coil: float
    maps: int


_CPU = _Device(12 * 2**26, 10 * 2**26, 530 * 2**20, admm=24.5, cg=21, spared=12, coil=4.5, maps=2)
_GPU = _Device(0, 9 * 2**26, 9 * 2**26, admm=17, cg=17, spared=12, coil=0, maps=1)


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
    tables = _READOUT * (most_readouts(scan) - SCAN_LIMITS.unannounced)
    return simulation + tables + max(_calibration_bytes(scan, nodes), _image_bytes(scan, nodes))


def _calibration_bytes(scan: ScanInfo, nodes: Iterable[GadgetNode]) -> int:
    """Estimate the memory of `coil_sensitivity`, with the readouts that it holds [bytes]."""
    settings = next((n.settings for n in nodes if n.name == "coil_sensitivity"), None)
    n_coils = _virtual_coils(scan, settings)
    resolution = getattr(settings, "calibration_resolution", CALIBRATION_RESOLUTION)
    grid = calibration_shape(scan.matrix, scan.voxel_size, resolution)
    channels = scan.receive_channels or _COILS
    policy = settings or AcquisitionPolicy()
    most = getattr(settings, "calibration_memory", CALIBRATION_MEMORY)
    held = held_bytes(scan, channels, most, policy)
    samples = held // sample_bytes(channels)
    calibration = calibration_bytes(n_coils, math.prod(grid)) if n_coils > 1 else 0
    maps = n_coils * math.prod(scan.matrix) * 8
    needed = max(calibration, maps)
    if n_coils > 1:
        needed += (2 * sample_bytes(n_coils) + _CALIBRATION_SAMPLE) * samples
    if scan.device.type == "cuda":
        return needed
    return _CPU.least - 2**26 + held + needed


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
    alone = bool(settings) and "pnp_admm" not in settings
    plain = alone and getattr(settings.get("toeplitz_cg"), "denoiser", "none") == "none"
    fixed = device.fixed
    if gridded:
        readouts = (2 * sample_bytes(n_coils) + _GRIDDED_SAMPLE) * gridded_samples(scan)
        fixed = max(device.least - 2**26, device.fixed + readouts)
        return fixed + s * _NUFFT // 2 * voxels + maps
    kernels = s * (s + 1) // 2 * 8 * voxels * 4  # real, on the double grid
    waiting = batch_size(scan, getattr(compression, "batch_samples", 10**6))
    batch = 2 * sample_bytes(n_coils) * waiting + _NUFFT * voxels  # concatenated, and its adjoint
    positions = _POSITION * waiting
    by_octants = scan.spare_memory or scan.device.type == "cuda"
    transforms = (_NUFFT_OF_OCTANTS if by_octants else 8 * _NUFFT) * voxels
    if scan.spare_memory:
        transforms = max(transforms, kernels // 2)  # or rounding to half precision
        stored, images = 0.5 * kernels, device.spared
    else:
        stored, images = float(kernels), device.admm
        if plain:
            fixed, images = device.fixed_cg, device.cg
        images += device.coil if n_coils > 1 else 0
    iterating = stored + _CIRCULANTS * kernels + images * one
    if scan.device.type == "cuda" and n_coils > 1 and not scan.spare_memory:
        iterating += 3 * min(n_coils * one, CONVOLVED_BYTES)
    accumulating = kernels + max(transforms + positions, batch)
    return max(device.least, fixed + int(max(accumulating, iterating)) + maps)


def _virtual_coils(scan: ScanInfo, settings: Any) -> int:
    """Return the largest number of virtual coils."""
    asked = getattr(settings, "virtual_coils", 0) or MOST_DETERMINED_COILS
    return min(scan.receive_channels or _COILS, asked)


def with_channels(scan: ScanInfo, channels: int | None) -> ScanInfo:
    """Return the scan with the number of receive channels by which memory is planned.

    Parameters
    ----------
    scan
        Scan header.
    channels
        Receive channels of the data; None or 0 if unknown: the number in the header, or the
        assumed one.
    """
    return replace(scan, channels=channels or scan.receive_channels or _COILS)


def with_channels_of(items: Iterator[Item], scan: ScanInfo) -> tuple[ScanInfo, Iterator[Item]]:
    """Read up to the first imaging acquisition; return the scan and all items.

    The channels are the most of this acquisition and the noise scans before it, see
    `with_channels`.
    """
    before: list[Item] = []
    channels = 0
    for item in items:
        before.append(item)
        if isinstance(item, ismrmrd.Acquisition):
            imaging = is_imaging(item)
            if imaging or is_noise_scan(item):
                channels = max(channels, int(item.active_channels))
            if imaging:
                break
    return with_channels(scan, channels), itertools.chain(before, items)


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
        needs, has = gib_apart(needed, available)
        raise scan_error(
            "memory",
            "",
            f"a scan of {x} x {y} x {z} voxels (x, y, z) needs about {needs} of memory with "
            "this pipeline",
            f"but only {has} are available",
            ADVICE,
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

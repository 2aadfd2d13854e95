"""What a run goes on with when the memory of the GPU is exhausted."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import ismrmrd
import torch

from mri2qmap.errors import Mri2QmapError, with_causes
from mri2qmap.pipeline.items import DicomObject, Item, NiftiVolume, ParameterMaps
from mri2qmap.pipeline.memory_plan import available_bytes, fitted_to_memory
from mri2qmap.pipeline.pipeline_file import GadgetNode
from mri2qmap.pipeline.scan_header import ScanInfo
from mri2qmap.recon.saved_state import StateStores

REMEDY = (
    "end other programs that use the GPU, or take the CPU with --device cpu (or --device auto, "
    "which takes it only when it must)"
)
_PHRASES = ("out of memory", "alloc_failed", "cudaerrormemoryallocation")


def is_gpu_memory_error(error: BaseException) -> bool:
    """Whether an error, or one that caused it, says that the memory of the GPU is exhausted.

    PyTorch, CuPy, cuFFT and cuBLAS say so in different ways.
    """
    return any(
        type(cause).__name__ == "OutOfMemoryError"
        or (isinstance(cause, RuntimeError) and any(p in str(cause).lower() for p in _PHRASES))
        for cause in with_causes(error)
    )


def has_maps(item: Item) -> bool:
    """Whether an item is what a pipeline is for; others may come again from another attempt."""
    return isinstance(item, ParameterMaps | ismrmrd.Image | DicomObject | NiftiVolume)


def fallbacks(
    scan: ScanInfo, nodes: Sequence[GadgetNode], cpu_allowed: bool
) -> Iterator[tuple[ScanInfo, str]]:
    """Yield how a scan that needs too much memory of a GPU can be reconstructed.

    Parameters
    ----------
    scan
        Scan header and device. There is nothing to yield for a CPU, and for several processes,
        of which the others would wait.
    nodes
        Gadgets of the pipeline.
    cpu_allowed
        Whether the CPU may take over. It does if its memory suffices.

    Yields
    ------
    ScanInfo
        The scan, with another device or with memory spared.
    str
        How, in words.
    """
    if scan.device.type != "cuda" or scan.processes.world_size > 1:
        return
    if not scan.spare_memory:
        yield replace(scan, spare_memory=True), "with less of its memory, at the cost of time"
    if cpu_allowed:
        device = torch.device("cpu")
        # saved states are of the GPU
        cpu = replace(scan, device=device, spare_memory=False, state_stores=StateStores())
        try:
            cpu = fitted_to_memory(cpu, nodes, available_bytes(device))
        except Mri2QmapError as error:
            scan.report.log(f"the CPU cannot take over: {error}")
            return
        yield cpu, "on the CPU"


def fitted_or_on_cpu(
    scan: ScanInfo,
    nodes: Sequence[GadgetNode],
    available: Callable[[ScanInfo], int],
    cpu_allowed: bool,
) -> ScanInfo:
    """Return the scan as `fitted_to_memory` does, on the CPU if it does not fit into the GPU.

    Parameters
    ----------
    scan, nodes, cpu_allowed
        See `fallbacks`.
    available
        Returns the bytes that a reconstruction of a scan may use on its device.

    Raises
    ------
    Mri2QmapError
        If the memory is insufficient.
    """
    try:
        return fitted_to_memory(scan, nodes, available(scan))
    except Mri2QmapError as error:
        alone = scan.processes.world_size == 1
        if not (cpu_allowed and alone and scan.device.type == "cuda"):
            raise
        scan.report.log(f"memory: the CPU takes over from {scan.device}: {error}")
        cpu = replace(scan, device=torch.device("cpu"))
        return fitted_to_memory(cpu, nodes, available(cpu))


def free_unused_memory(device: torch.device) -> None:
    """Return the memory that nothing refers to any more to the GPU."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()

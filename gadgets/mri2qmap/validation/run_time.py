"""Estimate of the time of a reconstruction from short computations of the same kind here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from mri2qmap.denoiser.checkpoint import Task, load_denoiser
from mri2qmap.denoiser.network import ConditionalResidualUNet
from mri2qmap.denoiser.tsmi_restoration import load_tsmi_network
from mri2qmap.denoiser.tsmi_wiener import TsmiWiener
from mri2qmap.denoiser.volume import denoise_volumes
from mri2qmap.mrsignal.dictionary import DictionarySettings, lookup_table
from mri2qmap.mrsignal.epg import fisp_signal
from mri2qmap.mrsignal.matching import exact_search
from mri2qmap.operators.nufft import Nufft
from mri2qmap.operators.toeplitz import ToeplitzGram, n_pairs
from mri2qmap.pipeline.pipeline_file import Pipeline
from mri2qmap.pipeline.scan_header import ScanInfo
from mri2qmap.recon.nuclear_variation import NuclearVariation
from mri2qmap.subspace_compression import SubspaceCompressionSettings
from mri2qmap.validation.work import Amount, Work, work_of

_SIDE = 32
"""Largest side of the volumes that are timed [voxels]."""
_LEAST_SECONDS = 0.1
"""How long each computation is repeated at the least [s]."""
_ATOMS = 512
_SAMPLES = 50_000
_FILTERED_SIDE = 16
"""Side of the volume with which the filter of the non-local prior is timed [voxels]."""
_START = Amount(3.0, 7.0, 14.0)
"""Start of the program, files and report [s]; not measured."""
_VOXEL = Amount(1e-6, 3e-6, 1e-5)
"""Files and report for each voxel of the maps [s]; not measured."""
_MARGIN = 1.5
"""Factor by which the speed of a machine may differ from that of a few moments."""


@dataclass(frozen=True)
class TimeEstimate:
    """Time of a reconstruction on this machine.

    Attributes
    ----------
    low, likely, high
        Least, likely and most time [s]. None if it cannot be estimated.
    threads
        Threads with which it was measured.
    reason
        Why it cannot be estimated; empty otherwise.
    """

    low: float | None = None
    likely: float | None = None
    high: float | None = None
    threads: int = 1
    reason: str = ""


def estimate_time(
    pipeline: Pipeline, scan: ScanInfo, samples: int, virtual_coils: int | None
) -> TimeEstimate:
    """Time short computations, and extrapolate by the `Work` of a reconstruction.

    Parameters
    ----------
    pipeline, scan
        What would run.
    samples
        Samples of a coil in the whole scan.
    virtual_coils
        Coils after compression; None: unknown.
    """
    threads = torch.get_num_threads()
    if scan.device.type != "cpu":
        return TimeEstimate(threads=threads, reason="times on a GPU are not estimated")
    if virtual_coils is None:
        reason = "the number of coils after compression is not known"
        return TimeEstimate(threads=threads, reason=reason)
    networks = _networks(pipeline, scan)
    patches = {node.name: getattr(node.settings, "patch", 0) for node in pipeline.nodes}

    def padded(gadget: str) -> int:
        return _padded(scan, patches[gadget], networks[gadget].config.size_multiple)

    work = work_of(pipeline, scan, samples, virtual_coils, padded)
    total = _seconds(work, pipeline, scan, virtual_coils, networks)
    return TimeEstimate(total.low / _MARGIN, total.likely, total.high * _MARGIN, threads=threads)


def _seconds(
    work: Work,
    pipeline: Pipeline,
    scan: ScanInfo,
    coils: int,
    networks: dict[str, ConditionalResidualUNet],
) -> Amount:
    settings = {node.name: node.settings for node in pipeline.nodes}
    s = settings.get("subspace_compression", SubspaceCompressionSettings()).coefficients
    side = min(_SIDE, *scan.matrix)
    side -= side % 2
    images = 3 * any(name == "pnp_admm" for name in networks)
    total = _START + _VOXEL * work.voxels
    if work.gram.high:
        total += work.gram * _gram_seconds(side, s, min(2, coils))
    if work.matching.high:
        total += work.matching * _matching_seconds(side, s, images)
    if work.atoms_simulated.high:
        total += work.atoms_simulated * _simulation_seconds(scan)
    if work.variation.high:
        total += work.variation * _variation_seconds(side, s)
    if work.similarity.high:
        search, application = _filter_seconds(s)
        total += work.similarity * search + work.filtering * application
    per_sample, per_voxel = _transform_seconds(side)
    total += work.spreading * per_sample + work.transforms * per_voxel
    for gadget, amount in work.denoising.items():
        total += amount * _denoising_seconds(networks[gadget], gadget)
    return total


def _networks(pipeline: Pipeline, scan: ScanInfo) -> dict[str, ConditionalResidualUNet]:
    """Networks by gadget."""
    found = {}
    for node in pipeline.nodes:
        own = node.settings
        if getattr(own, "denoiser", "none") == "none":
            continue
        if node.name == "pnp_admm":
            found[node.name] = load_denoiser(own.denoiser, scan.device, Task.WEIGHTED).network
        else:
            found[node.name] = load_tsmi_network(own.denoiser, own.task, scan.sequence, scan.device)
    return found


def _padded(scan: ScanInfo, patch: int, multiple: int) -> int:
    """Voxels of the patches of a volume, whose sides are multiples of a number."""
    sides = []
    for side in scan.matrix:
        count = math.ceil(side / patch)
        sides.append(count * multiple * math.ceil(side / count / multiple))
    return math.prod(sides)


def _timed(run: Callable[[], object]) -> float:
    """Return the mean time of a computation after a first one [s]: other programs count too."""
    run()
    start, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - start < _LEAST_SECONDS:
        run()
        count += 1
    return (time.perf_counter() - start) / count


def _noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))


def _gram_seconds(side: int, s: int, coils: int) -> float:
    cube = (side,) * 3
    maps = None if coils == 1 else _noise(coils, *cube)
    gram = ToeplitzGram(torch.rand(2, 2, 2, n_pairs(s), *cube), maps)
    tsmi = _noise(s, *cube)
    return _timed(lambda: gram @ tsmi) / (coils * side**3)


def _matching_seconds(side: int, s: int, images: int) -> float:
    atoms = torch.nn.functional.normalize(torch.rand(_ATOMS, s + images), dim=1)
    signals = torch.rand(2 * s + images, side**3)
    return _timed(lambda: exact_search(atoms, signals, s)) / (_ATOMS * side**3)


def _simulation_seconds(scan: ScanInfo) -> float:
    """Return the time of one of many atoms spread over the table [s]."""
    table = lookup_table(DictionarySettings())
    some = slice(None, None, max(1, len(table) // 64))
    t1, t2 = table.t1[some].contiguous(), table.t2[some].contiguous()
    return _timed(lambda: fisp_signal(t1, t2, scan.sequence)) / len(t1)


def _variation_seconds(side: int, s: int) -> float:
    tsmi = _noise(s, side, side, side)
    variation = NuclearVariation(1.0, 0.1)
    return _timed(lambda: variation.step(tsmi)) / tsmi.numel()


def _filter_seconds(s: int) -> tuple[float, float]:
    """Return the time of the search for similar cubes, and of an application of the filter [s]."""
    tsmi = _noise(s, _FILTERED_SIDE, _FILTERED_SIDE, _FILTERED_SIDE)
    restore = TsmiWiener(tsmi, 1.0)
    search = _timed(lambda: TsmiWiener(tsmi, 1.0))
    return search / tsmi.numel(), _timed(lambda: restore(tsmi)) / tsmi.numel()


def _transform_seconds(side: int) -> tuple[float, float]:
    """Return the time of a non-uniform transform for each sample and each voxel [s]."""
    cube = (side,) * 3
    positions = torch.rand(_SAMPLES, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    few, many = (Nufft(positions[:count], cube) for count in (1, _SAMPLES))
    empty = _timed(lambda: few.adjoint(_noise(1)))
    samples = _noise(_SAMPLES)
    full = _timed(lambda: many.adjoint(samples))
    return max(0.0, full - empty) / _SAMPLES, empty / side**3


def _denoising_seconds(network: ConditionalResidualUNet, gadget: str) -> float:
    contrasts = network.config.contrasts
    side = max(_SIDE, network.config.size_multiple)
    images = torch.rand(len(contrasts), side, side, side)
    generator = torch.Generator().manual_seed(0)

    def run() -> torch.Tensor:
        return denoise_volumes(
            network,
            images,
            0.1,
            contrasts,
            synthesised=gadget == "pnp_admm",
            patch=side,
            generator=generator,
            scale=torch.ones(len(images)),
            flip_average=False,
        )

    return _timed(run) / side**3

"""Gadget: accumulation of the adjoint TSMI and the Toeplitz kernels during the acquisition."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import ismrmrd
import torch

from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.value_checks import refuse_unless_counts, refuse_unless_one_of
from mri2qmap.mrsignal.dictionary import subspace
from mri2qmap.operators.subspace_sampling import SubspaceSampling
from mri2qmap.operators.toeplitz import in_half_precision, share_kernels, toeplitz_kernels
from mri2qmap.pipeline.buffer_sizes import batch_size, gridded_samples
from mri2qmap.pipeline.findings import scan_error
from mri2qmap.pipeline.item_flow import ItemFlow
from mri2qmap.pipeline.items import AdjointTsmi, CoilMaps, Item, ToeplitzKernels, Tsmi
from mri2qmap.pipeline.readouts import counted_samples, gather_readouts
from mri2qmap.pipeline.scan_header import ScanInfo
from mri2qmap.pipeline.settings import set_also
from mri2qmap.recon.gridding import density_compensation

Output = Literal["normal_equations", "gridded"]

SHORTEST_BATCH = 100_000
"""Minimum size of a batch [samples per coil], so that its transforms are efficient."""
_VOXELS_OF_A_SAMPLE = 4
"""Voxels for each sample of the shortest batch, because transforms of large images take longer."""


@dataclass(frozen=True)
class SubspaceCompressionSettings:
    """Settings of `subspace_compression`.

    Attributes
    ----------
    coefficients
        Number s of temporal subspace coefficients.
    output
        "normal_equations": adjoint TSMI and Toeplitz kernels, for iterative reconstruction;
        "gridded": the density-compensated adjoint as the TSMI itself (SVDMRF).
    batch_samples
        Number of samples per coil that are processed together, about, and at least one for each
        voxel. Every batch costs the transforms of one set of kernels, so few batches are fast. The
        last batches are smaller, so that little computation remains after the last acquisition. The
        gridded output needs all samples at once.
    """

    coefficients: int = 5
    output: Output = "normal_equations"
    batch_samples: int = 1_000_000

    def __post_init__(self) -> None:
        if not 1 <= self.coefficients <= 20:
            raise ValueError(f"coefficients must lie between 1 and 20, got {self.coefficients}")
        refuse_unless_counts(self, "batch_samples", most=2**22)
        refuse_unless_one_of(self, "output", Output)

    @property
    def item_flow(self) -> ItemFlow:
        """Items that the gadget consumes and yields."""
        gives = (Tsmi,) if self.output == "gridded" else (AdjointTsmi, ToeplitzKernels)
        return ItemFlow((CoilMaps, ismrmrd.Acquisition), gives, ends=(ismrmrd.Acquisition,))


def subspace_compression(
    items: Iterator[Item], scan: ScanInfo, settings: SubspaceCompressionSettings
) -> Iterator[Item]:
    """Convert `CoilMaps` and acquisitions to `AdjointTsmi` and `ToeplitzKernels`.

    The maps must arrive first and are passed on. Acquisitions are consumed in batches as they
    arrive; the sums are yielded at the end of the stream. Other items are passed on.

    Raises
    ------
    Mri2QmapError
        If acquisitions arrive before the maps, are not from `coil_sensitivity`, or are missing; if
        there are fewer frames than coefficients; if the matrix has an odd size.
    """
    refuse_few_frames(scan, settings)
    refuse_odd_matrix(scan)
    basis, energy = subspace(scan.sequence, settings.coefficients)
    scan.report.log(
        f"subspace_compression: {settings.coefficients} coefficients contain "
        f"{100 * energy:.3f} % of the energy of the fingerprints"
    )
    scan.report.measure(coefficients=settings.coefficients, subspace_energy=float(energy))
    accumulator: _Accumulator | None = None
    for item in items:
        if isinstance(item, CoilMaps):
            accumulator = _Accumulator(item, basis.to(scan.device), scan, settings)
            yield item
        elif isinstance(item, ismrmrd.Acquisition):
            if accumulator is None:
                raise Mri2QmapError(
                    "subspace_compression: an acquisition arrived before the coil maps; the "
                    "pipeline needs coil_sensitivity before this gadget"
                )
            accumulator.add(item)
        else:
            yield item
    if accumulator is None:
        raise Mri2QmapError("subspace_compression: no coil maps arrived")
    yield from accumulator.finish()


def refuse_few_frames(scan: ScanInfo, settings: SubspaceCompressionSettings) -> None:
    """Refuse a scan that has fewer frames than coefficients.

    Raises
    ------
    ScanError
        If it has.
    """
    if settings.coefficients > scan.sequence.n_frames:
        raise scan_error(
            "too-few-frames",
            "subspace_compression",
            f"coefficients={settings.coefficients}, but the scan has only "
            f"{scan.sequence.n_frames} frames",
            "there cannot be more coefficients than frames; the flip angle of each frame is "
            "expected in the header, or in a scan profile (--scan-profile)",
            set_also("subspace_compression.coefficients=..."),
        )


def refuse_odd_matrix(scan: ScanInfo) -> None:
    """Refuse a matrix with an odd size.

    Raises
    ------
    ScanError
        If it has one.
    """
    if any(n % 2 for n in scan.matrix):
        raise scan_error(
            "matrix-odd",
            "subspace_compression",
            f"matrix {scan.matrix} (z, y, x) in the header",
            "even numbers are expected",
            "write an even matrix with the field of view that belongs to it, and scale the "
            "trajectory to its voxels",
        )


class _Accumulator:
    """Sums over the batches."""

    def __init__(
        self,
        coil_maps: CoilMaps,
        basis: torch.Tensor,
        scan: ScanInfo,
        settings: SubspaceCompressionSettings,
    ) -> None:
        self.coil_maps = coil_maps
        self.basis = basis
        self.scan = scan
        self.gridded = settings.output == "gridded"
        voxels = math.prod(scan.matrix)
        self.batch_samples = batch_size(scan, settings.batch_samples)
        self.most_samples = gridded_samples(scan)
        self.shortest_batch = max(SHORTEST_BATCH, voxels // _VOXELS_OF_A_SAMPLE)
        self.waiting: list[ismrmrd.Acquisition] = []
        self.n_waiting = 0
        self.to_come = scan.expected_readouts
        self.tsmi: torch.Tensor | None = None
        self.kernels: torch.Tensor | None = None

    def add(self, acquisition: ismrmrd.Acquisition) -> None:
        if acquisition.active_channels != len(self.coil_maps.maps):
            raise Mri2QmapError(
                f"subspace_compression: an acquisition has {acquisition.active_channels} "
                f"channels, but the coil maps have {len(self.coil_maps.maps)}"
            )
        frame, frames = acquisition.idx.contrast, self.scan.sequence.n_frames
        if acquisition.trajectory_dimensions != 3 or frame >= frames:
            raise Mri2QmapError(
                f"subspace_compression: an acquisition of frame {frame} of {frames} has a "
                f"trajectory of {acquisition.trajectory_dimensions} dimensions; acquisitions from "
                "coil_sensitivity are expected"
            )
        self.waiting.append(acquisition)
        self.n_waiting += counted_samples(acquisition)
        if self.to_come is not None:
            self.to_come -= 1
        if self.gridded:  # density compensation needs all samples at once
            self._refuse_too_many()
        elif self._batch_is_full(acquisition.number_of_samples):
            self._process_batch()

    def _refuse_too_many(self) -> None:
        if self.n_waiting > self.most_samples:
            raise Mri2QmapError(
                f"subspace_compression: the scan has more than {self.most_samples} samples in each "
                "coil. The gridded output needs all at once, and memory was planned for as many, "
                "from encodingLimits in the header: correct segment and kspace_encoding_step_0 "
                "there"
            )

    def _batch_is_full(self, samples: int) -> bool:
        """Return whether the batch is full or contains at least half of the remaining samples.

        Parameters
        ----------
        samples
            Number of samples of each remaining readout.
        """
        if self.n_waiting >= self.batch_samples:
            return True
        if self.to_come is None or self.to_come <= 0:
            return False
        return self.n_waiting >= max(self.shortest_batch, self.to_come * samples)

    def finish(self) -> Iterator[Item]:
        if self.waiting:
            self._process_batch()
        if self.tsmi is None:
            raise Mri2QmapError("subspace_compression: no imaging acquisition arrived")
        geometry = self.coil_maps.geometry
        self.scan.processes.sum_(self.tsmi)
        if self.gridded:
            # The density weights share k-space among all frames: scale the sum to one frame.
            yield Tsmi(self.tsmi * self.scan.sequence.n_frames, geometry)
        elif self.kernels is not None:
            share_kernels(self.kernels, self.scan.processes)
            yield AdjointTsmi(self.tsmi, geometry)
            kernels, scale, self.kernels = self.kernels, 1.0, None
            if self.scan.spare_memory:
                kernels, scale = in_half_precision(kernels)
            yield ToeplitzKernels(kernels, geometry, scale)

    def _process_batch(self) -> None:
        readouts = gather_readouts(self.waiting, self.scan.device)
        self.waiting, self.n_waiting = [], 0
        kspace, trajectory, frames = readouts.kspace, readouts.trajectory, readouts.frames
        shape, device = self.scan.matrix, self.scan.device
        if self.gridded:
            kspace.mul_(density_compensation(trajectory, shape, device))
        sampling = SubspaceSampling(
            trajectory, frames, self.basis, shape, self.coil_maps.maps, device
        )
        # The parts of several processes are added when all acquisitions have arrived.
        tsmi = sampling.part_of_adjoint(kspace, self.scan.processes)
        del readouts, kspace  # the kernels need the memory
        self.tsmi = tsmi if self.tsmi is None else self.tsmi.add_(tsmi)
        if not self.gridded:
            self.kernels = toeplitz_kernels(
                trajectory,
                frames,
                self.basis,
                shape,
                device,
                self.kernels,
                self.scan.spare_memory,
                self.scan.processes,
            )

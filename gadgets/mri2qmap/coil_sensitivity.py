"""Gadget: coil prewhitening, coil compression and estimation of coil sensitivities."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import ismrmrd
import numpy as np
import torch

from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.value_checks import (
    refuse_unless_counts,
    refuse_unless_fractions,
)
from mri2qmap.machine.words import counted
from mri2qmap.mrsignal.dictionary import subspace
from mri2qmap.pipeline.acquisition_kinds import is_noise_scan
from mri2qmap.pipeline.acquisition_policy import AcquisitionPolicy, counter_limits
from mri2qmap.pipeline.buffer_sizes import MIB, held_bytes
from mri2qmap.pipeline.channel_matrix import channel_matrix
from mri2qmap.pipeline.item_flow import ItemFlow
from mri2qmap.pipeline.items import CoilMaps, Item
from mri2qmap.pipeline.noise_checks import late_noise_error
from mri2qmap.pipeline.readouts import (
    CALIBRATION_MEMORY,
    HeldReadouts,
    Readouts,
    acquisition_bytes,
    combine_channels,
    gather_readouts,
)
from mri2qmap.pipeline.scan_header import ScanInfo, geometry_from_acquisition
from mri2qmap.pipeline.scan_limits import SCAN_LIMITS
from mri2qmap.recon.coil_maps import (
    CALIBRATION_CONTRASTS,
    CALIBRATION_RESOLUTION,
    calibration_images,
    calibration_shape,
    resize_maps,
    walsh_maps,
)

NOISE_MEMORY = 64 * MIB
"""Maximum size of the noise scans that are used [bytes]."""


@dataclass(frozen=True)
class CoilSensitivitySettings(AcquisitionPolicy):
    """Settings of `coil_sensitivity`, and of the checks of the acquisitions.

    Attributes
    ----------
    prewhiten
        Whether to prewhiten with the noise scans; false if the server or scanner does it.
    virtual_coils
        Number of coils after compression; 0: determined by `energy_kept`, at most 16.
    energy_kept
        Fraction of the signal energy that compression keeps.
    calibration_resolution
        Voxel size of the images from which sensitivities are estimated [m].
    neighbourhood
        Edge of the cube over which channel covariances are averaged, odd [calibration voxels].
    calibration_memory
        Maximum memory of the readouts that are buffered until the first readout group is complete
        [MiB]; with interleaved groups, this may be the end of the scan. If it is exceeded, the
        coils are calibrated on the buffered readouts. The default is sufficient for four groups of
        500 readouts of 2000 samples in 32 coils.
    """

    prewhiten: bool = True
    virtual_coils: int = 0
    energy_kept: float = 0.95
    calibration_resolution: float = CALIBRATION_RESOLUTION
    neighbourhood: int = 3
    calibration_memory: int = CALIBRATION_MEMORY

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.virtual_coils <= SCAN_LIMITS.coils:
            raise ValueError(
                f"virtual_coils must lie between 0 and {SCAN_LIMITS.coils}, got "
                f"{self.virtual_coils}"
            )
        refuse_unless_fractions(self, "energy_kept")
        if not 0.002 <= self.calibration_resolution <= 0.05:
            raise ValueError(
                "calibration_resolution must lie between 0.002 and 0.05 m (metres, not mm), got "
                f"{self.calibration_resolution}"
            )
        if not 1 <= self.neighbourhood <= 31 or self.neighbourhood % 2 == 0:
            raise ValueError(f"neighbourhood must be odd, from 1 to 31, got {self.neighbourhood}")
        refuse_unless_counts(self, "calibration_memory", most=2**20)

    @property
    def item_flow(self) -> ItemFlow:
        """Items that the gadget consumes and yields."""
        return ItemFlow((ismrmrd.Acquisition,), (CoilMaps, ismrmrd.Acquisition))


def coil_sensitivity(
    items: Iterator[Item], scan: ScanInfo, settings: CoilSensitivitySettings
) -> Iterator[Item]:
    """Convert raw acquisitions to `CoilMaps`, followed by whitened, compressed acquisitions.

    Noise scans are consumed. Acquisitions are buffered until the first readout group is complete,
    in any order; whitening, compression and sensitivities are computed from it. Then the maps,
    the buffered acquisitions and all later ones are yielded. Later noise scans are ignored. Other
    items are passed on.

    ``idx.contrast`` counts frames and ``idx.segment`` readout groups, see
    `mri2qmap.pipeline.acquisition_checks.checked_acquisitions`.

    Raises
    ------
    Mri2QmapError
        If the noise covariance is singular or of other coils, if a large part of the noise samples
        is interference, if all noise scans arrive after the calibration, or if no imaging
        acquisition arrives.
    """
    noise: list[ismrmrd.Acquisition] = []
    groups = None
    if settings.group_counter != "arrival":
        groups = counter_limits(scan, settings.group_counter)
    first = groups.start if groups else 0
    held: HeldReadouts | None = None
    matrix: np.ndarray | None = None
    late = skipped = noise_bytes = 0
    for item in items:
        if not isinstance(item, ismrmrd.Acquisition):
            yield item
        elif is_noise_scan(item):
            if matrix is None:
                noise_bytes += acquisition_bytes(item)
                if noise_bytes <= NOISE_MEMORY:
                    noise.append(item)
                else:
                    skipped += 1
                continue
            if settings.prewhiten and not noise:
                raise late_noise_error()
            late += 1
        elif matrix is not None:
            yield combine_channels(item, matrix)
        else:
            held = held or _empty_buffer(item, scan, settings, first)
            if held.add(item):
                matrix, maps = _calibrate(held, noise, scan, settings)
                yield from _release(maps, held, matrix)
                held = None
    if matrix is None:
        if held is None:
            raise Mri2QmapError("coil_sensitivity: no imaging acquisition arrived")
        matrix, maps = _calibrate(held, noise, scan, settings)
        yield from _release(maps, held, matrix)
    if skipped:
        scan.report.log(
            f"coil_sensitivity: ignored the last {skipped} noise scans: those before them have "
            f"{NOISE_MEMORY // MIB} MiB, which is enough"
        )
    if late:
        scan.report.log(
            f"coil_sensitivity: ignored {late} noise scans that came after the calibration"
        )


def _empty_buffer(
    acquisition: ismrmrd.Acquisition, scan: ScanInfo, settings: CoilSensitivitySettings, group: int
) -> HeldReadouts:
    most, channels = settings.calibration_memory, acquisition.active_channels
    planned = held_bytes(scan, channels, most, settings)
    return HeldReadouts(scan.sequence.n_frames, group, most * MIB, planned)


def _release(maps: CoilMaps, held: HeldReadouts, matrix: np.ndarray) -> Iterator[Item]:
    """Yield the maps, then the buffered acquisitions."""
    yield maps
    for acquisition in held.sorted():
        yield combine_channels(acquisition, matrix)


def _calibrate(
    held: HeldReadouts,
    noise: list[ismrmrd.Acquisition],
    scan: ScanInfo,
    settings: CoilSensitivitySettings,
) -> tuple[np.ndarray, CoilMaps]:
    """Return channel matrix and sensitivities from a readout group, or all buffered readouts."""
    group = held.complete_group()
    if not group:
        group = held.sorted()
        scan.report.log(
            f"coil_sensitivity: no readout group is complete among {len(group)} acquisitions: the "
            "coils are calibrated on all of them"
        )
    geometry = geometry_from_acquisition(group[0], scan)
    n_coils = group[0].active_channels
    matrix, energy = channel_matrix(group, noise, scan, settings)
    scan.report.log(
        f"coil_sensitivity: {counted(n_coils, 'coil')} "
        f"{'is' if n_coils == 1 else 'are'} compressed to "
        f"{counted(len(matrix), 'virtual coil')} with {100 * energy:.2f} % of the signal energy"
    )
    scan.report.measure(coils=n_coils, virtual_coils=len(matrix), energy_kept=energy)
    if len(matrix) == 1:
        maps = torch.ones(1, *scan.matrix, dtype=torch.complex64, device=scan.device)
    else:
        readouts = gather_readouts(
            [combine_channels(a, matrix.numpy()) for a in group], scan.device
        )
        maps = _estimate(readouts, scan, settings)
    return matrix.numpy(), CoilMaps(maps, geometry)


def _estimate(
    readouts: Readouts, scan: ScanInfo, settings: CoilSensitivitySettings
) -> torch.Tensor:
    # at most one contrast per frame
    coefficients = min(CALIBRATION_CONTRASTS, len(torch.unique(readouts.frames)))
    basis, _ = subspace(scan.sequence, coefficients)
    try:
        images = calibration_images(
            readouts.kspace,
            readouts.trajectory,
            readouts.frames,
            basis.to(scan.device),
            scan.matrix,
            calibration_shape(scan.matrix, scan.voxel_size, settings.calibration_resolution),
            processes=scan.processes,
        )
    except ValueError as error:
        raise Mri2QmapError(
            f"coil_sensitivity: {error} of {settings.calibration_resolution * 1e3:g} mm voxels; "
            "the trajectory must pass through the centre of k-space"
        ) from error
    return resize_maps(walsh_maps(images, settings.neighbourhood), scan.matrix)

"""Gadget: prewhitens and compresses the coils and estimates their sensitivities."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import ismrmrd
import numpy as np
import torch

from mri2qmap.errors import Mri2QmapError
from mri2qmap.mrsignal.dictionary import subspace
from mri2qmap.recon.coil_compression import (
    compression_matrix,
    noise_covariance,
    whitening_matrix,
)
from mri2qmap.recon.coil_maps import calibration_images, resize_maps, walsh_maps
from mri2qmap.stream.acquisition_checks import is_noise_scan
from mri2qmap.stream.item_flow import ItemFlow
from mri2qmap.stream.items import CoilMaps, Item
from mri2qmap.stream.readouts import Readouts, gather_readouts, with_channels
from mri2qmap.stream.scan_info import ScanInfo, geometry_from_acquisition

CALIBRATION_COEFFICIENTS = 3  # enough to tell contrasts apart; the rest is mostly noise


@dataclass(frozen=True)
class CoilSensitivitySettings:
    """Settings of `coil_sensitivity`.

    Attributes
    ----------
    prewhiten
        Use the noise scans; false where the server or scanner has done it.
    virtual_coils
        Coils to keep after compression; 0 lets `energy_kept` decide.
    energy_kept
        Fraction of the signal energy that compression keeps.
    calibration_resolution
        Voxel size of the images that sensitivities are estimated from [m].
    neighbourhood
        Edge of the cube over which channel covariances are averaged, odd [calibration voxels].
    """

    prewhiten: bool = True
    virtual_coils: int = 0
    energy_kept: float = 0.95
    calibration_resolution: float = 0.008
    neighbourhood: int = 3

    def __post_init__(self) -> None:
        if self.virtual_coils < 0:
            raise ValueError(f"virtual_coils must be 0 or more, got {self.virtual_coils}")
        if not 0 < self.energy_kept <= 1:
            raise ValueError(f"energy_kept must lie in (0, 1], got {self.energy_kept}")
        if not 0.002 <= self.calibration_resolution <= 0.05:
            raise ValueError(
                "calibration_resolution must lie between 0.002 and 0.05 m (metres, not mm), got "
                f"{self.calibration_resolution}"
            )
        if self.neighbourhood < 1 or self.neighbourhood % 2 == 0:
            raise ValueError(f"neighbourhood must be odd and positive, got {self.neighbourhood}")

    @property
    def item_flow(self) -> ItemFlow:
        """Items that come and go."""
        return ItemFlow((ismrmrd.Acquisition,), (CoilMaps, ismrmrd.Acquisition))


def coil_sensitivity(
    items: Iterator[Item], scan: ScanInfo, settings: CoilSensitivitySettings
) -> Iterator[Item]:
    """Turn raw acquisitions into `CoilMaps` followed by whitened, compressed acquisitions.

    Noise scans are used up. The acquisitions of the first readout group are held back until it
    is complete; whitening, compression and sensitivities follow from it. Then the maps go out,
    the held acquisitions after them, and all later ones as they come. Noise scans after that are
    left out. Other items pass.

    Raises
    ------
    Mri2QmapError
        If the noise covariance is singular or of other coils, or if no imaging acquisition
        arrives.
    """
    noise: list[np.ndarray] = []
    held: list[ismrmrd.Acquisition] = []
    matrix: np.ndarray | None = None
    for item in items:
        if not isinstance(item, ismrmrd.Acquisition):
            yield item
        elif is_noise_scan(item):
            if matrix is None:
                noise.append(item.data.copy())
        else:
            if held and item.idx.segment != held[0].idx.segment:
                matrix, maps = _calibrate(held, noise, scan, settings)
                yield from _release(maps, held, matrix)
                held = []
            if matrix is None:
                held.append(item)
            else:
                yield with_channels(item, matrix)
    if matrix is None:
        if not held:
            raise Mri2QmapError("coil_sensitivity: no imaging acquisition arrived")
        matrix, maps = _calibrate(held, noise, scan, settings)
        yield from _release(maps, held, matrix)


def _release(maps: CoilMaps, held: list[ismrmrd.Acquisition], matrix: np.ndarray) -> Iterator[Item]:
    """Maps first, then the acquisitions that waited for them."""
    yield maps
    for acquisition in held:
        yield with_channels(acquisition, matrix)


def _calibrate(
    group: list[ismrmrd.Acquisition],
    noise: list[np.ndarray],
    scan: ScanInfo,
    settings: CoilSensitivitySettings,
) -> tuple[np.ndarray, CoilMaps]:
    """Channel matrix and sensitivities from the first readout group."""
    geometry = geometry_from_acquisition(group[0], scan)
    readouts = gather_readouts(group, torch.device("cpu"))
    n_coils = len(readouts.kspace)
    whitening = _whitening(noise, n_coils, scan, settings)
    whitened = whitening @ readouts.kspace.to(torch.complex128)
    # Every arm passes through the centre, whose samples would decide alone. The energy of the
    # image is theirs over their density, which falls as 1/|k| for planes through the centre.
    radius = readouts.trajectory.norm(dim=1).double()
    compression, energy = compression_matrix(
        whitened * radius.sqrt(),
        settings.virtual_coils,
        settings.energy_kept,
        noise_energy=float(radius.sum()) if noise and settings.prewhiten else 0.0,
    )
    matrix = compression @ whitening
    scan.report.log(
        f"coil_sensitivity: {n_coils} coils become {len(matrix)} virtual ones, which hold "
        f"{100 * energy:.2f} % of the signal energy"
    )
    if len(matrix) == 1:
        maps = torch.ones(1, *scan.matrix, dtype=torch.complex64, device=scan.device)
    else:
        kspace = (compression @ whitened).to(scan.device, torch.complex64)
        maps = _estimate(
            Readouts(kspace, readouts.trajectory.to(scan.device), readouts.frames.to(scan.device)),
            scan,
            settings,
        )
    return matrix.numpy(), CoilMaps(maps, geometry)


def _whitening(
    noise: list[np.ndarray], n_coils: int, scan: ScanInfo, settings: CoilSensitivitySettings
) -> torch.Tensor:
    identity = torch.eye(n_coils, dtype=torch.complex128)
    if not settings.prewhiten:
        scan.report.log("coil_sensitivity: no prewhitening, as set")
        return identity
    if not noise:
        scan.report.log("coil_sensitivity: no noise scans; the coil noise is taken as white")
        return identity
    samples = torch.from_numpy(np.concatenate(noise, axis=1))
    if len(samples) != n_coils or samples.shape[1] <= n_coils:
        raise Mri2QmapError(
            f"coil_sensitivity: the noise scans have {len(samples)} coils and "
            f"{samples.shape[1]} samples, the imaging acquisitions {n_coils} coils; as many coils "
            "and more samples than coils are expected (set prewhiten to false to do without)"
        )
    try:
        whitening = whitening_matrix(noise_covariance(samples))
    except ValueError as error:
        raise Mri2QmapError(
            f"coil_sensitivity: {error} over {samples.shape[1]} noise samples: a coil is dead or "
            "doubled; leave it out of the data, or set prewhiten to false"
        ) from error
    scan.report.log(f"coil_sensitivity: prewhitened with {samples.shape[1]} noise samples a coil")
    return whitening


def _estimate(
    readouts: Readouts, scan: ScanInfo, settings: CoilSensitivitySettings
) -> torch.Tensor:
    # Even, and no finer than the scan.
    z, y, x = (
        min(n - n % 2, max(8, 2 * round(n * size / settings.calibration_resolution / 2)))
        for n, size in zip(scan.matrix, scan.voxel_size, strict=True)
    )
    coefficients = min(CALIBRATION_COEFFICIENTS, scan.sequence.n_frames)
    basis, _ = subspace(scan.sequence, coefficients)
    try:
        images = calibration_images(
            readouts.kspace,
            readouts.trajectory,
            readouts.frames,
            basis.to(scan.device),
            scan.matrix,
            (z, y, x),
        )
    except ValueError as error:
        raise Mri2QmapError(
            f"coil_sensitivity: {error} of {settings.calibration_resolution * 1e3:g} mm voxels; "
            "the trajectory must pass through the centre of k-space"
        ) from error
    return resize_maps(walsh_maps(images, settings.neighbourhood), scan.matrix)

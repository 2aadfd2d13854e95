"""Prewhitening and compression of receive channels, by noise scans and a readout group."""

from __future__ import annotations

import math
from typing import Protocol

import ismrmrd
import numpy as np
import torch

from mri2qmap.machine.cancellation import raise_if_cancelled
from mri2qmap.pipeline.findings import scan_error
from mri2qmap.pipeline.noise_checks import (
    refuse_other_scale,
    refuse_silent_noise,
    refuse_unlike_noise,
)
from mri2qmap.pipeline.scan_header import ScanInfo
from mri2qmap.recon.coil_compression import (
    compression_matrix,
    mean_dwell,
    noise_covariance,
    noise_gain,
    noise_statistics,
    whitening_matrix,
)
from mri2qmap.recon.noise_samples import gaussian_samples

MOST_INTERFERENCE = 0.25
"""Maximum fraction of the noise samples that are left out because of interference."""


class ChannelSettings(Protocol):
    """Those settings of `coil_sensitivity` that determine the matrix."""

    @property
    def prewhiten(self) -> bool:
        """Whether to prewhiten."""

    @property
    def virtual_coils(self) -> int:
        """Number of coils after compression; 0: determined by `energy_kept`."""

    @property
    def energy_kept(self) -> float:
        """Fraction of the signal energy that compression keeps."""


def channel_matrix(
    group: list[ismrmrd.Acquisition],
    noise: list[ismrmrd.Acquisition],
    scan: ScanInfo,
    settings: ChannelSettings,
) -> tuple[torch.Tensor, float]:
    """Return the matrix of whitening and compression, and the share of the energy that is kept.

    Parameters
    ----------
    group
        Imaging acquisitions.
    noise
        Noise scans.
    scan
        Scan header.
    settings
        Settings of the gadget.

    Returns
    -------
    matrix
        Complex (virtual coils, coils), complex128.
    energy
        Share of the signal energy, 0 to 1.

    Raises
    ------
    Mri2QmapError
        If the noise scans cannot be used.
    """
    whitening, noise_power = _whitening(noise, group, scan, settings)
    energy_matrix, weight = _signal_energy(group)
    whitened = whitening @ energy_matrix @ whitening.mH
    if noise_power and weight:
        refuse_other_scale(math.sqrt(float(whitened.trace().real) / (weight * len(whitened))))
    compression, energy = compression_matrix(
        whitened,
        settings.virtual_coils,
        settings.energy_kept,
        noise_energy=noise_power * weight,
    )
    return compression @ whitening, energy


def _signal_energy(group: list[ismrmrd.Acquisition]) -> tuple[torch.Tensor, float]:
    """Return the weighted sum of x x^H over all samples x, and the sum of the weights.

    Every arm passes through the centre, whose samples would dominate. The samples are therefore
    weighted by the inverse sampling density, which is proportional to abs(k) for planes through the
    centre.
    """
    n_coils = group[0].active_channels
    energy = np.zeros((n_coils, n_coils), np.complex128)
    total = 0.0
    for acquisition in group:
        raise_if_cancelled()
        radius = np.linalg.norm(acquisition.traj.astype(np.float64), axis=1)
        together = max(1, 2**20 // n_coils)  # samples, in double precision
        for first in range(0, len(radius), together):
            part = slice(first, first + together)
            weighted = acquisition.data[:, part] * np.sqrt(radius[part])
            energy += weighted @ weighted.conj().T
        total += float(radius.sum())
    return torch.from_numpy(energy), total


def _whitening(
    noise: list[ismrmrd.Acquisition],
    group: list[ismrmrd.Acquisition],
    scan: ScanInfo,
    settings: ChannelSettings,
) -> tuple[torch.Tensor, float]:
    """Return the whitening matrix and the noise power of an imaging sample after whitening.

    The power is 1 times the relative bandwidth of the receiver, if it is in the header: the
    receiver attenuates white noise at the edges of the band in noise scans and imaging, whereas the
    image is in its flat part. It is 0 if the noise is unknown.
    """
    n_coils = group[0].active_channels
    identity = torch.eye(n_coils, dtype=torch.complex128)
    if not settings.prewhiten:
        scan.report.log("coil_sensitivity: prewhitening is disabled")
        return identity, 0.0
    if not noise:
        scan.report.measure(noise_samples=0)
        scan.report.log("coil_sensitivity: no noise scans; the coil noise is assumed to be white")
        return identity, 0.0
    refuse_unlike_noise(noise, group[0])
    refuse_silent_noise(noise)
    gains = _noise_gains(noise, group, scan)
    samples = torch.from_numpy(
        np.concatenate([a.data * g for a, g in zip(noise, gains, strict=True)], axis=1)
    )
    samples = _without_interference(samples, scan)
    covariance = noise_covariance(samples)
    scan.report.measure(noise_samples=samples.shape[1], **noise_statistics(covariance))
    try:
        whitening = whitening_matrix(covariance)
    except ValueError as error:
        raise scan_error(
            "noise-singular",
            "coil_sensitivity",
            f"{error} over {samples.shape[1]} noise samples",
            "a coil is defective or duplicated",
            "remove it from the data, or set prewhiten to false",
        ) from error
    scan.report.log(f"coil_sensitivity: prewhitened with {samples.shape[1]} noise samples per coil")
    bandwidth = _relative_bandwidth(scan)
    return whitening * bandwidth**0.5, bandwidth


def _without_interference(samples: torch.Tensor, scan: ScanInfo) -> torch.Tensor:
    """Leave out noise samples (c, samples) that Gaussian noise does not contain."""
    plausible = gaussian_samples(samples)
    count = len(plausible)
    left_out = count - int(plausible.sum())
    if not left_out:
        return samples
    what = f"{left_out} of {count} noise samples"
    if left_out > MOST_INTERFERENCE * count:
        raise scan_error(
            "noise-interference",
            "coil_sensitivity",
            f"{what} are too large for Gaussian noise",
            "there is interference, or the noise scans contain signal",
            "remove its source and repeat the scan, or set prewhiten to false",
        )
    scan.report.log(
        f"coil_sensitivity: left out {what} that are too large for Gaussian noise: interference, "
        "such as spikes, is likely, also in the imaging data"
    )
    return samples[:, plausible]


def _noise_gains(
    noise: list[ismrmrd.Acquisition], group: list[ismrmrd.Acquisition], scan: ScanInfo
) -> list[np.float32]:
    """Return the factors of the noise scans that compensate for dwell times unlike imaging."""
    imaging = mean_dwell([a.sample_time_us for a in group], [a.number_of_samples for a in group])
    dwells = [float(a.sample_time_us) for a in noise]
    if not imaging > 0 or min(dwells) <= 0:
        scan.report.log(
            "coil_sensitivity: sample_time_us is 0 in some acquisitions: their dwell times are "
            "assumed to be equal in noise scans and imaging"
        )
    if any(d > 0 and imaging > 0 and d != imaging for d in dwells):
        ratios = sorted({f"{d / imaging:.4g}" for d in dwells if d > 0}, key=float)
        scan.report.log(
            f"coil_sensitivity: the dwell time is {imaging:g} us in imaging and "
            f"{' or '.join(f'{d:g}' for d in sorted(set(dwells)))} us in noise scans: the noise "
            f"covariance is scaled by {' or '.join(ratios)}"
        )
    return [np.float32(noise_gain(d, imaging)) for d in dwells]


def _relative_bandwidth(scan: ScanInfo) -> float:
    """Return the relative noise bandwidth of the receiver from the header, or 1."""
    system = scan.header.acquisitionSystemInformation
    value = system.relativeReceiverNoiseBandwidth if system is not None else None
    if value is None:
        return 1.0
    if not 0 < value <= 1:
        scan.report.log(
            f"coil_sensitivity: ignored relativeReceiverNoiseBandwidth of {value:g} in the header, "
            "which is not between 0 and 1"
        )
        return 1.0
    scan.report.log(
        f"coil_sensitivity: relativeReceiverNoiseBandwidth is {value:g}: the noise power is scaled "
        "accordingly"
    )
    return float(value)

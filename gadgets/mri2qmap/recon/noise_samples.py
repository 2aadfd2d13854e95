"""Noise samples that are Gaussian, and interference among them."""

from __future__ import annotations

import math

import torch
from scipy.optimize import brentq
from scipy.special import betaincinv, gammaln

from mri2qmap.machine.cancellation import raise_if_cancelled
from mri2qmap.recon.coil_compression import noise_covariance, whitening_matrix

_FALSE_ALARM = 1e-6
"""Probability that any sample of Gaussian noise is taken for interference."""
_ROUNDS = 10
"""Maximum number of covariances that are computed."""
_TOGETHER = 2**20
"""Numbers that are whitened at a time."""


def gaussian_samples(noise: torch.Tensor) -> torch.Tensor:
    r"""Return which noise samples are plausible among so many samples of Gaussian noise.

    A few spikes among thousands of samples change a covariance as much as they like. They are
    found in two steps, each of which takes any sample of circular complex Gaussian noise for a
    spike with a probability of at most 5e-7:

    1. In each coil, the squared magnitude of a sample is compared with the median over all samples,
       which hardly depends on spikes. For n samples of variance 1 and the k-th smallest squared
       magnitude M,

       .. math:: P(|x|^2 > t M) = \prod_{j<k} \frac{n - j}{n - j + t}.

    2. The squared Mahalanobis distance d from the mean of the remaining samples finds what is in
       several coils, and is small in each of them. d n / (n - 1)^2 of c coils has the beta
       distribution with parameters c and n - 1 - c. This is repeated with the covariance of what
       remains.

    Parameters
    ----------
    noise
        Samples (c, samples) of noise of any covariance, complex.

    Returns
    -------
        Of each sample (samples,), bool. The second step ends where the covariance is singular.

    References
    ----------
    Wilks, Sankhya A 25:407 (1963), outliers of multivariate normal samples; here of complex ones.
    """
    n_coils, count = noise.shape
    plausible = torch.ones(count, dtype=torch.bool)
    limit = _median_limit(count, 0.5 * _FALSE_ALARM / (count * n_coils))
    for samples in noise:
        raise_if_cancelled()
        parts = torch.view_as_real(samples.to(torch.complex128))
        energy = (parts - parts.median(0).values).square().sum(1)
        median = energy.median()
        if median > 0:  # otherwise, the coil is defective
            plausible &= energy <= limit * median
    for _ in range(_ROUNDS):
        distances = _distances(noise if plausible.all() else noise[:, plausible])
        if distances is None:
            break
        outside = distances > _distance_limit(len(distances), n_coils, 0.5 * _FALSE_ALARM / count)
        if not outside.any():
            break
        plausible[plausible.nonzero()[outside, 0]] = False
    return plausible


def _median_limit(count: int, probability: float) -> float:
    """Return the ratio to the median that a sample exceeds with this probability."""
    rest = count - (count + 1) // 2  # samples above the median

    def excess(ratio: float) -> float:
        above = gammaln(count + 1) - gammaln(rest + 1)
        above += gammaln(rest + 1 + ratio) - gammaln(count + 1 + ratio)
        return float(above) - math.log(probability)

    upper = 1.0
    while excess(upper) > 0:
        upper *= 2
    return float(brentq(excess, 0.0, upper))


def _distance_limit(count: int, n_coils: int, probability: float) -> float:
    """Return the squared distance that a sample exceeds with this probability."""
    below = 1 - float(betaincinv(count - 1 - n_coils, n_coils, probability))
    return (count - 1) ** 2 / count * below


def _distances(noise: torch.Tensor) -> torch.Tensor | None:
    """Return squared Mahalanobis distances (samples,); None if the covariance is singular."""
    n_coils, count = noise.shape
    if count <= n_coils + 1:
        return None
    try:
        whitening = whitening_matrix(noise_covariance(noise))
    except ValueError:
        return None
    mean = noise.to(torch.complex128).mean(1, keepdim=True)
    found = []
    together = max(1, _TOGETHER // n_coils)
    for first in range(0, count, together):
        raise_if_cancelled()
        white = whitening @ (noise[:, first : first + together] - mean)
        found.append(white.abs().square().sum(0))
    return torch.cat(found)

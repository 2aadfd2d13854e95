"""Map of how far the data alone lie from the maps with priors."""

from __future__ import annotations

import math

import torch

from mri2qmap.mrsignal.dictionary import Dictionary
from mri2qmap.mrsignal.interpolation import interpolate
from mri2qmap.mrsignal.matching import Match
from mri2qmap.mrsignal.uncertainty import atom_tangents
from mri2qmap.recon.object_mask import SIGNAL, object_mask

MIN_COEFFICIENTS = 3
"""Smallest number of coefficients: the atom, and its changes with T1 and with T2."""

_WIDTH = 2 / math.sqrt(8 * math.log(2))
"""Standard deviation of the Gaussian filter [voxels]: a full width at half maximum of 2."""

_HALF_NORMAL_MEDIAN = 0.6744897501960817
"""Median of the magnitude of a standard normal variable."""

_MAX_CORRELATION = 0.999


def prior_consistency(
    initial_tsmi: torch.Tensor, tsmi: torch.Tensor, matched: Match, dictionary: Dictionary
) -> torch.Tensor:
    r"""Return how far the data are from the result with priors, in units of the noise.

    Let delta be X0 - X with the phase of the proton density removed. Of its real part, only what
    changes T1 or T2 counts: with the atom a of a voxel, the coordinates

    .. math:: p_k = \langle e_k, \mathrm{Re}\, \delta \rangle, \quad k = 1, 2

    along the orthonormal e_1, e_2 that the derivatives of a with respect to log T1 and log T2 span
    after the part along a is removed. White noise thus has the same covariance in every tissue.
    The two images p are smoothed with a Gaussian (full width at half maximum 2 voxels); smoothing
    delta itself would let differences of the proton density leak across borders of tissues. With
    the covariance C of p over the voxels with signal, the map is

    .. math:: c = \sqrt{p^T C^{-1} p / 2} .

    Its mean square is 1 where only noise separates X0 and X, and its median sqrt(log 2) = 0.83.
    C is about zero and from medians, so that regions that disagree hardly change it: scales from
    median magnitudes, the correlation by the method of Gnanadesikan and Kettenring.

    Parameters
    ----------
    initial_tsmi
        X0 (s, z, y, x), complex64: least squares of the data, without priors.
    tsmi
        X (s, z, y, x), complex64: with priors.
    matched
        Match of X.
    dictionary
        Dictionary of the match, on the same device.

    Returns
    -------
        c (z, y, x), float32, finite and not negative. Zero outside the object (see `object_mask`),
        and everywhere if X0 equals X.

    Raises
    ------
    ValueError
        If the shapes differ or there are fewer than `MIN_COEFFICIENTS` coefficients.

    References
    ----------
    Gnanadesikan and Kettenring, Biometrics 28:81 (1972).
    """
    if initial_tsmi.shape != tsmi.shape or tsmi.shape[1:] != matched.index.shape:
        raise ValueError(
            f"X0 {tuple(initial_tsmi.shape)}, X {tuple(tsmi.shape)} and the match "
            f"{tuple(matched.index.shape)} do not belong together"
        )
    if len(tsmi) < MIN_COEFFICIENTS:
        raise ValueError(
            f"{len(tsmi)} coefficients do not tell a change of T1 from one of T2; use "
            f"{MIN_COEFFICIENTS} or more"
        )
    density = matched.proton_density
    consistency = torch.zeros(density.shape, device=density.device)
    inside = torch.from_numpy(object_mask(density.abs().cpu().numpy(), SIGNAL)).to(density.device)
    if not bool(inside.any()):
        return consistency
    phase = torch.polar(torch.ones_like(consistency), density.angle())
    difference = ((initial_tsmi - tsmi) * phase.conj()).real
    directions = _directions(matched.index.flatten(), matched.offset.flatten(1), dictionary)
    images = [
        (difference * direction.T.reshape(difference.shape)).sum(0) for direction in directions
    ]
    coordinates = _smoothed(torch.stack(images))[:, inside].double()
    # Differences below single precision, which is that of the TSMI, are not significant.
    signal = torch.linalg.vector_norm(tsmi[:, inside], dim=0).double().median()
    least = torch.finfo(torch.float32).eps * torch.maximum(signal, coordinates.abs().max())
    consistency[inside] = _whitened_length(coordinates, least).div(math.sqrt(2)).float()
    return consistency


def _smoothed(images: torch.Tensor) -> torch.Tensor:
    """Smooth images (n, z, y, x), which are continued by zeros."""
    reach = math.ceil(3 * _WIDTH)
    taps = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-taps.square() / (2 * _WIDTH**2))
    kernel /= kernel.sum()
    result = images[:, None]
    for axis in range(3):
        shape, padding = [1, 1, 1, 1, 1], [0, 0, 0]
        shape[2 + axis], padding[axis] = len(kernel), reach
        result = torch.nn.functional.conv3d(result, kernel.view(shape), padding=padding)
    return result[:, 0]


def _directions(
    index: torch.Tensor, offset: torch.Tensor, dictionary: Dictionary
) -> tuple[torch.Tensor, torch.Tensor]:
    """Orthonormal directions (voxels, s) in which atoms change with T1, and with T2 besides.

    Perpendicular to the interpolated atom of the match. Zero where there is no such direction: at
    an end of the table or for parallel derivatives.
    """
    atoms = torch.arange(len(dictionary.lut), device=index.device)
    found = atom_tangents(atoms, dictionary)
    coefficients = dictionary.mrf_atoms.shape[1]
    unit, along_t1, along_t2 = (
        interpolate(vectors[:, :coefficients].float(), dictionary, index, offset).T
        for vectors in (found.unit, *found.tangents)
    )
    unit = torch.nn.functional.normalize(unit, dim=1)
    first = _remainder(along_t1, unit)
    return first, _remainder(along_t2, unit, first)


def _remainder(vectors: torch.Tensor, *directions: torch.Tensor) -> torch.Tensor:
    """Unit vectors of what is perpendicular to orthonormal directions; zero where nothing is."""
    norm = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    rest = vectors
    for direction in directions:
        rest = rest - (rest * direction).sum(1, keepdim=True) * direction
    length = torch.linalg.vector_norm(rest, dim=1, keepdim=True)
    exists = length > 1e-6 * norm
    return torch.where(exists, rest / length.where(exists, 1), 0)


def _whitened_length(vectors: torch.Tensor, least: torch.Tensor) -> torch.Tensor:
    """Length (n,) of vectors (2, n) in units of their robust covariance about zero.

    Parameters
    ----------
    vectors
        Float64.
    least
        Lower bound of the standard deviations.
    """
    spread = vectors.abs().median(1, keepdim=True).values / _HALF_NORMAL_MEDIAN
    tiny = torch.finfo(torch.float32).tiny
    first, second = vectors / spread.clamp_min(float(least)).clamp_min(tiny)
    plus, minus = ((first + sign * second).square().median() for sign in (1, -1))
    correlation = ((plus - minus) / (plus + minus).clamp_min(tiny)).clamp(
        -_MAX_CORRELATION, _MAX_CORRELATION
    )
    squared = first.square() - 2 * correlation * first * second + second.square()
    length: torch.Tensor = (squared / (1 - correlation.square())).clamp_min(0).sqrt()
    return length

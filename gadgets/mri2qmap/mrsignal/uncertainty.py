"""Standard deviations of matched T1 and T2, from the curvature of the match."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mri2qmap.mrsignal.dictionary import Dictionary, LookupTable
from mri2qmap.mrsignal.interpolation import interpolate
from mri2qmap.mrsignal.matching import Match
from mri2qmap.mrsignal.table_neighbours import neighbours

UNKNOWNS = 4
"""Real parameters of a match: T1, T2 and the complex proton density."""


def min_coefficients() -> int:
    """Return the smallest number of coefficients that leaves a residual without weighted images."""
    return UNKNOWNS // 2 + 1


def match_uncertainty(
    matched: Match,
    dictionary: Dictionary,
    weights: Sequence[float] = (0.0, 0.0, 0.0),
    factor: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Return the standard deviations of T1 and T2 of a match.

    The match is a least-squares fit to the n = 2 s + (number of weighted images) real numbers of a
    voxel. Let u be its atom, normalised, cos(theta) the quality of the match, and

    .. math:: F_{kl} = \langle \partial_k u, \partial_l u \rangle, \quad
        k, l \in \{\log T_1, \log T_2\}

    (the derivatives of the normalised u are perpendicular to it, which accounts for the fit of the
    proton density). With the noise estimated from the residual of the fit, the linearised
    covariance of the logarithms is

    .. math:: C = \frac{\tan^2 \theta}{n - 4} F^{-1}.

    This compares the angle between signal and atom with the rotation of the atom due to a change of
    T1 or T2. It is independent of the scale of the signal. Derivatives are finite differences
    between neighbours in the table, and F^{-1} is interpolated between the atoms.

    Where the match cannot lie between the atoms of the table (see `Stencils`), the variance of
    rounding to the table is added. The result is limited to the variance of a uniform distribution
    over the table, because the linearisation is invalid for large deviations: a change of the T2 of
    fluid, for example, hardly changes its fingerprint.

    The residual contains only errors that no atom explains. Errors that resemble other tissue
    (aliasing, resolution, a prior) leave no residual; if they are proportional to it, `factor`
    accounts for them.

    Parameters
    ----------
    matched
        Result of `match`.
    dictionary
        Dictionary of the match, on the same device.
    weights
        Weights of the weighted images in the match; all zero without images.
    factor
        Factor of the standard deviations. 1 is correct for white noise of equal variance in all
        coefficients and in the weighted images after multiplication by the roots of their weights.

    Returns
    -------
    t1_std, t2_std
        Standard deviations [s], float32, of the shape of the maps (z, y, x). Finite; zero without
        signal.

    Raises
    ------
    ValueError
        If weights or factor are out of range, or the number of coefficients is too small.

    References
    ----------
    Seber and Wild, Nonlinear Regression (1989), Section 2.1. For fingerprinting: Zhao et al., IEEE
    Trans Med Imaging 38:844 (2019).
    """
    if len(weights) != dictionary.mri_atoms.shape[1] or min(weights) < 0:
        raise ValueError(f"expected one weight >= 0 for each image, got {tuple(weights)}")
    if not 0 < factor < math.inf:
        raise ValueError(f"factor must be positive, got {factor}")
    coefficients = dictionary.mrf_atoms.shape[1]
    freedom = 2 * coefficients + sum(weight > 0 for weight in weights) - UNKNOWNS
    if freedom < 1:
        raise ValueError(
            f"{coefficients} coefficients without weighted images leave no residual to "
            f"estimate the noise from; use {min_coefficients()} or more"
        )
    quality = matched.quality.double()
    # Angles below single precision, which is that of the quality, are not significant.
    unexplained = (1 - quality.square()).clamp_min(torch.finfo(torch.float32).eps)
    spread = factor**2 / freedom * unexplained / quality.square().clamp_min(1e-12)
    shape = matched.index.shape
    inverses, roundings = _curvature(dictionary, weights)
    index, offset = matched.index.flatten(), matched.offset.flatten(1)
    at_match = interpolate(inverses.log(), dictionary, index, offset).exp()
    deviations = []
    for times, table, inverse, rounding in zip(
        (matched.t1, matched.t2),
        (dictionary.lut.t1, dictionary.lut.t2),
        at_match.reshape(-1, *shape),
        roundings.T[:, index].reshape(-1, *shape),
        strict=True,
    ):
        most = (
            math.log(float(table.max() / table.min())) ** 2 / 12
        )  # variance of a uniform distribution
        variance = (spread * inverse + rounding).clamp_max(most)
        deviations.append((variance.sqrt() * times).float())
    return deviations[0], deviations[1]


def _curvature(
    dictionary: Dictionary, weights: Sequence[float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the diagonal of F^-1, and the rounding variance of log T1 and log T2, of all atoms.

    Both are (atoms, 2), float64.
    """
    atoms = torch.arange(len(dictionary.lut), device=dictionary.lut.t1.device)
    found = atom_tangents(atoms, dictionary, weights)
    along_t1, along_t2 = found.tangents
    tiny = torch.finfo(torch.float64).tiny
    f11, f22 = (along.square().sum(1).clamp_min(tiny) for along in found.tangents)
    f12_squared = (along_t1 * along_t2).sum(1).square()
    inverses = [
        1 / (f11 - f12_squared / f22).clamp_min(tiny),
        1 / (f22 - f12_squared / f11).clamp_min(tiny),
    ]
    rounded = ~dictionary.stencils.complete[atoms % dictionary.pairs]
    roundings = [rounded * distance.square() / 12 for distance in found.spacings]
    return torch.stack(inverses, 1), torch.stack(roundings, 1)


@dataclass(frozen=True)
class AtomTangents:
    """Atoms scaled to unit norm, and how they change with the relaxation times.

    The features of an atom are its s coefficients and its weighted images times the roots of their
    weights.

    Attributes
    ----------
    unit
        Normalised atoms (atoms, features), float64.
    tangents
        Their derivatives with respect to log T1 and log T2, each (atoms, features), float64; zero
        where the table has no neighbour. Finite differences between neighbours in the table, so
        they are perpendicular to the atom only to first order.
    spacings
        Distance of neighbours in log T1 and log T2, each (atoms,), float64.
    """

    unit: torch.Tensor
    tangents: tuple[torch.Tensor, torch.Tensor]
    spacings: tuple[torch.Tensor, torch.Tensor]


def atom_tangents(
    atoms: torch.Tensor, dictionary: Dictionary, weights: Sequence[float] = (0.0, 0.0, 0.0)
) -> AtomTangents:
    """Return normalised atoms and their derivatives with respect to log T1 and log T2.

    Parameters
    ----------
    atoms
        Indices of atoms (atoms,), int64.
    dictionary
        Their dictionary, on the same device.
    weights
        Weights of the weighted images; all zero without images.
    """
    pair = atoms % dictionary.pairs
    first_atom = atoms - pair  # of the voxel's level of the transmit field
    root = torch.tensor(tuple(weights), dtype=torch.float64, device=atoms.device).sqrt()

    def unit(pairs: torch.Tensor) -> torch.Tensor:
        chosen = first_atom + pairs
        whole = torch.cat(
            [dictionary.mrf_atoms[chosen].double(), dictionary.mri_atoms[chosen] * root], 1
        )
        normalised: torch.Tensor = whole / torch.linalg.vector_norm(whole, dim=1, keepdim=True)
        return normalised

    tangents, spacings = [], []
    lut = LookupTable(dictionary.lut.t1[: dictionary.pairs], dictionary.lut.t2[: dictionary.pairs])
    for times, (lower, upper) in zip((lut.t1, lut.t2), neighbours(lut.t1, lut.t2), strict=True):
        below, above = lower[pair], upper[pair]
        distance = (times[above].double() / times[below]).log()
        # Without neighbours, a derivative of zero leads to the largest variance.
        apart = distance.where(distance > 0, 1)[:, None]
        tangents.append((unit(above) - unit(below)) / apart)
        steps = ((above != pair).int() + (below != pair).int()).clamp_min(1)
        spacings.append(distance / steps)
    along_t1, along_t2 = tangents
    return AtomTangents(unit(pair), (along_t1, along_t2), (spacings[0], spacings[1]))

"""Standard deviations of matched T1 and T2, from the curvature of the match."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from mri2qmap.mrsignal.dictionary import Dictionary, LookupTable
from mri2qmap.mrsignal.matching import Match

UNKNOWNS = 4
"""Real numbers that a match finds: T1, T2 and the complex proton density."""


def min_coefficients() -> int:
    """Fewest subspace coefficients that leave a residual without weighted images."""
    return UNKNOWNS // 2 + 1


def match_uncertainty(
    matched: Match,
    dictionary: Dictionary,
    weights: Sequence[float] = (0.0, 0.0, 0.0),
    factor: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Standard deviations of T1 and T2 of a match.

    The match is a least-squares fit of the n = 2 s + (number of weighted images) real numbers of a
    voxel. Let u be its atom scaled to unit norm, cos(theta) the quality of the match, and

    .. math:: F_{kl} = \langle \partial_k u, \partial_l u \rangle, \quad
        k, l \in \{\log T_1, \log T_2\}

    (u has unit norm, so its derivatives are perpendicular to it: the proton density is fitted too).
    With the noise estimated from the residual of the fit, the linearised covariance of the
    logarithms is

    .. math:: C = \frac{\tan^2 \theta}{n - 4} F^{-1}.

    It is the angle between signal and atom, over that by which a change of T1 or T2 turns the atom.
    The scale of the signal does not matter. Derivatives are differences of neighbours in the table.

    To the variances, those of times rounded to the table are added. None becomes larger than that
    of a time of which no more is known than that it lies in the table: fluid's T2 moves its
    fingerprint so little that lines no longer tell how far.

    The residual shows what no atom explains. Errors that look like other tissue (aliasing, the
    resolution, a prior) leave none; if they are in proportion, `factor` accounts for them.

    Parameters
    ----------
    matched
        Result of `match`.
    dictionary
        That which was matched, on the same device.
    weights
        Those of the weighted images in the match; all zero without images.
    factor
        Of the standard deviations. 1 holds for white noise of equal strength in all coefficients
        and, weighted, in the images.

    Returns
    -------
    t1_std, t2_std
        Standard deviations [s], float32, of the shape of the maps (z, y, x). Finite; zero where
        there is no signal.

    Raises
    ------
    ValueError
        If weights or factor are out of range, or a voxel has too few numbers for the unknowns.

    References
    ----------
    Seber and Wild, Nonlinear Regression (1989), Section 2.1. Of fingerprinting: Zhao et al., IEEE
    Trans Med Imaging 38:844 (2019).
    """
    if len(weights) != dictionary.mri_atoms.shape[1] or min(weights) < 0:
        raise ValueError(f"one weight >= 0 is needed for each image, got {tuple(weights)}")
    if not 0 < factor < math.inf:
        raise ValueError(f"factor must be positive, got {factor}")
    coefficients = dictionary.mrf_atoms.shape[1]
    freedom = 2 * coefficients + sum(weight > 0 for weight in weights) - UNKNOWNS
    if freedom < 1:
        raise ValueError(
            f"{coefficients} coefficients without weighted images leave no residual to tell the "
            f"noise by: {min_coefficients()} or more are needed"
        )
    atoms, atom_of_voxel = matched.index.unique(return_inverse=True)
    quality = matched.quality.double()
    # quality has single precision: a smaller angle is none
    unexplained = (1 - quality.square()).clamp_min(torch.finfo(torch.float32).eps)
    spread = factor**2 / freedom * unexplained / quality.square().clamp_min(1e-12)
    curvatures, roundings = _curvature(atoms, dictionary, weights)
    deviations = []
    for times, table, inverse, rounding in zip(
        (matched.t1, matched.t2),
        (dictionary.lut.t1, dictionary.lut.t2),
        curvatures,
        roundings,
        strict=True,
    ):
        most = math.log(float(table.max() / table.min())) ** 2 / 12  # variance of equal chances
        variance = (spread * inverse[atom_of_voxel] + rounding[atom_of_voxel]).clamp_max(most)
        deviations.append((variance.sqrt() * times).float())
    return deviations[0], deviations[1]


def _curvature(
    atoms: torch.Tensor, dictionary: Dictionary, weights: Sequence[float]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Diagonal of F^-1, and variance of log T1 and log T2 by rounding, for some atoms."""
    pair = atoms % dictionary.pairs
    first_atom = atoms - pair  # of the voxel's level of the transmit field
    root = torch.tensor(tuple(weights), dtype=torch.float64, device=atoms.device).sqrt()

    def unit(pairs: torch.Tensor) -> torch.Tensor:
        chosen = first_atom + pairs
        whole = torch.cat(
            [dictionary.mrf_atoms[chosen].double(), dictionary.mri_atoms[chosen] * root], 1
        )
        return whole / torch.linalg.vector_norm(whole, dim=1, keepdim=True)

    tangents, roundings = [], []
    lut = LookupTable(dictionary.lut.t1[: dictionary.pairs], dictionary.lut.t2[: dictionary.pairs])
    for times, (lower, upper) in zip((lut.t1, lut.t2), _neighbours(lut), strict=True):
        below, above = lower[pair], upper[pair]
        distance = (times[above].double() / times[below]).log()[:, None]
        # without neighbours nothing is known, which a derivative of zero says
        apart = distance.where(distance > 0, 1)
        tangents.append((unit(above) - unit(below)) / apart)
        steps = ((above != pair).int() + (below != pair).int()).clamp_min(1)
        roundings.append((distance[:, 0] / steps).square() / 12)
    along_t1, along_t2 = tangents
    tiny = torch.finfo(torch.float64).tiny
    f11, f22 = (along.square().sum(1).clamp_min(tiny) for along in tangents)
    f12_squared = (along_t1 * along_t2).sum(1).square()
    inverses = [
        1 / (f11 - f12_squared / f22).clamp_min(tiny),
        1 / (f22 - f12_squared / f11).clamp_min(tiny),
    ]
    return inverses, roundings


def _neighbours(lut: LookupTable) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Next pairs (atoms,) of smaller and larger T1 and the same T2, and the other way round.

    The pair itself where there is none.
    """
    (t1, row), (t2, column) = (times.unique(return_inverse=True) for times in (lut.t1, lut.t2))
    own = torch.arange(len(lut), device=row.device)
    # with a margin, so that every pair has places around it
    number = torch.full((len(t1) + 2, len(t2) + 2), -1, device=row.device)
    number[row + 1, column + 1] = own

    def at(rows: int, columns: int) -> torch.Tensor:
        found = number[row + 1 + rows, column + 1 + columns]
        return found.where(found >= 0, own)

    return [(at(-1, 0), at(1, 0)), (at(0, -1), at(0, 1))]

"""Atoms between those of the table, and the match that they make more accurate."""

from __future__ import annotations

import torch

from mri2qmap.machine.devices import voxel_blocks
from mri2qmap.mrsignal.dictionary import Dictionary
from mri2qmap.mrsignal.refinement_loop import interpolate_voxels, refine_voxels

_STEPS = 2
"""Gauss-Newton steps: the first one reduces the distance to the best match by two orders of
magnitude, because the steps of the table are small."""
_ROUNDS = 4
"""Largest number of atoms from which a match is refined."""


def interpolate(
    features: torch.Tensor, dictionary: Dictionary, index: torch.Tensor, offset: torch.Tensor
) -> torch.Tensor:
    """Interpolate features of the atoms between the pairs of the table.

    Biquadratic: Lagrange polynomials through the nine atoms of a stencil. Where the offset is zero,
    the result is the feature of the atom.

    Parameters
    ----------
    features
        Of each atom (atoms, features): fingerprints, or weighted images.
    dictionary
        Dictionary of the atoms.
    index
        Atom of each voxel (voxels,), int64.
    offset
        Distance from it (2, voxels), in steps of the table along T1 and T2, see `refined_match`.

    Returns
    -------
        (features, voxels).
    """
    if index.device.type == "cpu":
        return interpolate_voxels(features, dictionary, index, offset)
    return _interpolated_by_blocks(features, dictionary, index, offset)


def _interpolated_by_blocks(
    features: torch.Tensor, dictionary: Dictionary, index: torch.Tensor, offset: torch.Tensor
) -> torch.Tensor:
    """Return the result of `interpolate`, for blocks of voxels at a time (GPU)."""
    found = torch.empty(features.shape[1], len(index), dtype=features.dtype, device=index.device)
    for block in voxel_blocks(len(index), index.device):
        found[:, block] = _Stencil(features, dictionary, index[block]).value(offset[:, block]).T
    return found


def interpolated_times(
    dictionary: Dictionary, index: torch.Tensor, offset: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return T1 and T2 [s] (voxels,), whose logarithms are interpolated as in `interpolate`.

    Exactly those of the table where the offset is zero.
    """
    logarithms = torch.stack([dictionary.lut.t1, dictionary.lut.t2], 1).log()
    change = interpolate(logarithms, dictionary, index, offset) - logarithms[index].T
    change = torch.where(offset == 0, 0, change)
    return dictionary.lut.t1[index] * change[0].exp(), dictionary.lut.t2[index] * change[1].exp()


def table_offset(
    dictionary: Dictionary, t1: torch.Tensor, t2: torch.Tensor, pair: torch.Tensor
) -> torch.Tensor:
    """Offset (2, voxels) of relaxation times from the pairs nearest to them.

    Parameters
    ----------
    dictionary
        Its table has equal steps of log T1 and log T2.
    t1, t2
        Relaxation times [s] (voxels,). Outside the table, the offset is that of its end.
    pair
        Nearest pairs (voxels,), int64.
    """
    table = dictionary.stencils
    low, high = _bounds(table.place[pair].T, table.complete[pair])
    offsets = []
    for times, values, (before, after) in (
        (t1, dictionary.lut.t1, (1, 7)),
        (t2, dictionary.lut.t2, (3, 5)),
    ):
        step = (values[table.pairs[pair, after]] / values[table.pairs[pair, before]]).log() / 2
        offsets.append((times / values[pair]).log() / step.where(table.complete[pair], 1))
    return torch.minimum(torch.maximum(torch.stack(offsets), low), high)


def refined_match(
    features: torch.Tensor,
    signals: torch.Tensor,
    n_coefficients: int,
    dictionary: Dictionary,
    index: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Find the best match between the pairs of the table, starting from the best atom.

    With the interpolated atom a(e) at a distance e from an atom, in steps of the table, the
    least-squares problem

    .. math:: \min_{e, \rho} \| y - \rho a(e) \|^2, \quad |e_k| \le 1

    is solved by Gauss-Newton steps, from which the scale rho is eliminated (variable projection).
    y is the signal without its phase. Where the result is at a bound, it is the start of another
    round, so that long valleys are followed: the T2 of fluid hardly changes its fingerprint. What
    fits less well than before, or has a T2 above its T1, is discarded. Very near T2 = T1, the
    result may therefore be the best atom.

    Parameters
    ----------
    features
        Atoms (atoms, features): n_coefficients of the fingerprints, then the weighted images times
        the roots of their weights. Not normalised.
    signals
        (2 n_coefficients + images, voxels): real parts, imaginary parts, weighted images times the
        roots of their weights.
    n_coefficients
        Number s of subspace coefficients.
    dictionary
        Dictionary of the atoms.
    index
        Best atom of each voxel (voxels,), int64.

    Returns
    -------
    index
        Atom from which the offset is counted (voxels,), int64: the best one, or one at which a
        further round started.
    offset
        e (2, voxels), float32: along T1 and along T2. Zero where the table has no stencil.

    References
    ----------
    Interpolation of a dictionary: van Valenberg et al., IEEE Trans Med Imaging 39:1681 (2020).
    Variable projection: Golub and Pereyra, SIAM J Numer Anal 10:413 (1973).
    """
    if index.device.type == "cpu":
        arguments = (features, signals, n_coefficients, dictionary, index)
        return refine_voxels(*arguments, _STEPS, _ROUNDS)
    return _refined_by_blocks(features, signals, n_coefficients, dictionary, index)


def _refined_by_blocks(
    features: torch.Tensor,
    signals: torch.Tensor,
    n_coefficients: int,
    dictionary: Dictionary,
    index: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the result of `refined_match`, for blocks of voxels at a time (GPU)."""
    index, offset = index.clone(), torch.zeros(2, len(index), device=index.device)
    best = torch.full((len(index),), -torch.inf, device=index.device)
    for block in voxel_blocks(len(index), index.device):
        chosen = torch.arange(block.start, block.stop, device=index.device)
        for _ in range(_ROUNDS):
            if not len(chosen):
                break
            start = _moved(dictionary, index[chosen], offset[:, chosen])
            part = signals[:, chosen]
            shift, score = _refined(features, part, n_coefficients, dictionary, start)
            # Numbers instead of a mask, for each use of which the GPU would be waited for.
            better = (score > best[chosen]).nonzero()[:, 0]
            chosen, shift = chosen[better], shift[:, better]
            index[chosen], offset[:, chosen], best[chosen] = start[better], shift, score[better]
            chosen = chosen[(shift.abs() == 1).any(0)]
    return index, offset


def _moved(dictionary: Dictionary, index: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """Return the atoms (voxels,) nearest to the matches, given as in `refined_match`."""
    table = dictionary.stencils
    pair = index % dictionary.pairs
    row, column = 1 + table.place[pair].T + offset.round().to(torch.int64)
    return index - pair + table.pairs[pair, 3 * row + column]


class _Stencil:
    """Features of the atoms around some atoms, for the interpolation between them."""

    def __init__(self, features: torch.Tensor, dictionary: Dictionary, index: torch.Tensor) -> None:
        table = dictionary.stencils
        pair = index % dictionary.pairs
        atoms = table.pairs[pair] + (index - pair)[:, None]  # of the same level of the field
        self._features = features[atoms]  # (voxels, 9, features)
        self._place = table.place[pair].T.to(features.dtype)
        self._complete = table.complete[pair]

    def value(self, offset: torch.Tensor) -> torch.Tensor:
        """Interpolated features (voxels, features) at an offset (2, voxels)."""
        (first, _), (second, _) = (_lagrange(at) for at in self._place + offset)
        weights = (first[:, :, None] * second[:, None]).flatten(1)
        return torch.bmm(weights[:, None], self._features)[:, 0]

    def value_and_tangents(self, offset: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Interpolated features and their derivatives along T1 and T2, each (voxels, features)."""
        (first, along_first), (second, along_second) = (
            _lagrange(at) for at in self._place + offset
        )
        rows = torch.stack([first, along_first, first], 1)
        columns = torch.stack([second, second, along_second], 1)
        weights = (rows[..., None] * columns[:, :, None]).flatten(2)
        return torch.bmm(weights, self._features).unbind(1)

    def bounds(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Smallest and largest offset (2, voxels): one step, within the stencil; or zero."""
        return _bounds(self._place, self._complete)


def _bounds(place: torch.Tensor, complete: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    low, high = (-1 - place).clamp_min(-1), (1 - place).clamp_max(1)
    return torch.where(complete, low, 0), torch.where(complete, high, 0)


def _lagrange(at: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Lagrange polynomials (n, 3) of the nodes -1, 0, 1 at places (n,), and their derivatives."""
    polynomials = torch.stack([at * (at - 1) / 2, 1 - at * at, at * (at + 1) / 2], 1)
    return polynomials, torch.stack([at - 0.5, -2 * at, at + 0.5], 1)


def _refined(
    features: torch.Tensor,
    signals: torch.Tensor,
    n_coefficients: int,
    dictionary: Dictionary,
    index: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Offset from atoms (2, voxels), zero where none fits better, and its score (voxels,)."""
    stencil = _Stencil(features, dictionary, index)
    real, imaginary = signals[:n_coefficients].T, signals[n_coefficients : 2 * n_coefficients].T
    images = signals[2 * n_coefficients :].T
    tiny = torch.finfo(features.dtype).tiny

    def fit(atom: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Signal without its phase, scale and score of the fit of an atom to it."""
        fingerprint = atom[:, :n_coefficients]
        along, across = (fingerprint * real).sum(1), (fingerprint * imaginary).sum(1)
        size = torch.hypot(along, across).clamp_min(tiny)
        cosine, sine = along / size, across / size
        signal = torch.cat([real * cosine[:, None] + imaginary * sine[:, None], images], 1)
        inner, energy = (atom * signal).sum(1), atom.square().sum(1)
        return signal, inner / energy, inner / energy.sqrt()

    def without(tangent: torch.Tensor, atom: torch.Tensor) -> torch.Tensor:
        """Part of a tangent that a change of the scale cannot replace."""
        along = (tangent * atom).sum(1) / atom.square().sum(1)
        return tangent - along[:, None] * atom

    low, high = stencil.bounds()
    offset = torch.zeros_like(low)
    at_atom = fit(features[index])[2]
    for _ in range(_STEPS):
        atom, *tangents = stencil.value_and_tangents(offset)
        signal, scale, _ = fit(atom)
        along_t1, along_t2 = (without(tangent, atom) for tangent in tangents)
        rest = torch.where(scale > 0, 1 / scale, 0)[:, None] * signal - atom
        offset = offset + _least_squares_step(along_t1, along_t2, rest, low - offset, high - offset)
    score = fit(stencil.value(offset))[2]
    t1, t2 = interpolated_times(dictionary, index, offset)
    better = (score > at_atom) & (t2 <= t1)
    return torch.where(better, offset, 0), torch.where(better, score, at_atom)


def _least_squares_step(
    first: torch.Tensor,
    second: torch.Tensor,
    target: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
) -> torch.Tensor:
    """Coefficients (2, n) between bounds with which two vectors fit a target best, each (n, m).

    Where a bound applies to one, the other is the best for it. Zero for vectors of zero.
    """
    f11, f22, f12 = (first * first).sum(1), (second * second).sum(1), (first * second).sum(1)
    y1, y2 = (first * target).sum(1), (second * target).sum(1)
    tiny = torch.finfo(first.dtype).tiny

    def within(values: torch.Tensor, axis: int) -> torch.Tensor:
        return torch.minimum(torch.maximum(values.nan_to_num(0.0), low[axis]), high[axis])

    determinant = (f11 * f22 - f12.square()).clamp_min(tiny)
    one = within((f22 * y1 - f12 * y2) / determinant, 0)
    other = within((f11 * y2 - f12 * y1) / determinant, 1)
    first_fixed = torch.stack([one, within((y2 - f12 * one) / f22.clamp_min(tiny), 1)])
    second_fixed = torch.stack([within((y1 - f12 * other) / f11.clamp_min(tiny), 0), other])

    def objective(at: torch.Tensor) -> torch.Tensor:
        quadratic = f11 * at[0].square() / 2 + f12 * at[0] * at[1] + f22 * at[1].square() / 2
        return quadratic - y1 * at[0] - y2 * at[1]

    return torch.where(objective(first_fixed) <= objective(second_fixed), first_fixed, second_fixed)

"""Compiled loops of `mri2qmap.mrsignal.interpolation` for the CPU: voxel by voxel.

The same steps as there in torch, which handles all voxels of a block at once.
"""

# Scalars of compiled loops are float32 or float64; they are annotated as float.
# mypy: disable-error-code="arg-type, no-any-return, assignment, return-value, operator"

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba.extending import register_jitable
from numpy.typing import NDArray

from mri2qmap.machine.compiled_loops import compiled, unique_name
from mri2qmap.machine.worker_threads import run_in_threads
from mri2qmap.mrsignal.dictionary import Dictionary

FAST = {"contract", "reassoc", "nsz", "arcp"}  # nan and infinity keep their meaning
_TINY = np.float32(np.finfo(np.float32).tiny)
_ZERO, _HALF, _ONE, _TWO = (np.float32(number) for number in (0, 0.5, 1, 2))


def refine_voxels(
    features: torch.Tensor,
    signals: torch.Tensor,
    n_coefficients: int,
    dictionary: Dictionary,
    index: torch.Tensor,
    steps: int,
    rounds: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Refine matches as `refined_match` does, on the CPU.

    Parameters
    ----------
    features, signals, n_coefficients, dictionary, index
        As of `refined_match`; float32 and int64.
    steps, rounds
        Number of Gauss-Newton steps, largest number of atoms from which a match is refined.

    Returns
    -------
    index, offset
        As of `refined_match`.
    """
    table, lut = dictionary.stencils, dictionary.lut
    index, offset = index.clone(), torch.zeros(2, len(index))
    times = torch.stack([lut.t1, lut.t2], 1)
    arrays = (
        features.contiguous(),
        signals.T.contiguous(),
        times,
        times.log(),
        table.pairs.contiguous(),
        table.place.to(torch.float32).contiguous(),
        table.complete.contiguous(),
        index,
        offset,
    )
    loop = _compiled_loop(n_coefficients, features.shape[1] - n_coefficients)
    run_in_threads(loop, *(array.numpy() for array in arrays), steps, rounds, n_steps=len(index))
    return index, offset


def interpolate_voxels(
    features: torch.Tensor, dictionary: Dictionary, index: torch.Tensor, offset: torch.Tensor
) -> torch.Tensor:
    """Interpolate features of atoms as `interpolate` does, on the CPU."""
    table = dictionary.stencils
    found = torch.empty(features.shape[1], len(index), dtype=features.dtype)
    arrays = (
        features.contiguous(),
        table.pairs.contiguous(),
        table.place.to(features.dtype).contiguous(),
        index.contiguous(),
        offset.to(features.dtype).contiguous(),
        found,
    )
    run_in_threads(_interpolate, *(array.numpy() for array in arrays), n_steps=len(index))
    return found


@register_jitable
def _lagrange(at: float) -> tuple[float, float, float]:  # pragma: no cover - compiled
    """Lagrange polynomials of the nodes -1, 0, 1 at a place."""
    return at * (at - _ONE) / _TWO, _ONE - at * at, at * (at + _ONE) / _TWO


@compiled(fastmath=FAST, nogil=True)
def _interpolate(  # pragma: no cover - compiled
    features: NDArray[np.floating],
    pairs: NDArray[np.int64],
    places: NDArray[np.floating],
    index: NDArray[np.int64],
    offset: NDArray[np.floating],
    found: NDArray[np.floating],
    first_voxel: int,
    stop_voxel: int,
) -> None:
    n_features = features.shape[1]
    result = np.empty(n_features, dtype=features.dtype)
    weights = np.empty(9, dtype=features.dtype)
    for voxel in range(first_voxel, stop_voxel):
        pair = index[voxel] % len(pairs)
        level = index[voxel] - pair
        first = places[pair, 0] + offset[0, voxel]
        second = places[pair, 1] + offset[1, voxel]
        p, q = _lagrange(first), _lagrange(second)
        for i in range(9):
            weights[i] = p[i // 3] * q[i % 3]
        result[:] = 0
        for i in range(9):
            atom = level + pairs[pair, i]
            for k in range(n_features):
                result[k] += weights[i] * features[atom, k]
        for k in range(n_features):
            found[k, voxel] = result[k]


@register_jitable
def _clip(value: float, low: float, high: float) -> float:  # pragma: no cover - compiled
    """Value between bounds; 0 between them if it is not a number."""
    if np.isnan(value):
        value = _ZERO
    return min(max(value, low), high)


@register_jitable
def _step_of_two(  # pragma: no cover - compiled
    f11: float, f22: float, f12: float, y1: float, y2: float, bounds: tuple[float, ...]
) -> tuple[float, float]:
    """Minimum of f11 a^2 / 2 + f12 a b + f22 b^2 / 2 - y1 a - y2 b between bounds.

    Where a bound applies to one, the other is the best for it.
    """
    low1, high1, low2, high2 = bounds
    determinant = max(f11 * f22 - f12 * f12, _TINY)
    a1 = _clip((f22 * y1 - f12 * y2) / determinant, low1, high1)
    b2 = _clip((f11 * y2 - f12 * y1) / determinant, low2, high2)
    b1 = _clip((y2 - f12 * a1) / max(f22, _TINY), low2, high2)
    a2 = _clip((y1 - f12 * b2) / max(f11, _TINY), low1, high1)
    first = f11 * a1 * a1 / _TWO + f12 * a1 * b1 + f22 * b1 * b1 / _TWO - y1 * a1 - y2 * b1
    second = f11 * a2 * a2 / _TWO + f12 * a2 * b2 + f22 * b2 * b2 / _TWO - y1 * a2 - y2 * b2
    return (a1, b1) if first <= second else (a2, b2)


@functools.cache
def _compiled_loop(n_coefficients: int, n_images: int) -> Callable[..., Any]:
    """Compile the loop for numbers of coefficients and images, over which it can be unrolled."""
    n_features = n_coefficients + n_images

    @register_jitable(fastmath=FAST)
    @unique_name(n_coefficients, n_images)
    def fit(
        atom: NDArray[np.float32], signal: NDArray[np.float32], turned: NDArray[np.float32]
    ) -> tuple[float, float]:  # pragma: no cover - compiled
        """Scale and score of the fit of an atom to a signal, which is written without phase.

        In double precision: near the best match, the score hardly changes.
        """
        along = across = 0.0
        for k in range(n_coefficients):
            along += np.float64(atom[k]) * np.float64(signal[k])
            across += np.float64(atom[k]) * np.float64(signal[n_coefficients + k])
        size = np.sqrt(along * along + across * across)
        inner, energy = size, 0.0
        for k in range(n_images):
            image = signal[2 * n_coefficients + k]
            turned[n_coefficients + k] = image
            inner += np.float64(atom[n_coefficients + k]) * np.float64(image)
        for k in range(n_features):
            energy += np.float64(atom[k]) * np.float64(atom[k])
        size = max(size, np.float64(_TINY))
        cosine, sine = np.float32(along / size), np.float32(across / size)
        for k in range(n_coefficients):
            turned[k] = signal[k] * cosine + signal[n_coefficients + k] * sine
        return np.float32(inner / energy), inner / np.sqrt(energy)

    @register_jitable(fastmath=FAST)
    @unique_name(n_coefficients, n_images)
    def interpolated(
        features: NDArray[np.float32],
        atoms: NDArray[np.int64],
        first: float,
        second: float,
        result: NDArray[np.float32],
    ) -> None:  # pragma: no cover - compiled
        """Write atom and tangents (3, features) at a place of a stencil."""
        p, q = _lagrange(first), _lagrange(second)
        along_p = (first - _HALF, -_TWO * first, first + _HALF)
        along_q = (second - _HALF, -_TWO * second, second + _HALF)
        result[:] = _ZERO
        for row in range(3):
            for column in range(3):
                value = p[row] * q[column]
                along_1, along_2 = along_p[row] * q[column], p[row] * along_q[column]
                atom = atoms[3 * row + column]
                for k in range(n_features):
                    result[0, k] += value * features[atom, k]
                    result[1, k] += along_1 * features[atom, k]
                    result[2, k] += along_2 * features[atom, k]

    @compiled(fastmath=FAST, nogil=True, error_model="numpy")
    @unique_name(n_coefficients, n_images)
    def loop(
        features: NDArray[np.float32],
        signals: NDArray[np.float32],
        times: NDArray[np.float32],
        logarithms: NDArray[np.float32],
        pairs: NDArray[np.int64],
        places: NDArray[np.float32],
        complete: NDArray[np.bool_],
        index: NDArray[np.int64],
        offset: NDArray[np.float32],
        steps: int,
        rounds: int,
        first_voxel: int,
        stop_voxel: int,
    ) -> None:  # pragma: no cover - compiled
        turned = np.empty(n_features, dtype=np.float32)
        result = np.empty((3, n_features), dtype=np.float32)
        atoms = np.empty(9, dtype=np.int64)
        for voxel in range(first_voxel, stop_voxel):
            signal = signals[voxel]
            best = -np.inf
            for _ in range(rounds):
                pair = index[voxel] % len(pairs)
                level = index[voxel] - pair
                row = 1 + int(places[pair, 0]) + int(np.rint(offset[0, voxel]))
                column = 1 + int(places[pair, 1]) + int(np.rint(offset[1, voxel]))
                pair = pairs[pair, 3 * row + column]
                start = level + pair
                for i in range(9):
                    atoms[i] = level + pairs[pair, i]
                at_1, at_2 = places[pair, 0], places[pair, 1]
                low_1 = low_2 = high_1 = high_2 = _ZERO
                if complete[pair]:
                    low_1, high_1 = max(-_ONE - at_1, -_ONE), min(_ONE - at_1, _ONE)
                    low_2, high_2 = max(-_ONE - at_2, -_ONE), min(_ONE - at_2, _ONE)
                _, score = fit(features[start], signal, turned)
                shift_1 = shift_2 = _ZERO
                for _ in range(steps):
                    interpolated(features, atoms, at_1 + shift_1, at_2 + shift_2, result)
                    atom, tangent_1, tangent_2 = result[0], result[1], result[2]
                    scale, _ = fit(atom, signal, turned)
                    inverse = _ONE / scale if scale > _ZERO else _ZERO
                    energy = along_1 = along_2 = _ZERO
                    for k in range(n_features):
                        energy += atom[k] * atom[k]
                        along_1 += tangent_1[k] * atom[k]
                        along_2 += tangent_2[k] * atom[k]
                    along_1, along_2 = along_1 / energy, along_2 / energy
                    f11 = f22 = f12 = y1 = y2 = _ZERO
                    for k in range(n_features):
                        # what a change of the scale cannot replace
                        t1 = tangent_1[k] - along_1 * atom[k]
                        t2 = tangent_2[k] - along_2 * atom[k]
                        rest = inverse * turned[k] - atom[k]
                        f11 += t1 * t1
                        f22 += t2 * t2
                        f12 += t1 * t2
                        y1 += t1 * rest
                        y2 += t2 * rest
                    bounds = (low_1 - shift_1, high_1 - shift_1, low_2 - shift_2, high_2 - shift_2)
                    change_1, change_2 = _step_of_two(f11, f22, f12, y1, y2, bounds)
                    shift_1, shift_2 = shift_1 + change_1, shift_2 + change_2
                interpolated(features, atoms, at_1 + shift_1, at_2 + shift_2, result)
                _, moved = fit(result[0], signal, turned)
                if moved > score and _t2_below_t1(
                    times, logarithms, start, atoms, at_1, at_2, shift_1, shift_2
                ):
                    score = moved
                else:
                    shift_1 = shift_2 = _ZERO
                if not score > best:
                    break
                best = score
                index[voxel], offset[0, voxel], offset[1, voxel] = start, shift_1, shift_2
                if abs(shift_1) != _ONE and abs(shift_2) != _ONE:
                    break

    return loop


@register_jitable
def _t2_below_t1(  # pragma: no cover - compiled
    times: NDArray[np.float32],
    logarithms: NDArray[np.float32],
    start: int,
    atoms: NDArray[np.int64],
    at_1: float,
    at_2: float,
    shift_1: float,
    shift_2: float,
) -> bool:
    """Whether T2 is at most T1 at an offset, as `interpolated_times` has them."""
    first, second = at_1 + shift_1, at_2 + shift_2
    p, q = _lagrange(first), _lagrange(second)
    t1, t2 = -logarithms[start, 0], -logarithms[start, 1]
    for row in range(3):
        for column in range(3):
            atom = atoms[3 * row + column]
            t1 += p[row] * q[column] * logarithms[atom, 0]
            t2 += p[row] * q[column] * logarithms[atom, 1]
    t1 = times[start, 0] if shift_1 == _ZERO else times[start, 0] * np.exp(t1)
    t2 = times[start, 1] if shift_2 == _ZERO else times[start, 1] * np.exp(t2)
    return t2 <= t1

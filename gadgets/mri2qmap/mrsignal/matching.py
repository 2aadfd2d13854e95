"""Combined MRF-MRI dictionary matching (paper, equations 9 to 11)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numba.extending import register_jitable
from numpy.typing import NDArray

from mri2qmap.machine.compiled_loops import compiled, unique_name
from mri2qmap.machine.process_group import SINGLE_PROCESS, ProcessGroup
from mri2qmap.machine.worker_threads import run_in_threads
from mri2qmap.mrsignal.dictionary import Dictionary, LookupTable, Search
from mri2qmap.mrsignal.interpolation import interpolate, interpolated_times, refined_match

VOXEL_BLOCK = 128  # voxels per block on the CPU; their signals fit into the L1 cache
SCORES_AT_ONCE = 1 << 26  # scores in memory at a time on a GPU

_ROUNDING = 1e-5
"""Relative errors of interpolated relaxation times in single precision."""


@dataclass(frozen=True)
class Match:
    """Best atom of every voxel; tensors have the shape of the images (z, y, x).

    Attributes
    ----------
    index
        Atom of the table next to the match, int64; without signal, any.
    offset
        Distance of the match from that atom (2, z, y, x), in steps of the table along T1 and T2,
        at most one; see `refined_match`.
    t1, t2
        Relaxation times [s]; zero without signal.
    proton_density
        Complex proton density.
    quality
        Normalised inner product of the signal and its atom, 0 to 1.
    """

    index: torch.Tensor
    offset: torch.Tensor
    t1: torch.Tensor
    t2: torch.Tensor
    proton_density: torch.Tensor
    quality: torch.Tensor

    def tsmi(self, dictionary: Dictionary) -> torch.Tensor:
        """Return the matched fingerprints B(Q) (s, z, y, x)."""
        return self.proton_density * self._features(dictionary, dictionary.mrf_atoms)

    def weighted_images(self, dictionary: Dictionary) -> torch.Tensor:
        """Return the synthesised magnitudes S(Q) (3, z, y, x)."""
        unit = self._features(dictionary, dictionary.mri_atoms)
        return self.proton_density.abs() * unit.clamp_min_(0)  # may be negative in coarse tables

    def _features(self, dictionary: Dictionary, features: torch.Tensor) -> torch.Tensor:
        found = interpolate(features, dictionary, self.index.flatten(), self.offset.flatten(1))
        return found.reshape(-1, *self.index.shape)


def at_table_end(t1: torch.Tensor, t2: torch.Tensor, lut: LookupTable) -> torch.Tensor:
    """Return the voxels (z, y, x), bool, with the smallest or largest T1 or T2 [s] of the table.

    Their true values may be outside the table.
    """
    ends = torch.zeros_like(t1, dtype=torch.bool)
    for times, table in ((t1, lut.t1), (t2, lut.t2)):
        low, high = (1 + _ROUNDING) * table.min(), (1 - _ROUNDING) * table.max()
        ends |= ((times > 0) & (times <= low)) | (times >= high)
    return ends


def match(
    tsmi: torch.Tensor,
    dictionary: Dictionary,
    images: torch.Tensor | None = None,
    weights: Sequence[float] = (0.0, 0.0, 0.0),
    search: Search | None = None,
    between_atoms: bool = True,
    processes: ProcessGroup = SINGLE_PROCESS,
) -> Match:
    """Find the tissue parameters of each voxel from its fingerprint and its weighted images.

    With x in C^s, v in R^3 and the w-weighted inner product <.,.>_w, the best atom maximises

        c_j / n_j,   c_j = |d_j^H x| + <b_j, v>_w,   n_j^2 = ||d_j||^2 + ||b_j||_w^2

    and |PD| = max(c_j, 0) / n_j^2 with the phase of d_j^H x. T1 and T2 are then refined between the
    atoms of the table (`refined_match`), and PD is that of the interpolated atom.

    Parameters
    ----------
    tsmi
        Subspace images (s, z, y, x), complex64.
    dictionary
        Dictionary on the same device, with real fingerprints. A `FieldDictionary` has atoms for the
        transmit field of each voxel.
    images
        Weighted images (3, z, y, x), float32; None for plain MRF matching.
    weights
        Weight of each weighted image.
    search
        Search for the best atom (default: `exact_search`).
    between_atoms
        Whether the match may lie between the atoms of the table; the paper's is the best atom.
    processes
        Each of several processes matches a part of the voxels, and all get the whole match.

    Raises
    ------
    ValueError
        If shapes do not match or a weight is negative.
    """
    shape = tuple(tsmi.shape[1:])
    if tsmi.shape[0] != dictionary.mrf_atoms.shape[1]:
        raise ValueError(
            f"the TSMI has {tsmi.shape[0]} coefficients, but the dictionary "
            f"{dictionary.mrf_atoms.shape[1]}"
        )
    if images is None:
        images = torch.zeros(len(weights), *shape, device=tsmi.device)
        weights = (0.0,) * len(weights)
    if tuple(images.shape) != (dictionary.mri_atoms.shape[1], *shape):
        raise ValueError(
            f"weighted images {tuple(images.shape)} do not match the TSMI {tuple(tsmi.shape)}"
        )
    if min(weights) < 0 or len(weights) != len(images):
        raise ValueError(f"expected one weight >= 0 for each image, got {tuple(weights)}")
    if processes.world_size > 1:
        return _split_match(tsmi, dictionary, images, weights, search, between_atoms, processes)

    weight = torch.tensor(tuple(weights), dtype=torch.float32, device=tsmi.device)
    features = torch.cat([dictionary.mrf_atoms, dictionary.mri_atoms * weight.sqrt()], 1)
    # Signal matrix with the rows: real parts, imaginary parts, weighted images.
    signals = torch.cat(
        [
            tsmi.real.reshape(len(tsmi), -1),
            tsmi.imag.reshape(len(tsmi), -1),
            images.reshape(len(images), -1) * weight.sqrt()[:, None],
        ]
    )
    find = dictionary.adapt_search(search or exact_search)
    index, _ = find(torch.nn.functional.normalize(features, dim=1), signals, len(tsmi))
    offset = torch.zeros(2, len(index), device=index.device)
    if between_atoms:
        index, offset = refined_match(features, signals, len(tsmi), dictionary, index)

    found = interpolate(features, dictionary, index, offset)
    inner = (found[: len(tsmi)] * torch.complex(*_parts(signals, len(tsmi)))).sum(0)
    total = inner.abs() + (found[len(tsmi) :] * signals[2 * len(tsmi) :]).sum(0)
    norm = torch.linalg.vector_norm(found, dim=0)
    magnitude = (total / norm.square()).clamp_min(0)
    energy = torch.linalg.vector_norm(signals, dim=0).clamp_min(torch.finfo(torch.float32).tiny)
    t1, t2 = interpolated_times(dictionary, index, offset)
    return Match(
        index=index.reshape(shape),
        offset=offset.reshape(2, *shape),
        t1=(t1 * (magnitude > 0)).reshape(shape),
        t2=(t2 * (magnitude > 0)).reshape(shape),
        proton_density=torch.polar(magnitude, inner.angle()).reshape(shape),
        quality=(total / norm / energy).clamp(0, 1).reshape(shape),
    )


def _split_match(
    tsmi: torch.Tensor,
    dictionary: Dictionary,
    images: torch.Tensor,
    weights: Sequence[float],
    search: Search | None,
    between_atoms: bool,
    processes: ProcessGroup,
) -> Match:
    """Match the voxels of this process, and collect the parts of all; see `match`."""
    shape = tuple(tsmi.shape[1:])
    voxels = math.prod(shape)
    blocks = processes.share(-(-voxels // VOXEL_BLOCK))
    own = slice(blocks.start * VOXEL_BLOCK, min(blocks.stop * VOXEL_BLOCK, voxels))
    inside = torch.zeros(voxels, dtype=torch.bool, device=tsmi.device)
    inside[own] = True
    part = match(
        tsmi.flatten(1)[:, own],
        dictionary.select(inside.reshape(shape)),
        images.flatten(1)[:, own],
        weights,
        search,
        between_atoms,
    )
    collected = {}
    for entry in fields(Match):
        values: torch.Tensor = getattr(part, entry.name)
        whole = values.new_zeros(*values.shape[:-1], voxels)
        whole[..., own] = values
        collected[entry.name] = processes.sum_(whole).reshape(*values.shape[:-1], *shape)
    return Match(**collected)


def _parts(signals: torch.Tensor, n_coefficients: int) -> tuple[torch.Tensor, torch.Tensor]:
    return signals[:n_coefficients], signals[n_coefficients : 2 * n_coefficients]


def exact_search(
    atoms: torch.Tensor, signals: torch.Tensor, n_coefficients: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the best of the unit-norm atoms for each signal by an exhaustive search.

    Parameters
    ----------
    atoms
        (atoms, features): n_coefficients of the fingerprints, then the weighted images.
    signals
        (2 n_coefficients + images, voxels): real parts, imaginary parts, weighted images.
    n_coefficients
        Number s of subspace coefficients.

    Returns
    -------
    index, score
        Best atom and its score (voxels,).
    """
    if on_cpu(signals):
        search = _compiled_search(n_coefficients, atoms.shape[1] - n_coefficients)
        even = torch.cat([atoms, atoms[-1:]]) if len(atoms) % 2 else atoms
        index = torch.empty(signals.shape[1], dtype=torch.int64)
        score = torch.empty(signals.shape[1])
        arrays = (even.contiguous(), signals.contiguous(), index, score)
        run_in_threads(search, *(array.numpy() for array in arrays), n_steps=n_blocks(signals))
        return index, score
    best = [
        scores_of(atoms, part, n_coefficients).max(0)
        for part in torch.split(signals, max(1, SCORES_AT_ONCE // len(atoms)), dim=1)
    ]
    return torch.cat([b.indices for b in best]), torch.cat([b.values for b in best])


def scores_of(atoms: torch.Tensor, signals: torch.Tensor, n_coefficients: int) -> torch.Tensor:
    """Return the score (atoms, signals) of each atom and signal; shapes as in `exact_search`."""
    real, imaginary = _parts(signals, n_coefficients)
    fingerprints, weighted = atoms[:, :n_coefficients], atoms[:, n_coefficients:]
    scores = fingerprints @ real
    torch.hypot(scores, fingerprints @ imaginary, out=scores)
    return scores.addmm_(weighted, signals[2 * n_coefficients :])


def n_blocks(signals: torch.Tensor) -> int:
    """Number of blocks of voxels of signals (features, voxels) that are searched one by one."""
    return -(-signals.shape[1] // VOXEL_BLOCK)


def on_cpu(tensor: torch.Tensor) -> bool:
    """Whether the compiled searches can be used."""
    return tensor.device.type == "cpu"


@functools.cache
def compiled_scan(n_coefficients: int, n_images: int) -> Callable[..., Any]:
    """Compile the scan of the atoms first to stop, an even number, for a block of voxels.

    The numbers of coefficients and images are compile-time constants, so that the compiler can
    unroll the sums over them and vectorise over voxels.
    """

    @register_jitable(fastmath=True)
    @unique_name(n_coefficients, n_images)
    def scan(
        atoms: NDArray[np.float32],
        first_atom: int,
        stop: int,
        part: NDArray[np.float32],
        index: NDArray[np.int32],
        score: NDArray[np.float32],
    ) -> None:  # pragma: no cover - compiled
        for atom in range(first_atom, stop, 2):
            # Two atoms share each load of the signals. Indices are int32, as wide as the floats.
            first, second = np.int32(atom), np.int32(atom + 1)
            for i in range(VOXEL_BLOCK):
                real_1 = imaginary_1 = value_1 = np.float32(0)
                real_2 = imaginary_2 = value_2 = np.float32(0)
                for k in range(n_coefficients):
                    x, y = part[k, i], part[n_coefficients + k, i]
                    real_1 += atoms[atom, k] * x
                    imaginary_1 += atoms[atom, k] * y
                    real_2 += atoms[atom + 1, k] * x
                    imaginary_2 += atoms[atom + 1, k] * y
                for k in range(n_images):
                    v = part[2 * n_coefficients + k, i]
                    value_1 += atoms[atom, n_coefficients + k] * v
                    value_2 += atoms[atom + 1, n_coefficients + k] * v
                value_1 += np.sqrt(real_1 * real_1 + imaginary_1 * imaginary_1)
                value_2 += np.sqrt(real_2 * real_2 + imaginary_2 * imaginary_2)
                value = max(value_1, value_2)
                atom_of_value = second if value_2 > value_1 else first
                better = value > score[i]
                score[i] = value if better else score[i]
                index[i] = atom_of_value if better else index[i]

    return scan


@functools.cache
def _compiled_search(n_coefficients: int, n_images: int) -> Callable[..., Any]:
    """Compile the search of all atoms, an even number."""
    scan = compiled_scan(n_coefficients, n_images)

    @compiled(fastmath=True, nogil=True)
    @unique_name(n_coefficients, n_images)
    def search(
        atoms: NDArray[np.float32],
        signals: NDArray[np.float32],
        best_index: NDArray[np.int64],
        best_score: NDArray[np.float32],
        first_block: int,
        stop_block: int,
    ) -> None:  # pragma: no cover - compiled
        n_voxels = signals.shape[1]
        for block in range(first_block, stop_block):
            start = block * VOXEL_BLOCK
            size = min(VOXEL_BLOCK, n_voxels - start)
            part = np.zeros((2 * n_coefficients + n_images, VOXEL_BLOCK), dtype=np.float32)
            part[:, :size] = signals[:, start : start + size]
            index = np.zeros(VOXEL_BLOCK, dtype=np.int32)
            score = np.full(VOXEL_BLOCK, -np.inf, dtype=np.float32)
            scan(atoms, 0, len(atoms), part, index, score)
            best_index[start : start + size] = index[:size]
            best_score[start : start + size] = score[:size]

    return search

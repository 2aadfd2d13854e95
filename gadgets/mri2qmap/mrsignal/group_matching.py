"""Fast group matching: atoms are searched only in groups whose mean is similar to the signal."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mri2qmap.machine.cancellation import raise_if_cancelled
from mri2qmap.machine.compiled_loops import compiled, unique_name
from mri2qmap.machine.worker_threads import run_in_threads
from mri2qmap.mrsignal.matching import (
    SCORES_AT_ONCE,
    VOXEL_BLOCK,
    compiled_scan,
    exact_search,
    n_blocks,
    on_cpu,
    scores_of,
)

_MOST_GROUPS = 10_000
"""Maximum number of groups: each costs a pass over the remaining atoms."""


@dataclass(frozen=True)
class AtomGroups:
    """Unit-norm atoms, sorted into groups of similar atoms.

    Attributes
    ----------
    means
        Unit-norm mean of each group (groups, features).
    atoms
        All atoms (places, features); each group is a contiguous range of an even number of places.
    index
        Index of the atom at each place (places,), int64.
    starts
        First place of each group, and the number of places (groups + 1,), int64, on the CPU.
    """

    means: torch.Tensor
    atoms: torch.Tensor
    index: torch.Tensor
    starts: torch.Tensor


def group_atoms(atoms: torch.Tensor, groups: int) -> AtomGroups:
    """Group atoms (atoms, features) of unit norm by their inner products.

    As in Cauley et al., each group consists of a seed atom and the most similar of the remaining
    atoms. The next seed is the remaining atom that is least similar to the previous seed.
    """
    unit = atoms.cpu()
    size = -(-len(unit) // groups)
    remaining = torch.arange(len(unit))
    seed = 0
    members = []
    while len(remaining):
        raise_if_cancelled()
        similarity = unit[remaining] @ unit[remaining[seed]]
        nearest = similarity.topk(min(size, len(remaining))).indices
        rest = torch.ones(len(remaining), dtype=torch.bool)
        rest[nearest] = False
        members.append(remaining[nearest])
        remaining = remaining[rest]
        if len(remaining):
            seed = int(similarity[rest].argmin())
    means = torch.stack([unit[m].mean(0) for m in members])
    padded = [torch.cat([m, m[:1]]) if len(m) % 2 else m for m in members]
    index = torch.cat(padded)
    starts = torch.tensor([0, *(len(m) for m in padded)]).cumsum(0)
    return AtomGroups(
        torch.nn.functional.normalize(means, dim=1).to(atoms.device),
        unit[index].to(atoms.device),
        index.to(atoms.device),
        starts,
    )


class GroupSearch:
    """Search for the best atom in a few groups of atoms; replaces `exact_search`.

    Parameters
    ----------
    groups
        Number of groups.
    threshold
        Groups are searched if their mean scores at least this fraction of the best mean. Lower
        values search more groups, 0 all.
    cache_size
        Number of groupings to cache: atoms differ with the weights of the images and with the level
        of the transmit field.

    Raises
    ------
    ValueError
        If a value is out of range.

    References
    ----------
    Cauley et al., Magn Reson Med 74:523 (2015).
    """

    def __init__(self, groups: int = 150, threshold: float = 0.99, cache_size: int = 4) -> None:
        if not 1 <= groups <= _MOST_GROUPS:
            raise ValueError(f"groups must lie between 1 and {_MOST_GROUPS}, got {groups}")
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must lie between 0 and 1, got {threshold}")
        self._groups = groups
        self._threshold = threshold
        self._cache_size = cache_size
        self._known: dict[bytes, AtomGroups] = {}

    def __call__(
        self, atoms: torch.Tensor, signals: torch.Tensor, n_coefficients: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Find the best atom for each signal; see `exact_search`."""
        grouped = self._grouped(atoms)
        if on_cpu(signals):
            places, scores = self._compiled(grouped, signals, n_coefficients)
        else:
            places, scores = self._group_by_group(grouped, signals, n_coefficients)
        return grouped.index[places], scores

    def _compiled(
        self, grouped: AtomGroups, signals: torch.Tensor, n_coefficients: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return place and score, for blocks of voxels at a time."""
        order = self._order(grouped, signals, n_coefficients)
        search = _compiled_search(n_coefficients, grouped.atoms.shape[1] - n_coefficients)
        places = torch.empty(signals.shape[1], dtype=torch.int64)
        scores = torch.empty(signals.shape[1])
        run_in_threads(
            search,
            grouped.means.numpy(),
            grouped.atoms.numpy(),
            grouped.starts.numpy(),
            signals.contiguous().numpy(),
            order.numpy(),
            np.float32(self._threshold),
            places.numpy(),
            scores.numpy(),
            n_steps=n_blocks(signals),
        )
        return places, scores

    def _order(
        self, grouped: AtomGroups, signals: torch.Tensor, n_coefficients: int
    ) -> torch.Tensor:
        """Return the order of the voxels in which they form blocks.

        A block is searched in all groups that any of its voxels needs. Sorting by group and score
        collects voxels that need similar groups; noisy voxels need more groups.
        """
        nearest, score = exact_search(grouped.means, signals, n_coefficients)
        energy = signals.square().sum(0).clamp_min_(torch.finfo(torch.float32).tiny)
        return (nearest + score / energy.sqrt_()).argsort()

    def _group_by_group(
        self, grouped: AtomGroups, signals: torch.Tensor, n_coefficients: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return place and score, for all blocks that need a group at a time (GPU).

        Several blocks together are a part of the voxels, so that the scores of all groups fit into
        memory.
        """
        order = self._order(grouped, signals, n_coefficients)
        places = torch.empty_like(order)
        scores = torch.empty(len(order), device=signals.device)
        part_size = max(1, SCORES_AT_ONCE // (len(grouped.means) * VOXEL_BLOCK)) * VOXEL_BLOCK
        for part in torch.split(order, part_size):
            raise_if_cancelled()
            found = self._part_by_group(grouped, signals[:, part], n_coefficients)
            places[part], scores[part] = found
        return places, scores

    def _part_by_group(
        self, grouped: AtomGroups, signals: torch.Tensor, n_coefficients: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return place and score of voxels whose blocks follow one another."""
        of_groups = scores_of(grouped.means, signals, n_coefficients)
        highest = of_groups.amax(0)
        needed = of_groups >= torch.where(highest > 0, self._threshold * highest, highest)
        n_voxels = signals.shape[1]
        blocks = torch.nn.functional.pad(needed, (0, -n_voxels % VOXEL_BLOCK))
        blocks = blocks.reshape(len(blocks), -1, VOXEL_BLOCK).any(2)
        by_voxel = blocks.repeat_interleave(VOXEL_BLOCK, dim=1)[:, :n_voxels]
        best = torch.full_like(highest, -torch.inf)
        places = torch.zeros_like(highest, dtype=torch.int64)
        bounds = grouped.starts.tolist()
        # The voxels of all groups at once, because the host waits for each list from the GPU.
        searched = by_voxel.flatten().nonzero()[:, 0]
        by_group = torch.split(searched, by_voxel.sum(1).tolist())
        for number, (first, stop) in enumerate(itertools.pairwise(bounds)):
            voxels = by_group[number] - number * n_voxels
            for chosen in torch.split(voxels, max(1, SCORES_AT_ONCE // (stop - first))):
                found = scores_of(grouped.atoms[first:stop], signals[:, chosen], n_coefficients)
                score, place = found.max(0)
                better = score > best[chosen]
                best[chosen] = torch.where(better, score, best[chosen])
                places[chosen] = torch.where(better, place + first, places[chosen])
        return places, best

    def _grouped(self, atoms: torch.Tensor) -> AtomGroups:
        """Return the groups of these atoms, from the cache if possible."""
        key = hashlib.sha256(atoms.cpu().contiguous().numpy().tobytes()).digest()
        if key not in self._known:
            if len(self._known) >= self._cache_size:
                self._known.clear()
            self._known[key] = group_atoms(atoms, min(self._groups, len(atoms)))
        return self._known[key]


@functools.cache
def _compiled_search(n_coefficients: int, n_images: int) -> Callable[..., Any]:
    """Compile the search: best group of each voxel, then all groups that a block needs."""
    scan = compiled_scan(n_coefficients, n_images)

    @compiled(fastmath=True, nogil=True)
    @unique_name(n_coefficients, n_images)
    def search(
        means: NDArray[np.float32],
        atoms: NDArray[np.float32],
        starts: NDArray[np.int64],
        signals: NDArray[np.float32],
        order: NDArray[np.int64],
        threshold: np.float32,
        best_place: NDArray[np.int64],
        best_score: NDArray[np.float32],
        first_block: int,
        stop_block: int,
    ) -> None:  # pragma: no cover - compiled
        n_voxels, n_groups = signals.shape[1], len(means)
        for block in range(first_block, stop_block):
            start = block * VOXEL_BLOCK
            size = min(VOXEL_BLOCK, n_voxels - start)
            part = np.zeros((2 * n_coefficients + n_images, VOXEL_BLOCK), dtype=np.float32)
            for k in range(part.shape[0]):
                for i in range(size):
                    part[k, i] = signals[k, order[start + i]]
            of_groups = np.empty((n_groups, VOXEL_BLOCK), dtype=np.float32)
            limit = np.full(VOXEL_BLOCK, -np.inf, dtype=np.float32)
            for g in range(n_groups):
                for i in range(VOXEL_BLOCK):
                    real = imaginary = value = np.float32(0)
                    for k in range(n_coefficients):
                        real += means[g, k] * part[k, i]
                        imaginary += means[g, k] * part[n_coefficients + k, i]
                    for k in range(n_images):
                        value += means[g, n_coefficients + k] * part[2 * n_coefficients + k, i]
                    value += np.sqrt(real * real + imaginary * imaginary)
                    of_groups[g, i] = value
                    limit[i] = max(limit[i], value)
            for i in range(VOXEL_BLOCK):
                limit[i] *= threshold if limit[i] > 0 else np.float32(1)
            index = np.zeros(VOXEL_BLOCK, dtype=np.int32)
            score = np.full(VOXEL_BLOCK, -np.inf, dtype=np.float32)
            for g in range(n_groups):
                needed = 0
                for i in range(VOXEL_BLOCK):
                    needed += of_groups[g, i] >= limit[i] and i < size
                if needed:
                    scan(atoms, starts[g], starts[g + 1], part, index, score)
            for i in range(size):
                best_place[order[start + i]] = index[i]
                best_score[order[start + i]] = score[i]

    return search

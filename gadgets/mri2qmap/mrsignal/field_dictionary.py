"""Dictionaries for a map of the transmit field: each voxel is matched to atoms of its own B1."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass, replace

import torch

from mri2qmap.mrsignal.dictionary import (
    Dictionary,
    DictionarySettings,
    LookupTable,
    Search,
    load_dictionary,
)
from mri2qmap.mrsignal.epg import Progress
from mri2qmap.mrsignal.sequence import Sequence

B1_RANGE = (0.3, 2.0)
"""Relative transmit fields that a map may have."""

LEVELS_PER_UNIT = 100
"""Levels of the field, 0.01 apart. A B1 that is wrong by half of that makes an error of at most 1 %
in T2 and none to speak of in T1 of white and grey matter; by 0.025, 3.5 to 6 % in T2."""

MOST_LEVELS = round((B1_RANGE[1] - B1_RANGE[0]) * LEVELS_PER_UNIT) + 1

_NODES_PER_UNIT = 10
_FIRST_NODE, _LAST_NODE = 2, 20
"""Atoms are simulated at B1 = 0.2, 0.3, ..., 2 and interpolated between: the simulation of a
dictionary takes seconds. A cubic through the four nearest nodes errs by 2e-5 of an atom's norm
(median, B1 0.75 to 1.25; the worst atom by 5e-3)."""
_STENCIL = 4


@dataclass(frozen=True)
class FieldDictionary(Dictionary):
    """Signals of unit proton density at several levels of the transmit field.

    The atoms of the levels follow one another, with the same T1-T2 pairs for each: what finds atoms
    by their position in a `Dictionary` finds them here too, those of the voxel's own level.

    Attributes
    ----------
    b1
        Relative transmit field of each level (levels,), rising.
    level
        Level of each voxel, int64, of the shape of the images that are matched (z, y, x).
    """

    b1: torch.Tensor
    level: torch.Tensor

    @property
    def pairs(self) -> int:
        """Number of T1-T2 pairs, which is that of the atoms of a level."""
        return len(self.lut) // len(self.b1)

    def to(self, device: torch.device | str) -> FieldDictionary:
        """Copy on another device."""
        plain = super().to(device)
        return FieldDictionary(
            plain.lut,
            plain.basis,
            plain.mrf_atoms,
            plain.mri_atoms,
            plain.energy_kept,
            self.b1.to(device),
            self.level.to(device),
        )

    def select(self, voxels: torch.Tensor) -> FieldDictionary:
        """The same for images of some of the voxels: a mask (z, y, x), bool."""
        return replace(self, level=self.level[voxels])

    def adapt_search(self, search: Search) -> Search:
        """The search as `match` is to use it: level by level, of the atoms of that level."""

        def level_by_level(
            atoms: torch.Tensor, signals: torch.Tensor, n_coefficients: int
        ) -> tuple[torch.Tensor, torch.Tensor]:
            order, bounds = self._voxels_by_level
            if signals.shape[1] != len(order):
                raise ValueError(
                    f"images of {signals.shape[1]} voxels, a transmit field of {len(order)}"
                )
            sorted_signals = signals[:, order]
            index, score = torch.empty_like(order), torch.empty_like(signals[0])
            for number, (start, stop) in enumerate(itertools.pairwise(bounds)):
                if start == stop:
                    continue
                first_atom = number * self.pairs
                found, scores = search(
                    atoms[first_atom : first_atom + self.pairs],
                    sorted_signals[:, start:stop],
                    n_coefficients,
                )
                index[order[start:stop]] = found + first_atom
                score[order[start:stop]] = scores
            return index, score

        return level_by_level

    @functools.cached_property
    def _voxels_by_level(self) -> tuple[torch.Tensor, list[int]]:
        """Voxels in the order of their levels, and where each level begins, and the end."""
        level = self.level.reshape(-1)
        counts = torch.bincount(level, minlength=len(self.b1))
        return level.argsort(stable=True), [0, *counts.cumsum(0).tolist()]


def load_field_dictionary(
    sequence: Sequence,
    settings: DictionarySettings,
    b1: torch.Tensor,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> FieldDictionary:
    """Dictionary of a sequence for a map of the transmit field.

    Only levels that occur are made, from dictionaries at B1 = 0.2, 0.3, ..., 2 that are simulated
    once and then come from the disk cache, see `load_dictionary`. All share the temporal subspace
    of the nominal field.

    Parameters
    ----------
    sequence, settings, device, progress
        As for `load_dictionary`; `settings.b1` is not used.
    b1
        Relative transmit field (z, y, x), on the CPU.

    Raises
    ------
    ValueError
        If a value of the field lies outside of `B1_RANGE`.
    """
    low, high = B1_RANGE
    if not bool(((b1 >= low) & (b1 <= high)).all()):
        raise ValueError(f"the transmit field must lie between {low:g} and {high:g}")
    numbers, level = torch.round(b1 * LEVELS_PER_UNIT).to(torch.int64).unique(return_inverse=True)

    @functools.cache
    def node(number: int) -> Dictionary:
        at_node = replace(settings, b1=number / _NODES_PER_UNIT)
        return load_dictionary(sequence, at_node, progress=progress)

    weights = [_node_weights(number) for number in numbers.tolist()]
    any_node = node(next(iter(weights[0])))
    count = len(weights)
    return FieldDictionary(
        LookupTable(any_node.lut.t1.repeat(count), any_node.lut.t2.repeat(count)),
        any_node.basis,
        torch.cat([_weighted_sum({n: node(n).mrf_atoms for n in of}, of) for of in weights]),
        any_node.mri_atoms.repeat(count, 1),
        any_node.energy_kept,
        numbers / LEVELS_PER_UNIT,
        level,
    ).to(device)


def _node_weights(level: int) -> dict[int, float]:
    """Nodes and their weights for a level: itself, or Lagrange's of the four around it."""
    position = level * _NODES_PER_UNIT / LEVELS_PER_UNIT
    if position.is_integer():
        return {int(position): 1.0}
    first = min(max(math.floor(position) - 1, _FIRST_NODE), _LAST_NODE - _STENCIL + 1)
    nodes = range(first, first + _STENCIL)
    return {
        node: math.prod((position - n) / (node - n) for n in nodes if n != node) for node in nodes
    }


def _weighted_sum(atoms: dict[int, torch.Tensor], weights: dict[int, float]) -> torch.Tensor:
    return torch.stack([weight * atoms[node] for node, weight in weights.items()]).sum(0)

"""Dictionaries for a map of the transmit field: each voxel is matched to atoms at its own B1."""

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
"""Allowed range of the relative transmit field."""

LEVELS_PER_UNIT = 100
"""Levels of the field are 0.01 apart. In white and grey matter, a B1 error of half a level changes
T2 by at most 1 % and T1 negligibly; an error of 0.025 changes T2 by 3.5 to 6 %."""

MOST_LEVELS = round((B1_RANGE[1] - B1_RANGE[0]) * LEVELS_PER_UNIT) + 1

_NODES_PER_UNIT = 10
_FIRST_NODE, _LAST_NODE = 2, 20
"""Atoms are simulated at the nodes B1 = 0.2, 0.3, ..., 2 and interpolated between them, because the
simulation of a dictionary takes seconds. The error of cubic interpolation between the four nearest
nodes is 2e-5 of an atom's norm (median, B1 0.75 to 1.25; 5e-3 for the worst atom)."""
_STENCIL = 4
SIMULATED_FIELDS = _LAST_NODE - _FIRST_NODE + 1
"""Maximum number of dictionaries that are simulated for a map."""


@dataclass(frozen=True)
class FieldDictionary(Dictionary):
    """Signals of unit proton density at several levels of the transmit field.

    The atoms of the levels are concatenated, with the same T1-T2 pairs for each level. Atom indices
    are used as for a `Dictionary` and refer to atoms of the voxel's own level.

    Attributes
    ----------
    b1
        Relative transmit field of each level (levels,), ascending.
    level
        Level of each voxel, int64, of the shape of the images (z, y, x).
    """

    b1: torch.Tensor
    level: torch.Tensor

    @property
    def pairs(self) -> int:
        """Number of T1-T2 pairs, equal to the number of atoms of one level."""
        return len(self.lut) // len(self.b1)

    def to(self, device: torch.device | str) -> FieldDictionary:
        """Return a copy on another device."""
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
        """Return the dictionary for some of the voxels, given as a mask (z, y, x), bool."""
        return replace(self, level=self.level[voxels])

    def adapt_search(self, search: Search) -> Search:
        """Return the search that `match` uses: over the atoms of each level for its voxels."""

        def level_by_level(
            atoms: torch.Tensor, signals: torch.Tensor, n_coefficients: int
        ) -> tuple[torch.Tensor, torch.Tensor]:
            order, bounds = self._voxels_by_level
            if signals.shape[1] != len(order):
                raise ValueError(
                    f"images of {signals.shape[1]} voxels do not match a transmit field of"
                    f" {len(order)}"
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
        """Voxels sorted by level, and the start index of each level followed by the end."""
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
    """Return the dictionary of a sequence for a map of the transmit field.

    Only levels that occur are created, from dictionaries at B1 = 0.2, 0.3, ..., 2 that are
    simulated once and cached on disk, see `load_dictionary`. All levels share the temporal subspace
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
        If a value of the field is outside `B1_RANGE`.
    """
    low, high = B1_RANGE
    if not bool(((b1 >= low) & (b1 <= high)).all()):
        raise ValueError(f"the transmit field must lie between {low:g} and {high:g}")
    numbers, level = torch.unique(
        torch.round(b1 * LEVELS_PER_UNIT).to(torch.int64), return_inverse=True
    )

    @functools.cache
    def node(number: int) -> Dictionary:
        at_node = replace(settings, b1=number / _NODES_PER_UNIT)
        return load_dictionary(sequence, at_node, device, progress)

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
    """Return the nodes and weights of a level: the node itself, or cubic Lagrange interpolation."""
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

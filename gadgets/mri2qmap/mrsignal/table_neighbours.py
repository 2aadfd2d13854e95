"""Neighbours of the pairs of a lookup table, for derivatives and interpolation of atoms."""

from __future__ import annotations

from dataclasses import dataclass

import torch

_CENTRES = (
    (0, 0), (-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1)
)  # fmt: skip
"""Centres of a stencil relative to the pair, in the order in which they are preferred."""


@dataclass(frozen=True)
class Stencils:
    """Three times three neighbouring pairs for each pair of a table.

    The stencil is centred at the pair, or at one of its neighbours where the table ends.

    Attributes
    ----------
    pairs
        Indices of the pairs (pairs, 9), int64; T1 varies slowest. The pair itself nine times where
        the table has no such stencil.
    place
        Place of the pair in its stencil (pairs, 2), int64: -1, 0 or 1 along T1 and along T2.
    complete
        Whether there is a stencil (pairs,), bool.
    """

    pairs: torch.Tensor
    place: torch.Tensor
    complete: torch.Tensor


def stencils(t1: torch.Tensor, t2: torch.Tensor) -> Stencils:
    """Return the stencils of the pairs of T1 and T2 (pairs,), which lie on a grid."""
    number, row, column = _numbered(t1, t2, margin=2)
    own = torch.arange(len(t1), device=t1.device)
    pairs = own[:, None].repeat(1, 9)
    place = torch.zeros(len(t1), 2, dtype=torch.int64, device=t1.device)
    complete = torch.zeros(len(t1), dtype=torch.bool, device=t1.device)
    around = torch.tensor([-1, 0, 1], device=t1.device)
    for down, right in _CENTRES:
        rows = row[:, None, None] + down + around[:, None]
        columns = column[:, None, None] + right + around
        found = number[rows, columns].flatten(1)
        new = (found >= 0).all(1) & ~complete
        pairs[new] = found[new]
        place[new] = torch.tensor([-down, -right], device=t1.device)
        complete |= new
    return Stencils(pairs, place, complete)


def neighbours(t1: torch.Tensor, t2: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the neighbouring pairs (pairs,) along T1 and along T2, each as (smaller, larger).

    The pair itself where there is no neighbour.
    """
    number, row, column = _numbered(t1, t2, margin=1)
    own = torch.arange(len(t1), device=t1.device)

    def at(rows: int, columns: int) -> torch.Tensor:
        found = number[row + rows, column + columns]
        return found.where(found >= 0, own)

    return [(at(-1, 0), at(1, 0)), (at(0, -1), at(0, 1))]


def _numbered(
    t1: torch.Tensor, t2: torch.Tensor, margin: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the grid of the numbers of the pairs, -1 where there is none, and their places in it.

    The margin makes sure that every pair has entries around it.
    """
    (first, row), (second, column) = (
        torch.unique(times, return_inverse=True) for times in (t1, t2)
    )
    row, column = row + margin, column + margin
    shape = (len(first) + 2 * margin, len(second) + 2 * margin)
    number = torch.full(shape, -1, device=t1.device)
    number[row, column] = torch.arange(len(t1), device=t1.device)
    return number, row, column

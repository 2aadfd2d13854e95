"""Data structure of an anatomy: the tissue of every voxel on the grid of its source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mri2qmap.anatomy.tissues import GREY_MATTER, WHITE_MATTER, Tissue


@dataclass(frozen=True)
class Anatomy:
    """Tissue of every source voxel, as classes or as fractions.

    Attributes
    ----------
    name
        Name in headers and records.
    tissues
        Tissues that occur.
    classes
        Number of the tissue of each voxel (i, j, k) uint8, counted from 1, 0 for no signal; None if
        `fractions` is given.
    fractions
        Fraction of each tissue (tissue, i, j, k) float32, sum at most 1; None if `classes` is
        given.
    brain
        Voxels inside the skull (i, j, k), bool.
    affine
        Homogeneous voxel indices (i, j, k, 1) to right-anterior-superior [mm].
    """

    name: str
    tissues: tuple[Tissue, ...]
    classes: NDArray[np.uint8] | None
    fractions: NDArray[np.float32] | None
    brain: NDArray[np.bool_]
    affine: NDArray[np.float64]

    def volumes(self) -> Iterator[NDArray[Any]]:
        """Yield the fraction of each tissue (i, j, k), float32 or bool."""
        if self.fractions is not None:
            yield from self.fractions
        elif self.classes is not None:
            for number in range(1, 1 + len(self.tissues)):
                yield self.classes == number

    def brain_only(self) -> Anatomy:
        """Return a skull-stripped copy: no signal outside the brain."""
        classes = None if self.classes is None else self.classes * self.brain
        fractions = None if self.fractions is None else self.fractions * self.brain
        return Anatomy(self.name, self.tissues, classes, fractions, self.brain, self.affine)

    def parenchyma(self) -> NDArray[np.bool_]:
        """Return voxels (i, j, k) inside the skull with more than half grey and white matter."""
        matter = [i for i, t in enumerate(self.tissues) if t in (GREY_MATTER, WHITE_MATTER)]
        if self.fractions is not None:
            filled: NDArray[np.bool_] = self.fractions[matter].sum(0) > 0.5
        elif self.classes is not None:
            filled = np.isin(self.classes, [1 + i for i in matter])
        return filled & self.brain

    @property
    def voxel_size_mm(self) -> NDArray[np.float64]:
        """Voxel edge lengths along (i, j, k) [mm]."""
        edges: NDArray[np.float64] = np.linalg.norm(self.affine[:3, :3], axis=0)
        return edges

"""`mri2qmap.evaluate`: maps against the truth of a simulation."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from mri2qmap.errors import Mri2QmapError
from mri2qmap.evaluation import evaluate as comparison
from mri2qmap.evaluation.maps import Maps
from mri2qmap.simulation.truth import Truth, read_truth


class HasTruth(Protocol):
    """Something that contains a truth, as the result of `mri2qmap.simulate` does."""

    @property
    def truth(self) -> Truth:
        """The truth."""


TruthInput: TypeAlias = str | os.PathLike[str] | Truth | HasTruth
"""A folder that ``mri2qmap simulate --truth`` wrote, a `Truth`, or a simulated scan."""


def evaluate(maps: Maps | str | os.PathLike[str], truth: TruthInput) -> dict[str, Any]:
    """Compare maps with the truth of a simulated scan.

    Parameters
    ----------
    maps
        Maps of a reconstruction, or the folder that ``mri2qmap replay`` or `Maps.save` wrote.
    truth
        The simulated scan, its truth, or the folder of the truth.

    Returns
    -------
        Errors in percent, medians of T1 and T2 in seconds, and more: see
        `mri2qmap.evaluation.evaluate.evaluate`.

    Raises
    ------
    Mri2QmapError
        If something is missing or cannot be read, or the maps do not lie on the grid of the truth.
    """
    known = _truth(truth)
    if isinstance(maps, Maps):
        comparison.refuse_other_grid("maps", maps.t1.shape, maps.affine, known)
        found = maps
    elif isinstance(maps, str | os.PathLike):
        folder = Path(maps)
        if not folder.is_dir():
            raise Mri2QmapError(
                f"{folder}: there is no such folder; the one that mri2qmap replay wrote is expected"
            )
        found = comparison.read_maps(folder, known)
    else:
        raise Mri2QmapError(f"maps: Maps or a folder is expected, got {type(maps).__name__}")
    return comparison.evaluate(found, known, comparison.truth_dictionary(known))


def _truth(truth: TruthInput) -> Truth:
    if isinstance(truth, str | os.PathLike):
        return read_truth(Path(truth))
    known = truth if isinstance(truth, Truth) else getattr(truth, "truth", None)
    if not isinstance(known, Truth):
        raise Mri2QmapError(
            f"truth: a folder, a Truth or a simulated scan is expected, got {type(truth).__name__}"
        )
    return known

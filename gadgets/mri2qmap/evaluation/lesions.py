"""Lesions of known place: their values and their contrast to the surroundings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

SHELL_VOXELS = (2.0, 5.0)
"""Smallest and largest distance of the surrounding shell from the lesion [voxels]."""
NO_CONTRAST = 1e-3
"""Contrast of the truth, relative to its mean in the shell, below which there is none."""


def compare_lesions(
    estimates: Mapping[str, NDArray[np.floating]],
    references: Mapping[str, NDArray[np.floating]],
    lesions: NDArray[np.integer],
    records: Iterable[Mapping[str, Any]],
    white_matter: NDArray[np.bool_],
) -> list[dict[str, Any]]:
    """Compare the values in lesions, and their contrast to the surroundings, with the truth.

    The contrast is the mean over the lesion minus the mean over a shell of white matter, 2 to 5
    voxels away (`SHELL_VOXELS`), outside of the first 2 voxels around every other lesion. Estimate
    and truth use the same voxels.

    Parameters
    ----------
    estimates, references
        Volumes (z, y, x) by name, such as "t1" and "t2".
    lesions
        Label of the lesion that a voxel belongs to (z, y, x), 0 for none.
    records
        ``label`` of each lesion and, where known, ``name`` and ``diameter_mm``. Labels that only
        the volume holds follow, without a name.
    white_matter
        (z, y, x).

    Returns
    -------
        For each lesion ``label``, ``name``, ``diameter_mm``, ``voxels``, ``shell_voxels``, and for
        each volume a mapping with

        - ``mean`` and ``mean_true``: means over the lesion, in the unit of the volume;
        - ``error``: of the mean [%];
        - ``contrast_recovered``: contrast in the estimate over that in the truth; 1 as in the
          truth, 0 lost, negative inverted;
        - ``contrast_to_noise``: contrast in the estimate over its standard deviation in the shell,
          which is noise and texture; positive if the lesion is brighter. Rose's criterion asks for
          3 to 5 for a lesion of one voxel, and for less the more voxels there are;
        - ``contrast_to_noise_true``: the same of the truth, whose shell has texture only.

        Values that have no meaning, as without a voxel of the lesion or of the shell, are NaN.
    """
    known = [(int(record["label"]), record) for record in records]
    labels = {label for label, _ in known}
    known += [(int(n), {}) for n in np.unique(lesions[lesions > 0]) if int(n) not in labels]
    return [
        _compare(estimates, references, lesions, label, record, white_matter)
        for label, record in known
    ]


def shell(
    lesions: NDArray[np.integer], label: int, white_matter: NDArray[np.bool_]
) -> tuple[tuple[slice, ...], NDArray[np.bool_]]:
    """Box around a lesion that has voxels, and within it the voxels of the surrounding shell."""
    near, far = SHELL_VOXELS
    margin = int(np.ceil(far + near))  # the other lesions that can be near the shell
    (found,) = ndimage.find_objects(np.asarray(lesions == label, dtype=np.uint8))
    box = tuple(slice(max(0, s.start - margin), s.stop + margin) for s in found)
    inside = lesions[box]
    distance = ndimage.distance_transform_edt(inside != label)
    # Without any voxel of value 0 the distance transform has no meaning; here is this lesion.
    to_any = ndimage.distance_transform_edt(inside == 0)
    away = (distance >= near) & (distance <= far) & (to_any >= near)
    return box, np.asarray(away & white_matter[box], dtype=bool)


def _compare(
    estimates: Mapping[str, NDArray[np.floating]],
    references: Mapping[str, NDArray[np.floating]],
    lesions: NDArray[np.integer],
    label: int,
    record: Mapping[str, Any],
    white_matter: NDArray[np.bool_],
) -> dict[str, Any]:
    core = lesions == label
    if core.any():
        box, around = shell(lesions, label, white_matter)
    else:  # smaller than the voxels
        box, around = (slice(0, 0),) * 3, np.zeros((0, 0, 0), dtype=bool)
    result: dict[str, Any] = {
        "label": label,
        "name": record.get("name"),
        "diameter_mm": record.get("diameter_mm"),
        "voxels": int(core.sum()),
        "shell_voxels": int(around.sum()),
    }
    for name, reference in references.items():
        result[name] = _values(estimates[name][box], reference[box], core[box], around)
    return result


def _values(
    estimate: NDArray[np.floating],
    reference: NDArray[np.floating],
    core: NDArray[np.bool_],
    around: NDArray[np.bool_],
) -> dict[str, float]:
    found, found_around = estimate[core].astype(np.float64), estimate[around].astype(np.float64)
    true, true_around = reference[core].astype(np.float64), reference[around].astype(np.float64)
    mean, mean_true = _mean(found), _mean(true)
    level = _mean(true_around)
    contrast, contrast_true = mean - _mean(found_around), mean_true - level
    visible = abs(contrast_true) >= NO_CONTRAST * abs(level)
    return {
        "mean": mean,
        "mean_true": mean_true,
        "error": 100 * (mean - mean_true) / mean_true if mean_true else float("nan"),
        "contrast_recovered": contrast / contrast_true if visible else float("nan"),
        "contrast_to_noise": _over_deviation(contrast, found_around),
        "contrast_to_noise_true": _over_deviation(contrast_true, true_around),
    }


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else float("nan")


def _over_deviation(contrast: float, values: NDArray[np.float64]) -> float:
    """Contrast over the standard deviation of values; NaN if they have none."""
    if values.size < 2:
        return float("nan")
    deviation = float(values.std(ddof=1))
    return contrast / deviation if deviation > 1e-6 * abs(_mean(values)) else float("nan")

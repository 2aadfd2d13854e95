"""Random tissue parameters for the structures of a whole-head label map.

Labels inside the brain are those of FreeSurfer. Labels of 500 and above are the extra-cerebral
clusters of the SynthSeg training maps. Their meaning is known only from their position, so their
parameters are drawn from wide ranges. The ranges cover literature values at 3 T and the values of
the BrainWeb phantom in the MRI2Qmap paper.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: (T1 range [s], T2 range [s], PD range) of a tissue; T1 and T2 are drawn log-uniformly.
_RANGES = {
    "white": ((0.55, 1.05), (0.050, 0.090), (0.62, 0.82)),
    "grey": ((1.00, 1.75), (0.070, 0.120), (0.75, 0.92)),
    "csf": ((2.80, 4.50), (0.600, 2.200), (0.90, 1.05)),
    "vessel": ((1.30, 2.20), (0.080, 0.250), (0.70, 1.50)),
    "muscle": ((0.95, 1.70), (0.030, 0.070), (0.75, 1.05)),
    "fat": ((0.22, 0.45), (0.050, 0.110), (0.80, 1.05)),
    "marrow": ((0.40, 0.75), (0.035, 0.080), (0.40, 1.00)),
    "dura": ((0.80, 1.20), (0.080, 0.180), (0.70, 1.00)),
    "bone": ((0.30, 1.00), (0.015, 0.050), (0.00, 0.08)),
    "air": ((0.50, 2.00), (0.050, 0.100), (0.00, 0.00)),
}

#: Interpolation weight of grey matter in the parameters of structures of white and grey matter.
GREY_SHARE = {
    2: 0.0, 41: 0.0, 3: 1.0, 42: 1.0, 7: 0.05, 46: 0.05, 8: 0.95, 47: 0.95, 10: 0.55, 49: 0.55,
    11: 0.9, 50: 0.9, 12: 0.8, 51: 0.8, 13: 0.3, 52: 0.3, 16: 0.25, 17: 1.0, 53: 1.0, 18: 1.0,
    54: 1.0, 26: 0.9, 58: 0.9, 28: 0.3, 60: 0.3, 85: 0.2, 77: 0.4, 25: 0.6, 57: 0.6,
}  # fmt: skip
#: Labels with the parameters of CSF.
_FLUID = (4, 43, 5, 44, 14, 15, 24, 31, 63, 72, 514)
#: Labels of the right hemisphere, and the left labels with the same parameters.
PAIRED = {41: 2, 42: 3, 46: 7, 47: 8, 49: 10, 50: 11, 51: 12, 52: 13, 53: 17, 54: 18, 58: 26,
           60: 28, 57: 25, 62: 30, 43: 4, 44: 5}  # fmt: skip
#: Possible tissues of extra-cerebral labels.
_OUTSIDE = {
    507: ("muscle", "fat", "muscle"),
    511: ("muscle", "fat", "dura"),
    515: ("bone", "marrow", "dura"),
    516: ("bone", "bone", "marrow"),
    509: ("csf", "air", "muscle", "fat"),
}
_OTHER_OUTSIDE = ("muscle", "fat", "bone", "marrow", "air", "dura", "vessel")
#: Lowest label outside the brain.
FIRST_OUTSIDE = 500


def draw_tissue_table(
    labels: tuple[int, ...], brain_only: bool, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draw T1, T2 and PD of every label.

    Parameters
    ----------
    labels : tuple of int
        Labels; 0 is the background.
    brain_only : bool
        Whether to set the proton density outside the brain to zero.
    rng : numpy.random.Generator
        Random number generator.

    Returns
    -------
    ndarray
        (labels, 3) float64: T1 [s], T2 [s], PD.
    """
    drawn = {name: _draw(name, rng) for name in _RANGES}
    # Some volumes have a single grey matter, white matter and fluid, as phantoms of few tissues.
    simple = rng.random() < 0.3
    spread = 0.0 if simple else 0.05
    tables: dict[int, NDArray[np.float64]] = {}
    for label in labels:
        twin = PAIRED.get(label)
        if twin in tables:
            tables[label] = tables[twin]
            continue
        if label == 0:
            values = drawn["air"]
        elif label in GREY_SHARE:
            share = GREY_SHARE[label]
            if simple:
                share = float(share > 0.4)
            elif share not in (0.0, 1.0):
                share = float(np.clip(share + rng.uniform(-0.25, 0.25), 0, 1))
            values = drawn["white"] ** (1 - share) * drawn["grey"] ** share
            values = values * np.exp(rng.normal(0, spread, 3) * (1, 1, 0.4))
        elif label in _FLUID:
            values = drawn["csf"] * np.exp(rng.normal(0, spread, 3) * (1, 1, 0.4))
        elif label >= FIRST_OUTSIDE:
            values = _draw(str(rng.choice(_OUTSIDE.get(label, _OTHER_OUTSIDE))), rng)
        else:
            values = drawn["vessel"]
        if brain_only and label >= FIRST_OUTSIDE:
            values = values * (1, 1, 0)
        tables[label] = values
    return np.stack([tables[label] for label in labels])


def _draw(name: str, rng: np.random.Generator) -> NDArray[np.float64]:
    t1, t2, pd = _RANGES[name]
    return np.array(
        [np.exp(rng.uniform(*np.log(t1))), np.exp(rng.uniform(*np.log(t2))), rng.uniform(*pd)]
    )

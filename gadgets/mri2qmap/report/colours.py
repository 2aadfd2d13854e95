"""Tables of colours of the maps.

Lipari for T1 and Navia for T2 are recommended for relaxation times by Fuderer et al., Color-map
recommendation for MR relaxometry maps, Magn Reson Med 93:490 (2025). They are perceptually uniform
and suit people with colour-vision deficiencies: F. Crameri, Scientific colour maps,
doi:10.5281/zenodo.1243862 (MIT licence), from the package cmap.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

LIPARI = "lipari"
NAVIA = "navia"
GREY = "grey"
_NAMES = {LIPARI: "crameri:lipari", NAVIA: "crameri:navia"}
_STOPS = 33


@functools.cache
def colour_table(name: str) -> NDArray[np.uint8]:
    """Return the 256 colours of a table, red, green and blue (256, 3); callers must not change it.

    Its first entry is black, which no other is: voxels without a value.
    """
    if name == GREY:
        table = np.repeat(np.arange(256, dtype=np.uint8)[:, np.newaxis], 3, axis=1)
    else:
        from cmap import Colormap

        table = np.rint(Colormap(_NAMES[name]).lut(256)[:, :3] * 255).astype(np.uint8)
        table[0] = 0
    table.setflags(write=False)
    return table


def coloured(
    picture: NDArray[np.floating], window: tuple[float, float], name: str
) -> NDArray[np.uint8]:
    """Return an image (rows, columns) in colour, uint8 (rows, columns, 3).

    Zero is black; every other value has a colour of the table, also at or below the window.
    """
    low, high = window
    index = np.clip(np.rint((picture - low) / (high - low) * 255), 0 if name == GREY else 1, 255)
    index[picture == 0] = 0
    found: NDArray[np.uint8] = colour_table(name)[index.astype(np.uint8)]
    return found


def gradient(name: str, direction: str = "to right") -> str:
    """Return a table as a CSS gradient from its low to its high end."""
    table = colour_table(name)
    rows = np.linspace(0 if name == GREY else 1, 255, _STOPS).astype(int)
    return f"linear-gradient({direction}, {', '.join('#' + bytes(table[r]).hex() for r in rows)})"

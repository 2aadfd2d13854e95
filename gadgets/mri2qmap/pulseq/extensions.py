"""Extensions of the blocks of a Pulseq file, as far as they act on the train."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.words import shortened
from mri2qmap.pulseq.content import Block, PulseqContent

_KNOWN = {"TRIGGERS", "LABELSET", "LABELINC", "DELAYS", "ROTATIONS", "RF_SHIMS"}
_INPUT = 2.0
"""Type of triggers that are waited for."""


class BlockExtensions(NamedTuple):
    """What the extensions of a block say.

    Attributes
    ----------
    rotation
        Matrix (3, 3) that turns its gradients; None: they are not turned.
    waits
        Why its duration is not known before the sequence is played; "" if it is.
    shims
        Whether its pulse has other amplitudes in the transmit channels.
    """

    rotation: NDArray[np.float64] | None = None
    waits: str = ""
    shims: bool = False


def refuse_unknown_extensions(content: PulseqContent) -> None:
    """Refuse a file that requires extensions which are not known here.

    Raises
    ------
    Mri2QmapError
        Naming them.
    """
    required = set(content.definitions.get("RequiredExtensions", "").split())
    if unknown := sorted(required - _KNOWN):
        raise Mri2QmapError(
            f"{content.path}: section [DEFINITIONS]: RequiredExtensions names "
            f"{shortened(' '.join(unknown))!r}, which is not known: give flip_angles and times in "
            "the profile instead of the file"
        )


def block_extensions(content: PulseqContent, block: Block) -> BlockExtensions:
    """Return what the extensions of a block say; those that do not act on the train are left out.

    Parameters
    ----------
    content
        The file.
    block
        The block.

    Raises
    ------
    Mri2QmapError
        If an extension is missing or invalid.
    """
    if not block.extension:
        return BlockExtensions()
    rotation, waits, shims = None, "", False
    for name, reference, place in _chain(content, block):
        if name == "ROTATIONS":
            rotation = _rotation(content, reference, place)
        elif name == "TRIGGERS":
            if content.event("TRIGGERS", reference, place).values[0] == _INPUT:
                waits = "it waits for a trigger"
        elif name == "DELAYS":
            waits = "its delay is chosen at the scanner"
        elif name == "RF_SHIMS":
            shims = True
    return BlockExtensions(rotation, waits, shims)


def _chain(content: PulseqContent, block: Block) -> Iterator[tuple[str, int, str]]:
    """Yield name, number and place of each extension of a block."""
    place, number = content.at("BLOCKS", block.line), block.extension
    for _ in range(len(content.events.get("EXTENSIONS", {})) + 1):
        event = content.event("EXTENSIONS", number, place)
        place = content.at("EXTENSIONS", event.line)
        kind, reference, number = (int(value) for value in event.values)
        yield content.extension_names.get(kind, ""), reference, place
        if not number:
            return
    raise Mri2QmapError(
        f"{place}: the extensions of a block form a circle: the file is damaged; write it again"
    )


def _rotation(content: PulseqContent, number: int, place: str) -> NDArray[np.float64]:
    """Return the matrix of a quaternion, real part first."""
    event = content.event("ROTATIONS", number, place)
    quaternion = np.array(event.values)
    length = float(np.linalg.norm(quaternion))
    if not abs(length - 1) < 0.01:
        raise Mri2QmapError(
            f"{content.at('ROTATIONS', event.line)}: the quaternion has the length {length:.4g}; 1 "
            "is expected: write the file again"
        )
    w, x, y, z = quaternion / length
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )

"""The session of the nodes of a worker, in the metadata of ISMRMRD images."""

from __future__ import annotations

from collections.abc import Mapping

import ismrmrd
import numpy as np

from mri2qmap.errors import Mri2QmapError

PREFIX = "mri2qmap_"
"""Prefix of the metadata of this package."""
SESSION = f"{PREFIX}session"
"""Metadata field with the name of a session."""


def encode_session(session: str) -> ismrmrd.Image:
    """Return the message that tells the next node of the worker the name of its session."""
    return bare_image({SESSION: session})


def session_of(message: object) -> str | None:
    """Return the name of the session that a message carries; None if it carries none."""
    if not isinstance(message, ismrmrd.Image):
        return None
    refuse_lists(message.meta)
    name: str | None = message.meta.get(SESSION)
    return name


def refuse_lists(meta: Mapping[str, str | list[str]]) -> None:
    """Refuse two values of a metadata field of this package.

    Raises
    ------
    Mri2QmapError
        If there are two.
    """
    for name, value in meta.items():
        if name.startswith(PREFIX) and not isinstance(value, str):
            raise Mri2QmapError(f"an image has {len(value)} values of {name}; one is expected")


def is_session_only(message: object) -> bool:
    """Return whether a message is one of `encode_session`."""
    if not isinstance(message, ismrmrd.Image):
        return False
    return SESSION in message.meta and f"{PREFIX}item" not in message.meta


def bare_image(meta: dict[str, str]) -> ismrmrd.Image:
    """Return an image of one voxel that contains only metadata."""
    return ismrmrd.Image(data=np.zeros((1, 1, 1, 1), np.uint16), meta=ismrmrd.Meta(meta))

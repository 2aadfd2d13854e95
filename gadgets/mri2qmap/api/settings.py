"""Settings of gadgets as Python values: converted to the text that pipeline files have."""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeAlias

import numpy as np

from mri2qmap.errors import Mri2QmapError

Settings: TypeAlias = Mapping[str, Any]
"""``{"gadget.property": value}`` or ``{"gadget": {"property": value}}``, also mixed.

A setting that is left out has the value of the pipeline. None is not a value: what a setting calls
"none" is given as this word.
"""


def overrides_of(settings: Settings | None) -> dict[str, dict[str, str]]:
    """Return settings as the parser of pipeline files takes them, which checks names and values.

    Parameters
    ----------
    settings
        See `Settings`. Values are bool, int, float, str, paths, enumerations, and lists or tuples
        of these; text is read as in a pipeline file.

    Returns
    -------
        By gadget: the text of each property.

    Raises
    ------
    Mri2QmapError
        For settings that are not a mapping, a name without gadget, a property that is given twice,
        and a value that no property has.
    """
    if settings is not None and not isinstance(settings, Mapping):
        raise Mri2QmapError(
            'settings: a mapping such as {"pnp_admm.iterations": 20} is expected, got '
            f"{type(settings).__name__}"
        )
    overrides: dict[str, dict[str, str]] = {}
    for name, value in (settings or {}).items():
        gadget, dot, prop = str(name).partition(".")
        if not dot and isinstance(value, Mapping):
            given = {str(own): inner for own, inner in value.items()}
        elif dot and gadget and prop:
            given = {prop: value}
        else:
            raise Mri2QmapError(
                f'settings: {name!r}: {{"GADGET.PROPERTY": value}} or '
                '{"GADGET": {"PROPERTY": value}} is expected'
            )
        properties = overrides.setdefault(gadget, {})
        for own, inner in given.items():
            if own in properties:
                raise Mri2QmapError(f"settings: {gadget}.{own} is given twice")
            properties[own] = _text(inner, f"{gadget}.{own}")
    return overrides


def _text(value: Any, name: str) -> str:
    """Text of a value in a pipeline file."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None:
        raise Mri2QmapError(
            f"settings: {name}: None is not a value; leave the setting out to keep that of the "
            'pipeline, or give the word "none" where the setting has it'
        )
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple):
        return " ".join(_text(inner, name) for inner in value)
    raise Mri2QmapError(
        f"settings: {name}: a number, text, path, true or false, or a list of these is expected, "
        f"got {type(value).__name__}"
    )

"""Check of a pipeline: each gadget must receive the items that it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ismrmrd

from mri2qmap.errors import Mri2QmapError
from mri2qmap.pipeline.items import DicomObject, NiftiVolume

PRODUCTS = (ismrmrd.Image, DicomObject, NiftiVolume)
"""Classes of the results of a reconstruction."""


@dataclass(frozen=True)
class ItemFlow:
    """Input and output items of a gadget.

    The property ``item_flow`` of a gadget's settings returns it.

    Attributes
    ----------
    takes
        Classes of items that the gadget needs.
    gives
        Classes of items that the gadget creates.
    ends
        Classes of items that the gadget does not pass on.
    """

    takes: tuple[type[Any], ...]
    gives: tuple[type[Any], ...]
    ends: tuple[type[Any], ...] = ()


def refuse_broken_flow(gadgets: Sequence[tuple[str, Any]], place: str) -> None:
    """Refuse a pipeline without results, or in which a gadget lacks an item that it needs.

    Parameters
    ----------
    gadgets
        Name and settings of each gadget, in order. Nothing is checked if the settings of one have
        no ``item_flow``.
    place
        Where the pipeline was read, for messages.

    Raises
    ------
    Mri2QmapError
        Naming the gadget and the missing item, a gadget without any output, or what the last
        gadget gives where that is not a result.
    """
    flows: list[tuple[str, ItemFlow]] = []
    for name, settings in gadgets:
        if not hasattr(settings, "item_flow"):
            return
        flows.append((name, settings.item_flow))
    there: set[type[Any]] = {ismrmrd.Acquisition}
    ended_by: dict[type[Any], str] = {}
    for name, flow in flows:
        for kind in flow.takes:
            if kind not in there:
                raise Mri2QmapError(f"{place}: {_missing(name, kind, flows, ended_by)}")
        if not flow.gives:
            raise Mri2QmapError(
                f"{place}: the settings of gadget {name} switch off all of its outputs"
            )
        there.difference_update(flow.ends)
        ended_by.update(dict.fromkeys(flow.ends, name))
        there.update(flow.gives)
    if not there.intersection(PRODUCTS):
        last, flow = flows[-1]
        raise Mri2QmapError(
            f"{place}: the pipeline has no output: its last gadget, {last}, gives "
            f"{', '.join(kind.__name__ for kind in flow.gives)} and no images or files; end it "
            "with parametric_maps"
        )


def _missing(
    name: str,
    kind: type[Any],
    flows: Sequence[tuple[str, ItemFlow]],
    ended_by: dict[type[Any], str],
) -> str:
    """Return the message on an item that a gadget does not receive, with the reason."""
    text = f"gadget {name} needs {kind.__name__}"
    if kind in ended_by:
        return f"{text}, which {ended_by[kind]} consumes"
    givers = [giver for giver, flow in flows if kind in flow.gives and giver != name]
    if givers:
        return f"{text}, which {givers[0]} gives only after it: change their order"
    return (
        f"{text}, which no other gadget of this pipeline gives (settings may have switched it off)"
    )

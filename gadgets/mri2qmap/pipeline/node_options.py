"""Properties of a node that are for its host, not for its gadget."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mri2qmap.pipeline.settings import parse_settings


@dataclass(frozen=True)
class NodeOptions:
    """How a gadget runs as an external node of a Gadgetron server.

    They stand in the node's ``<configuration>`` beside the gadget's own properties, because
    nothing else of the pipeline file reaches a node. In process, all but ``gadget`` mean nothing.

    Attributes
    ----------
    gadget
        Which gadget a ``<connect>`` node is; ``<execute>`` names it as its target.
    hand_over
        "value": items cross the server whole. "reference": those that the next node, served by
        the same `mri2qmap worker`, gets from memory cross as a few bytes.
    report
        "text": log lines go to the client as text; the ``<external>`` needs a TextReader on slot
        2005 for them. "log": they go to the log of the node.
    """

    gadget: str = ""
    hand_over: Literal["value", "reference"] = "value"
    report: Literal["log", "text"] = "log"


_NAMES = frozenset(field.name for field in dataclasses.fields(NodeOptions))


def split_properties(
    properties: Mapping[str, str], gadget: str, place: str = ""
) -> tuple[NodeOptions, dict[str, str]]:
    """Part the properties of a node into options of the host and those of the gadget.

    Raises
    ------
    Mri2QmapError
        For an option with a wrong value.
    """
    options = {name: value for name, value in properties.items() if name in _NAMES}
    rest = {name: value for name, value in properties.items() if name not in _NAMES}
    return parse_settings(NodeOptions, options, gadget, place), rest
